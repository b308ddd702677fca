//! Looks into the files that a configuration names: an operator learns before the start what the start would refuse.

use std::path::{Path, PathBuf};

use reeve_cluster::rabbitmq::BrokerUrl;
use reeve_cluster::rpc::{Credentials, TlsError, TlsFiles};

use crate::config::cluster::RpcSection;
use crate::config::notify::{LinkSection, NotifySection};
use crate::config::openstack::{OpenStackProblem, Why};
use crate::config::pem::{self, PemFile};
use crate::config::problem::Problem;
use crate::config::read::Reader;
use crate::config::secret::{Revealed, Secret, SecretError};
use crate::config::sections::{Config, Driver};
use crate::config::vault::VaultSection;

/// What was found in the files.
#[derive(Debug, Default)]
pub(in crate::config) struct Found {
    /// What is wrong with them.
    pub(in crate::config) wrong: Vec<Problem>,
    /// The keys whose credential could not be looked at: systemd provides them to the service only.
    pub(in crate::config) unseen: Vec<String>,
}

struct Look<'a> {
    reader: &'a Reader<'a>,
    found: Found,
}

/// Opens every secret and every certificate.
pub(in crate::config) fn look(config: &Config, reader: &Reader<'_>) -> Found {
    let mut look = Look { reader, found: Found::default() };
    if let Some(bus) = &config.bus {
        if let Some(url) = look.secret("bus.url", &bus.url)
            && let Err(error) = url.expose().parse::<BrokerUrl>()
        {
            look.complain("bus.url", error.to_string());
        }
        if let Some(ca) = &bus.ca {
            look.authority("bus.ca", ca);
        }
    }
    if let Some(cluster) = &config.cluster {
        if let Some(password) = &cluster.etcd_password {
            look.secret("cluster.etcd_password", password.secret());
        }
        if let Some(ca) = look.path("cluster.etcd_ca", cluster.etcd_ca.as_ref()) {
            look.authority("cluster.etcd_ca", &ca);
        }
        look.pair(["cluster.etcd_cert", "cluster.etcd_key"], cluster.etcd_cert.as_ref(), cluster.etcd_key.as_ref());
    }
    look.vault(&config.vault);
    look.rpc(config);
    if let Some(http) = &config.http {
        look.pair(["http.cert", "http.key"], http.cert.as_ref(), http.key.as_ref());
    }
    if let Some(notify) = &config.notify {
        look.notify(notify);
    }
    look.found.wrong.extend(super::templates(config));
    for (index, cloud) in config.cloud.iter().enumerate() {
        match &cloud.driver {
            Driver::Sim(_) => {}
            Driver::OpenStack(section) => match section.resolve() {
                Ok(openstack) => {
                    if let Some(cacert) = &openstack.cacert {
                        look.authority(&format!("cloud[{index}].cacert"), cacert);
                    }
                }
                Err(OpenStackProblem { key, why }) => {
                    let key = format!("cloud[{index}].{key}");
                    match why {
                        Why::Said(why) => look.complain(&key, why),
                        Why::Secret(error) => look.unreadable(&key, &error),
                    }
                }
            },
        }
    }
    look.found
}

impl Look<'_> {
    fn complain(&mut self, key: &str, message: String) {
        let problem = self.reader.problem(key, message);
        self.found.wrong.push(problem);
    }

    fn secret(&mut self, key: &str, secret: &Secret) -> Option<Revealed> {
        match secret.reveal() {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.unreadable(key, &error);
                None
            }
        }
    }

    /// Looks at the secrets of the vault, and whether its keys are keys.
    fn vault(&mut self, vault: &VaultSection) {
        for (key, secret) in [("secret_access_key", &vault.secret_access_key), ("token", &vault.token)] {
            if let Some(secret) = secret {
                self.secret(&format!("vault.{key}"), secret.secret());
            }
        }
        if let Some(ca) = &vault.ca {
            self.authority("vault.ca", ca);
        }
        for (index, section) in vault.keys.iter().enumerate() {
            let key = format!("vault.keys[{index}].key");
            if let Some(secret) = self.secret(&key, section.key.secret())
                && let Err(error) = section.read(&secret)
            {
                self.complain(&key, error.to_string());
            }
        }
    }

    fn unreadable(&mut self, key: &str, error: &SecretError) {
        match error {
            SecretError::NoCredentials(_) => self.found.unseen.push(key.to_owned()),
            SecretError::Read { .. } | SecretError::Content { .. } => self.complain(key, error.to_string()),
        }
    }

    fn path(&mut self, key: &str, file: Option<&PemFile>) -> Option<PathBuf> {
        match file?.path() {
            Ok(path) => Some(path),
            Err(error) => {
                self.unreadable(key, &error);
                None
            }
        }
    }

    /// Reads what the node would be known by, as its start does.
    fn rpc(&mut self, config: &Config) {
        let RpcSection { cert, key, ca, .. } = &config.rpc;
        let cert = self.path("rpc.cert", cert.as_ref());
        let key = self.path("rpc.key", key.as_ref());
        let ca = self.path("rpc.ca", ca.as_ref());
        let (Some(cert), Some(key), Some(ca)) = (cert, key, ca) else { return };
        let files = TlsFiles { cert, key, ca };
        match Credentials::node(files.clone(), config.cluster_name()) {
            Err(error) => {
                let of = |wanted: &PathBuf| matches!(&error, TlsError::Read { path, .. } | TlsError::Content { path, .. } if path == wanted);
                let of_key = of(&files.key) || matches!(&error, TlsError::KeyMismatch { .. });
                let key = match (of_key, of(&files.ca)) {
                    (true, _) => "rpc.key",
                    (false, true) => "rpc.ca",
                    (false, false) => "rpc.cert",
                };
                let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                self.complain(key, format!("{error}{why}"));
            }
            Ok(credentials) => {
                let found = credentials.identity();
                if found.node().as_ref() != Some(&config.node.id) {
                    let message = format!("is of {found}, and this node is {}", config.node.id);
                    self.complain("rpc.cert", message);
                }
            }
        }
    }

    fn notify(&mut self, section: &NotifySection) {
        if let Some(link) = &section.link
            && let Some(secret) = self.secret("notify.link.secret", link.secret.secret())
            && let Err(error) = LinkSection::key(&secret)
        {
            self.complain("notify.link.secret", error.why);
        }
        if let Some(email) = &section.email {
            if let Some(password) = &email.password {
                self.secret("notify.email.password", password.secret());
            }
            if let Some(ca) = &email.ca {
                self.authority("notify.email.ca", ca);
            }
        }
        if let Some(webhook) = &section.webhook {
            let url = self.secret("notify.webhook.url", webhook.url.secret());
            let secret = self.secret("notify.webhook.secret", webhook.secret.secret());
            if let Err(error) = super::notify::wrong_webhook(webhook, url.as_ref(), secret.as_ref()) {
                self.complain(&format!("notify.webhook.{}", error.key), error.why);
            }
            if let Some(ca) = &webhook.ca {
                self.authority("notify.webhook.ca", ca);
            }
        }
    }

    fn authority(&mut self, key: &str, path: &Path) {
        if let Some(message) = pem::wrong_certificates(path) {
            self.complain(key, message);
        }
    }

    fn pair(&mut self, keys: [&str; 2], cert: Option<&PemFile>, key: Option<&PemFile>) {
        if let (Some(cert), Some(key)) = (self.path(keys[0], cert), self.path(keys[1], key)) {
            for (key, message) in keys.into_iter().zip(pem::wrong_pair(&cert, &key)) {
                if let Some(message) = message {
                    self.complain(key, message);
                }
            }
        }
    }
}

//! Certificates: what `reeve cert` makes is what a TLS library accepts, and no more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use reeve_cluster::rpc::{Credentials, Identity, TlsFiles};
use reeve_nodes::cert::{Authority, Bearer, CertError, Existing, Request, save};
use reeve_protocol::{Span, Timestamp};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use serde_json::{Value, json};
use support::{printed, project, run, said, status};

fn now() -> Timestamp {
    reeve_ports::Clock::now(&reeve_ports::SystemClock)
}

fn at(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(time.as_millis().try_into().unwrap()))
}

/// What a TLS library makes of certificates of an authority.
struct Library {
    client: Arc<dyn ClientCertVerifier>,
    server: Arc<WebPkiServerVerifier>,
}

impl Library {
    fn trusting(folder: &Path) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&folder.join("ca.pem"))).unwrap();
        let roots = Arc::new(roots);
        Self {
            client: WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .unwrap(),
            server: WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap(),
        }
    }

    fn as_client(&self, cert: &CertificateDer<'_>, time: Timestamp) -> Result<(), Error> {
        self.client.verify_client_cert(cert, &[], at(time)).map(|_| ())
    }

    fn as_server(&self, cert: &CertificateDer<'_>, host: &str) -> Result<(), Error> {
        let host = ServerName::try_from(host.to_owned()).unwrap();
        self.server.verify_server_cert(cert, &[], &host, &[], at(now())).map(|_| ())
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// An authority of cluster `lab`, and what issues from it.
struct Office {
    folder: tempfile::TempDir,
}

impl Office {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Authority::init(folder.path(), "lab", Span::from_days(10), now()).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn issue(&self, role: &str, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let [cert, _] = self.save(&request(role, name, hosts)).unwrap();
        certificate(&cert)
    }

    fn save(&self, request: &Request) -> Result<[std::path::PathBuf; 2], CertError> {
        let issued = Authority::open(self.path(), now())?.issue(request, now())?;
        save(&issued, self.path(), &request.name, Existing::Keep)
    }
}

fn request(role: &str, name: &str, hosts: &[&str]) -> Request {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Request { bearer: role.parse::<Bearer>().unwrap(), name: name.into(), hosts, valid: Span::from_days(5) }
}

#[test]
fn a_node_serves_and_asks_and_a_person_only_asks() {
    let office = Office::new();
    let library = Library::trusting(office.path());
    let node = office.issue("node", "n1", &["n1.example", "10.0.0.1", "::1"]);
    for host in ["n1.example", "10.0.0.1", "::1"] {
        library.as_server(&node, host).unwrap();
    }
    assert!(library.as_server(&node, "n2.example").is_err());
    library.as_client(&node, now()).unwrap();
    for role in ["viewer", "operator", "admin", "tenant:p-1"] {
        let name = role.replace(':', "-");
        let person = office.issue(role, &name, &[]);
        library.as_client(&person, now()).unwrap();
        assert!(library.as_server(&person, &name).is_err(), "{role}");
        assert_eq!(Identity::of_certificate(&person).unwrap().to_string(), format!("reeve://lab/{role}/{name}"));
    }
    assert_eq!(Identity::of_certificate(&node).unwrap().to_string(), "reeve://lab/node/n1");
}

#[test]
fn what_stands_beside_reeve_is_nobody_to_it() {
    let office = Office::new();
    let library = Library::trusting(office.path());
    let etcd = office.issue("server", "etcd-1", &["etcd-1", "127.0.0.1"]);
    library.as_server(&etcd, "etcd-1").unwrap();
    // etcd's members connect to each other by the same certificate.
    library.as_client(&etcd, now()).unwrap();
    assert!(Identity::of_certificate(&etcd).is_err());
    let client = office.issue("client", "reeve", &[]);
    library.as_client(&client, now()).unwrap();
    assert!(Identity::of_certificate(&client).is_err());
}

#[test]
fn another_authority_of_the_same_name_is_another_authority() {
    let (office, other) = (Office::new(), Office::new());
    let stranger = other.issue("admin", "eve", &[]);
    let verdict = Library::trusting(office.path()).as_client(&stranger, now());
    assert!(matches!(verdict, Err(Error::InvalidCertificate(_))), "{verdict:?}");
}

#[test]
fn a_certificate_ends_and_never_after_its_authority() {
    let office = Office::new();
    let library = Library::trusting(office.path());
    let short = office.issue("admin", "a", &[]);
    assert!(library.as_client(&short, now() - Span::from_secs(600)).is_ok(), "clocks may differ a little");
    let late = library.as_client(&short, now() + Span::from_days(6));
    assert!(matches!(late, Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))), "{late:?}");
    let authority = Authority::open(office.path(), now()).unwrap();
    let long = Request { valid: Span::from_days(100), ..request("admin", "b", &[]) };
    let issued = authority.issue(&long, now()).unwrap();
    assert!(issued.ends_at <= now() + Span::from_days(10));
    let over = Authority::open(office.path(), now() + Span::from_days(11)).err().unwrap().to_string();
    assert!(over.contains("was good until"), "{over}");
}

#[test]
fn a_node_s_own_files_make_its_credentials() {
    let office = Office::new();
    office.issue("node", "n1", &[]);
    let file = |name: &str| office.path().join(name);
    let files = TlsFiles { cert: file("n1.pem"), key: file("n1.key"), ca: file("ca.pem") };
    let credentials = Credentials::node(files.clone(), "lab").unwrap();
    assert_eq!(credentials.identity().node().unwrap().as_str(), "n1");
    assert!(Credentials::node(files, "other").is_err());
}

#[test]
fn keys_are_private_and_not_overwritten_unasked() {
    let office = Office::new();
    let mode = |name: &str| std::fs::metadata(office.path().join(name)).unwrap().permissions().mode() & 0o777;
    office.issue("admin", "a", &[]);
    assert_eq!(["ca.key", "ca.pem", "a.key", "a.pem"].map(mode), [0o600, 0o644, 0o600, 0o644]);
    let key = || std::fs::read(office.path().join("a.key")).unwrap();
    let first = key();
    assert!(matches!(office.save(&request("admin", "a", &[])), Err(CertError::Exists(_))));
    assert_eq!(key(), first);
    let again = Authority::init(office.path(), "lab", Span::from_days(10), now());
    assert!(matches!(again, Err(CertError::Exists(_))));
    let issued = Authority::open(office.path(), now()).unwrap().issue(&request("admin", "a", &[]), now()).unwrap();
    save(&issued, office.path(), "a", Existing::Replace).unwrap();
    assert_ne!(key(), first);
    // Nothing half-written stays behind.
    assert_eq!(std::fs::read_dir(office.path()).unwrap().count(), 4);
    assert!(!format!("{issued:?}").contains("PRIVATE"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let office = Office::new();
    for (role, name, hosts) in [
        ("server", "s", &[][..]),
        ("admin", "a", &["a.example"]),
        ("admin", "ca", &[]),
        ("admin", "../a", &[]),
        ("admin", "", &[]),
        ("admin", "a b", &[]),
        ("node", ".n", &[]),
    ] {
        let refused = office.save(&request(role, name, hosts));
        assert!(matches!(refused, Err(CertError::Request(_))), "{role} {name:?}: {refused:?}");
    }
    for role in ["root", "tenant:", "tenant:a/b", "Admin", ""] {
        assert!(role.parse::<Bearer>().is_err(), "{role}");
    }
    for cluster in ["", "a/b", "a b", ".a"] {
        let empty = tempfile::tempdir().unwrap();
        let refused = Authority::init(empty.path(), cluster, Span::from_days(1), now());
        assert!(matches!(refused, Err(CertError::Request(_))), "{cluster:?}");
    }
}

#[test]
fn an_authority_that_is_not_ours_is_named() {
    let (office, other) = (Office::new(), Office::new());
    let why = || Authority::open(office.path(), now()).err().unwrap().to_string();
    std::fs::copy(other.path().join("ca.key"), office.path().join("ca.key")).unwrap();
    assert!(why().ends_with("ca.key is not usable: it is not the key of ca.pem"), "{}", why());
    std::fs::write(office.path().join("ca.key"), "s3cr3t").unwrap();
    assert!(why().contains("it holds no private key in PEM") && !why().contains("s3cr3t"), "{}", why());
    std::fs::write(office.path().join("ca.pem"), "").unwrap();
    assert!(why().contains("it holds no certificate in PEM"), "{}", why());
    std::fs::remove_file(office.path().join("ca.pem")).unwrap();
    assert!(why().ends_with("ca.pem"), "{}", why());
}

#[test]
fn the_example_of_a_cluster_s_node_works_with_what_is_issued_for_it() {
    let office = Office::new();
    let text = std::fs::read_to_string(project("deploy/examples/control.toml")).unwrap();
    let example = reeve_nodes::config::parse("control.toml", &text, std::iter::empty()).unwrap();
    assert_eq!(example.cluster_name(), "lab", "as the authority of this test");
    let node = example.node.id.as_str();
    office.issue("node", node, &[]);
    let own = |kind: &str| office.path().join(format!("{node}.{kind}")).to_str().unwrap().to_owned();
    let text = text
        .replace("/etc/reeve/tls/node.pem", &own("pem"))
        .replace("/etc/reeve/tls/node.key", &own("key"))
        .replace("/etc/reeve/tls/ca.pem", office.path().join("ca.pem").to_str().unwrap());
    let file = office.path().join("control.toml");
    std::fs::write(&file, text).unwrap();
    let output = run(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(status(&output), 0, "{}", said(&output));
}

#[test]
fn the_command_makes_what_openssl_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    let dir = dir.to_str().unwrap();
    let made = run(&["cert", "init", "--dir", dir, "--cluster", "lab"]);
    assert_eq!(status(&made), 0, "{}", said(&made));
    assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    let node = ["cert", "issue", "--dir", dir, "--role", "node", "--name", "n1", "--host", "n1.example"];
    let issued = run(&[&node[..], &["-o", "json"]].concat());
    assert_eq!(status(&issued), 0, "{}", said(&issued));
    let value: Value = serde_json::from_str(&printed(&issued)).unwrap();
    assert_eq!(value["uri"], "reeve://lab/node/n1");
    assert_eq!(value["cert"], json!(format!("{dir}/n1.pem")));
    let again = run(&node);
    assert_eq!(status(&again), 5);
    assert!(said(&again).contains("n1.key is there already") || said(&again).contains("n1.pem is there already"));
    assert_eq!(status(&run(&[&node[..], &["--force"]].concat())), 0);
    assert_eq!(status(&run(&["cert", "issue", "--dir", dir, "--role", "server", "--name", "s"])), 2);
    assert_eq!(status(&run(&["cert", "issue", "--dir", "/nonexistent", "--role", "admin", "--name", "a"])), 1);

    // Another implementation than the one that made it, where there is one.
    let verify = |purpose: &str| {
        let (ca, cert) = (format!("{dir}/ca.pem"), format!("{dir}/n1.pem"));
        Command::new("openssl").args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &ca, &cert]).output()
    };
    for purpose in ["sslserver", "sslclient"] {
        match verify(purpose) {
            Ok(output) => assert!(output.status.success(), "{purpose}: {output:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
    }
}

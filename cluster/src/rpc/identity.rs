//! Who a certificate speaks for: exactly one URI name, `reeve://<cluster>/<role>/<name>`.

use std::fmt;
use std::str::FromStr;

use reeve_protocol::admin::{Principal, Role};
use reeve_protocol::{NodeId, ProjectId};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The scheme that is ours; names of other schemes are of no interest.
const SCHEME: &str = "reeve://";
/// The most bytes of a cluster's name.
const MAX_CLUSTER: usize = 63;
/// The most bytes of anybody's name, and of a project in a role.
const MAX_NAME: usize = 255;

/// Why a text or a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("it is no X.509 certificate with readable names")]
    Unreadable,
    /// A certificate without a name of ours.
    #[error("it has no URI name reeve://CLUSTER/ROLE/NAME")]
    Missing,
    /// A certificate with several.
    #[error("it has {0} URI names of the scheme reeve, and must have one")]
    Several(usize),
    /// A URI of another form.
    #[error("{0:?} is not of the form reeve://CLUSTER/ROLE/NAME")]
    Form(String),
    /// A role that nobody has.
    #[error("{0:?} is no role: viewer, operator, admin, tenant:PROJECT, node")]
    Role(String),
    /// A part that no URI can hold as it is, or that is too long.
    #[error("{what} {text:?} must have 1 to {most} letters, digits, or characters of -._~@+")]
    Part {
        /// Which part.
        what: &'static str,
        /// What was given.
        text: String,
        /// The most bytes that it may have.
        most: usize,
    },
}

/// Somebody in a cluster: what a certificate says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    cluster: String,
    principal: Principal,
}

impl Identity {
    /// Somebody whose names fit a URI.
    ///
    /// # Errors
    /// [`IdentityError::Part`] when one does not.
    pub fn new(cluster: impl Into<String>, principal: Principal) -> Result<Self, IdentityError> {
        let cluster = cluster.into();
        check("cluster", &cluster, MAX_CLUSTER)?;
        check("name", &principal.name, MAX_NAME)?;
        if let Role::Tenant(project) = &principal.role {
            check("project", project.as_str(), MAX_NAME)?;
        }
        Ok(Self { cluster, principal })
    }

    /// Whom a certificate speaks for. Whether the certificate is worth anything must be known from elsewhere.
    ///
    /// # Errors
    /// [`IdentityError`]: not exactly one URI name of ours, or not of our form.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = parse_x509_certificate(der).map_err(|_| IdentityError::Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let ours = names.iter().filter_map(|name| match name {
            // A scheme is the same in any case, so `Reeve://` counts, and is then refused for its form.
            GeneralName::URI(uri) if has_scheme(uri) => Some(*uri),
            _ => None,
        });
        let ours: Vec<&str> = ours.collect();
        match ours.as_slice() {
            [] => Err(IdentityError::Missing),
            [uri] => uri.parse(),
            several => Err(IdentityError::Several(several.len())),
        }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Who, and what they may.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The node, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self.principal.role {
            Role::Node => NodeId::new(self.principal.name.as_str()).ok(),
            Role::Viewer | Role::Operator | Role::Admin | Role::Tenant(_) => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.principal.role, self.principal.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(shortened(uri));
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').take(4).collect();
        let [cluster, role, name] = parts[..] else { return Err(form()) };
        let role = match role.split_once(':') {
            None if role == "viewer" => Role::Viewer,
            None if role == "operator" => Role::Operator,
            None if role == "admin" => Role::Admin,
            None if role == "node" => Role::Node,
            Some(("tenant", project)) => {
                check("project", project, MAX_NAME)?;
                Role::Tenant(ProjectId::new(project).map_err(|_| IdentityError::Role(shortened(role)))?)
            }
            None | Some(_) => return Err(IdentityError::Role(shortened(role))),
        };
        Self::new(cluster, Principal { role, name: name.to_owned() })
    }
}

fn has_scheme(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

fn check(what: &'static str, text: &str, most: usize) -> Result<(), IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@+".contains(&byte);
    if text.is_empty() || text.len() > most || !text.bytes().all(allowed) {
        return Err(IdentityError::Part { what, text: shortened(text), most });
    }
    Ok(())
}

/// The start of a foreign text, for messages.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_reads_as_it_is_written() {
        for role in ["viewer", "operator", "admin", "node", "tenant:5f7d"] {
            let uri = format!("reeve://north/{role}/n-1.example");
            let identity: Identity = uri.parse().unwrap();
            assert_eq!((identity.cluster(), identity.to_string()), ("north", uri));
            assert_eq!(identity.node().is_some(), role == "node");
        }
    }

    #[test]
    fn what_is_not_of_the_form_names_nobody() {
        for uri in [
            "",
            "reeve://",
            "reeve://north/admin",
            "reeve://north/admin/",
            "reeve://north//a",
            "reeve:///admin/a",
            "reeve://north/admin/a/b",
            "reeve://north/admin/a%2fb",
            "reeve://north/admin/a b",
            "reeve://no:rth/admin/a",
            "reeve://north/emperor/a",
            "reeve://north/Admin/a",
            "reeve://north/tenant/a",
            "reeve://north/tenant:/a",
            "reeve://north/node:x/a",
            "Reeve://north/admin/a",
            "https://north/admin/a",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
        assert!(format!("reeve://{}/admin/a", "c".repeat(64)).parse::<Identity>().is_err());
        assert_eq!(Identity::of_certificate(b"no certificate"), Err(IdentityError::Unreadable));
    }
}

//! Who logs in to Keystone, and the request for it (Identity API v3, `POST /v3/auth/tokens`).

use std::fmt;

use serde_json::{Value, json};

/// Who logs in, and where. Shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStackAuth {
    /// Keystone, with or without `/v3`.
    pub auth_url: String,
    /// As whom.
    pub login: Login,
}

/// As whom, and with which secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user with a password, for a project.
    Password {
        /// The user.
        user: Reference,
        /// The user's password.
        password: String,
        /// The project that the token is for.
        project: Reference,
    },
    /// An application credential, which belongs to one user and one project.
    ApplicationCredential {
        /// Which.
        credential: Credential,
        /// Its secret.
        secret: String,
    },
}

/// A user or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By its id.
    Id(String),
    /// By its name, which is unique in its domain.
    Named {
        /// The name.
        name: String,
        /// The domain.
        domain: Domain,
    },
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// By its id.
    Id(String),
    /// By its name.
    Name(String),
}

/// An application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// By its id.
    Id(String),
    /// By its name, which is unique for its user.
    Named {
        /// The name.
        name: String,
        /// Whose.
        user: Reference,
    },
}

impl Default for Domain {
    /// The domain that every OpenStack is made with.
    fn default() -> Self {
        Self::Name("Default".to_owned())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, password: _, project } => {
                f.debug_struct("Password").field("user", user).field("project", project).finish_non_exhaustive()
            }
            Self::ApplicationCredential { credential, secret: _ } => {
                f.debug_struct("ApplicationCredential").field("credential", credential).finish_non_exhaustive()
            }
        }
    }
}

impl Domain {
    fn json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name) => json!({ "name": name }),
        }
    }
}

impl Reference {
    fn json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Named { name, domain } => json!({ "name": name, "domain": domain.json() }),
        }
    }

    const fn is_empty(&self) -> bool {
        match self {
            Self::Id(text) | Self::Named { name: text, .. } => text.is_empty(),
        }
    }
}

impl Login {
    /// The first key that makes no sense, and what was expected.
    pub(super) const fn wrong(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Password { user, .. } if user.is_empty() => Some(("auth.username", "a name")),
            Self::Password { project, .. } if project.is_empty() => Some(("auth.project_name", "a name")),
            Self::ApplicationCredential { credential: Credential::Id(id), .. } if id.is_empty() => {
                Some(("auth.application_credential_id", "an id"))
            }
            Self::ApplicationCredential { credential: Credential::Named { name, .. }, .. } if name.is_empty() => {
                Some(("auth.application_credential_name", "a name"))
            }
            Self::Password { .. } | Self::ApplicationCredential { .. } => None,
        }
    }

    /// The body of the request for a token.
    pub(super) fn body(&self) -> Value {
        match self {
            Self::Password { user, password, project } => {
                let mut user = user.json();
                user["password"] = json!(password);
                json!({ "auth": {
                    "identity": { "methods": ["password"], "password": { "user": user } },
                    "scope": { "project": project.json() },
                } })
            }
            // It has the scope that it was made with; a scope in the body is refused.
            Self::ApplicationCredential { credential, secret } => {
                let credential = match credential {
                    Credential::Id(id) => json!({ "id": id, "secret": secret }),
                    Credential::Named { name, user } => json!({ "name": name, "user": user.json(), "secret": secret }),
                };
                let methods = ["application_credential"];
                json!({ "auth": { "identity": { "methods": methods, "application_credential": credential } } })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, domain: Domain) -> Reference {
        Reference::Named { name: name.to_owned(), domain }
    }

    #[test]
    fn a_password_goes_with_its_project() {
        let login = Login::Password {
            user: named("u", Domain::default()),
            password: "hush".to_owned(),
            project: named("p", Domain::Id("d1".to_owned())),
        };
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": {
                "user": { "name": "u", "domain": { "name": "Default" }, "password": "hush" },
            } },
            "scope": { "project": { "name": "p", "domain": { "id": "d1" } } },
        } });
        assert_eq!(login.body(), body);
        assert!(!format!("{login:?}").contains("hush"));
        assert_eq!(login.wrong(), None);
    }

    #[test]
    fn an_application_credential_goes_without_a_scope() {
        let secret = "hush".to_owned();
        let login =
            Login::ApplicationCredential { credential: Credential::Id("c1".to_owned()), secret: secret.clone() };
        let body = json!({ "auth": { "identity": { "methods": ["application_credential"],
            "application_credential": { "id": "c1", "secret": "hush" } } } });
        assert_eq!(login.body(), body);
        assert!(!format!("{login:?}").contains("hush"));
        let credential = Credential::Named { name: "c".to_owned(), user: Reference::Id("u1".to_owned()) };
        let login = Login::ApplicationCredential { credential, secret };
        let said = json!({ "name": "c", "user": { "id": "u1" }, "secret": "hush" });
        assert_eq!(login.body()["auth"]["identity"]["application_credential"], said);
    }
}

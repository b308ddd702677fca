//! The table `auth` of an OpenStack, with the keys that `clouds.yaml` has in its `auth`.

use reeve_drivers::cloud::openstack::{Credential, Domain, Login, OpenStackAuth, Reference};
use serde::{Deserialize, Serialize};

use super::openstack::{OpenStackProblem, Why};
use super::secret::{Password, Revealed, Secret, SecretError};

/// `auth`. Who logs in: a user with a password for a project, or an application credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// Keystone, with or without `/v3`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_url: Option<String>,
    /// The user's name; this or `user_id` is required with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's id, instead of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The user's password; may be `{ file = "PATH" }` or `{ credential = "NAME" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// The name of the project that the token is for; this or `project_id` is required with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// The id of the project, instead of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The domain of the user, by name. Default `Default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_domain_name: Option<String>,
    /// The domain of the user, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_domain_id: Option<String>,
    /// The domain of the project, by name. Default `Default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_domain_name: Option<String>,
    /// The domain of the project, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_domain_id: Option<String>,
    /// The id of an application credential, instead of a user with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_credential_id: Option<String>,
    /// The name of an application credential, with `username` or `user_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_credential_name: Option<String>,
    /// The secret of the application credential; may be `{ file = "PATH" }` or `{ credential = "NAME" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_credential_secret: Option<Password>,
}

/// How a secret is had.
pub(super) type Reveal<'a> = &'a dyn Fn(&Secret) -> Result<Revealed, SecretError>;

type Found<T> = Result<T, OpenStackProblem>;

fn wrong<T>(key: &str, expected: &str) -> Found<T> {
    Err(OpenStackProblem::said(key, format!("expected {expected}")))
}

impl AuthSection {
    /// As the driver takes it.
    pub(super) fn to_auth(&self, reveal: Reveal<'_>) -> Found<OpenStackAuth> {
        let Some(auth_url) = self.auth_url.clone() else { return wrong("auth_url", "the URL of Keystone") };
        let by_credential = [
            self.application_credential_id.is_some(),
            self.application_credential_name.is_some(),
            self.application_credential_secret.is_some(),
        ];
        let login = if by_credential.contains(&true) { self.credential(reveal)? } else { self.password(reveal)? };
        Ok(OpenStackAuth { auth_url, login })
    }

    fn password(&self, reveal: Reveal<'_>) -> Found<Login> {
        let user = self.user()?;
        let password = secret("password", self.password.as_ref(), reveal)?;
        let project = match one_of(["project_name", "project_id"], [&self.project_name, &self.project_id])? {
            Either::Id(id) => Reference::Id(id),
            Either::Name(name) => {
                let keys = ["project_domain_name", "project_domain_id"];
                let domain = domain(keys, [&self.project_domain_name, &self.project_domain_id])?;
                Reference::Named { name, domain }
            }
        };
        Ok(Login::Password { user, password, project })
    }

    fn credential(&self, reveal: Reveal<'_>) -> Found<Login> {
        let own = "nothing: an application credential has its own";
        if self.password.is_some() {
            return wrong("password", "nothing: an application credential has a secret instead");
        }
        for (key, said) in [("project_name", &self.project_name), ("project_id", &self.project_id)] {
            if said.is_some() {
                return wrong(key, &format!("{own} project"));
            }
        }
        let keys = ["application_credential_name", "application_credential_id"];
        let said = [&self.application_credential_name, &self.application_credential_id];
        let credential = match one_of(keys, said)? {
            Either::Id(id) => Credential::Id(id),
            Either::Name(name) => Credential::Named { name, user: self.user()? },
        };
        let key = "application_credential_secret";
        let secret = secret(key, self.application_credential_secret.as_ref(), reveal)?;
        Ok(Login::ApplicationCredential { credential, secret })
    }

    fn user(&self) -> Found<Reference> {
        Ok(match one_of(["username", "user_id"], [&self.username, &self.user_id])? {
            Either::Id(id) => Reference::Id(id),
            Either::Name(name) => {
                let keys = ["user_domain_name", "user_domain_id"];
                Reference::Named { name, domain: domain(keys, [&self.user_domain_name, &self.user_domain_id])? }
            }
        })
    }
}

enum Either {
    Name(String),
    Id(String),
}

fn one_of(keys: [&str; 2], said: [&Option<String>; 2]) -> Found<Either> {
    match said {
        [Some(name), None] => Ok(Either::Name(name.clone())),
        [None, Some(id)] => Ok(Either::Id(id.clone())),
        [None, None] | [Some(_), Some(_)] => wrong(keys[0], &format!("either {} or {}", keys[0], keys[1])),
    }
}

fn domain(keys: [&str; 2], said: [&Option<String>; 2]) -> Found<Domain> {
    if said.iter().all(|said| said.is_none()) {
        return Ok(Domain::default());
    }
    Ok(match one_of(keys, said)? {
        Either::Name(name) => Domain::Name(name),
        Either::Id(id) => Domain::Id(id),
    })
}

fn secret(key: &str, said: Option<&Password>, reveal: Reveal<'_>) -> Found<String> {
    let Some(said) = said else { return wrong(key, "a secret") };
    let revealed = reveal(said.secret());
    let secret = revealed.map_err(|error| OpenStackProblem { key: key.to_owned(), why: Why::Secret(error) })?;
    Ok(secret.expose().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<OpenStackAuth, String> {
        let section: AuthSection = toml::from_str(text).unwrap();
        section.to_auth(&|secret| secret.reveal()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_password_and_an_application_credential_are_read_in_every_form() {
        let auth =
            read("auth_url = 'u'\nusername = 'n'\npassword = 'p'\nproject_id = '1'\nuser_domain_id = 'd'").unwrap();
        let user = Reference::Named { name: "n".to_owned(), domain: Domain::Id("d".to_owned()) };
        let project = Reference::Id("1".to_owned());
        assert_eq!(auth.login, Login::Password { user, password: "p".to_owned(), project });
        let auth =
            read("auth_url = 'u'\napplication_credential_id = 'i'\napplication_credential_secret = 's'").unwrap();
        let (credential, secret) = (Credential::Id("i".to_owned()), "s".to_owned());
        assert_eq!(auth.login, Login::ApplicationCredential { credential, secret: secret.clone() });
        let text =
            "auth_url = 'u'\napplication_credential_name = 'n'\nuser_id = '2'\napplication_credential_secret = 's'";
        let credential = Credential::Named { name: "n".to_owned(), user: Reference::Id("2".to_owned()) };
        assert_eq!(read(text).unwrap().login, Login::ApplicationCredential { credential, secret });
    }

    #[test]
    fn what_is_missing_or_said_twice_is_named_by_its_key() {
        for (text, key) in [
            ("username = 'n'", "auth_url"),
            ("auth_url = 'u'\npassword = 'hush'", "username"),
            ("auth_url = 'u'\nusername = 'n'", "password"),
            ("auth_url = 'u'\nusername = 'n'\nuser_id = '1'\npassword = 'hush'", "username"),
            ("auth_url = 'u'\nusername = 'n'\npassword = 'hush'", "project_name"),
            ("auth_url = 'u'\nuser_id = 'n'\npassword = 'hush'\nproject_id = '1'\nproject_name = 'p'", "project_name"),
            ("auth_url = 'u'\napplication_credential_id = 'i'", "application_credential_secret"),
            ("auth_url = 'u'\napplication_credential_secret = 'hush'", "application_credential_name"),
            ("auth_url = 'u'\napplication_credential_name = 'n'\napplication_credential_secret = 'hush'", "username"),
            ("auth_url = 'u'\napplication_credential_id = 'i'\nproject_name = 'p'", "project_name"),
            ("auth_url = 'u'\napplication_credential_id = 'i'\npassword = 'hush'", "password"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(&format!("{key}: expected ")) && !error.contains("hush"), "{text}\n{error}");
        }
    }
}

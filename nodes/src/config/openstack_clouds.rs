//! `clouds.yaml` and the `secure.yaml` beside it, as OpenStack's own clients have them
//! (<https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html>).
//!
//! What is in `secure.yaml` is laid over `clouds.yaml`, key by key. Keys that are of no use here are left alone, because
//! the file is shared with other clients; those that would change who is reached or how are refused. No value is ever
//! repeated in a complaint, nor a line of the file.

use std::path::{Path, PathBuf};

use reeve_drivers::cloud::openstack::{Credential, Interface, Login, OpenStackAuth};
use serde_norway::Value;

use super::openstack::OpenStackProblem;
use super::openstack_auth::AuthSection;
use super::secret::{Password, Revealed, Secret};

/// The most bytes that a file may have.
const MAX_BYTES: u64 = 1024 * 1024;

/// What is read of a cloud.
#[derive(Debug, Default)]
pub(super) struct CloudEntry {
    pub(super) auth: AuthSection,
    pub(super) region_name: Option<String>,
    pub(super) interface: Option<Interface>,
    pub(super) cacert: Option<PathBuf>,
}

/// A login that is as good as any for whoever checks the other keys.
pub(super) fn stand_in() -> OpenStackAuth {
    let login = Login::ApplicationCredential { credential: Credential::Id("unread".to_owned()), secret: String::new() };
    OpenStackAuth { auth_url: "http://unread".to_owned(), login }
}

/// Reads a cloud. The key of a problem begins with the file.
pub(super) fn read(path: &Path, cloud: &str) -> Result<CloudEntry, OpenStackProblem> {
    let mut found = load(path)?.ok_or_else(|| problem(path, "", "is not there"))?;
    let mut place = path.to_owned();
    let secure = path.with_file_name("secure.yaml");
    if let Some(over) = load(&secure)? {
        merge(&mut found, over);
        place = PathBuf::from(format!("{} and {}", path.display(), secure.display()));
    }
    let clouds = found.get("clouds").and_then(Value::as_mapping);
    let clouds = clouds.ok_or_else(|| problem(&place, "clouds", "expected a table of clouds"))?;
    let Some(entry) = clouds.get(cloud) else {
        let names: Vec<&str> = clouds.keys().filter_map(Value::as_str).collect();
        let why = format!("there is no cloud of this name, only {}", names.join(", "));
        return Err(problem(&place, &format!("clouds.{cloud}"), &why));
    };
    Reader { place, above: format!("clouds.{cloud}"), table: entry }.entry()
}

fn problem(place: &Path, key: &str, why: &str) -> OpenStackProblem {
    let place = place.display();
    let key = if key.is_empty() { place.to_string() } else { format!("{place}: {key}") };
    OpenStackProblem::said(key, why)
}

/// The content of a file, if there is one.
fn load(path: &Path) -> Result<Option<Value>, OpenStackProblem> {
    use std::io::Read;

    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(path, "", &format!("cannot be read: {error}"))),
    };
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| problem(path, "", &format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(problem(path, "", "is larger than 1 MiB"));
    }
    // Only where it is wrong: the error's own text may quote a secret.
    let not_yaml = |error: serde_norway::Error| {
        let line = error.location().map_or(1, |location| location.line());
        OpenStackProblem::said(format!("{}:{line}", path.display()), "is not YAML")
    };
    let mut value: Value = serde_norway::from_str(&text).map_err(not_yaml)?;
    value.apply_merge().map_err(not_yaml)?;
    Ok(Some(value))
}

/// Lays one tree of tables over another.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// Reads the keys of a table.
struct Reader<'a> {
    place: PathBuf,
    above: String,
    table: &'a Value,
}

impl Reader<'_> {
    fn wrong<T>(&self, key: &str, why: &str) -> Result<T, OpenStackProblem> {
        Err(problem(&self.place, &format!("{}.{key}", self.above), why))
    }

    fn text(&self, key: &str) -> Result<Option<String>, OpenStackProblem> {
        match self.table.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Bool(_) | Value::Number(_)) => self.wrong(key, "expected a text: put it in quotes"),
            Some(Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_)) => self.wrong(key, "expected a text"),
        }
    }

    fn secret(&self, key: &str) -> Result<Option<Password>, OpenStackProblem> {
        Ok(self.text(key)?.map(|text| Password::new(Secret::Inline(Revealed::new(text)))))
    }

    fn entry(self) -> Result<CloudEntry, OpenStackProblem> {
        self.refuse_what_is_not_done()?;
        let interface = match self.text("interface")?.or(self.text("endpoint_type")?).as_deref() {
            None => None,
            Some("public" | "publicURL") => Some(Interface::Public),
            Some("internal" | "internalURL") => Some(Interface::Internal),
            Some("admin" | "adminURL") => Some(Interface::Admin),
            Some(_) => return self.wrong("interface", "expected public, internal or admin"),
        };
        let (region_name, cacert) = (self.text("region_name")?, self.text("cacert")?.map(PathBuf::from));
        let Some(auth) = self.table.get("auth") else { return self.wrong("auth", "expected a table") };
        let auth = Self { above: format!("{}.auth", self.above), table: auth, place: self.place };
        Ok(CloudEntry { auth: auth.auth()?, region_name, interface, cacert })
    }

    fn refuse_what_is_not_done(&self) -> Result<(), OpenStackProblem> {
        for key in ["profile", "cloud", "cert", "key"] {
            if self.table.get(key).is_some_and(|value| !value.is_null()) {
                return self.wrong(key, "is not supported: leave it out, and say here what it stands for");
            }
        }
        if self.table.get("verify").is_some_and(|verify| verify.as_bool() != Some(true)) {
            return self.wrong("verify", "certificates are always verified: name the authority's with cacert");
        }
        let version = self.table.get("identity_api_version");
        let is_3 = |version: &Value| {
            version.as_f64().is_some_and(|v| (3.0..4.0).contains(&v))
                || version.as_str().is_some_and(|v| v.trim_start_matches('v').starts_with('3'))
        };
        if version.is_some_and(|version| !is_3(version)) {
            return self.wrong("identity_api_version", "expected 3");
        }
        match self.text("auth_type")?.as_deref() {
            None | Some("password" | "v3password" | "v3applicationcredential") => Ok(()),
            Some(_) => self.wrong("auth_type", "expected password, v3password or v3applicationcredential"),
        }
    }

    fn auth(&self) -> Result<AuthSection, OpenStackProblem> {
        Ok(AuthSection {
            auth_url: self.text("auth_url")?,
            username: self.text("username")?,
            user_id: self.text("user_id")?,
            password: self.secret("password")?,
            project_name: self.text("project_name")?,
            project_id: self.text("project_id")?,
            user_domain_name: self.text("user_domain_name")?,
            user_domain_id: self.text("user_domain_id")?,
            project_domain_name: self.text("project_domain_name")?,
            project_domain_id: self.text("project_domain_id")?,
            application_credential_id: self.text("application_credential_id")?,
            application_credential_name: self.text("application_credential_name")?,
            application_credential_secret: self.secret("application_credential_secret")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOUDS: &str = "
clouds:
  other: {}
  prod:
    auth:
      auth_url: https://k:5000/v3
      username: reeve
      project_name: service
    region_name: R
    interface: internal
    volume_api_version: 3
";
    const SECURE: &str = "{clouds: {prod: {auth: {password: hush}}}}";

    /// Reads `prod` of a folder with these files.
    fn of(clouds: &str, secure: Option<&str>) -> Result<CloudEntry, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clouds.yaml");
        std::fs::write(&path, clouds).unwrap();
        if let Some(secure) = secure {
            std::fs::write(folder.path().join("secure.yaml"), secure).unwrap();
        }
        let read = read(&path, "prod");
        read.map_err(|problem| problem.to_string().replace(&folder.path().display().to_string(), "F"))
    }

    #[test]
    fn a_cloud_is_read_and_its_secret_from_the_file_beside_it() {
        let entry = of(CLOUDS, Some(SECURE)).unwrap();
        assert_eq!((entry.region_name.as_deref(), entry.interface), (Some("R"), Some(Interface::Internal)));
        assert_eq!(entry.auth.username.as_deref(), Some("reeve"));
        let password = entry.auth.password.as_ref().unwrap();
        assert_eq!(password.secret().reveal().unwrap().expose(), "hush");
        assert!(!format!("{entry:?}").contains("hush"));
        assert_eq!(of(CLOUDS, None).unwrap().auth.password, None);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_key_and_without_its_value() {
        let both = |clouds: &str| of(clouds, Some(SECURE)).unwrap_err();
        for (from, to, told) in [
            ("region_name: R", "region_name: 5", "clouds.prod.region_name: expected a text: put it in quotes"),
            ("interface: internal", "interface: hush", "clouds.prod.interface: expected public, internal or admin"),
            ("region_name: R", "verify: false", "clouds.prod.verify: certificates are always verified"),
            ("region_name: R", "auth_type: v3hush", "clouds.prod.auth_type: expected password"),
            ("region_name: R", "identity_api_version: '2.0'", "clouds.prod.identity_api_version: expected 3"),
            ("region_name: R", "profile: hush", "clouds.prod.profile: is not supported"),
        ] {
            let error = both(&CLOUDS.replace(from, to));
            assert!(error.starts_with(&format!("F/clouds.yaml and F/secure.yaml: {told}")), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        let error = of(&CLOUDS.replace("  prod:", "  staging:"), None).unwrap_err();
        let said = "F/clouds.yaml: clouds.prod: there is no cloud of this name, only other, staging";
        assert_eq!(error, said);
        assert_eq!(of("clouds: [", None).unwrap_err().split(": ").last(), Some("is not YAML"));
        assert!(of("a: b", None).unwrap_err().ends_with("clouds: expected a table of clouds"));
        let error = of(CLOUDS, Some("{clouds: {prod: {auth: {password: 12345}}}}")).unwrap_err();
        assert!(error.ends_with("clouds.prod.auth.password: expected a text: put it in quotes"), "{error}");
        let nowhere = read(Path::new("/nowhere/clouds.yaml"), "prod").unwrap_err().to_string();
        assert_eq!(nowhere, "/nowhere/clouds.yaml: is not there");
    }

    #[test]
    fn identity_versions_of_today_are_taken() {
        for version in ["3", "'3'", "v3", "3.0"] {
            let text = CLOUDS.replace("region_name: R", &format!("identity_api_version: {version}"));
            assert!(of(&text, None).is_ok(), "{version}");
        }
    }
}

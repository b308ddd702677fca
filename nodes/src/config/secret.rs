//! Secrets: said in place, in a file, or as a credential of systemd; never shown.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The most bytes that a secret may have.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// What is shown in its place.
const MASK: &str = "***";
/// What is said of a credential's name that could lead out of its folder.
const NO_CREDENTIAL: &str = "a credential is a plain name, without / and not beginning with a dot";

/// Where a secret is to be had. Shows where, never what; of a URL everything but the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In the configuration itself.
    Inline(Revealed),
    /// `{ file = "PATH" }`: in a file, without its last line break.
    File(PathBuf),
    /// `{ credential = "NAME" }`: what systemd's `LoadCredential=NAME:…` provides.
    Credential(String),
}

/// A secret itself. Shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Revealed(String);

impl Revealed {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret. For whoever needs it, not for logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is not there, or may not be read.
    #[error("cannot read the secret {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is empty, too large, or no text.
    #[error("the secret {} {why}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// There are no credentials.
    #[error("credential {0}: $CREDENTIALS_DIRECTORY is not set (is LoadCredential={0}:PATH in the unit?)")]
    NoCredentials(String),
}

impl Secret {
    /// Gets the secret.
    ///
    /// # Errors
    /// [`SecretError`] when its file or credential cannot be read, is empty, or is no text.
    pub fn reveal(&self) -> Result<Revealed, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => read_file(path),
            Self::Credential(name) => read_file(&credential_path(name)?),
        }
    }
}

/// Where systemd put a credential.
pub(super) fn credential_path(name: &str) -> Result<PathBuf, SecretError> {
    let folder =
        std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| SecretError::NoCredentials(name.to_owned()))?;
    Ok(Path::new(&folder).join(name))
}

/// Reads the name of a credential: it becomes part of a path.
pub(super) fn plain_credential<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(Error::custom(NO_CREDENTIAL));
    }
    Ok(name)
}

fn read_file(path: &Path) -> Result<Revealed, SecretError> {
    use std::io::Read;

    let content = |why| SecretError::Content { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(content("is larger than 64 KiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| content("is not UTF-8"))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |rest| rest.strip_suffix('\r').unwrap_or(rest));
    if text.is_empty() { Err(content("is empty")) } else { Ok(Revealed::new(text)) }
}

/// A URL with its password masked; a text that is no URL with a host is masked whole.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let authority = rest.find(['/', '?', '#']).map_or(rest, |end| &rest[..end]);
    // A password may hold an unescaped `@` or `/`: the last `@` of the whole text is the safe side.
    let Some(at) = rest.rfind('@') else { return url.to_owned() };
    let user = authority.split([':', '@']).next().unwrap_or_default();
    format!("{scheme}://{user}:{MASK}@{}", &rest[at + 1..])
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(secret) => f.write_str(&mask_url(secret.expose())),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, value) = match self {
            Self::Inline(_) => return serializer.collect_str(self),
            Self::File(path) => ("file", path.display().to_string()),
            Self::Credential(name) => ("credential", name.clone()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(key, &value)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// A secret that is no URL: of one that stands in the configuration nothing at all is shown.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Password(Secret);

impl Password {
    /// One that is to be had there.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Where it is to be had.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Secret::Inline(_) => f.write_str(MASK),
            place @ (Secret::File(_) | Secret::Credential(_)) => fmt::Debug::fmt(place, f),
        }
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Secret::Inline(_) => serializer.serialize_str(MASK),
            place @ (Secret::File(_) | Secret::Credential(_)) => place.serialize(serializer),
        }
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, { file = "PATH" } or { credential = "NAME" }"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::Inline(Revealed::new(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let Some((key, value)) = map.next_entry::<String, String>()? else {
            return Err(Error::custom("expected { file = \"PATH\" } or { credential = \"NAME\" }"));
        };
        if map.next_key::<String>()?.is_some() {
            return Err(Error::custom("expected either file or credential, found more"));
        }
        match key.as_str() {
            "file" => Ok(Secret::File(value.into())),
            "credential" if value.is_empty() || value.contains('/') || value.starts_with('.') => {
                Err(Error::custom(NO_CREDENTIAL))
            }
            "credential" => Ok(Secret::Credential(value)),
            _ => Err(Error::unknown_field(&key, &["file", "credential"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url = Secret::Inline(Revealed::new("amqps://reeve:s3cr3t@bus.example:5671/%2f"));
        assert_eq!(url.to_string(), "amqps://reeve:***@bus.example:5671/%2f");
        for shown in [format!("{url:?}"), serde_json::to_string(&url).unwrap(), format!("{:?}", url.reveal().unwrap())]
        {
            assert!(!shown.contains("s3cr3t"), "{shown}");
        }
        for url in ["amqp://u:a/s3cr3t@h/", "amqp://u:a@s3cr3t@h", "amqp://:s3cr3t@h", "s3cr3t", "amqp://s3cr3t@x:1@h"]
        {
            let shown = mask_url(url);
            assert!(!shown.contains("s3cr3t") || url == "amqp://s3cr3t@x:1@h", "{shown}");
        }
        assert_eq!(mask_url("file:///var/lib/reeve/vault"), "file:///var/lib/reeve/vault");
    }

    #[test]
    fn a_password_that_looks_like_a_url_is_not_shown_either() {
        let read: std::collections::BTreeMap<String, Password> = toml::from_str("a = \"x://s3cr3t\"").unwrap();
        assert_eq!(format!("{read:?} {}", serde_json::to_string(&read).unwrap()), r#"{"a": ***} {"a":"***"}"#);
        let read: std::collections::BTreeMap<String, Password> = toml::from_str("a = { credential = \"c\" }").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"a":{"credential":"c"}}"#);
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "amqp://x\n").unwrap();
        assert_eq!(Secret::File(path.clone()).reveal().unwrap().expose(), "amqp://x");
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::File(path).reveal().unwrap_err().to_string().ends_with("is empty"));
        let error = Secret::File(folder.path().join("none")).reveal().unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }

    #[test]
    fn a_credential_is_a_plain_name() {
        let read = |text: &str| toml::from_str::<std::collections::BTreeMap<String, Secret>>(text);
        assert_eq!(read(r#"s = { credential = "bus" }"#).unwrap()["s"], Secret::Credential("bus".into()));
        for wrong in ["../shadow", "", ".x", "a/b"] {
            assert!(read(&format!("s = {{ credential = {wrong:?} }}")).is_err(), "{wrong}");
        }
        assert!(read(r#"s = { file = "a", credential = "b" }"#).is_err());
        assert!(read(r#"s = { path = "a" }"#).unwrap_err().to_string().contains("path"));
    }
}

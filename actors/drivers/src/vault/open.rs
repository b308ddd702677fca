//! Opens vaults: in memory, in a folder, in a bucket, in a container; and reads `[vault] url`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::{HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use reeve_ports::VaultError;

use super::packing::Packing;
use super::place::Place;
use super::{OpendalVault, error};

/// How often a request that failed for the moment is sent, all told; a backup has tries of its own.
const TRIES: usize = 3;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request without content may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long one with content may take, which is a part.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(300);

/// Why a URL names no vault, or what is said beside it does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultUrlError {
    /// No `scheme://`.
    #[error("is no URL, {EXPECTED}")]
    NoUrl,
    /// A scheme that this build does not have. The rest of the URL is not repeated: it may hold a secret.
    #[error("{0}:// is not supported by this version, {EXPECTED}")]
    Scheme(String),
    /// A `file:` URL with a host or without an absolute path.
    #[error("names no local folder, expected file:///ABSOLUTE/PATH")]
    NotLocal,
    /// No plain name where that of a bucket or container is expected.
    #[error("names no bucket or container, expected s3://BUCKET/PREFIX or swift://CONTAINER/PREFIX without a password")]
    NoBucket,
    /// A bucket without the rest.
    #[error("needs vault.endpoint and its credentials")]
    NoRemote,
    /// The file of authorities is none.
    #[error("the authorities {path} cannot be used: {why}")]
    Authority {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// The vault was found and does not serve.
    #[error("the vault does not open")]
    Vault(#[from] VaultError),
}

const EXPECTED: &str = "expected file:///ABSOLUTE/PATH, s3://BUCKET/PREFIX or swift://CONTAINER/PREFIX";

/// `[vault] url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultUrl {
    /// `file:///ABSOLUTE/PATH`, with `%XX` for what a URL cannot hold.
    Folder(PathBuf),
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// The bucket, which is there.
        bucket: String,
        /// What stands before every name.
        prefix: String,
    },
    /// `swift://CONTAINER/PREFIX`.
    Swift {
        /// The container, which is there.
        container: String,
        /// What stands before every name.
        prefix: String,
    },
}

/// A service that is reached over the network.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Remote {
    /// Where it answers: `https://HOST:PORT`; of Swift with the account, `https://HOST:PORT/v1/AUTH_…`.
    pub endpoint: String,
    /// S3: the region that requests are signed for.
    pub region: String,
    /// S3: whose key it is.
    pub access_key_id: String,
    /// S3: the secret access key. Swift: the token.
    pub secret: String,
    /// A file of PEM certificates that are trusted besides those of the system.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

impl FromStr for VaultUrl {
    type Err = VaultUrlError;

    fn from_str(url: &str) -> Result<Self, VaultUrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(VaultUrlError::NoUrl)?;
        match scheme {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                let path = Some(path).filter(|path| path.starts_with('/')).and_then(unescape);
                path.map(|path| Self::Folder(path.into())).ok_or(VaultUrlError::NotLocal)
            }
            "s3" => bucket(rest).map(|(bucket, prefix)| Self::S3 { bucket, prefix }),
            "swift" => bucket(rest).map(|(container, prefix)| Self::Swift { container, prefix }),
            _ => Err(VaultUrlError::Scheme(scheme.chars().take(32).collect())),
        }
    }
}

/// A plain name, and a prefix of plain components.
fn bucket(rest: &str) -> Result<(String, String), VaultUrlError> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let components = prefix.is_empty() || prefix.split('/').all(|part| !part.is_empty() && plain(part) && part != "..");
    if bucket.is_empty() || bucket.len() > 63 || !plain(bucket) || !components {
        return Err(VaultUrlError::NoBucket);
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

impl VaultUrl {
    /// Whether `[vault] endpoint` and what belongs to it are needed.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::S3 { .. } | Self::Swift { .. } => true,
        }
    }

    /// Opens the vault. A folder is made if it is not there, a bucket is not. See [`OpendalVault::probe_writable`] for
    /// whether it serves.
    ///
    /// # Errors
    /// [`VaultUrlError`].
    pub fn open(&self, remote: Option<&Remote>) -> Result<OpendalVault, VaultUrlError> {
        let given = remote.ok_or(VaultUrlError::NoRemote);
        let (name, remote, operator) = match self {
            Self::Folder(folder) => return Ok(OpendalVault::in_folder(folder)?),
            Self::S3 { bucket, prefix } => {
                let remote = given?;
                let service = opendal::services::S3::default()
                    .bucket(bucket)
                    .root(&format!("/{prefix}"))
                    .endpoint(&remote.endpoint)
                    .region(&remote.region)
                    .access_key_id(&remote.access_key_id)
                    .secret_access_key(&remote.secret)
                    // Only what the configuration says: nothing of the environment, a home or a metadata service.
                    .disable_config_load()
                    .disable_ec2_metadata();
                (format!("s3://{bucket}/{prefix}"), remote, Operator::new(service))
            }
            Self::Swift { container, prefix } => {
                let remote = given?;
                let service = opendal::services::Swift::default()
                    .container(container)
                    .root(&format!("/{prefix}"))
                    .endpoint(&remote.endpoint)
                    .token(&remote.secret);
                (format!("swift://{container}/{prefix}"), remote, Operator::new(service))
            }
        };
        let refused = |why: opendal::Error| VaultError::NotWritable(format!("{name}: {}", error::reason(&why)));
        let operator = operator.map_err(refused)?;
        Ok(OpendalVault::new(reached(operator, remote)?, name.trim_end_matches('/')))
    }
}

/// Over HTTP, with limits on the time that a request takes.
fn reached(operator: Operator, remote: &Remote) -> Result<Operator, VaultUrlError> {
    let mut client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
    if let Some(path) = &remote.ca {
        let wrong = |why: String| VaultUrlError::Authority { path: path.display().to_string(), why };
        let pem = std::fs::read(path).map_err(|why| wrong(why.to_string()))?;
        let more = reqwest::Certificate::from_pem_bundle(&pem).map_err(|why| wrong(why.to_string()))?;
        client = client.tls_certs_merge(more);
    }
    let client = client.build().map_err(|why| VaultError::Unavailable(why.to_string()))?;
    let transport = HttpTransporter::new(ReqwestTransport::new(client));
    Ok(operator
        .with_context(OperationContext::new().with_http_transport(transport))
        .layer(TimeoutLayer::new().with_timeout(TIMEOUT).with_io_timeout(TRANSFER_TIMEOUT))
        .layer(RetryLayer::new().with_max_times(TRIES).with_jitter()))
}

impl OpendalVault {
    /// A vault over any service of `opendal`; `name` stands before paths in errors.
    #[must_use]
    pub fn new(operator: Operator, name: impl Into<String>) -> Self {
        Self { place: Place::new(operator, name.into(), None), packing: Packing::default() }
    }

    /// A vault in memory, for tests and demonstrations.
    ///
    /// # Errors
    /// `Unavailable` if `opendal` refuses.
    pub fn in_memory() -> Result<Self, VaultError> {
        let operator = Operator::new(opendal::services::Memory::default());
        let operator = operator.map_err(|why| VaultError::Unavailable(why.to_string()))?;
        Ok(Self::new(operator, "memory:"))
    }

    /// A vault in a local folder, which is made if it is not there.
    ///
    /// # Errors
    /// `NotWritable` when the folder cannot be made or is none.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Result<Self, VaultError> {
        let folder = folder.into();
        let shown = folder.display().to_string();
        let root = folder.to_str().ok_or_else(|| VaultError::NotWritable(format!("{shown}: not UTF-8")))?;
        let operator = Operator::new(opendal::services::Fs::default().root(root));
        let operator = operator.map_err(|why| VaultError::NotWritable(format!("{shown}: {}", error::reason(&why))))?;
        Ok(Self { place: Place::new(operator, shown, Some(folder)), packing: Packing::default() })
    }
}

fn unescape(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
            bytes.push(u8::try_from(digits[0]? * 16 + digits[1]?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_place_or_says_why_not() {
        let read = |url: &str| url.parse::<VaultUrl>();
        assert_eq!(read("file:///srv/a%20b"), Ok(VaultUrl::Folder("/srv/a b".into())));
        assert_eq!(read("s3://b-1/p/q/"), Ok(VaultUrl::S3 { bucket: "b-1".into(), prefix: "p/q".into() }));
        assert_eq!(read("swift://c"), Ok(VaultUrl::Swift { container: "c".into(), prefix: String::new() }));
        for (url, why) in [
            ("/var/lib/reeve", "is no URL"),
            ("gs://bucket", "gs:// is not supported"),
            ("s3://key:s3cret@bucket", "names no bucket"),
            ("s3://", "names no bucket"),
            ("s3://b/../c", "names no bucket"),
            ("s3://b?s3cret", "names no bucket"),
            ("file://host/path", "names no local folder"),
            ("file:///bad%zz", "names no local folder"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let remote = Remote { secret: "s3cret".into(), access_key_id: "whose".into(), ..Remote::default() };
        assert!(!format!("{remote:?}").contains("s3cret"), "{remote:?}");
        let url: VaultUrl = "s3://b".parse().unwrap();
        assert_eq!(url.open(None).map(drop), Err(VaultUrlError::NoRemote));
    }
}

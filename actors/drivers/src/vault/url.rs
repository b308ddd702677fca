//! `[vault] url`.

use std::path::PathBuf;

use reeve_ports::VaultError;

use super::OpendalVault;

/// Why a URL names no vault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultUrlError {
    /// No `scheme://`.
    #[error("vault url {0:?} is no URL, expected file:///PATH")]
    NoUrl(String),
    /// A scheme that this build does not have. The rest of the URL is not repeated: it may hold a secret.
    #[error("vault url: scheme {0:?} is not supported by this build, expected file:///PATH")]
    Scheme(String),
    /// A `file:` URL with a host or without an absolute path.
    #[error("vault url {0:?} names no local folder, expected file:///PATH with an absolute path")]
    NotLocal(String),
    /// The vault was found and does not serve.
    #[error("vault url")]
    Vault(#[from] VaultError),
}

/// Opens the vault that a URL names: `file:///ABSOLUTE/PATH`, with `%XX` for what a URL cannot hold. The folder is made if
/// it is not there; see [`OpendalVault::probe_writable`] for whether it serves.
///
/// # Errors
/// [`VaultUrlError`].
pub fn vault_from_url(url: &str) -> Result<OpendalVault, VaultUrlError> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| VaultUrlError::NoUrl(start_of(url)))?;
    if scheme != "file" {
        return Err(VaultUrlError::Scheme(start_of(scheme)));
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let path = Some(path).filter(|path| path.starts_with('/')).and_then(unescape);
    let path = path.ok_or_else(|| VaultUrlError::NotLocal(start_of(url)))?;
    Ok(OpendalVault::in_folder(PathBuf::from(path))?)
}

fn start_of(text: &str) -> String {
    text.chars().take(128).collect()
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

//! `[vault]`: where backups are kept, and how they are packed.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use reeve_drivers::vault::{
    Compression, KeyRing, MAX_KEYS, OpendalVault, Packing, Remote, VaultKey, VaultUrl, VaultUrlError,
};
use reeve_ports::Clock;
use serde::{Deserialize, Serialize};

use super::secret::{Password, Revealed};

/// The largest part, in bytes.
const MAX_PART_BYTES: u32 = 64 << 20;
/// The smallest part, in bytes: below that a disk has too many.
const MIN_PART_BYTES: u32 = 1 << 20;
/// The most parts of one disk at once.
const MAX_PARTS_UNDER_WAY: u8 = 16;

/// `[vault]`. Where backups are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultSection {
    /// `file:///ABSOLUTE/PATH`: a folder, made if missing. `s3://BUCKET/PREFIX` or `swift://CONTAINER/PREFIX`: a bucket that
    /// is there. With `[cluster]` it is required, and a folder must be one that every node mounts: whoever takes a VM over
    /// reads the backups that another made. Default `file://<data_dir>/vault`.
    pub url: String,
    /// `https://HOST:PORT` of S3; of Swift with the account, `https://HOST:PORT/v1/AUTH_ID`. Required with either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A file of PEM certificates that are trusted besides those of the system. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// S3: the region that requests are signed for. Default `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// S3: the access key's id. Required with S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// S3: the secret access key; may be `{ file = "PATH" }` or `{ credential = "NAME" }`. Required with S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Password>,
    /// Swift: a token; may be `{ file = "PATH" }` or `{ credential = "NAME" }`. It is read at the start and not renewed, so
    /// it has to be one that stays: for Keystone's, which expire, use Swift's S3 interface. Required with Swift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Password>,
    /// `zstd`, or `none` where disks are compressed already. Default `zstd`.
    pub compression: Compression,
    /// `[{ id = "2026-11", key = { credential = "vault-key" } }, …]`: the first encrypts, all of them read; at most 32.
    /// Default none: backups are not encrypted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<VaultKeySection>,
    /// The size of the parts that a disk is stored in, in bytes, 1 MiB to 64 MiB. A disk has at most 262,144. Default
    /// 8388608.
    pub part_bytes: u32,
    /// How many parts of one disk are on their way into the vault at once, 1 to 16. Each takes about three times its size of memory, for each
    /// of `runtime.caps.backups`. Default 2.
    pub parts_under_way: u8,
    /// How many bytes a second this node moves to and from the vault, all together; 0 sets no limit. Default 0.
    pub max_bytes_per_second: u64,
}

impl Default for VaultSection {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: None,
            ca: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            token: None,
            compression: Compression::default(),
            keys: Vec::new(),
            part_bytes: 8 << 20,
            parts_under_way: 2,
            max_bytes_per_second: 0,
        }
    }
}

/// A key that backups are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultKeySection {
    /// What manifests call it, 1 to 63 letters, digits, `-`, `_`, `.`. Never given to another key. Required.
    pub id: String,
    /// 64 hexadecimal digits (`openssl rand -hex 32`); may be `{ file = "PATH" }` or `{ credential = "NAME" }`. Required.
    pub key: Password,
}

impl VaultSection {
    /// Opens the vault with its secrets.
    ///
    /// # Errors
    /// When a secret cannot be had or is none, or the vault does not open.
    pub fn open(&self, clock: Arc<dyn Clock>) -> anyhow::Result<OpendalVault> {
        let url: VaultUrl = self.url.parse().context("vault.url")?;
        let remote = self.remote(&url)?;
        let mut keys = Vec::new();
        for (index, section) in self.keys.iter().enumerate() {
            let secret = section.key.secret().reveal().with_context(|| format!("vault.keys[{index}].key"))?;
            keys.push(section.read(&secret).with_context(|| format!("vault.keys[{index}]"))?);
        }
        let packing = Packing::default()
            .part_bytes(self.part_bytes)
            .under_way(self.parts_under_way)
            .compression(self.compression)
            .keys(KeyRing::new(keys).context("vault.keys")?)
            .max_bytes_per_second(self.max_bytes_per_second, clock);
        Ok(url.open(remote.as_ref())?.with(packing))
    }

    fn remote(&self, url: &VaultUrl) -> anyhow::Result<Option<Remote>> {
        let secret = match url {
            VaultUrl::Folder(_) => return Ok(None),
            VaultUrl::S3 { .. } => ("vault.secret_access_key", &self.secret_access_key),
            VaultUrl::Swift { .. } => ("vault.token", &self.token),
        };
        let (key, Some(secret)) = secret else { return Err(VaultUrlError::NoRemote.into()) };
        let secret = secret.secret().reveal().context(key)?;
        Ok(Some(Remote {
            endpoint: self.endpoint.clone().ok_or(VaultUrlError::NoRemote)?,
            region: self.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            access_key_id: self.access_key_id.clone().unwrap_or_default(),
            secret: secret.expose().to_owned(),
            ca: self.ca.clone(),
        }))
    }

    /// Every key that makes no sense, and what was expected.
    pub(super) fn wrong(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut complain = |key: &str, message: String| wrong.push((key.to_owned(), message));
        match self.url.parse::<VaultUrl>() {
            Err(error) => complain("url", error.to_string()),
            Ok(url) => self.misplaced(&url, &mut complain),
        }
        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&self.part_bytes) {
            let message = format!("is {}, expected {MIN_PART_BYTES} to {MAX_PART_BYTES} bytes", self.part_bytes);
            complain("part_bytes", message);
        }
        if !(1..=MAX_PARTS_UNDER_WAY).contains(&self.parts_under_way) {
            complain("parts_under_way", format!("is {}, expected 1 to {MAX_PARTS_UNDER_WAY}", self.parts_under_way));
        }
        if self.keys.len() > MAX_KEYS {
            complain("keys", format!("{} keys, expected at most {MAX_KEYS}", self.keys.len()));
        }
        for (index, section) in self.keys.iter().enumerate() {
            if self.keys[..index].iter().any(|other| other.id == section.id) {
                complain(&format!("keys[{index}].id"), format!("two keys are called {:?}", section.id));
            }
            // The id alone: what the key is may stand in a file.
            if let Err(error) = VaultKey::new(&section.id, &"0".repeat(64)) {
                complain(&format!("keys[{index}].id"), error.to_string());
            }
        }
        wrong
    }

    /// What is needed for this URL and not there, and what is there and means nothing for it.
    fn misplaced(&self, url: &VaultUrl, complain: &mut impl FnMut(&str, String)) {
        let (s3, swift) = match url {
            VaultUrl::Folder(_) => (false, false),
            VaultUrl::S3 { .. } => (true, false),
            VaultUrl::Swift { .. } => (false, true),
        };
        for (key, there, wanted, needed) in [
            ("endpoint", self.endpoint.is_some(), s3 || swift, s3 || swift),
            ("ca", self.ca.is_some(), s3 || swift, false),
            ("region", self.region.is_some(), s3, false),
            ("access_key_id", self.access_key_id.is_some(), s3, s3),
            ("secret_access_key", self.secret_access_key.is_some(), s3, s3),
            ("token", self.token.is_some(), swift, swift),
        ] {
            if there && !wanted {
                complain(key, "is set, but vault.url names another kind of vault: leave it out".into());
            } else if needed && !there {
                complain(key, "is left out, but the vault of vault.url needs it".into());
            }
        }
        if let Some(endpoint) = &self.endpoint
            && (!(endpoint.starts_with("https://") || endpoint.starts_with("http://")) || endpoint.contains('@'))
        {
            // Not repeated: it may hold a password.
            complain(
                "endpoint",
                "expected https://HOST:PORT without a user, or http:// where the network is trusted".into(),
            );
        }
    }
}

impl VaultKeySection {
    /// The key itself.
    pub(super) fn read(&self, secret: &Revealed) -> Result<VaultKey, reeve_drivers::vault::KeyError> {
        VaultKey::new(&self.id, secret.expose())
    }
}

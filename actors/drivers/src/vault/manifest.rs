//! The manifest: what a complete backup holds. Every manifest is foreign until it was checked.

use std::collections::BTreeSet;
use std::fmt::Write;

use reeve_ports::vault::{BackupPath, Manifest};
use reeve_protocol::bounds::check_bounds;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;
/// The most objects of one backup: the root disk and 64 volumes.
pub const MAX_OBJECTS: usize = 65;

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(64);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

/// As JSON for people, with a line end.
pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>, String> {
    let mut bytes = serde_json::to_vec_pretty(manifest).map_err(|why| why.to_string())?;
    bytes.push(b'\n');
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(format!("{} bytes, a manifest has at most {MAX_MANIFEST_BYTES}", bytes.len()));
    }
    Ok(bytes)
}

/// Reads a manifest; a newer format is named as such before anything else of it is looked at.
pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, String> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let most = usize::try_from(MAX_MANIFEST_BYTES).expect("1 MiB fits");
    let text = check_bounds(bytes, most).map_err(|why| why.to_string())?;
    let found: Format = serde_json::from_str(text).map_err(|why| format!("no manifest: {why}"))?;
    check_format(found.format)?;
    serde_json::from_str(text).map_err(|why| format!("no manifest: {why}"))
}

/// Whether a manifest is that of this backup and makes sense.
pub(super) fn check(path: &BackupPath, manifest: &Manifest) -> Result<(), String> {
    check_format(manifest.format)?;
    if manifest.backup != path.backup {
        return Err(format!("the manifest is that of backup {}", manifest.backup));
    }
    if manifest.vm != path.vm {
        return Err(format!("the manifest is that of VM {}", manifest.vm));
    }
    if manifest.objects.is_empty() || manifest.objects.len() > MAX_OBJECTS {
        return Err(format!("{} objects, expected 1 to {MAX_OBJECTS}", manifest.objects.len()));
    }
    let mut names = BTreeSet::new();
    for listed in &manifest.objects {
        if listed.name != listed.disk.object_name() {
            return Err(format!("object {:?} does not name its disk", listed.name));
        }
        if !names.insert(&listed.name) {
            return Err(format!("object {:?} is listed twice", listed.name));
        }
        if !is_hash(&listed.blake3) || !is_hash(&listed.sha256) {
            return Err(format!("object {:?} has a hash that is not 64 lower-case hex digits", listed.name));
        }
    }
    Ok(())
}

fn check_format(format: u32) -> Result<(), String> {
    if format == FORMAT { Ok(()) } else { Err(format!("format {format}, this version reads {FORMAT}")) }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

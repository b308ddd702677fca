//! A vault on a small disk of its own, where one can be mounted, so that it can be full.
//!
//! The disk is named after the process of the run. A run that was killed leaves it, and the next one takes it away.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Room for every backup of a run.
const SIZE: &str = "size=512m,mode=700";
const FILLER: &str = ".filler";
const NAME: &str = "reeve-chaos-vault-";

/// A folder for the vault.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes the folder and mounts a disk there; without the right to mount it is a plain folder, which is never full.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        unmount_orphans();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, &format!("{NAME}{}", std::process::id())]).arg(folder);
        let mounted =
            rustix::process::geteuid().is_root() && mount.output().is_ok_and(|output| output.status.success());
        Ok(Self { folder: folder.to_owned(), mounted })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it can be full.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.mounted
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            unmount(&self.folder);
        }
    }
}

/// Whatever still reads there keeps what it has; nobody sees the disk any more.
fn unmount(folder: &Path) {
    // It takes up memory until the machine restarts if this fails, and nothing can be done about that here.
    let _ = Command::new("umount").arg("--lazy").arg(folder).output();
}

/// Takes away the disks of runs that were killed.
fn unmount_orphans() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for folder in orphans(&mounts, |process| Path::new("/proc").join(process).exists()) {
        unmount(Path::new(folder));
    }
}

/// The folders where disks of processes that do not live are mounted.
fn orphans(mounts: &str, lives: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut orphans = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (name, folder) = (fields.next().and_then(|name| name.strip_prefix(NAME)), fields.next());
        if let (Some(process), Some(folder)) = (name, folder)
            && !lives(process)
        {
            orphans.push(folder);
        }
    }
    orphans
}

/// Fills the disk of a vault to the last block.
///
/// # Errors
/// When it has no disk of its own.
pub fn fill(disk: &Disk) -> Result<()> {
    ensure!(disk.mounted, "the vault has no disk of its own: only root may mount one");
    let mut file = std::fs::File::create(disk.folder.join(FILLER)).context("cannot fill the vault's disk")?;
    let block = vec![0; 1 << 20];
    // The write that fails is the point.
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    Ok(())
}

/// Frees it again.
///
/// # Errors
/// When the filler cannot be removed.
pub fn free(disk: &Disk) -> Result<()> {
    let filler = disk.folder.join(FILLER);
    if filler.exists() {
        std::fs::remove_file(&filler).context("cannot free the vault's disk")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_of_runs_that_ended_are_orphans() {
        let mounts = "/dev/vda / ext4 rw 0 0\nreeve-chaos-vault-7 /tmp/a/vault tmpfs rw 0 0\n\
            reeve-chaos-vault-8 /tmp/b/vault tmpfs rw 0 0\n";
        assert_eq!(orphans(mounts, |process| process == "7"), ["/tmp/b/vault"]);
        assert_eq!(orphans(mounts, |_| true), [""; 0]);
    }
}

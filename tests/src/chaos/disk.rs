//! A vault on a small disk of its own, where one can be mounted, so that it can be full.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Room for every backup of a run.
const SIZE: &str = "size=512m,mode=700";
const FILLER: &str = ".filler";

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
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "reeve-chaos-vault"]).arg(folder);
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
            // Whatever still reads there keeps what it has; nobody sees the disk any more.
            let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
        }
    }
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

//! A node's wall clock that can be stepped from outside: the machine's clock plus an offset that a small file holds.
//!
//! Only the wall clock is stepped. The boot-time clock and sleeping are the machine's own, as they are when somebody
//! sets the clock of a real machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use reeve_ports::{Clock, Sleep, SystemClock};
use reeve_protocol::Timestamp;

/// The machine's clock plus the offset in a file.
#[derive(Debug)]
pub struct SteppedClock {
    file: File,
}

impl SteppedClock {
    /// A clock whose offset the file holds.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read the clock {}", path.display()))?;
        Ok(Self { file })
    }

    fn offset_ms(&self) -> i64 {
        let mut bytes = [0; 8];
        // A clock that is being made counts as right.
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => i64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().as_millis().saturating_add(self.offset_ms()))
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        SystemClock.sleep(duration)
    }
}

/// Sets the clock of whoever reads this file, in one write.
///
/// # Errors
/// When the file cannot be written.
pub fn set_offset(path: &Path, offset_ms: i64) -> Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("cannot open the clock {}", path.display()))?;
    file.write_all_at(&offset_ms.to_le_bytes(), 0).with_context(|| format!("cannot set the clock {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn a_step_is_seen_at_once_and_moves_the_wall_clock_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clock");
        set_offset(&path, 0).unwrap();
        let clock = SteppedClock::open(&path).unwrap();
        let off_by = |clock: &SteppedClock| clock.now().as_millis() - SystemClock.now().as_millis();
        assert!(off_by(&clock).abs() < HOUR_MS / 2);
        set_offset(&path, HOUR_MS).unwrap();
        assert!((off_by(&clock) - HOUR_MS).abs() < HOUR_MS / 2);
        assert!(clock.elapsed().abs_diff(SystemClock.elapsed()) < Duration::from_secs(1_800));
        set_offset(&path, -HOUR_MS).unwrap();
        assert!((off_by(&clock) + HOUR_MS).abs() < HOUR_MS / 2);
    }
}

//! Loopback ports that nobody else takes while a test holds them.
//!
//! Asking the kernel for port 0 and closing the socket again is not enough: the kernel may hand the same port to
//! another process, or to an outgoing connection, before the server binds it or while the server restarts. So ports
//! come from below the ephemeral range, and a locked file marks each one as taken across all test processes. The
//! kernel drops the lock when its process dies, so nothing has to be cleaned up.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Context, bail};
use rand::RngExt;

/// Linux hands out ephemeral ports from 32768 on.
const RANGE: Range<u16> = 21_000..30_000;

/// A loopback port reserved until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// # Errors
    /// When the lock files cannot be written, or when every port of the range is taken.
    pub fn reserve() -> anyhow::Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("reeve-test-ports-{uid}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let start = rand::rng().random_range(RANGE);
        for number in (start..RANGE.end).chain(RANGE.start..start) {
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free loopback port between {} and {}", RANGE.start, RANGE.end)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_held_at_the_same_time_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..20).map(|_| Port::reserve().unwrap()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        for number in numbers {
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        }
    }
}

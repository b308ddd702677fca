//! What a simulated cloud is made of: the keys of `[[cloud]] driver = "sim"`.

use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

/// The largest disk that a simulated cloud holds: contents are kept in memory while they are written.
pub const MAX_DISK_BYTES: u64 = 16 * 1024 * 1024;

const MAX_HOSTS: u16 = 1_000;
const MAX_VMS: u32 = 1_000_000;
const MAX_VOLUMES: u8 = 64;
const MAX_PAGE: u32 = 1_000;

/// The keys of a simulated cloud. Ranges are `[least, most]`, both included; which value a VM gets follows from the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Everything that looks random follows from it. Default 1.
    pub seed: u64,
    /// Compute hosts, `sim-host-0` and on; 1 to 1,000. Default 4.
    pub hosts: u16,
    /// VMs that exist from the start; at most `max_vms`. Default 8.
    pub vms: u32,
    /// Volumes of each VM; at most 64. Default `[0, 2]`.
    pub volumes_per_vm: [u8; 2],
    /// How many of 100 volumes are not the VM's own and must outlive it. Default 10.
    pub shared_volume_percent: u8,
    /// Size of each disk in bytes; at most 16 MiB. Default `[16384, 65536]`.
    pub disk_bytes: [u64; 2],
    /// Public addresses of each VM of the first fleet; at most 64. Default `[0, 1]`.
    pub addresses_per_vm: [u8; 2],
    /// How long a VM is being built. Default `["200ms", "800ms"]`.
    pub build: [Span; 2],
    /// How long a guest boots until its agent answers. Default `["300ms", "1500ms"]`.
    pub boot: [Span; 2],
    /// How long power on, power off, reboot, suspend and resume take. Default `["50ms", "300ms"]`.
    pub power: [Span; 2],
    /// How long a deletion takes. Default `["50ms", "300ms"]`.
    pub delete: [Span; 2],
    /// How long a snapshot takes. Default `["50ms", "500ms"]`.
    pub snapshot: [Span; 2],
    /// How long a restore in place takes. Default `["100ms", "500ms"]`.
    pub restore: [Span; 2],
    /// VMs on one page of a listing; 1 to 1,000. Default 100.
    pub page: u32,
    /// The quota: a launch beyond it is refused. VMs that are gone do not count. Default 100,000.
    pub max_vms: u32,
    /// After how long a call that hangs ends without an answer. Default `60s`.
    pub hang: Span,
    /// How many of 1,000 calls fail by chance, out of what [`super::RandomFaults`] allows. Default 0.
    pub faults_per_mille: u16,
    /// How many of 1,000 notifications are lost. Default 0.
    pub lost_per_mille: u16,
    /// How many of 1,000 notifications come twice. Default 0.
    pub doubled_per_mille: u16,
    /// How many of 1,000 notifications come after the one that follows them. Default 0.
    pub late_per_mille: u16,
}

impl Default for SimConfig {
    fn default() -> Self {
        let ms = |least, most| [Span::from_millis(least), Span::from_millis(most)];
        Self {
            seed: 1,
            hosts: 4,
            vms: 8,
            volumes_per_vm: [0, 2],
            shared_volume_percent: 10,
            disk_bytes: [16 * 1024, 64 * 1024],
            addresses_per_vm: [0, 1],
            build: ms(200, 800),
            boot: ms(300, 1_500),
            power: ms(50, 300),
            delete: ms(50, 300),
            snapshot: ms(50, 500),
            restore: ms(100, 500),
            page: 100,
            max_vms: 100_000,
            hang: Span::from_secs(60),
            faults_per_mille: 0,
            lost_per_mille: 0,
            doubled_per_mille: 0,
            late_per_mille: 0,
        }
    }
}

/// A key of a simulated cloud has a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {found} is not allowed, expected {expected}")]
pub struct SimConfigError {
    key: &'static str,
    found: String,
    expected: &'static str,
}

impl SimConfig {
    /// Checks every key.
    ///
    /// # Errors
    /// [`SimConfigError`] names the first key that is out of its limits.
    pub fn validate(&self) -> Result<(), SimConfigError> {
        limit("hosts", self.hosts.into(), 1, MAX_HOSTS.into(), "1 to 1000")?;
        limit("max_vms", self.max_vms.into(), 0, MAX_VMS.into(), "at most 1000000")?;
        limit("vms", self.vms.into(), 0, self.max_vms.into(), "at most max_vms")?;
        limit("page", self.page.into(), 1, MAX_PAGE.into(), "1 to 1000")?;
        limit("shared_volume_percent", self.shared_volume_percent.into(), 0, 100, "0 to 100")?;
        let bytes = self.volumes_per_vm.map(u64::from);
        range("volumes_per_vm", bytes, MAX_VOLUMES.into(), "[least, most], at most 64")?;
        range("addresses_per_vm", self.addresses_per_vm.map(u64::from), 64, "[least, most], at most 64")?;
        range("disk_bytes", self.disk_bytes, MAX_DISK_BYTES, "[least, most], at most 16777216")?;
        for (key, spans) in [
            ("build", self.build),
            ("boot", self.boot),
            ("power", self.power),
            ("delete", self.delete),
            ("snapshot", self.snapshot),
            ("restore", self.restore),
        ] {
            range(key, spans.map(Span::as_millis), 86_400_000, "[least, most], at most 1d")?;
        }
        for (key, share) in [
            ("faults_per_mille", self.faults_per_mille),
            ("lost_per_mille", self.lost_per_mille),
            ("doubled_per_mille", self.doubled_per_mille),
            ("late_per_mille", self.late_per_mille),
        ] {
            limit(key, share.into(), 0, 1_000, "0 to 1000")?;
        }
        Ok(())
    }
}

fn limit(key: &'static str, found: u64, least: u64, most: u64, expected: &'static str) -> Result<(), SimConfigError> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(SimConfigError { key, found: found.to_string(), expected })
    }
}

fn range(key: &'static str, found: [u64; 2], most: u64, expected: &'static str) -> Result<(), SimConfigError> {
    if found[0] <= found[1] && found[1] <= most {
        Ok(())
    } else {
        Err(SimConfigError { key, found: format!("{found:?}"), expected })
    }
}

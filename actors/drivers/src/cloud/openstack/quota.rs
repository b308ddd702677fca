//! Limits that the cloud tells beforehand: a request beyond them is refused before anything is made. What it does not tell
//! it will say when it is asked for.

use reeve_ports::CloudError;
use reeve_protocol::provision::ServerPlan;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api::{Api, Ask};
use super::plan::refused;
use super::session::Service;

#[derive(Deserialize)]
struct Limits<T> {
    limits: Absolute<T>,
}

#[derive(Deserialize)]
struct Absolute<T> {
    absolute: T,
}

/// Nova's. A limit below zero is none.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ComputeLimits {
    max_total_instances: Option<i64>,
    total_instances_used: Option<i64>,
    max_total_cores: Option<i64>,
    total_cores_used: Option<i64>,
    #[serde(rename = "maxTotalRAMSize")]
    max_total_ram_size: Option<i64>,
    #[serde(rename = "totalRAMUsed")]
    total_ram_used: Option<i64>,
}

/// Cinder's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeLimits {
    max_total_volumes: Option<i64>,
    total_volumes_used: Option<i64>,
    max_total_volume_gigabytes: Option<i64>,
    total_gigabytes_used: Option<i64>,
}

impl Api {
    pub(super) async fn check_quota(&self, plan: &ServerPlan, vcpus: i64, ram: i64) -> Result<(), CloudError> {
        if let Some(told) = self.limits::<ComputeLimits>(Service::Compute).await? {
            fits("instances", 1, told.max_total_instances, told.total_instances_used)?;
            fits("cores", vcpus, told.max_total_cores, told.total_cores_used)?;
            fits("MiB of memory", ram, told.max_total_ram_size, told.total_ram_used)?;
        }
        if plan.volumes.is_empty() {
            return Ok(());
        }
        if let Some(told) = self.limits::<VolumeLimits>(Service::Volume).await? {
            let volumes = i64::try_from(plan.volumes.len()).unwrap_or(i64::MAX);
            let gib = plan.volumes.iter().map(|volume| i64::from(volume.gib)).sum();
            fits("volumes", volumes, told.max_total_volumes, told.total_volumes_used)?;
            fits("GiB of volumes", gib, told.max_total_volume_gigabytes, told.total_gigabytes_used)?;
        }
        Ok(())
    }

    /// The limits of the project; `None` where they are not told.
    async fn limits<T: DeserializeOwned>(&self, service: Service) -> Result<Option<T>, CloudError> {
        match self.ask(Ask::get(service, "/limits")).await {
            Ok(answer) => Ok(Some(answer.json::<Limits<T>>()?.limits.absolute)),
            Err(CloudError::NotFound(_) | CloudError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn fits(what: &str, wanted: i64, most: Option<i64>, used: Option<i64>) -> Result<(), CloudError> {
    let (Some(most), used) = (most.filter(|most| *most >= 0), used.unwrap_or(0)) else { return Ok(()) };
    if used.saturating_add(wanted) <= most {
        return Ok(());
    }
    let free = most.saturating_sub(used).max(0);
    Err(refused(format!("quota of {what}: {wanted} asked for, {free} of {most} free")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_met_to_its_end_and_not_beyond() {
        assert_eq!(fits("cores", 2, Some(10), Some(8)), Ok(()));
        let why = refused("quota of cores: 3 asked for, 2 of 10 free".to_owned());
        assert_eq!(fits("cores", 3, Some(10), Some(8)), Err(why));
        assert_eq!(fits("cores", 3, Some(-1), Some(800)), Ok(()), "below zero is no limit");
        assert_eq!(fits("cores", 3, None, None), Ok(()), "what is not told");
    }
}

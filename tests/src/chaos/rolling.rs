//! All nodes are restarted one after the other under load.

use std::time::Duration;

use anyhow::Result;
use reeve_ports::{Clock, SystemClock};
use serde_json::json;

use super::attendance::Attendance;
use super::options::Options;
use super::people::People;
use super::run::{Outcome, conclude};
use super::settle;
use super::stage::Stage;

/// Load before the first restart, between two, and after the last.
const BETWEEN: Duration = Duration::from_secs(5);
const KNOWN: Duration = Duration::from_secs(180);
/// Until all shards have owners again.
const OWNED: Duration = Duration::from_secs(60);

/// Restarts every node once, and judges.
///
/// # Errors
/// When a part does not come up, or a node does not stop in order.
pub async fn rolling(options: &Options) -> Result<Outcome> {
    let stage = Stage::start(options, options.fleet()).await?;
    stage.all_known(KNOWN).await?;
    let people = People::gather(&stage, 0).await?;
    let mut attendance = Attendance::new(stage.doors(), stage.history.clone(), people.watched());
    let mut took_ms = Vec::new();
    let restarts = async {
        for member in &stage.members {
            tokio::time::sleep(BETWEEN).await;
            let began = SystemClock.elapsed();
            member.stop().await?;
            member.start().await?;
            member.answers().await?;
            stage.all_owned(OWNED).await?;
            took_ms.push(SystemClock.elapsed().saturating_sub(began).as_millis());
        }
        tokio::time::sleep(BETWEEN).await;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = restarts => ended?,
        () = people.command(&stage, options.rate()) => {}
        () = attendance.run() => {}
    }
    attendance.close();
    settle::quiet(&stage).await?;
    settle::write_down(&stage).await?;
    let mut outcome = conclude(stage, options)?;
    outcome.json["restart_ms"] = json!(took_ms);
    outcome.words.push_str(&format!("restarts took {took_ms:?} ms\n"));
    Ok(outcome)
}

//! All nodes are restarted one after the other under load. Nobody sends a command a second time because no answer came, so
//! the answers alone show that none was lost.

use std::time::Duration;

use anyhow::Result;
use reeve_ports::{Clock, SystemClock};
use serde_json::{Value, json};

use super::attendance::Attendance;
use super::options::Options;
use super::people::People;
use super::report::Goals;
use super::run::{Outcome, conclude};
use super::settle;
use super::stage::Stage;

/// Load before the first restart, between two, and after the last.
const BETWEEN: Duration = Duration::from_secs(5);
/// The load may be lighter than was wished by one part of so many.
const SLOWER: u64 = 20;
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
    stage.commander.trust_answers();
    let people = People::gather(&stage, 0).await?;
    let attendance = Attendance::new(stage.doors(), stage.history.clone(), people.watched());
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
    let goals = goals(options, &outcome.json);
    goals.add_to(&mut outcome.json);
    outcome.words.push_str(&goals.words());
    outcome.good &= goals.are_met();
    outcome.words.push_str(&format!("restarts took {took_ms:?} ms\n"));
    Ok(outcome)
}

/// What makes the restarts a proof: the load was as heavy as was wished, and every command was answered at its first sending.
fn goals(options: &Options, report: &Value) -> Goals {
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    let mut goals = Goals::default();
    let rate = u64::from(options.rate());
    goals.at_least("rate_per_s", rate - rate / SLOWER, number("rate_per_s"));
    goals.at_most("commands_resent", 0, number("resent"));
    goals.at_most("commands_without_answer", 0, number("commands_sent").saturating_sub(number("commands_answered")));
    goals
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_load_that_was_too_light_and_a_command_without_an_answer_are_no_proof() {
        let options = Options::parse_from(["reeve-chaos", "--rolling"]);
        let told = |rate: u64, answered: u64| json!({"rate_per_s": rate, "resent": 0, "commands_sent": 1_000, "commands_answered": answered});
        assert!(goals(&options, &told(200, 1_000)).are_met());
        assert!(goals(&options, &told(190, 1_000)).are_met());
        assert!(!goals(&options, &told(150, 1_000)).are_met());
        assert!(!goals(&options, &told(200, 999)).are_met());
    }
}

//! All nodes are restarted one after the other under load. Nobody sends a command a second time because no answer came, nor
//! does a connection end before the broker confirmed it, so the answers alone show that none was lost.

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
    let (proof, load) = (proof(&outcome.json), load(options, &outcome.json));
    for goals in [&proof, &load] {
        goals.add_to(&mut outcome.json);
        outcome.words.push_str(&goals.words());
    }
    outcome.good &= proof.are_met();
    outcome.words.push_str(&format!("restarts took {took_ms:?} ms\n"));
    Ok(outcome)
}

/// What makes the restarts a proof: the broker took every command from the connection on which it was sent first, and every
/// one was answered.
fn proof(report: &Value) -> Goals {
    let mut goals = Goals::default();
    goals.at_most("commands_unconfirmed", 0, number(report, "unconfirmed"));
    let unanswered = number(report, "commands_sent").saturating_sub(number(report, "commands_answered"));
    goals.at_most("commands_without_answer", 0, unanswered);
    goals
}

/// How heavy the load was. A busy machine may make it lighter, which is told and is no failure.
fn load(options: &Options, report: &Value) -> Goals {
    let mut goals = Goals::default();
    let rate = u64::from(options.rate());
    goals.at_least("rate_per_s", rate - rate / SLOWER, number(report, "rate_per_s"));
    goals
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_command_that_was_not_confirmed_or_not_answered_is_no_proof() {
        let told = |unconfirmed: u64, answered: u64| {
            proof(&json!({"unconfirmed": unconfirmed, "commands_sent": 1_000, "commands_answered": answered}))
        };
        assert!(told(0, 1_000).are_met());
        assert!(!told(1, 1_000).are_met());
        assert!(!told(0, 999).are_met());
    }

    #[test]
    fn a_load_that_was_too_light_is_told() {
        let options = Options::parse_from(["reeve-chaos", "--rolling"]);
        let met = |rate: u64| load(&options, &json!({"rate_per_s": rate})).are_met();
        assert!(met(200) && met(190) && !met(150));
    }
}

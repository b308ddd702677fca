//! `reeve health …`

use clap::Subcommand;
use serde_json::json;

use super::fail::Failure;
use super::find;
use super::output::{Output, View};
use super::session::Session;
use super::table::{self, Cell};
use super::vm::{Target, word};

/// What to ask about health.
#[derive(Debug, Subcommand)]
pub(super) enum HealthCommand {
    /// Show how a VM is, and what is done about it
    Show(Target),
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: HealthCommand) -> Result<(), Failure> {
    let HealthCommand::Show(target) = command;
    let vm = find::vm(session, &target.vm).await?;
    let alerts: Vec<String> = vm.alerts.iter().map(word).collect();
    let value = json!({
        "vm": vm.id, "name": vm.name, "health": vm.health, "state": vm.state, "task": vm.task, "host": vm.host,
        "operation": vm.operation, "alerts": alerts,
    });
    let pairs = [
        ("vm", Cell::new(vm.id.to_string())),
        ("name", Cell::new(&vm.name)),
        ("health", Cell::state(&vm.health)),
        ("state", Cell::state(&vm.state)),
        ("task", Cell::new(vm.task.as_deref().unwrap_or_default())),
        ("host", Cell::new(vm.host.as_ref().map_or("", |host| host.as_str()))),
        ("operation", Cell::new(vm.operation.as_deref().unwrap_or_default())),
        ("alerts", Cell::new(alerts.join(", "))),
    ];
    output.show(&View { value: &value, table: &|color| table::pairs(&pairs, color), ids: vec![vm.health] })
}

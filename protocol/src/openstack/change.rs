//! What an event type is about. The event type alone decides, never the name of the payload's object.
//!
//! Versioned and legacy names differ: `instance.resize_prep.start` is `compute.instance.resize.prep.start`,
//! `instance.resize_finish.end` is `compute.instance.finish_resize.end`, `instance.live_migration_post.end` is
//! `compute.instance.live_migration._post.end` (nova/rpc.py, LEGACY_NOTIFICATIONS). Both end in the same words here.

use crate::observation::{Phase, VmChange};

/// What an event type is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A VM; the payload is the VM.
    Instance(VmChange, Phase),
    /// A task of the conductor that failed; the payload names its VM.
    Task(VmChange, Phase),
    /// A service of the cloud.
    Service,
    /// Neither.
    Other,
}

/// What this event type is about.
pub(super) fn subject(event_type: &str) -> Subject {
    let instance = event_type.strip_prefix("instance.").or_else(|| event_type.strip_prefix("compute.instance."));
    if let Some(name) = instance {
        let (action, phase) = split_phase(name);
        return Subject::Instance(change(&plain(action)), phase);
    }
    if let Some(name) = event_type.strip_prefix("compute_task.") {
        // The conductor tells only of tasks that failed; the legacy name has no `.error`.
        let change = match split_phase(name).0 {
            "build_instances" => VmChange::Create,
            _ => VmChange::Operation,
        };
        return Subject::Task(change, Phase::Error);
    }
    if event_type.starts_with("service.") { Subject::Service } else { Subject::Other }
}

fn split_phase(name: &str) -> (&str, Phase) {
    match name.rsplit_once('.') {
        Some((action, "start")) => (action, Phase::Start),
        Some((action, "end")) => (action, Phase::End),
        Some((action, "error")) => (action, Phase::Error),
        _ => (name, Phase::Whole),
    }
}

/// `live_migration._post` and `live.migration.post` as `live_migration_post`.
fn plain(action: &str) -> String {
    let words: Vec<&str> = action.split(['.', '_']).filter(|word| !word.is_empty()).collect();
    words.join("_")
}

fn change(action: &str) -> VmChange {
    match action {
        "create" => VmChange::Create,
        "delete" | "force_delete" => VmChange::Delete,
        "soft_delete" => VmChange::SoftDelete,
        "restore" => VmChange::Restore,
        "reboot" | "rebuild" | "rebuild_scheduled" | "evacuate" | "finish_resize" | "shelve" | "shelve_offload"
        | "unshelve" | "rescue" | "unrescue" | "snapshot" | "suspend" | "resume" | "pause" | "unpause"
        | "power_off" | "power_on" | "shutdown" | "volume_swap" | "trigger_crash_dump" => VmChange::Operation,
        _ if action == "resize" || action.starts_with("resize_") || action.starts_with("live_migration") => {
            VmChange::Operation
        }
        _ => VmChange::Update,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versioned_and_legacy_names_mean_the_same() {
        let table = [
            ("instance.create.error", "compute.instance.create.error", VmChange::Create, Phase::Error),
            ("instance.delete.end", "compute.instance.force_delete.end", VmChange::Delete, Phase::End),
            ("instance.soft_delete.start", "compute.instance.soft_delete.start", VmChange::SoftDelete, Phase::Start),
            ("instance.restore.end", "compute.instance.restore.end", VmChange::Restore, Phase::End),
            ("instance.resize_finish.end", "compute.instance.finish_resize.end", VmChange::Operation, Phase::End),
            ("instance.resize_prep.start", "compute.instance.resize.prep.start", VmChange::Operation, Phase::Start),
            ("instance.resize.error", "compute.instance.resize.error", VmChange::Operation, Phase::Error),
            (
                "instance.live_migration_abort.start",
                "compute.instance.live.migration.abort.start",
                VmChange::Operation,
                Phase::Start,
            ),
            (
                "instance.live_migration_rollback.end",
                "compute.instance.live_migration._rollback.end",
                VmChange::Operation,
                Phase::End,
            ),
            ("instance.rebuild_scheduled", "compute.instance.rebuild.scheduled", VmChange::Operation, Phase::Whole),
            ("instance.evacuate", "compute.instance.evacuate", VmChange::Operation, Phase::Whole),
            ("instance.volume_attach.end", "compute.instance.volume.attach", VmChange::Update, Phase::End),
            ("instance.interface_attach.error", "compute.instance.create_ip.error", VmChange::Update, Phase::Error),
            ("instance.update", "compute.instance.update", VmChange::Update, Phase::Whole),
            ("instance.exists", "compute.instance.exists", VmChange::Update, Phase::Whole),
            ("instance.lock", "compute.instance.something_new", VmChange::Update, Phase::Whole),
            ("instance.", "compute.instance.", VmChange::Update, Phase::Whole),
        ];
        for (versioned, legacy, change, phase) in table {
            assert_eq!(subject(versioned), Subject::Instance(change, phase), "{versioned}");
            let Subject::Instance(of_legacy, _) = subject(legacy) else { panic!("{legacy} is about a VM") };
            assert_eq!(of_legacy, change, "{legacy}");
        }
    }

    #[test]
    fn tasks_and_services_and_the_rest_are_told_apart() {
        assert_eq!(subject("compute_task.build_instances.error"), Subject::Task(VmChange::Create, Phase::Error));
        assert_eq!(subject("compute_task.build_instances"), Subject::Task(VmChange::Create, Phase::Error));
        assert_eq!(subject("compute_task.migrate_server.error"), Subject::Task(VmChange::Operation, Phase::Error));
        assert_eq!(subject("service.update"), Subject::Service);
        for other in ["aggregate.add_host.end", "compute.exception", "servergroup.create", "attach_volume", "instance"]
        {
            assert_eq!(subject(other), Subject::Other, "{other}");
        }
    }
}

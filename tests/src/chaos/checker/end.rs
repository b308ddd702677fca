//! What must hold when every fault is healed and the cluster is quiet: every shard has a living owner, every VM exactly one
//! supervisor, nothing is stuck, nothing unpublished, and records say what the cloud says.

use reeve_protocol::ShardId;

use super::case::{Case, Story};
use super::{Judgement, Rule};

/// How many broken rules of one kind are named.
const NAMED: usize = 10;

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    verdict.longest_unattended_ms = case.unattended_ms.iter().copied().max().unwrap_or(0);
    if !case.healed {
        return;
    }
    for why in &case.restless {
        verdict.broke(Rule::End, None, format!("not quiet: {why}"));
    }
    for (node, _, outbox) in case.nodes.iter().filter(|(_, _, outbox)| *outbox > 0) {
        verdict.broke(Rule::End, None, format!("{node} has {outbox} unpublished events"));
    }
    owned(case, verdict);
    let views = case.vms.values().filter(|story| story.last.is_some()).count();
    let supervised: u64 = case.nodes.iter().map(|(_, vms, _)| vms).sum();
    if !case.nodes.is_empty() && supervised != u64::try_from(views).unwrap_or(u64::MAX) {
        verdict.broke(Rule::End, None, format!("{views} VMs are known, the nodes supervise {supervised}"));
    }
    for (vm, story) in &case.vms {
        if let Err(why) = as_in_cloud(case, story) {
            verdict.broke(Rule::End, *vm, why);
        }
    }
}

fn owned(case: &Case<'_>, verdict: &mut Judgement) {
    if case.nodes.is_empty() {
        return;
    }
    let lives = |id: &ShardId| match case.last_owner.get(id) {
        Some(Some(owner)) => case.nodes.iter().any(|(node, _, _)| node == owner),
        Some(None) | None => false,
    };
    let orphans: Vec<u16> = (0..case.shards).filter(|shard| !lives(&ShardId(*shard))).collect();
    if !orphans.is_empty() {
        let shown = &orphans[..orphans.len().min(NAMED)];
        verdict.broke(Rule::End, None, format!("{} shards have no living owner: {shown:?}", orphans.len()));
    }
}

fn as_in_cloud(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let Some(view) = story.last else { return Ok(()) };
    if let Some(operation) = &view.operation {
        return Err(format!("still under way: {operation}"));
    }
    match case.last_owner.get(&view.shard) {
        Some(Some(owner)) if **owner != view.node => {
            return Err(format!("{} supervises it, {owner} owns its shard", view.node));
        }
        Some(_) | None => {}
    }
    match story.in_cloud {
        None if view.state != "deleted" => Err(format!("it is gone, its record says {}", view.state)),
        Some(state) if view.state != state => Err(format!("it is {state}, its record says {}", view.state)),
        None | Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use reeve_protocol::{NodeId, ShardId};

    use super::super::Rule;
    use super::super::tale::{Tale, vm};
    use crate::chaos::history::What;

    fn quiet(vms: u64, outbox: u64) -> Tale {
        let mut tale = Tale::new();
        let node = NodeId::new("n1").unwrap();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        tale.say(What::LastNode { node: node.clone(), vms, outbox });
        for shard in 0..Tale::SHARDS {
            tale.say(What::LastShard { shard: ShardId(shard), owner: Some(node.clone()) });
        }
        tale
    }

    #[test]
    fn a_quiet_end_breaks_nothing() {
        assert_eq!(quiet(1, 0).broken_at_end(), []);
    }

    #[test]
    fn a_second_supervisor_an_unpublished_event_and_an_orphan_are_found() {
        assert_eq!(quiet(2, 0).broken_at_end(), [Rule::End]);
        assert_eq!(quiet(1, 3).broken_at_end(), [Rule::End]);
        let mut tale = quiet(1, 0);
        tale.say(What::LastShard { shard: ShardId(3), owner: None });
        assert_eq!(tale.broken_at_end(), [Rule::End]);
        let mut tale = quiet(1, 0);
        tale.say(What::Restless { why: "an operation goes on".to_owned() });
        assert_eq!(tale.broken_at_end(), [Rule::End]);
    }

    #[test]
    fn a_record_that_differs_from_the_cloud_is_found() {
        let mut tale = quiet(1, 0);
        tale.last(vm(1), "n1", "stopped");
        assert_eq!(tale.broken_at_end(), [Rule::End]);
        let mut tale = quiet(1, 0);
        tale.last(vm(1), "n2", "active");
        assert_eq!(tale.broken_at_end(), [Rule::End]);
    }
}

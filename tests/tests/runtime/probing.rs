//! How fresh the answer of a probe has to be.

use reeve_drivers::cloud::sim::Cure;
use reeve_ports::Freshness;
use reeve_protocol::Span;

use crate::world::{World, run, short, until};

#[test]
fn a_vm_that_is_well_may_be_seen_with_others_and_one_that_is_not_is_looked_at_now() {
    run(|| async {
        let policy = short(Span::from_days(30));
        let shared = Freshness::Within(policy.health.interval.duration());
        let world = World::new(1, policy).await;
        let vm = world.all_leases(1, "active").await[0].id;
        let asked = || world.probe.asked.lock().unwrap().iter().map(|(_, freshness)| *freshness).collect::<Vec<_>>();
        until("it is well", || async { asked().ends_with(&[shared, shared]).then_some(()) }).await;
        let at_first = asked();
        assert!(!at_first.contains(&Freshness::Now), "nothing speaks against it: {at_first:?}");
        world.sim.hang_guest(vm, Cure::Reboot).unwrap();
        until("it is looked at", || async { asked()[at_first.len()..].contains(&Freshness::Now).then_some(()) }).await;
        until("it is well again", || async { asked().ends_with(&[shared, shared]).then_some(()) }).await;
        world.stop().await;
    });
}

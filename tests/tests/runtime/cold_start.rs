//! A fleet that missed something while nobody ran does not go on all at once.

use reeve_protocol::{Span, Timestamp};

use crate::world::{WAKEUPS, World, run, short};

#[test]
fn what_a_fleet_missed_is_spread_and_nothing_of_it_is_lost() {
    run(|| async {
        const VMS: u32 = 60;
        let world = World::new(VMS, short(Span::from_days(30))).await;
        world.all_leases(60, "active").await;
        let clock = std::sync::Arc::clone(&world.clock);
        let stopped = world.stop().await;
        clock.suspend(Span::from_days(31));
        let world = stopped.start().await;
        world.all_leases(60, "ended").await;
        let expired: Vec<Timestamp> = world
            .events()
            .await
            .into_iter()
            .filter(|event| event.kind == "reeve.lease.expired")
            .map(|event| event.time)
            .collect();
        assert_eq!(expired.len(), 60);
        let (first, last) = (expired.iter().min().unwrap(), expired.iter().max().unwrap());
        let spread = last.since(*first);
        // The first slot is at once, the last no sooner than its turn.
        let turns = std::time::Duration::from_secs(1) * (VMS - 1) / WAKEUPS;
        assert!(spread >= turns / 2, "{spread:?} for {VMS} VMs, expected about {turns:?}");
        world.stop().await;
    });
}

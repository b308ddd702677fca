//! Deadlines against a clock that is set, and a machine that sleeps.

use std::time::Duration;

use reeve_protocol::Span;

use crate::world::{World, run, short, until};

const DAY_MS: i64 = 86_400_000;

#[test]
fn a_leap_forward_ends_no_lease_until_the_clock_has_gone_evenly() {
    run(|| async {
        let world = World::new(2, short(Span::from_days(30))).await;
        world.all_leases(2, "active").await;
        world.clock.step(40 * DAY_MS);
        until("the ends are on hold", || async {
            let list = world.list().await;
            list.iter().all(|vm| vm.holds.contains(&"clock_untrusted".to_owned())).then_some(())
        })
        .await;
        let list = world.list().await;
        assert!(list.iter().all(|vm| vm.lease.state == "active"), "{list:?}");
        world.clock.step(-40 * DAY_MS);
        until("the hold is lifted", || async {
            let list = world.list().await;
            list.iter().all(|vm| vm.holds.is_empty()).then_some(())
        })
        .await;
        let list = world.list().await;
        assert!(list.iter().all(|vm| vm.lease.state == "active"), "the leap was taken back in time: {list:?}");
        world.clock.step(40 * DAY_MS);
        world.all_leases(2, "ended").await;
        world.stop().await;
    });
}

#[test]
fn a_step_back_ends_nothing_early_and_loses_no_deadline() {
    run(|| async {
        let world = World::new(2, short(Span::from_secs(60))).await;
        let before = world.all_leases(2, "active").await;
        world.clock.step(-3_600_000);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = world.list().await;
        let ends =
            |list: &[reeve_protocol::admin::VmView]| -> Vec<_> { list.iter().map(|vm| vm.lease.ends_at).collect() };
        assert_eq!(ends(&before), ends(&after));
        assert!(after.iter().all(|vm| vm.lease.state == "active"));
        // Less than what is doubted at once, so that it is believed.
        for _ in 0..8 {
            world.clock.step(500_000);
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        world.all_leases(2, "ended").await;
        world.stop().await;
    });
}

#[test]
fn a_months_sleep_fires_what_came_due_soon_after_it() {
    run(|| async {
        let world = World::new(2, short(Span::from_days(30))).await;
        world.all_leases(2, "active").await;
        world.clock.suspend(Span::from_days(31));
        world.all_leases(2, "ended").await;
        world.stop().await;
    });
}

#[test]
fn a_deadline_that_passed_while_nobody_ran_fires_on_return() {
    run(|| async {
        let world = World::new(2, short(Span::from_days(30))).await;
        world.all_leases(2, "active").await;
        let clock = std::sync::Arc::clone(&world.clock);
        let stopped = world.stop().await;
        clock.suspend(Span::from_days(31));
        let world = stopped.start().await;
        world.all_leases(2, "ended").await;
        world.stop().await;
    });
}

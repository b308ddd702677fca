//! What every [`Coordination`] does.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use reeve_protocol::{Epoch, ShardId};

use crate::coordination::{Coordination, CoordinationError};

/// A coordination under test.
#[async_trait]
pub trait CoordinationFixture: Send + Sync {
    /// The coordination, as the node under test has it.
    fn coordination(&self) -> Arc<dyn Coordination>;

    /// The node dies and comes back. [`CoordinationFixture::coordination`] is the new one's afterwards.
    async fn restart(&mut self);
}

/// Makes one test of each case. First the attribute of the tests, then an expression (it may `await`) that makes a
/// fixture.
#[macro_export]
macro_rules! coordination_conformance {
    (#[$test:meta] $fixture:expr) => {
        $crate::coordination_conformance!(@cases #[$test] $fixture;
            a_claimed_shard_is_confirmed
            each_claim_has_a_greater_epoch
            an_epoch_that_was_followed_by_another_is_refused
            an_epoch_that_never_was_is_refused
            shards_have_epochs_of_their_own
            epochs_grow_across_restarts
            a_shard_that_nobody_else_is_to_own_is_wanted
            what_was_released_can_be_claimed_with_a_greater_epoch
            a_release_of_an_older_epoch_takes_nothing_away
            an_owner_is_neither_lost_nor_told_to_go
            a_node_that_can_claim_may_act
        );
    };
    (@cases #[$test:meta] $fixture:expr; $($case:ident)*) => {
        $(
            #[$test]
            async fn $case() {
                let mut fixture = $fixture;
                $crate::conformance::coordination::$case(&mut fixture).await;
            }
        )*
    };
}

async fn claim(fixture: &impl CoordinationFixture, shard: u16) -> Epoch {
    fixture.coordination().claim(ShardId(shard)).await.expect("the shard can be claimed")
}

/// As long as nobody else claims it.
pub async fn a_claimed_shard_is_confirmed(fixture: &mut impl CoordinationFixture) {
    let epoch = claim(fixture, 1).await;
    for _ in 0..2 {
        assert_eq!(fixture.coordination().confirm(ShardId(1), epoch).await, Ok(()));
    }
}

/// Than all before.
pub async fn each_claim_has_a_greater_epoch(fixture: &mut impl CoordinationFixture) {
    let (first, second, third) = (claim(fixture, 1).await, claim(fixture, 1).await, claim(fixture, 1).await);
    assert!(first < second && second < third, "{first:?} {second:?} {third:?}");
}

/// The new one is confirmed.
pub async fn an_epoch_that_was_followed_by_another_is_refused(fixture: &mut impl CoordinationFixture) {
    let old = claim(fixture, 2).await;
    let new = claim(fixture, 2).await;
    let coordination = fixture.coordination();
    assert_eq!(coordination.confirm(ShardId(2), old).await, Err(CoordinationError::NotOwner(ShardId(2))));
    assert_eq!(coordination.confirm(ShardId(2), new).await, Ok(()));
}

/// Nor is one that is yet to come.
pub async fn an_epoch_that_never_was_is_refused(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    assert_eq!(coordination.confirm(ShardId(3), Epoch(1)).await, Err(CoordinationError::NotOwner(ShardId(3))));
    let epoch = claim(fixture, 3).await;
    let next = Epoch(epoch.0 + 1);
    assert_eq!(coordination.confirm(ShardId(3), next).await, Err(CoordinationError::NotOwner(ShardId(3))));
}

/// A claim of one says nothing about another.
pub async fn shards_have_epochs_of_their_own(fixture: &mut impl CoordinationFixture) {
    let four = claim(fixture, 4).await;
    claim(fixture, 5).await;
    claim(fixture, 5).await;
    assert_eq!(fixture.coordination().confirm(ShardId(4), four).await, Ok(()));
}

/// And what was confirmed before a restart is refused after the next claim.
pub async fn epochs_grow_across_restarts(fixture: &mut impl CoordinationFixture) {
    let before = claim(fixture, 6).await;
    fixture.restart().await;
    let after = claim(fixture, 6).await;
    assert!(after > before, "{before:?} {after:?}");
    let refused = fixture.coordination().confirm(ShardId(6), before).await;
    assert_eq!(refused, Err(CoordinationError::NotOwner(ShardId(6))));
}

/// And waiting for that ends, before its claim and after.
pub async fn a_shard_that_nobody_else_is_to_own_is_wanted(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    coordination.until_wanted(ShardId(1)).await;
    claim(fixture, 1).await;
    coordination.until_wanted(ShardId(1)).await;
}

/// And is not lost by that.
pub async fn what_was_released_can_be_claimed_with_a_greater_epoch(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    let first = claim(fixture, 1).await;
    for _ in 0..2 {
        assert_eq!(coordination.release(ShardId(1), first).await, Ok(()));
    }
    assert_eq!(coordination.until_lost(ShardId(1), first).now_or_never(), None);
    let second = claim(fixture, 1).await;
    assert!(second > first, "{first:?} {second:?}");
    assert_eq!(coordination.confirm(ShardId(1), second).await, Ok(()));
}

/// Nor does one of an epoch that never was.
pub async fn a_release_of_an_older_epoch_takes_nothing_away(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    let (old, new) = (claim(fixture, 2).await, claim(fixture, 2).await);
    for other in [old, Epoch(0)] {
        assert_eq!(coordination.release(ShardId(2), other).await, Ok(()));
    }
    assert_eq!(coordination.confirm(ShardId(2), new).await, Ok(()));
    assert_eq!(coordination.until_lost(ShardId(2), new).now_or_never(), None);
}

/// While nobody else comes.
pub async fn an_owner_is_neither_lost_nor_told_to_go(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    let epoch = claim(fixture, 3).await;
    assert_eq!(coordination.confirm(ShardId(3), epoch).await, Ok(()));
    assert_eq!(coordination.until_lost(ShardId(3), epoch).now_or_never(), None);
    assert_eq!(coordination.until_unwanted(ShardId(3)).now_or_never(), None);
}

/// From before its first claim on.
pub async fn a_node_that_can_claim_may_act(fixture: &mut impl CoordinationFixture) {
    let coordination = fixture.coordination();
    coordination.until_wanted(ShardId(1)).await;
    assert!(coordination.may_act());
    claim(fixture, 1).await;
    assert!(coordination.may_act());
    assert_eq!(coordination.skew().by_ms, None);
    assert!(!coordination.skew().exceeded);
}

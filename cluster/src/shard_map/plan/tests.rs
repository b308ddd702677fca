//! Tables for what a planner meets, and properties for what it never may do.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(5);
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A planner's world: who lives, what the plan is, what time it is.
struct World {
    plan: Plan,
    members: Vec<Candidate>,
    now: Timestamp,
    incarnations: u64,
}

impl World {
    fn new(shards: u16) -> Self {
        Self { plan: Plan::empty(shards), members: Vec::new(), now: START, incarnations: 0 }
    }

    /// So many nodes that share the shards since long.
    fn settled(shards: u16, nodes: &[&str]) -> Self {
        let mut world = Self::new(shards);
        nodes.iter().for_each(|id| world.join(id));
        world.replan();
        world.wait(Duration::from_secs(3600));
        world.replan();
        world
    }

    fn join(&mut self, id: &str) {
        self.leave(id);
        self.incarnations += 1;
        let id = NodeId::new(id).unwrap();
        self.members.push(Candidate { id, weight: 1.0, draining: false, incarnation: self.incarnations });
    }

    fn leave(&mut self, id: &str) {
        self.members.retain(|member| member.id.as_str() != id);
    }

    fn drain(&mut self, id: &str, draining: bool) {
        self.members.iter_mut().filter(|m| m.id.as_str() == id).for_each(|m| m.draining = draining);
    }

    fn weigh(&mut self, id: &str, weight: f64) {
        self.members.iter_mut().filter(|m| m.id.as_str() == id).for_each(|m| m.weight = weight);
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Plans, and tells how many shards moved.
    fn replan(&mut self) -> usize {
        let next = plan(&self.plan, &self.members, self.now, &Damping::of_ttl(TTL));
        let moved = self.plan.wanted.iter().zip(&next.wanted).filter(|(before, after)| before != after).count();
        self.plan = next;
        moved
    }

    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts: BTreeMap<&str, usize> = self.members.iter().map(|member| (member.id.as_str(), 0)).collect();
        for wanted in self.plan.wanted.iter().flatten() {
            *counts.entry(wanted.as_str()).or_default() += 1;
        }
        counts
    }

    fn count(&self, id: &str) -> usize {
        self.counts().get(id).copied().unwrap_or(0)
    }
}

#[test]
fn nodes_that_start_together_share_at_once() {
    let mut world = World::new(64);
    ["a", "b", "c"].iter().for_each(|id| world.join(id));
    assert!(world.plan.is_cold(&world.members));
    world.replan();
    assert!(!world.plan.is_cold(&world.members));
    let counts = world.counts();
    assert!(counts.values().all(|count| (21..=22).contains(count)), "{counts:?}");
    assert_eq!(world.replan(), 0);
}

#[test]
fn a_dead_nodes_shards_go_at_once_and_nothing_else_moves() {
    let mut world = World::settled(64, &["a", "b", "c"]);
    let lost = world.count("b");
    world.leave("b");
    assert_eq!(world.replan(), lost);
    assert_eq!(world.counts(), BTreeMap::from([("a", 32), ("c", 32)]));
}

#[test]
fn a_new_node_gets_its_share_when_it_has_settled() {
    let mut world = World::settled(64, &["a", "b", "c"]);
    world.join("d");
    assert_eq!(world.replan(), 0);
    assert_eq!(world.plan.next_change(world.now, &Damping::of_ttl(TTL)), Some(world.now + 2 * TTL));
    world.wait(2 * TTL - Duration::from_millis(1));
    assert_eq!(world.replan(), 0);
    world.wait(Duration::from_millis(1));
    assert_eq!(world.replan(), 16);
    assert!(world.counts().values().all(|count| *count == 16), "{:?}", world.counts());
    assert_eq!(world.plan.next_change(world.now, &Damping::of_ttl(TTL)), None);
}

#[test]
fn a_new_node_takes_over_at_once_when_nobody_else_lives() {
    let mut world = World::settled(8, &["a"]);
    world.leave("a");
    world.join("b");
    assert_eq!(world.replan(), 8);
    assert_eq!(world.count("b"), 8);
}

#[test]
fn a_flapping_node_moves_its_own_shards_once_and_waits_longer_each_time() {
    let mut world = World::settled(64, &["a", "b", "c"]);
    world.leave("c");
    world.replan();
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.join("c");
        assert_eq!(world.replan(), 0);
        waits.push(world.plan.next_change(world.now, &Damping::of_ttl(TTL)).unwrap().since(world.now).as_secs());
        world.wait(Duration::from_secs(1));
        world.leave("c");
        assert_eq!(world.replan(), 0);
        world.wait(Duration::from_secs(1));
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn a_node_that_was_well_for_long_has_not_flapped() {
    let mut world = World::settled(64, &["a", "b"]);
    world.leave("b");
    world.replan();
    world.join("b");
    world.replan();
    world.wait(2 * TTL);
    assert_eq!(world.replan(), 32);
}

#[test]
fn a_node_back_before_anybody_noticed_keeps_its_shards() {
    let mut world = World::settled(64, &["a", "b"]);
    world.join("b");
    assert_eq!(world.replan(), 0);
}

#[test]
fn after_all_leases_ended_together_everything_stays_where_it_was() {
    let mut world = World::settled(64, &["a", "b", "c"]);
    ["a", "b", "c"].iter().for_each(|id| world.join(id));
    assert!(world.plan.is_cold(&world.members));
    assert_eq!(world.replan(), 0);
}

#[test]
fn a_draining_node_gives_all_up_and_gets_none() {
    let mut world = World::settled(64, &["a", "b", "c"]);
    let held = world.count("a");
    world.drain("a", true);
    assert_eq!(world.replan(), held);
    assert_eq!(world.count("a"), 0);
    world.leave("b");
    world.replan();
    assert_eq!((world.count("a"), world.count("c")), (0, 64));
    world.drain("a", false);
    world.replan();
    assert_eq!((world.count("a"), world.count("c")), (32, 32));
}

#[test]
fn with_nobody_else_to_take_them_shards_stay() {
    let mut world = World::settled(9, &["a", "b"]);
    world.drain("a", true);
    world.replan();
    world.drain("b", true);
    assert_eq!(world.replan(), 0);
    world.leave("b");
    world.replan();
    assert_eq!(world.count("a"), 9);
    world.leave("a");
    assert_eq!(world.replan(), 0);
}

#[test]
fn shards_follow_the_weights() {
    let mut world = World::settled(60, &["a", "b", "c"]);
    world.weigh("c", 2.0);
    assert_eq!(world.replan(), 10);
    assert_eq!(world.counts(), BTreeMap::from([("a", 15), ("b", 15), ("c", 30)]));
}

#[test]
fn a_planner_whose_clock_was_ahead_holds_nobody_back_for_longer() {
    let mut world = World::settled(8, &["a"]);
    world.now = world.now + Duration::from_secs(3600);
    world.join("b");
    world.replan();
    world.now = world.now - Duration::from_secs(3600);
    world.replan();
    world.wait(2 * TTL);
    assert_eq!(world.replan(), 4);
}

#[test]
fn damping_forgets_what_cannot_matter_and_remembers_no_more_than_its_bound() {
    let mut world = World::settled(8, &["a"]);
    for n in 0..2 * MAX_REMEMBERED {
        let id = format!("n{n}");
        world.join(&id);
        world.replan();
        world.leave(&id);
        world.replan();
        assert!(world.plan.memory.len() <= MAX_REMEMBERED);
    }
    assert!(world.plan.memory.contains_key(&NodeId::new("a").unwrap()));
    world.wait(Duration::from_secs(600));
    world.replan();
    assert_eq!(world.plan.memory.len(), 1);
}

/// What may happen to a cluster.
#[derive(Debug, Clone)]
enum Happening {
    Join(u8),
    Leave(u8),
    Drain(u8, bool),
    Weigh(u8, u8),
    Wait(u32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..6u8).prop_map(Happening::Join),
        (0..6u8).prop_map(Happening::Leave),
        (0..6u8, any::<bool>()).prop_map(|(node, draining)| Happening::Drain(node, draining)),
        (0..6u8, 1..5u8).prop_map(|(node, weight)| Happening::Weigh(node, weight)),
        (0..30_000u32).prop_map(Happening::Wait),
    ]
}

fn apply(world: &mut World, happening: &Happening) {
    let name = |node: &u8| format!("n{node}");
    match happening {
        Happening::Join(node) => world.join(&name(node)),
        Happening::Leave(node) => world.leave(&name(node)),
        Happening::Drain(node, draining) => world.drain(&name(node), *draining),
        Happening::Weigh(node, weight) => world.weigh(&name(node), f64::from(*weight)),
        Happening::Wait(ms) => world.wait(Duration::from_millis(u64::from(*ms))),
    }
}

proptest! {
    #[test]
    fn whatever_happens_every_shard_has_a_live_owner_and_only_what_must_moves(
        shards in 1..70u16,
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let damping = Damping::of_ttl(TTL);
        let mut world = World::new(shards);
        for happening in &happenings {
            apply(&mut world, happening);
            let before = world.plan.clone();
            world.replan();
            // Deterministic, in whatever order the members are told.
            let mut other = world.members.clone();
            other.reverse();
            prop_assert_eq!(&plan(&before, &other, world.now, &damping), &world.plan);
            if world.members.is_empty() {
                prop_assert_eq!(&world.plan.wanted, &before.wanted);
                continue;
            }
            let live = |id: &NodeId| world.members.iter().any(|member| member.id == *id);
            prop_assert!(world.plan.wanted.iter().all(|wanted| wanted.as_ref().is_some_and(live)));
            let willing = world.members.iter().any(|member| !member.draining);
            let draining = |id: &NodeId| world.members.iter().any(|member| member.id == *id && member.draining);
            if willing {
                prop_assert!(!world.plan.wanted.iter().flatten().any(draining));
            }
            check_moves(&before, &world, &damping)?;
            // Once more changes nothing.
            prop_assert_eq!(plan(&world.plan, &world.members, world.now, &damping).wanted, world.plan.wanted.clone());
        }
        // When all have settled, nobody has more than its share.
        world.wait(Duration::from_secs(301));
        world.replan();
        let willing: Vec<&Candidate> = world.members.iter().filter(|member| !member.draining).collect();
        let weights: f64 = willing.iter().map(|member| member.weight).sum();
        for member in willing {
            let share = f64::from(shards) * member.weight / weights;
            let count = world.count(member.id.as_str()) as f64;
            prop_assert!((count - share).abs() < 1.0 + 1e-9, "{} of {share}: {:?}", count, world.counts());
        }
    }
}

/// A shard moved because its owner is gone, is draining, or had more than it has now; and nobody both gave and took.
fn check_moves(before: &Plan, world: &World, damping: &Damping) -> Result<(), TestCaseError> {
    let mut gave: BTreeSet<&NodeId> = BTreeSet::new();
    let mut took: BTreeSet<&NodeId> = BTreeSet::new();
    for (was, is) in before.wanted.iter().zip(&world.plan.wanted) {
        if was == is {
            continue;
        }
        gave.extend(was.iter().filter(|id| world.members.iter().any(|m| m.id == **id && !m.draining)));
        took.extend(is.iter());
    }
    prop_assert!(gave.is_disjoint(&took), "{gave:?} {took:?}");
    let held = |id: &NodeId| before.wanted.iter().flatten().any(|wanted| wanted == id);
    let settled = |id: &NodeId| world.plan.memory[id].settled_at(damping) <= world.now;
    let entitled = |id: &NodeId| settled(id) || held(id);
    let someone = world.members.iter().any(|member| !member.draining && entitled(&member.id));
    if someone {
        prop_assert!(took.iter().all(|id| entitled(id)), "{took:?}");
    }
    Ok(())
}

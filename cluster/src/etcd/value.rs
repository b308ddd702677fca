//! What the keys hold: one format byte, then the value ([`reeve_protocol::codec`]). Append only.

use std::collections::{BTreeMap, BTreeSet};

use reeve_protocol::codec::{self, CodecError};
use reeve_protocol::event::ClusterEvent;
use reeve_protocol::{NodeId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::shard_map::{Memory, Plan};

/// The format that this version writes, and the newest that it reads.
pub(crate) const FORMAT: u8 = 1;

/// `meta/format`: what everybody has to agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    pub(crate) cluster: String,
    pub(crate) shards: u16,
    pub(crate) at: Timestamp,
}

/// `nodes/<id>`: a sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) version: String,
    /// The newest formats that it reads, of the RPC and of what is kept here.
    pub(crate) admin_format: u8,
    pub(crate) value_format: u8,
    pub(crate) since: Timestamp,
    /// Its wall clock when this was sent.
    pub(crate) clock: Timestamp,
    pub(crate) address: Option<String>,
    pub(crate) weight: f64,
    pub(crate) vms: u64,
    pub(crate) outbox: u64,
    /// Whether it hands its shards over, to leave then.
    pub(crate) leaving: bool,
}

/// `leader` and `shards/<n>`: who.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) node: NodeId,
}

/// `drains/<id>`: an operator's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drain {
    pub(crate) at: Timestamp,
    /// The node that was asked.
    pub(crate) through: NodeId,
}

/// `plan`: the plan, and what the cluster has to tell the world. The events are kept until they are published, by
/// whoever leads then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// Those that were to be drained when it was made.
    pub(crate) draining: BTreeSet<NodeId>,
    /// The number of the last event about each node.
    pub(crate) sequences: BTreeMap<NodeId, u64>,
    pub(crate) outbox: Vec<ClusterEvent>,
}

/// [`Planned`] with each name once: the value has to fit etcd's limit of 1.5 MiB with 65,535 shards.
#[derive(Serialize, Deserialize)]
struct PlannedForm {
    names: Vec<NodeId>,
    wanted: Vec<Option<u16>>,
    memory: BTreeMap<NodeId, Memory>,
    draining: BTreeSet<NodeId>,
    sequences: BTreeMap<NodeId, u64>,
    outbox: Vec<ClusterEvent>,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    codec::encode(FORMAT, value)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(FORMAT, bytes).map(|(_, value)| value)
}

impl Planned {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let names: Vec<NodeId> =
            self.plan.wanted.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let place = |id: &NodeId| names.binary_search(id).ok().and_then(|at| u16::try_from(at).ok());
        let wanted = self.plan.wanted.iter().map(|wanted| wanted.as_ref().and_then(place)).collect();
        encode(&PlannedForm {
            wanted,
            names,
            memory: self.plan.memory.clone(),
            draining: self.draining.clone(),
            sequences: self.sequences.clone(),
            outbox: self.outbox.clone(),
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let form: PlannedForm = decode(bytes)?;
        let name = |at: u16| form.names.get(usize::from(at)).cloned();
        let wanted = form.wanted.iter().map(|wanted| wanted.and_then(name)).collect();
        Ok(Self {
            plan: Plan { wanted, memory: form.memory },
            draining: form.draining,
            sequences: form.sequences,
            outbox: form.outbox,
        })
    }
}

#[cfg(test)]
mod tests {
    use reeve_protocol::ShardId;
    use reeve_protocol::event::ClusterEventKind;

    use super::*;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    const GOLDEN_BEAT: &str = "0101000000000000007601010200000000000000030000000000000000000000000000f03f0400000000000000050000\
        000000000001";
    const GOLDEN_PLAN: &str = "010200000000000000010000000000000061010000000000000062040000000000000001010000010000010100010000\
        000000000001000000000000006107000000000000000000000000000000000200000001000000000000000100000000\
        000000630100000000000000010000000000000061030000000000000001000000000000000300000000000000000000\
        000000000001000000000000006103000000020000";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn golden_plan() -> Planned {
        let memory = Memory { incarnation: 7, since: Timestamp::EPOCH, gone: None, flaps: 2 };
        Planned {
            plan: Plan {
                wanted: vec![Some(node("b")), None, Some(node("a")), Some(node("b"))],
                memory: BTreeMap::from([(node("a"), memory)]),
            },
            draining: BTreeSet::from([node("c")]),
            sequences: BTreeMap::from([(node("a"), 3)]),
            outbox: vec![ClusterEvent {
                sequence: 3,
                at: Timestamp::EPOCH,
                node: node("a"),
                kind: ClusterEventKind::ShardMoved { shard: ShardId(2), from: None },
            }],
        }
    }

    #[test]
    fn a_plan_reads_as_it_was_written() {
        let planned = golden_plan();
        assert_eq!(Planned::decode(&planned.encode().unwrap()), Ok(planned));
    }

    #[test]
    fn the_largest_plan_fits_a_value() {
        let names: Vec<NodeId> = (0..100).map(|n| node(&format!("{n:0>255}"))).collect();
        let plan =
            Plan { wanted: (0..65_535).map(|n| Some(names[n % 100].clone())).collect(), memory: BTreeMap::new() };
        let bytes = Planned { plan, ..Planned::default() }.encode().unwrap();
        assert!(bytes.len() < 512 * 1024, "{}", bytes.len());
    }

    #[test]
    fn golden_bytes_of_format_1() {
        assert_eq!(encode(&Holder { node: node("n1") }).unwrap(), [1, 2, 0, 0, 0, 0, 0, 0, 0, b'n', b'1']);
        let founding = Founding { cluster: "c".into(), shards: 64, at: Timestamp::from_millis(1) };
        let bytes = [1, 1, 0, 0, 0, 0, 0, 0, 0, b'c', 64, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode(&founding).unwrap(), bytes);
        let beat = Beat {
            version: "v".into(),
            admin_format: 1,
            value_format: 1,
            since: Timestamp::from_millis(2),
            clock: Timestamp::from_millis(3),
            address: None,
            weight: 1.0,
            vms: 4,
            outbox: 5,
            leaving: true,
        };
        assert_eq!(hex(&encode(&beat).unwrap()), GOLDEN_BEAT);
        assert_eq!(hex(&golden_plan().encode().unwrap()), GOLDEN_PLAN);
        let newer = [2, 0];
        assert_eq!(decode::<Holder>(&newer), Err(CodecError::Newer { found: 2, supported: 1 }));
    }
}

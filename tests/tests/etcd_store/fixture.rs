//! A store, and claims made the plain way: a key that is put anew has a new create revision.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::Client;
use reeve_cluster::etcd::{EtcdClient, EtcdConfig, EtcdStore, Keys};
use reeve_ports::store::{Change, RecordStore, StoreError, Stored, Write};
use reeve_protocol::{Epoch, Generation, NodeId, ShardId, VmId};
use reeve_tests::harness::Etcd;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// One server for the tests that do it no harm; each has a cluster name, so keys, of its own.
static SHARED: OnceCell<Etcd> = OnceCell::const_new();

/// A shard of a cluster on an etcd.
pub(crate) struct Fixture {
    endpoints: Vec<String>,
    keys: Keys,
    cluster: String,
    etcd: Client,
    store: EtcdStore,
}

/// The shard that tests use when one is enough.
pub(crate) const SHARD: ShardId = ShardId(3);

/// The server that tests share.
pub(crate) async fn shared() -> &'static Etcd {
    SHARED.get_or_init(|| async { Etcd::start(1).await.expect("etcd starts") }).await
}

impl Fixture {
    /// On the shared server.
    pub(crate) async fn shared() -> Self {
        let etcd = shared().await;
        Self::on(etcd, etcd.endpoints()).await
    }

    /// On a server, with its store going through these endpoints.
    pub(crate) async fn on(etcd: &Etcd, endpoints: Vec<String>) -> Self {
        let cluster = Uuid::new_v4().simple().to_string();
        let store = store(&endpoints, &cluster);
        let keys = Keys::new(&cluster);
        Self { endpoints, keys, cluster, etcd: etcd.client().await.expect("etcd has a client"), store }
    }

    /// On a server, through a proxy.
    pub(crate) async fn through(etcd: &Etcd, proxy: SocketAddr) -> Self {
        Self::on(etcd, vec![format!("http://{proxy}")]).await
    }

    pub(crate) fn store(&self) -> &EtcdStore {
        &self.store
    }

    /// Forgets the store with its connection, as a node that is killed does.
    pub(crate) fn begin_anew(&mut self) {
        self.store = store(&self.endpoints, &self.cluster);
    }

    /// Takes a shard from whoever had it.
    pub(crate) async fn claim(&self, shard: ShardId) -> Epoch {
        self.release(shard).await;
        let put = self.etcd.clone().put(self.keys.shard(shard), "owner", None).await.expect("a shard can be claimed");
        let revision = put.header().expect("an answer has a header").revision();
        Epoch(u64::try_from(revision).expect("revisions grow from 1"))
    }

    /// Leaves a shard without an owner.
    pub(crate) async fn release(&self, shard: ShardId) {
        self.etcd.clone().delete(self.keys.shard(shard), None).await.expect("a shard can be released");
    }

    pub(crate) async fn commit(&self, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        self.store.commit(SHARD, epoch, write).await
    }

    pub(crate) async fn get(&self, n: u128) -> Option<Stored> {
        self.store.get(SHARD, vm(n)).await.expect("a record can be read")
    }

    /// Puts a value beside the store's back, below the prefix of the records.
    pub(crate) async fn put_raw(&self, shard: ShardId, name: impl AsRef<[u8]>, value: &[u8]) {
        let prefix = format!("{}vm/", self.keys.records(shard));
        let key = [prefix.as_bytes(), name.as_ref()].concat();
        self.etcd.clone().put(key, value, None).await.expect("a key can be put");
    }
}

fn store(endpoints: &[String], cluster: &str) -> EtcdStore {
    let node = NodeId::new("test").expect("a good name");
    let client = EtcdClient::new(&EtcdConfig::new(endpoints.to_vec(), cluster, node)).expect("a good configuration");
    EtcdStore::new(client, Keys::new(cluster))
}

pub(crate) fn vm(n: u128) -> VmId {
    VmId::new(Uuid::from_u128(n))
}

/// The write after `expected`.
pub(crate) fn put(n: u128, expected: u64, value: impl Into<Bytes>) -> Write {
    let change = Change::Put { generation: Generation(expected + 1), value: value.into() };
    Write { vm: vm(n), expected: Generation(expected), change }
}

/// The conformance suite's view.
#[async_trait::async_trait]
impl reeve_ports::conformance::store::StoreFixture for Fixture {
    fn store(&self) -> Arc<dyn RecordStore> {
        Arc::new(self.store.clone())
    }

    async fn claim(&self, shard: ShardId) -> Epoch {
        Fixture::claim(self, shard).await
    }

    async fn restart(&mut self) {
        self.begin_anew();
    }

    async fn damage(&self, shard: ShardId, vm: VmId) {
        self.put_raw(shard, vm.to_string(), &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'x']).await;
    }
}

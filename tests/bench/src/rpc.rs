//! `rpc`: pipelined `vm show` per second over the node's TLS port, and how long the slowest of a hundred takes.
//!
//! ```text
//! RpcClient ─ TLS 1.3, both show certificates ─► TlsServer ─► node ─► shard owner ─► supervisor ─► view ─► back
//! ```
//!
//! Beside it an echo over the same frames: as many on their way, requests and replies as long, TLS by the same library.
//! `canned` is Reeve's own RPC in front of a service that knows one answer: what lies between it and the figure is the
//! node, what lies between it and the echo is the RPC. Both ends of all of them are in this process.

mod echo;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt, stream};
use reeve_cluster::rpc::{Envelope, Reply, RpcClient, TlsServer};
use reeve_ports::{AdminService, Clock, SystemClock};
use reeve_protocol::admin::{ADMIN_FORMAT, AdminReply, AdminRequest, Principal};
use reeve_protocol::codec;
use tokio::sync::oneshot;

use self::echo::{Echo, Writing};
use crate::child::processor_time;
use crate::quiet_node::QuietNode;
use crate::runner::{Contestant, Figure, Goal, Options, alternate, percentile};
use crate::site::CLUSTER;
use crate::{pki, records};

const VMS: u64 = 10_000;
/// As many as a client may have on their way.
const WINDOW: usize = 64;
/// One as a program has, and some as several programs and nodes have together.
const CONNECTIONS: [usize; 2] = [1, 8];
const CALL: Duration = Duration::from_secs(10);

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    measure(*options).boxed_local()
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    pki::make(folder.path(), CLUSTER)?;
    let node = QuietNode::alone(folder.path(), VMS).await?;
    let mut figures = Vec::new();
    for connections in CONNECTIONS {
        figures.extend(with_connections(options, folder.path(), &node, connections).await?);
    }
    node.stop().await;
    Ok(figures)
}

async fn with_connections(
    options: Options,
    folder: &Path,
    node: &QuietNode,
    connections: usize,
) -> Result<Vec<Figure>> {
    let answer = node.ask(AdminRequest::VmShow(records::vm(0))).await;
    let lengths = Lengths::of(&answer)?;
    let echoes = folder.join("echo");
    std::fs::create_dir_all(&echoes)?;
    let reeve = Served::start(folder, Arc::new(node.handle.clone()), connections).await?;
    let canned = Served::start(folder, Arc::new(Canned(answer)), connections).await?;
    let echo = Echo::start(&echoes, lengths, Writing::Together).await?;
    let single = Echo::start(&echoes, lengths, Writing::Each).await?;
    let each = options.pick(200_000, 5_000) / connections;
    let seen: [Seen; 4] = Default::default();
    let contestants = vec![
        Contestant::new("reeve", || seen[0].rate(reeve.ask(each))),
        Contestant::new("echo", || seen[1].rate(echo.ask(each, connections, WINDOW))),
        Contestant::new("echo, each frame by itself", || seen[2].rate(single.ask(each, connections, WINDOW))),
        Contestant::new("canned", || seen[3].rate(canned.ask(each))),
    ];
    let measured = alternate(options.pick(5, 1), 1, contestants).await?;
    let [shown, echoed, singly, told] = &measured[..] else { bail!("four contestants have four results") };
    let name = |what: &str| format!("rpc, {connections} connection{}{what}", if connections == 1 { "" } else { "s" });
    let count = (each * connections) as u64;
    let rate = Figure::new(name(""), shown, "calls/s", Goal::RatioAtLeast(0.6))
        .of(count)
        .against("echo", echoed.median)
        .beside("echo, each frame by itself", singly.median)
        .beside("canned", told.median)
        .note("on_their_way", WINDOW * connections)
        .note("request_bytes", lengths.request)
        .note("reply_bytes", lengths.reply)
        .note("processor_us", seen[0].processor_us())
        .note("processor_us_echo", seen[1].processor_us())
        .note("processor_us_echo_each", seen[2].processor_us())
        .note("processor_us_canned", seen[3].processor_us());
    let slowest = Figure::single(name(", p99"), seen[0].percentile(0.99), "ms", Goal::Recorded)
        .of(count)
        .against("echo", seen[1].percentile(0.99))
        .beside("echo, each frame by itself", seen[2].percentile(0.99))
        .beside("canned", seen[3].percentile(0.99))
        .note("p50_ms", seen[0].percentile(0.5));
    Ok(vec![rate, slowest])
}

/// The lengths of frames, without their length.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    request: usize,
    reply: usize,
}

impl Lengths {
    fn of(reply: &AdminReply) -> Result<Self> {
        let deadline_ms = u64::try_from(CALL.as_millis())?;
        let request = Envelope { id: 100_000, deadline_ms, request: AdminRequest::VmShow(records::vm(0)) };
        let reply = Reply { id: 100_000, reply: reply.clone() };
        let request = codec::encode(ADMIN_FORMAT, &request)?.len();
        Ok(Self { request, reply: codec::encode(ADMIN_FORMAT, &reply)?.len() })
    }
}

/// A service that knows one answer.
struct Canned(AdminReply);

#[async_trait]
impl AdminService for Canned {
    async fn ask(&self, _: &Principal, _: AdminRequest) -> AdminReply {
        self.0.clone()
    }
}

/// A port of Reeve's, and connections to it.
struct Served {
    clients: Vec<Arc<RpcClient>>,
    _stop: oneshot::Sender<()>,
}

impl Served {
    async fn start(folder: &Path, service: Arc<dyn AdminService>, connections: usize) -> Result<Self> {
        let server = TlsServer::bind("127.0.0.1:0", pki::files(folder, pki::NODE), CLUSTER)?;
        let address = server.address().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.serve(service, stopped.map(drop)));
        let files = pki::files(folder, pki::ADMIN);
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Arc::new(RpcClient::connect_tls(&address, &files).await?));
        }
        Ok(Self { clients, _stop: stop })
    }

    /// Asks for so many VMs over each connection, and returns how long each answer took, in milliseconds.
    async fn ask(&self, each: usize) -> Result<Vec<f64>> {
        let asking = self.clients.iter().enumerate().map(|(number, client)| {
            let client = Arc::clone(client);
            tokio::spawn(async move {
                let calls = (0..each).map(|turn| show(&client, (turn + number * each) as u64 % VMS));
                let answers = stream::iter(calls).buffer_unordered(WINDOW).collect::<Vec<_>>().await;
                answers.into_iter().collect::<Result<Vec<f64>>>()
            })
        });
        let asking: Vec<_> = asking.collect();
        let mut took = Vec::new();
        for asked in asking {
            took.extend(asked.await??);
        }
        Ok(took)
    }
}

async fn show(client: &RpcClient, index: u64) -> Result<f64> {
    let began = SystemClock.elapsed();
    match client.call(AdminRequest::VmShow(records::vm(index)), CALL).await? {
        AdminReply::Vm(_) => Ok(SystemClock.elapsed().saturating_sub(began).as_secs_f64() * 1e3),
        other => bail!("vm show is answered with {other:?}"),
    }
}

/// The answers a second, and of the last round the latencies in their order, and what processor time an answer took in
/// this process, which has both ends.
#[derive(Default)]
struct Seen {
    took: RefCell<Vec<f64>>,
    processor: Cell<Duration>,
}

impl Seen {
    async fn rate(&self, asking: impl Future<Output = Result<Vec<f64>>>) -> Result<f64> {
        let (began, had) = (SystemClock.elapsed(), processor_time());
        let mut took = asking.await?;
        let lasted = SystemClock.elapsed().saturating_sub(began);
        self.processor.set(processor_time().saturating_sub(had));
        took.sort_by(f64::total_cmp);
        let rate = took.len() as f64 / lasted.as_secs_f64();
        self.took.replace(took);
        Ok(rate)
    }

    fn percentile(&self, share: f64) -> f64 {
        percentile(&self.took.borrow(), share)
    }

    /// For one answer, in microseconds.
    fn processor_us(&self) -> f64 {
        self.processor.get().as_secs_f64() * 1e6 / self.took.borrow().len() as f64
    }
}

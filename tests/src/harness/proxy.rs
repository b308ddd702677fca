//! A TCP proxy before a server, to cut, slow and break the connection between the two.
//!
//! ```text
//!            ┌─► Pass ◄──► Slow      bytes arrive, at once or late
//!  set(..) ──┼─► Cut, DropAnswers    connections stay open and bytes stay where they are, as when packets are lost
//!            └─► Refuse              every connection is reset, and every new one
//!
//!  after a cut:  set(Pass)           the frozen connections go on, as after a short loss
//!                reset(), set(Pass)  they are reset, as after a long one
//! ```
//!
//! What waits in the proxy is bounded; more than that waits in the kernel's buffers, and then at the sender.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The most connections at a time; more are reset.
const MAX_CONNECTIONS: usize = 4_096;
const CHUNK: usize = 16 * 1024;
/// Chunks of one direction that wait for their time.
const MAX_CHUNKS: usize = 64;
const CONNECT: Duration = Duration::from_secs(5);

/// What a proxy does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Everything arrives.
    #[default]
    Pass,
    /// Everything arrives, so much later in each direction.
    Slow(Duration),
    /// Nothing arrives and nobody is told. New connections are accepted and stay silent.
    Cut,
    /// What the client sends arrives; what the server answers does not.
    DropAnswers,
    /// Connections are reset, those that are there and new ones.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// What the connections follow.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    mode: Mode,
    /// How often [`Proxy::reset`] was called.
    resets: u64,
}

/// A proxy; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `target`, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target).await
    }

    /// A proxy before `target` that listens on `address`; port 0 is any free one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_at(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("a proxy cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (orders, following) = watch::channel(Orders::default());
        let accepting = tokio::spawn(accept(listener, target, following));
        Ok(Self { address, orders, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.orders.borrow().mode
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }

    /// Resets the connections that are there; new ones follow the mode.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are in the task's set and end with it.
        self.accepting.abort();
    }
}

impl Orders {
    fn holds(&self, direction: Direction) -> bool {
        match self.mode {
            Mode::Pass | Mode::Slow(_) | Mode::Refuse => false,
            Mode::Cut => true,
            Mode::DropAnswers => direction == Direction::ToClient,
        }
    }

    fn delay(&self) -> Duration {
        match self.mode {
            Mode::Slow(delay) => delay,
            Mode::Pass | Mode::Cut | Mode::DropAnswers | Mode::Refuse => Duration::ZERO,
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, orders: watch::Receiver<Orders>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors: some come back.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() == MAX_CONNECTIONS {
            reset(&client);
            continue;
        }
        connections.spawn(serve(client, target, orders.clone()));
    }
}

/// One connection, from the accept to its end.
async fn serve(mut client: TcpStream, target: SocketAddr, orders: watch::Receiver<Orders>) {
    let resets = orders.borrow().resets;
    // Nothing is forwarded in a cut, not even the wish to connect.
    let connect = async {
        open(&mut orders.clone(), Direction::ToServer).await;
        timeout(CONNECT, TcpStream::connect(target)).await
    };
    let mut server = tokio::select! {
        () = broken(orders.clone(), resets) => return reset(&client),
        connected = connect => match connected {
            Ok(Ok(server)) => server,
            Ok(Err(_)) | Err(_) => return reset(&client),
        },
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let whole = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = pump(from_client, to_server, Direction::ToServer, &orders);
        let back = pump(from_server, to_client, Direction::ToClient, &orders);
        tokio::select! {
            () = broken(orders.clone(), resets) => false,
            ended = async { tokio::try_join!(there, back) } => ended.is_ok(),
        }
    };
    if !whole {
        reset(&client);
        reset(&server);
    }
}

/// Until connections of this age are to be reset.
async fn broken(mut orders: watch::Receiver<Orders>, resets: u64) {
    // An error means that the proxy was dropped, which ends the connections by itself.
    let _ = orders.wait_for(|orders| orders.mode == Mode::Refuse || orders.resets != resets).await;
}

/// Until this direction is open.
async fn open(orders: &mut watch::Receiver<Orders>, direction: Direction) {
    let _ = orders.wait_for(|orders| !orders.holds(direction)).await;
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    orders: &watch::Receiver<Orders>,
) -> io::Result<()> {
    let (sender, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS);
    let mut reading = orders.clone();
    let read = async move {
        loop {
            open(&mut reading, direction).await;
            let mut chunk = Vec::with_capacity(CHUNK);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok(());
            }
            let due = Instant::now() + reading.borrow().delay();
            if sender.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut writing = orders.clone();
    let write = async move {
        while let Some((due, chunk)) = waiting.recv().await {
            sleep_until(due).await;
            // What was read before a cut is held here.
            open(&mut writing, direction).await;
            to.write_all(&chunk).await?;
        }
        open(&mut writing, direction).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|((), ())| ())
}

/// Makes the coming close a reset.
fn reset(stream: &TcpStream) {
    // Fails only when the connection is gone.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn through() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn hears(stream: &mut TcpStream, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("an answer comes").unwrap();
        assert_eq!(bytes, expected);
    }

    async fn hears_nothing(stream: &mut TcpStream) {
        assert!(timeout(SILENCE, stream.read_u8()).await.is_err(), "something came");
    }

    async fn is_reset(stream: &mut TcpStream) {
        let error = timeout(PATIENCE, stream.read_u8()).await.expect("the connection ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions_and_the_end_of_each() {
        let (_proxy, mut stream) = through().await;
        let much = vec![7; 3_000_000];
        let (mut read, mut write) = stream.split();
        let send = async {
            write.write_all(&much).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let receive = timeout(PATIENCE, read.read_to_end(&mut back));
        let ((), received) = tokio::join!(send, receive);
        received.expect("the echo ends").unwrap();
        assert!(back == much, "{} of {} bytes came back", back.len(), much.len());
    }

    #[tokio::test]
    async fn a_cut_connection_is_silent_and_goes_on_afterwards() {
        let (proxy, mut stream) = through().await;
        stream.write_all(b"before").await.unwrap();
        hears(&mut stream, b"before").await;
        proxy.set(Mode::Cut);
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"during").await.unwrap();
        late.write_all(b"late").await.unwrap();
        hears_nothing(&mut stream).await;
        hears_nothing(&mut late).await;
        proxy.set(Mode::Pass);
        hears(&mut stream, b"during").await;
        hears(&mut late, b"late").await;
    }

    #[tokio::test]
    async fn a_cut_connection_can_be_reset_instead() {
        let (proxy, mut stream) = through().await;
        stream.write_all(b"before").await.unwrap();
        hears(&mut stream, b"before").await;
        proxy.set(Mode::Cut);
        stream.write_all(b"lost").await.unwrap();
        hears_nothing(&mut stream).await;
        proxy.reset();
        is_reset(&mut stream).await;
        proxy.set(Mode::Pass);
        let mut anew = TcpStream::connect(proxy.address()).await.unwrap();
        anew.write_all(b"anew").await.unwrap();
        hears(&mut anew, b"anew").await;
    }

    #[tokio::test]
    async fn refused_connections_are_reset_old_and_new() {
        let (proxy, mut stream) = through().await;
        stream.write_all(b"before").await.unwrap();
        hears(&mut stream, b"before").await;
        proxy.set(Mode::Refuse);
        is_reset(&mut stream).await;
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        is_reset(&mut late).await;
    }

    #[tokio::test]
    async fn answers_alone_can_be_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(b"one").await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        hears(&mut server, b"one").await;
        proxy.set(Mode::DropAnswers);
        client.write_all(b"two").await.unwrap();
        hears(&mut server, b"two").await;
        server.write_all(b"answer").await.unwrap();
        hears_nothing(&mut client).await;
        proxy.set(Mode::Pass);
        hears(&mut client, b"answer").await;
    }

    #[tokio::test]
    async fn slow_bytes_take_their_time_each_way() {
        let (proxy, mut stream) = through().await;
        stream.write_all(b"before").await.unwrap();
        hears(&mut stream, b"before").await;
        proxy.set(Mode::Slow(Duration::from_millis(200)));
        let sent = Instant::now();
        stream.write_all(b"slow").await.unwrap();
        hears(&mut stream, b"slow").await;
        assert!(sent.elapsed() >= Duration::from_millis(400), "{:?}", sent.elapsed());
    }

    #[tokio::test]
    async fn a_server_that_is_away_resets_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let proxy = Proxy::start(target).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        is_reset(&mut stream).await;
    }
}

//! The echo: frames of the same lengths over TLS 1.3, with the same libraries and nothing of Reeve's.
//!
//! Both ends write whatever is ready together ([`Writing::Together`]), which is the limit of the machine, or each frame
//! by itself ([`Writing::Each`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::harness::Certificates;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::Lengths;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// Those that are ready with one write.
    Together,
    /// Each with a write of its own.
    Each,
}

/// The server; it ends with this.
pub(super) struct Echo {
    address: SocketAddr,
    connector: TlsConnector,
    lengths: Lengths,
    writing: Writing,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().new_codec()
}

impl Echo {
    /// Answers each frame with one of the reply's length.
    pub(super) async fn start(folder: &Path, lengths: Lengths, writing: Writing) -> Result<Self> {
        let files = Certificates::create(folder)?;
        let chain = CertificateDer::pem_file_iter(files.certificate())?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(files.key())?;
        let server = ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(server.with_single_cert(chain, key)?));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(files.ca())?)?;
        let client = ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots);
        let connector = TlsConnector::from(Arc::new(client.with_no_client_auth()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if stream.set_nodelay(true).is_ok()
                        && let Ok(stream) = acceptor.accept(stream).await
                    {
                        // The peer's end is the end.
                        let _ = answer(stream, lengths.reply, writing).await;
                    }
                });
            }
        });
        Ok(Self { address, connector, lengths, writing, task })
    }

    /// Asks so many times over each of the connections, with this many on their way on each, and returns how long each
    /// took, in milliseconds.
    pub(super) async fn ask(&self, each: usize, connections: usize, window: usize) -> Result<Vec<f64>> {
        let mut asking = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
            asking.push(tokio::spawn(ask(stream, self.lengths.request, each, window, self.writing)));
        }
        let mut took = Vec::with_capacity(each * connections);
        for asked in asking {
            took.extend(asked.await??);
        }
        Ok(took)
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite,
    length: usize,
    count: usize,
    window: usize,
    writing: Writing,
) -> Result<Vec<f64>> {
    let (read, write) = tokio::io::split(stream);
    let mut replies = FramedRead::new(read, codec()).ready_chunks(window);
    let mut requests = FramedWrite::new(write, codec());
    let request = Bytes::from(vec![7; length]);
    let (mut sent, mut room) = (0, window);
    let mut on_their_way = VecDeque::with_capacity(window);
    let mut took: Vec<f64> = Vec::with_capacity(count);
    while took.len() < count {
        let now = SystemClock.elapsed();
        let some = room.min(count - sent);
        write_all(&mut requests, &request, some, writing).await?;
        on_their_way.extend(std::iter::repeat_n(now, some));
        sent += some;
        let came = replies.next().await.context("the echo ended")?;
        let now = SystemClock.elapsed();
        room = came.len();
        for reply in came {
            reply?;
            let since = on_their_way.pop_front().context("an answer to nothing")?;
            took.push(now.saturating_sub(since).as_secs_f64() * 1e3);
        }
    }
    Ok(took)
}

async fn answer(stream: impl AsyncRead + AsyncWrite, reply: usize, writing: Writing) -> Result<()> {
    let (read, write) = tokio::io::split(stream);
    let mut requests = FramedRead::new(read, codec()).ready_chunks(1024);
    let mut replies = FramedWrite::new(write, codec());
    let reply = Bytes::from(vec![7; reply]);
    while let Some(came) = requests.next().await {
        for request in &came {
            ensure!(request.is_ok(), "a broken frame");
        }
        write_all(&mut replies, &reply, came.len(), writing).await?;
    }
    Ok(())
}

async fn write_all<W: AsyncWrite + Unpin>(
    to: &mut FramedWrite<W, LengthDelimitedCodec>,
    frame: &Bytes,
    count: usize,
    writing: Writing,
) -> Result<()> {
    for _ in 0..count {
        match writing {
            Writing::Together => to.feed(frame.clone()).await?,
            Writing::Each => to.send(frame.clone()).await?,
        }
    }
    Ok(SinkExt::<Bytes>::flush(to).await?)
}

//! How TCP is set up, and how a connection is ended so that its last words arrive.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// After how long without a word a connection is probed, how often, and how many times.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How long sent bytes may stay unacknowledged: a peer that lost its power does not say so.
const UNACKNOWLEDGED_MS: u32 = 20_000;
/// How long, and for how many bytes, a peer that is turned away is listened to.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// How much ciphertext is read at once: a whole TLS record. rustls asks for 4 KiB at a time.
const RECORD: usize = 16 * 1024;

/// A TCP connection below TLS.
pub(super) type Socket = BufReader<TcpStream>;

/// The connection, to be read by records.
pub(super) fn by_records(stream: TcpStream) -> Socket {
    BufReader::with_capacity(RECORD, stream)
}

/// Small frames at once, and a dead peer found in half a minute.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEP_ALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?)
}

/// Reads and forgets for a moment. Closing a socket with unread bytes resets the connection, and the peer would lose the
/// words that tell it why.
pub(super) async fn linger(mut stream: impl AsyncRead + Unpin) {
    let (longest, most) = LINGER;
    let forget = async {
        let mut buffer = [0; 4096];
        let mut taken = 0;
        while taken < most {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => taken += bytes,
            }
        }
    };
    let _ = tokio::time::timeout(longest, forget).await;
}

//! The way to etcd: one connection to one endpoint at a time.
//!
//! Balancing over all of them would send every n-th request to a member that is cut off, for as long as it is.
//!
//! ```text
//!            call succeeds or is refused
//!              ┌──────┐
//!              ▼      │
//! Closed ──► Open(endpoint) ──► unavailable, or no answer in time ──► Closed, next endpoint
//! ```
//!
//! A call that is known not to have been carried out is tried on the next endpoint; one whose fate is unknown only if
//! its caller says that repeating it does no harm ([`EtcdClient::ask`]).
//!
//! A connection lives in tasks of a runtime. They belong to the one that made the client, never to a caller's: a VM's
//! thread may be busy or end, and the connection is everybody's. For the same reason connecting takes turns there: a
//! caller that is handed a turn while its thread is busy would stop all others.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, LeaseClient, TlsOptions, WatchClient};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{EtcdConfig, EtcdTls, EtcdUser};
use super::error::EtcdError;

/// Longest time until a connection stands and the login is done.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// etcd closes a connection that sends more than one ping in 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a ping may take.
const PING_LIMIT: Duration = Duration::from_secs(3);
/// The largest reply. A page of records may exceed the default of 4 MiB, and would fail for ever.
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
/// The pause when every endpoint failed once.
const PAUSE: Duration = Duration::from_millis(100);
/// A call that may be repeated gives one endpoint no less than this.
const MIN_SHARE: Duration = Duration::from_millis(300);

/// A client of etcd. Clones share one connection.
#[derive(Clone)]
pub struct EtcdClient {
    shared: Arc<Shared>,
}

/// An open connection, as a call gets it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
}

struct Shared {
    endpoints: Vec<String>,
    tls: Option<EtcdTls>,
    user: Option<EtcdUser>,
    /// Where the connection's tasks run.
    runtime: Handle,
    /// Held for a moment, never while something is waited for.
    slot: std::sync::Mutex<Slot>,
    /// Who connects. Only tasks of `runtime` wait for it.
    connecting: Mutex<()>,
    /// One more with each connection given up. Changed under the lock of `slot`.
    generation: watch::Sender<u64>,
}

struct Slot {
    next: usize,
    open: Option<Connection>,
}

impl Connection {
    /// Keys and values.
    #[must_use]
    pub fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_REPLY_BYTES)
    }

    /// Leases.
    #[must_use]
    pub fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    /// Watches.
    #[must_use]
    pub fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_REPLY_BYTES)
    }
}

impl EtcdClient {
    /// A client that is not connected yet. Its connections run on the runtime that this is called in.
    ///
    /// # Errors
    /// [`EtcdError::Config`] when the configuration cannot work.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(config: &EtcdConfig) -> Result<Self, EtcdError> {
        config.check()?;
        let shared = Shared {
            endpoints: config.endpoints.clone(),
            tls: config.tls.clone(),
            user: config.auth.clone(),
            runtime: Handle::current(),
            slot: std::sync::Mutex::new(Slot { next: 0, open: None }),
            connecting: Mutex::new(()),
            generation: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a call, on the next endpoint again while it is known not to have been carried out.
    ///
    /// # Errors
    /// As the call's; [`EtcdError::Unknown`] when there is no answer within `patience`.
    pub async fn call<T, F>(&self, attempt: impl Fn(Connection) -> F, patience: Duration) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = Instant::now() + patience;
        loop {
            match self.attempt(&attempt, until, patience).await {
                Err(EtcdError::Unavailable(_)) if Instant::now() + PAUSE < until => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Makes a call that does no harm when it is carried out twice: a read, or a write that compares. Gives no endpoint
    /// more than its share of `patience`, so that one that hangs does not use it up.
    ///
    /// # Errors
    /// As the call's; [`EtcdError::Unknown`] when there is no answer within `patience`.
    pub async fn ask<T, F>(&self, attempt: impl Fn(Connection) -> F, patience: Duration) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = Instant::now() + patience;
        let endpoints = u32::try_from(self.shared.endpoints.len()).unwrap_or(1).clamp(1, 3);
        let share = (patience / endpoints).max(MIN_SHARE);
        loop {
            let limit = until.min(Instant::now() + share);
            match self.attempt(&attempt, limit, share).await {
                Err(error) if error.is_of_connection() && Instant::now() + PAUSE < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// The runtime that the client was made in, for what must not end with a caller's.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// An open connection and its generation, for what lasts longer than a call: a watch. Whoever finds it broken says
    /// so with [`EtcdClient::give_up`].
    pub(crate) async fn open(&self) -> Result<(Connection, u64), EtcdError> {
        if let Some(open) = self.shared.opened() {
            return Ok(open);
        }
        let shared = Arc::clone(&self.shared);
        // A set, because it ends its task when nobody waits any more.
        let mut opening = JoinSet::new();
        opening.spawn_on(async move { shared.open().await }, &self.shared.runtime);
        let opened = opening.join_next().await.and_then(Result::ok);
        opened.unwrap_or_else(|| Err(EtcdError::Unavailable("the task that connects ended".to_owned())))
    }

    /// Keeps every caller from connecting, as long as it is kept.
    #[cfg(test)]
    pub(crate) async fn occupy(&self) -> impl Drop + '_ {
        self.shared.connecting.lock().await
    }

    /// Closes the connection of this generation, unless that is done, and turns to the next endpoint.
    pub(crate) fn give_up(&self, generation: u64) {
        let mut slot = self.shared.slot();
        if *self.shared.generation.borrow() == generation {
            slot.open = None;
            slot.next = slot.next.wrapping_add(1);
            self.shared.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// Waits until the connection of this generation was given up.
    pub(crate) async fn until_given_up(&self, generation: u64) {
        let mut current = self.shared.generation.subscribe();
        // The sender lives as long as the client.
        let _ = current.wait_for(|current| *current != generation).await;
    }

    async fn attempt<T, F>(
        &self,
        attempt: &impl Fn(Connection) -> F,
        until: Instant,
        patience: Duration,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let opened = timeout_at(until, self.open()).await;
        let (connection, generation) =
            opened.map_err(|_| EtcdError::Unavailable("no connection in time".to_owned()))??;
        let answer = match timeout_at(until, attempt(connection)).await {
            Ok(answer) => answer.map_err(EtcdError::from),
            Err(_) => Err(EtcdError::timed_out(patience)),
        };
        if answer.as_ref().is_err_and(EtcdError::is_of_connection) {
            self.give_up(generation);
        }
        answer
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, if there is one, and its generation.
    fn opened(&self) -> Option<(Connection, u64)> {
        let slot = self.slot();
        slot.open.clone().map(|open| (open, *self.generation.borrow()))
    }

    /// Connects, if nobody did in the meantime. To be run on the client's runtime. While it runs, nobody has a connection
    /// of this generation to give up.
    async fn open(&self) -> Result<(Connection, u64), EtcdError> {
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.opened() {
            return Ok(open);
        }
        let chosen = {
            let mut slot = self.slot();
            let chosen = slot.next;
            // Whoever waits for it may be given up before it fails: the next one tries the next endpoint.
            slot.next = chosen.wrapping_add(1);
            chosen
        };
        let connection = self.connect_in_time(&self.endpoints[chosen % self.endpoints.len()]).await?;
        let mut slot = self.slot();
        (slot.next, slot.open) = (chosen, Some(connection.clone()));
        Ok((connection, *self.generation.borrow()))
    }

    async fn connect_in_time(&self, endpoint: &str) -> Result<Connection, EtcdError> {
        let opened = timeout(CONNECT_LIMIT, self.connect(endpoint)).await;
        opened.unwrap_or_else(|_| Err(EtcdError::Unavailable(format!("{endpoint} does not answer"))))
    }

    async fn connect(&self, endpoint: &str) -> Result<Connection, EtcdError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(PING_EVERY, PING_LIMIT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options().await?);
        }
        if let Some(user) = &self.user {
            options = options.with_user(&user.name, &user.password);
        }
        // The login is the only request, so nothing can have been carried out.
        let client =
            Client::connect([endpoint], Some(options)).await.map_err(|error| match EtcdError::from(error) {
                EtcdError::Unknown(why) => EtcdError::Unavailable(why),
                error @ (EtcdError::Unavailable(_) | EtcdError::Refused(_) | EtcdError::Config(_)) => error,
            })?;
        Ok(Connection { client })
    }
}

impl EtcdTls {
    async fn options(&self) -> Result<TlsOptions, EtcdError> {
        let mut options = TlsOptions::new();
        if let Some(ca) = &self.ca {
            options = options.ca_certificate(Certificate::from_pem(read(ca).await?));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options = options.identity(Identity::from_pem(read(cert).await?, read(key).await?));
        }
        Ok(options)
    }
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, EtcdError> {
    tokio::fs::read(path).await.map_err(|error| EtcdError::Config(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use reeve_protocol::NodeId;

    use super::*;

    fn client() -> EtcdClient {
        let endpoints = vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
        EtcdClient::new(&EtcdConfig::new(endpoints, "test", NodeId::new("a").unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_caller_that_is_not_polled_any_more_keeps_nobody_from_connecting() {
        let client = client();
        let connecting = client.occupy().await;
        let mut busy = Box::pin(client.open());
        assert!(timeout(Duration::ZERO, &mut busy).await.is_err(), "it waits for its turn");
        drop(connecting);
        // The connection itself is made with the first request.
        let opened = timeout(Duration::from_secs(30), client.open()).await;
        assert!(opened.expect("its turn comes").is_ok());
    }

    #[tokio::test]
    async fn a_connection_is_given_up_once_and_the_next_endpoint_follows() {
        let client = client();
        let (_, first) = client.open().await.unwrap();
        client.give_up(first);
        client.until_given_up(first).await;
        let (_, second) = client.open().await.unwrap();
        assert_eq!((first, second, client.shared.slot().next), (0, 1, 1));
        client.give_up(first);
        assert_eq!(client.open().await.unwrap().1, second, "the new one is nobody's to give up for the old one");
        assert_eq!(client.shared.slot().next, 1);
    }
}

//! The process: options, start, stop, and every route.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::{App, HttpServer, middleware, web};
use anyhow::{Context, Result};
use reeve_drivers::cloud::openstack::OpenStackAuth;
use reeve_drivers::cloud::sim::{AuditEntry, Witness};
use reeve_drivers::{SimCloud, SimConfig};
use reeve_ports::{Clock, SystemClock};
use tokio::task::JoinSet;

use super::auth::Tokens;
use super::control::HttpFaults;
use super::glance::Uploads;
use super::publisher::{self, Published};
use super::{auth, cinder, control, glance, neutron, nova, reply};

/// More than any disk of a simulated cloud.
const MAX_PAYLOAD: usize = 17 * 1024 * 1024;
const WORKERS: usize = 2;
/// What a page holds at most, as Nova's `max_limit`.
const PAGE: u32 = 1_000;

/// How a simulated cloud is started.
#[derive(Debug, Clone)]
pub struct SimCloudOptions {
    /// Where it listens. Default: a free port of the loopback address.
    pub listen: SocketAddr,
    /// The folder that keeps it; in memory only if there is none.
    pub data: Option<PathBuf>,
    /// What it is made of.
    pub sim: SimConfig,
    /// The broker that notifications go to; nobody is told if there is none.
    pub amqp: Option<String>,
    /// The exchange for them.
    pub exchange: String,
    /// The file to which every changing call is appended, as a JSON line.
    pub history: Option<PathBuf>,
    /// The one user who may log in.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// How long a token lasts.
    pub token_life: Duration,
    /// What Nova and Cinder offer.
    pub microversions: Microversions,
}

/// The least and the newest microversion of each service that has some. Others are refused with 406.
#[derive(Debug, Clone)]
pub struct Microversions {
    /// Nova's.
    pub compute: [&'static str; 2],
    /// Cinder's.
    pub volume: [&'static str; 2],
}

impl Default for Microversions {
    fn default() -> Self {
        Self { compute: ["2.1", "2.96"], volume: ["3.0", "3.71"] }
    }
}

impl Default for SimCloudOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: None,
            sim: SimConfig { page: PAGE, disk_bytes: [4 * 1024, 8 * 1024], ..SimConfig::default() },
            amqp: None,
            exchange: "nova".to_owned(),
            history: None,
            username: "reeve".to_owned(),
            password: "simulated".to_owned(),
            token_life: Duration::from_secs(3_600),
            microversions: Microversions::default(),
        }
    }
}

/// What all handlers share.
pub(super) struct Shared {
    pub(super) sim: Arc<SimCloud>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) base: String,
    pub(super) tokens: Tokens,
    pub(super) uploads: Uploads,
    pub(super) http_faults: HttpFaults,
    pub(super) published: Published,
    pub(super) microversions: Microversions,
    /// Requests to the cloud's own API.
    pub(super) requests: AtomicU64,
    /// Those that are under way, and the most that ever were.
    pub(super) under_way: AtomicU64,
    pub(super) crowd: AtomicU64,
}

/// A simulated cloud that runs. Ends when dropped, without waiting for calls under way.
pub struct SimCloudServer {
    shared: Arc<Shared>,
    handle: ServerHandle,
    tasks: JoinSet<()>,
}

/// The connection of a request, to be cut in the middle.
pub(super) struct Line(pub(super) OwnedFd);

impl SimCloudServer {
    /// Starts one, within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken, the folder or the file cannot be used, or a key of the cloud is out of its limits.
    pub async fn start(options: SimCloudOptions) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sim = Arc::new(match &options.data {
            Some(folder) => SimCloud::open(folder, Arc::clone(&clock), options.sim.clone())?,
            None => SimCloud::new(Arc::clone(&clock), options.sim.clone())?,
        });
        if let Some(path) = &options.history {
            sim.witness(history(path)?);
        }
        let mut tasks = JoinSet::new();
        let published = Published::default();
        if let Some(url) = options.amqp.clone() {
            sim.notify(publisher::start(url, options.exchange.clone(), published.clone(), &mut tasks));
        }
        let driven = Arc::clone(&sim);
        tasks.spawn(async move { driven.drive().await });
        let listener = std::net::TcpListener::bind(options.listen).with_context(|| format!("{}", options.listen))?;
        let base = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            sim,
            tokens: Tokens::new(&options),
            clock,
            base,
            uploads: Uploads::default(),
            http_faults: HttpFaults::default(),
            published,
            microversions: options.microversions.clone(),
            requests: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            crowd: AtomicU64::new(0),
        });
        let state = web::Data::from(Arc::clone(&shared));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(web::PayloadConfig::new(MAX_PAYLOAD))
                .app_data(web::JsonConfig::default().limit(1 << 20).content_type_required(false))
                .wrap(middleware::from_fn(reply::outermost))
                .configure(auth::routes)
                .configure(nova::routes)
                .configure(glance::routes)
                .configure(cinder::routes)
                .configure(neutron::routes)
                .configure(control::routes)
        });
        let server = server.workers(WORKERS).disable_signals().shutdown_timeout(2).on_connect(remember_line);
        let server = server.listen(listener)?.run();
        let handle = server.handle();
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the simulated cloud stopped");
            }
        });
        Ok(Self { shared, handle, tasks })
    }

    /// Where it is, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.base
    }

    /// Where Keystone is.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("{}/identity/v3", self.shared.base)
    }

    /// How its user logs in.
    #[must_use]
    pub fn auth(&self) -> OpenStackAuth {
        self.shared.tokens.login(self.auth_url())
    }

    /// The formats (Glance's `disk_format`) that images were uploaded in, by their names.
    #[must_use]
    pub fn image_formats(&self) -> BTreeMap<String, String> {
        self.shared.uploads.formats()
    }

    /// How its user logs in with an application credential.
    #[must_use]
    pub fn credential_auth(&self) -> OpenStackAuth {
        self.shared.tokens.credential_login(self.auth_url())
    }

    /// How many requests its API had, those that follow and steer the simulation left out.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The most requests to its API that were ever under way at once.
    #[must_use]
    pub fn crowd(&self) -> u64 {
        self.shared.crowd.load(Ordering::Relaxed)
    }

    /// The cloud itself, for tests in the same process.
    #[must_use]
    pub fn sim(&self) -> &Arc<SimCloud> {
        &self.shared.sim
    }

    /// Stops: calls under way are answered, notifications that wait are lost. The folder is free afterwards.
    pub async fn stop(mut self) {
        self.handle.stop(true).await;
        self.tasks.shutdown().await;
        // The workers' threads end when they please, and hold on to it until then.
        self.shared.sim.close();
    }
}

fn remember_line(connection: &dyn Any, data: &mut Extensions) {
    if let Some(tcp) = connection.downcast_ref::<actix_web::rt::net::TcpStream>()
        && let Ok(line) = tcp.as_fd().try_clone_to_owned()
    {
        data.insert(Line(line));
    }
}

/// Appends every change to a file, one write a line, so that whoever reads sees whole lines at once.
fn history(path: &Path) -> Result<Witness> {
    let file = File::options().create(true).append(true).open(path);
    let file = Mutex::new(file.with_context(|| format!("cannot write {}", path.display()))?);
    Ok(Arc::new(move |entry: &AuditEntry| {
        let written = serde_json::to_vec(entry).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, "the history has a gap");
        }
    }))
}

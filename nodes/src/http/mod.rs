//! The HTTP edge of a node: the page of the links that extend a lease, and the questions of monitoring.
//!
//! ```text
//! open: port taken, served ─► Starting ──serves──► Serving ──stopping──► Stopping ──close──► requests finished, gone
//!
//! GET  /extend?token=…   shows what the link would do         (never changes anything: mail scanners follow links)
//! POST /extend           extends, in the name that the token holds
//! GET  /healthz          200 while the process answers itself
//! GET  /readyz           200 once the node serves, else 503 and why not
//! ```
//!
//! It knows no more of VMs than an administrator: everything goes through [`AdminService`], on whichever node the VM is.
//! Owner: the node's process. Nothing here is kept, and no token is ever logged.

mod extend;
mod health;
mod home;
mod negotiation;
mod page;
mod says;
mod stage;
mod tls;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::error::{ErrorServiceUnavailable, InternalError};
use actix_web::http::KeepAlive;
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use reeve_ports::{AdminService, Clock};
use reeve_protocol::link::LinkKey;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use self::home::AtHome;
use self::negotiation::Form;
use self::page::Pages;
use self::says::Page;
use self::stage::Stage;
use self::tls::ServerCertificate;
use crate::config::{Config, LinkSection};

pub use self::stage::Readiness;

/// Threads that answer: pages are small, and what takes time is done elsewhere.
const WORKERS: usize = 2;
/// How many connections one of them has at once.
const MAX_CONNECTIONS: usize = 256;
/// How many TLS handshakes one of them has under way at once.
const MAX_HANDSHAKES: usize = 32;
/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a connection that asks nothing is kept.
const IDLE: Duration = Duration::from_secs(15);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The longest that one request is worked on: a little more than an administrator's patience.
const WHOLE: Duration = Duration::from_secs(35);
/// How long requests under way are waited for at the end, in seconds.
const STOP_SECS: u64 = 2;

/// Where links lead, and what opens them.
struct Links {
    key: LinkKey,
    /// The path of the page as browsers see it, which a proxy may have changed.
    action: String,
}

/// What the handlers work with.
struct Desk {
    stage: Arc<Stage>,
    clock: Arc<dyn Clock>,
    links: Option<Links>,
    pages: Pages,
    pulse: health::Pulse,
}

/// The edge of a running process. Dropped, it answers no more.
pub struct Edge {
    stage: Arc<Stage>,
    certificate: Option<Arc<ServerCertificate>>,
    handle: ServerHandle,
    server: JoinSet<()>,
}

impl Edge {
    /// Takes the port and answers from now on, if `[http]` is configured. Inside [`reeve_runtime::run_system`].
    ///
    /// # Errors
    /// When the port is taken, the certificate or a secret cannot be read: which, and why.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Self>> {
        let Some(section) = &config.http else { return Ok(None) };
        let certificate = match (&section.cert, &section.key) {
            (Some(cert), Some(key)) => {
                let files: [PathBuf; 2] = [cert.path().context("http.cert")?, key.path().context("http.key")?];
                Some(Arc::new(ServerCertificate::read(files).context("http.cert")?))
            }
            _ => None,
        };
        let listener = TcpListener::bind(section.listen)
            .with_context(|| format!("http.listen: cannot listen on {}", section.listen))?;
        let stage = Arc::new(Stage::default());
        let desk = Desk::new(Arc::clone(&stage), clock, links(config)?);
        let server = HttpServer::new({
            let desk = web::Data::new(desk);
            move || App::new().wrap(from_fn(in_time)).app_data(desk.clone()).configure(routes)
        });
        let server = server
            .workers(WORKERS)
            .worker_max_blocking_threads(1)
            .max_connections(MAX_CONNECTIONS)
            .max_connection_rate(MAX_HANDSHAKES)
            .client_request_timeout(REQUEST)
            .client_disconnect_timeout(REQUEST)
            .tls_handshake_timeout(HANDSHAKE)
            .keep_alive(KeepAlive::Timeout(IDLE))
            .shutdown_timeout(STOP_SECS)
            // They are the process's own.
            .disable_signals();
        let server = match &certificate {
            None => server.listen(listener),
            Some(certificate) => server.listen_rustls_0_23(listener, tls::server_config(certificate)?),
        };
        let server = server.context("http.listen")?.run();
        let handle = server.handle();
        let mut running = JoinSet::new();
        running.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "HTTP is not served any more");
            }
        });
        Ok(Some(Self { stage, certificate, handle, server: running }))
    }

    /// The node stands: from now on it is asked, on the runtime that this is called on.
    pub fn serves(&self, service: Arc<dyn AdminService>, readiness: Arc<dyn Readiness>) {
        let service = Arc::new(AtHome { service, runtime: Handle::current() });
        self.stage.serves(service, readiness);
    }

    /// The node is about to stop: whoever spreads requests over nodes is to take another one. Links still work.
    pub fn stopping(&self) {
        self.stage.stopping();
    }

    /// Reads the certificate again. The one in use stays if the new one cannot be used.
    pub fn reload(&self) {
        let Some(certificate) = &self.certificate else { return };
        match certificate.reload() {
            Ok(()) => tracing::info!("the certificate of HTTP is read again"),
            Err(error) => tracing::error!(%error, "http.cert cannot be used; the one that was read before stays"),
        }
    }

    /// Takes no more connections, finishes what is under way, and ends.
    pub async fn close(mut self) {
        self.handle.stop(true).await;
        while self.server.join_next().await.is_some() {}
    }
}

impl Desk {
    fn new(stage: Arc<Stage>, clock: Arc<dyn Clock>, links: Option<Links>) -> Self {
        Self { stage, clock, links, pages: Pages::new(), pulse: health::Pulse::default() }
    }
}

fn links(config: &Config) -> anyhow::Result<Option<Links>> {
    let Some(link) = config.notify.as_ref().and_then(|notify| notify.link.as_ref()) else { return Ok(None) };
    let secret = link.secret.secret().reveal().context("notify.link.secret")?;
    let key = LinkSection::key(&secret).context("notify.link")?;
    Ok(Some(Links { key, action: path_of(&link.url).to_owned() }))
}

/// The path of a URL that has a scheme and neither query nor fragment.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// Every page that there is. HEAD is answered like GET, without the body.
fn routes(config: &mut web::ServiceConfig) {
    let show = || web::resource("/extend").route(web::get().to(extend::show)).route(web::head().to(extend::show));
    config
        .service(show().route(web::post().to(extend::extend)).default_service(web::to(not_allowed)))
        .service(web::resource("/healthz").route(web::get().to(health::healthz)).route(web::head().to(health::healthz)))
        .service(web::resource("/readyz").route(web::get().to(health::readyz)).route(web::head().to(health::readyz)))
        .default_service(web::to(not_found));
}

async fn not_found(request: HttpRequest, desk: web::Data<Desk>) -> HttpResponse {
    desk.write(Form::of(&request), &Page::no_such_page())
}

async fn not_allowed(request: HttpRequest, desk: web::Data<Desk>) -> HttpResponse {
    desk.write(Form::of(&request), &Page::no_such_method())
}

/// Ends a request that takes too long: whoever sends its body byte by byte does not keep a connection.
async fn in_time(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    // The request itself may not be kept: routing wants it for itself.
    let (form, desk) = (Form::of(request.request()), request.app_data::<web::Data<Desk>>().cloned());
    let late = match tokio::time::timeout(WHOLE, next.call(request)).await {
        Ok(response) => return response,
        Err(late) => late,
    };
    Err(match desk {
        Some(desk) => {
            InternalError::from_response(late, desk.write(form, &Page::unavailable("no answer in time"))).into()
        }
        None => ErrorServiceUnavailable(late),
    })
}

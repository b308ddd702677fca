//! What systemd is told: that the node runs, that it lives, that it needs more time.

use std::sync::Arc;
use std::time::Duration;

use reeve_cluster::rpc::Credentials;
use reeve_ports::{AdminService, Clock};
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use sd_notify::NotifyState;

/// By how much the time for starting is extended, again and again.
const MORE_TIME: Duration = Duration::from_secs(60);
/// How often it is extended.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// Tells systemd, if it listens.
pub(super) fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Asks for more time to start, again and again, for as long as this is awaited: etcd may be away longer than any time-out. Once there is
/// a node, only while it answers.
pub(super) async fn extend_start(clock: Arc<dyn Clock>, service: Option<Arc<dyn AdminService>>) {
    let micros = u32::try_from(MORE_TIME.as_micros()).expect("a minute in microseconds is a small number");
    loop {
        clock.sleep(ASK_EVERY).await;
        let alive = match &service {
            Some(service) => answers(service, ASK_EVERY).await,
            None => true,
        };
        if alive {
            tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
        }
    }
}

/// Tells systemd's watchdog that the node answers, twice in each of its intervals, as long as it does. The question goes
/// through the node's own actors.
pub(super) async fn watchdog(clock: Arc<dyn Clock>, service: Arc<dyn AdminService>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        if answers(&service, interval / 2).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the node does not answer itself; systemd's watchdog is not told");
        }
        clock.sleep(interval / 2).await;
    }
}

async fn answers(service: &Arc<dyn AdminService>, patience: Duration) -> bool {
    match tokio::time::timeout(patience, service.ask(&Principal::local(), AdminRequest::Node)).await {
        Ok(AdminReply::Node(_)) => true,
        // It says itself that not all of it answers.
        Ok(_) | Err(_) => false,
    }
}

/// Reads the certificates again. Those in use stay if the new ones cannot be used.
pub(super) async fn reload(credentials: Option<&Credentials>) {
    match credentials.cloned() {
        None => tracing::info!("told to reload: there are no certificates, nothing is read"),
        Some(credentials) => match tokio::task::spawn_blocking(move || credentials.reload()).await {
            Ok(Ok(())) => tracing::info!("the certificates are read again"),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the certificates cannot be used; those read before stay");
            }
            Err(error) => tracing::error!(%error, "the certificates were not read"),
        },
    }
}

/// Tells systemd that a reload begins. It ends by `Ready`.
pub(super) fn tell_reloading() {
    let mut reloading = vec![NotifyState::Reloading];
    // Without it, newer versions of systemd take the reload for failed.
    reloading.extend(NotifyState::monotonic_usec_now().ok());
    tell(&reloading);
}

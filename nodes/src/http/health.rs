//! `/healthz` and `/readyz`. Always JSON: programs ask.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use reeve_ports::{AdminService, Clock};
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use serde_json::json;
use tokio::sync::Mutex;

use super::Desk;
use super::page::{guarded, problem};
use super::stage::State;

/// How long an answer of the node about itself is good for everybody: the question goes through all of its actors.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// How long the node may take to answer itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the node last said of itself, and when by the monotonic clock.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Option<(Duration, Result<(), String>)>>);

impl Pulse {
    /// Whether the node answers itself. However many ask, it is asked once at a time.
    async fn of(&self, service: &Arc<dyn AdminService>, clock: &Arc<dyn Clock>) -> Result<(), String> {
        let mut last = self.0.lock().await;
        if let Some((at, felt)) = &*last
            && clock.elapsed().saturating_sub(*at) < GOOD_FOR
        {
            return felt.clone();
        }
        let answer = tokio::time::timeout(PATIENCE, service.ask(&Principal::local(), AdminRequest::Node)).await;
        let felt = match answer {
            Ok(AdminReply::Node(_)) => Ok(()),
            Ok(AdminReply::Refused(refusal)) => Err(refusal.message),
            Ok(_) | Err(_) => Err("the node does not answer itself".to_owned()),
        };
        *last = Some((clock.elapsed(), felt.clone()));
        felt
    }
}

/// Whether the process runs its loops. While it waits for etcd, or stops, that is all there is to say.
pub(super) async fn healthz(desk: web::Data<Desk>) -> HttpResponse {
    let felt = match desk.stage.now() {
        State::Starting | State::Stopping { .. } => Ok(()),
        State::Serving { service, .. } => desk.pulse.of(&service, &desk.clock).await,
    };
    match felt {
        Ok(()) => guarded(StatusCode::OK).json(json!({ "status": "up" })),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, "not_healthy", &why, json!({})),
    }
}

/// Whether the node serves.
pub(super) async fn readyz(desk: web::Data<Desk>) -> HttpResponse {
    let lacks = match desk.stage.now() {
        State::Starting => vec!["the node is being started".to_owned()],
        State::Serving { readiness, .. } => readiness.lacks(),
        State::Stopping { .. } => vec!["the node stops".to_owned()],
    };
    if lacks.is_empty() {
        return guarded(StatusCode::OK).json(json!({ "status": "ready" }));
    }
    problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &lacks.join("; "), json!({ "reasons": lacks }))
}

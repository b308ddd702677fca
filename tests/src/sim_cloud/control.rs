//! `/sim`: what owners do past Reeve, what fate does, and what a checker may see. No token is asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::SimCloud;
use reeve_drivers::cloud::sim::{CallKind, Cure, Fault, FaultKind, GroundTruth, GuestState, RandomFaults};
use reeve_ports::CloudError;
use reeve_protocol::observation::VmFacts;
use reeve_protocol::{HostName, ProjectId, UserId, VmId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nova::{bad, vm_id};
use super::reply::{self, Dialect, ok};
use super::server::Shared;

/// The most entries or VMs in one answer.
const MAX_ANSWER: usize = 10_000;
/// The most HTTP faults on order.
const MAX_HTTP_FAULTS: usize = 1_000;

/// A VM that a user makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewVm {
    /// Its name.
    pub name: String,
    /// Its project.
    pub project: String,
    /// Its user.
    pub user: String,
    /// Its metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A VM that was made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Booted {
    /// Its id.
    pub vm: VmId,
}

/// What becomes of a guest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Afflict {
    /// What cures it.
    pub cure: Cure,
    /// Whether its process dies instead of hanging.
    #[serde(default)]
    pub crashed: bool,
}

/// A fault of the cloud that is ordered.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OrderFault {
    /// For which call.
    pub call: CallKind,
    /// Only on this VM.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// After so many calls that it would have matched.
    #[serde(default)]
    pub skip: u32,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// A fault of the HTTP layer that is ordered: for the next request that matches.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpFault {
    /// Only for this method; any if empty.
    pub method: String,
    /// Only for paths that contain this.
    pub path: String,
    /// The status that is answered; 0 closes the connection, and only with `after_effect`.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: String,
    /// Whether the request has its effect first.
    pub after_effect: bool,
}

impl HttpFault {
    pub(super) fn response(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = HttpResponse::build(status);
        if let Some(seconds) = self.retry_after {
            response.insert_header(("Retry-After", seconds.to_string()));
        }
        response.body(self.body.clone())
    }
}

#[derive(Default)]
pub(super) struct HttpFaults(Mutex<Vec<HttpFault>>);

impl HttpFaults {
    /// What happens to this request; nothing ever happens to `/sim`.
    pub(super) fn pick(&self, method: &str, path: &str) -> Option<HttpFault> {
        if path.starts_with("/sim/") {
            return None;
        }
        let mut ordered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = |fault: &HttpFault| {
            (fault.method.is_empty() || fault.method.eq_ignore_ascii_case(method)) && path.contains(&fault.path)
        };
        let index = ordered.iter().position(matches)?;
        Some(ordered.remove(index))
    }

    fn order(&self, fault: HttpFault) -> Result<(), CloudError> {
        let mut ordered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ordered.len() >= MAX_HTTP_FAULTS {
            return Err(bad("too many faults are on order"));
        }
        ordered.push(fault);
        Ok(())
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What is so of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SimVmView {
    /// What the cloud would say.
    pub facts: VmFacts,
    /// How its guest is: `off`, `booting`, `up`, `hung` or `crashed`.
    pub guest: String,
    /// Whether it is gone.
    pub gone: bool,
    /// Its addresses that are still held for it.
    pub addresses: Vec<String>,
    /// Its volumes that still exist.
    pub volumes: Vec<String>,
    /// BLAKE3 of each disk, by the name of its object in a backup.
    pub disks: BTreeMap<String, String>,
}

impl From<GroundTruth> for SimVmView {
    fn from(truth: GroundTruth) -> Self {
        let guest = match truth.guest {
            GuestState::Off => "off",
            GuestState::Booting => "booting",
            GuestState::Up => "up",
            GuestState::Hung => "hung",
            GuestState::Crashed => "crashed",
        };
        let disks = truth.disks.into_iter().map(|(disk, content)| (disk.object_name(), content.blake3));
        Self {
            facts: truth.facts,
            guest: guest.to_owned(),
            gone: truth.gone,
            addresses: truth.addresses,
            volumes: truth.volumes,
            disks: disks.collect(),
        }
    }
}

/// Numbers of a simulated cloud.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counts {
    /// VMs that are not gone.
    pub living: usize,
    /// VMs that are gone.
    pub gone: usize,
    /// Faults that are on order.
    pub faults_ordered: usize,
    /// Entries that the limits of the audit have dropped.
    pub audit_dropped: u64,
    /// Notifications that the broker has confirmed.
    pub notifications: u64,
    /// Notifications that found no room to wait for the broker.
    pub notifications_lost: u64,
    /// Tokens that were given out.
    pub tokens_issued: u64,
    /// Requests whose token was missing, unknown or over.
    pub tokens_refused: u64,
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let sim = web::scope("/sim")
        .route("/counts", web::get().to(counts))
        .route("/audit", web::get().to(audit))
        .route("/made", web::get().to(made))
        .route("/vms", web::get().to(vms))
        .route("/vms", web::post().to(boot))
        .route("/vms/{id}", web::get().to(vm))
        .route("/vms/{id}", web::delete().to(delete))
        .route("/vms/{id}/hang", web::post().to(afflict))
        .route("/vms/{id}/metadata", web::post().to(set_metadata))
        .route("/vms/{id}/{deed}", web::post().to(do_to_vm))
        .route("/hosts/{host}/{deed}", web::post().to(do_to_host))
        .route("/faults", web::post().to(order))
        .route("/faults", web::delete().to(clear_faults))
        .route("/faults/random/{per_mille}", web::put().to(random_faults))
        .route("/http_faults", web::post().to(order_http))
        .route("/tokens", web::delete().to(revoke_tokens));
    config.service(sim);
}

#[derive(Deserialize)]
struct AfterSeq {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct AfterVm {
    after: Option<VmId>,
    limit: Option<usize>,
    /// Those that are gone too.
    #[serde(default)]
    gone: bool,
}

fn done(request: &HttpRequest, result: Result<(), CloudError>) -> HttpResponse {
    reply::reply(request, Dialect::Compute, result.map(|()| HttpResponse::NoContent().finish()))
}

async fn counts(shared: web::Data<Shared>) -> HttpResponse {
    let sim = &shared.sim;
    let (living, every) = (sim.vm_ids().len(), sim.every_vm().len());
    HttpResponse::Ok().json(Counts {
        living,
        gone: every.saturating_sub(living),
        faults_ordered: sim.faults_ordered(),
        audit_dropped: sim.audit_dropped(),
        notifications: shared.published.confirmed(),
        notifications_lost: shared.published.lost(),
        tokens_issued: shared.tokens.issued(),
        tokens_refused: shared.tokens.refused(),
    })
}

async fn audit(shared: web::Data<Shared>, query: web::Query<AfterSeq>) -> HttpResponse {
    let limit = query.limit.unwrap_or(MAX_ANSWER).min(MAX_ANSWER);
    HttpResponse::Ok().json(shared.sim.audit_after(query.after, limit))
}

async fn made(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(shared.sim.made())
}

async fn vms(shared: web::Data<Shared>, query: web::Query<AfterVm>) -> HttpResponse {
    let limit = query.limit.unwrap_or(MAX_ANSWER).min(MAX_ANSWER);
    let ids = if query.gone { shared.sim.every_vm() } else { shared.sim.vm_ids() };
    let ids = ids.into_iter().filter(|vm| query.after.is_none_or(|after| *vm > after));
    let views = ids.filter_map(|vm| shared.sim.ground_truth(vm)).take(limit).map(SimVmView::from);
    HttpResponse::Ok().json(views.collect::<Vec<_>>())
}

async fn vm(request: HttpRequest, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let truth = vm_id(&id)
        .and_then(|vm| shared.sim.ground_truth(vm).ok_or_else(|| CloudError::NotFound(format!("instance {vm}"))));
    reply::reply(&request, Dialect::Compute, truth.map(|truth| HttpResponse::Ok().json(SimVmView::from(truth))))
}

async fn boot(request: HttpRequest, shared: web::Data<Shared>, body: web::Json<NewVm>) -> HttpResponse {
    let NewVm { name, project, user, metadata } = body.into_inner();
    let made = ProjectId::new(project)
        .and_then(|project| Ok((project, UserId::new(user)?)))
        .map_err(|error| bad(&error.to_string()))
        .and_then(|(project, user)| shared.sim.boot_vm(&name, project, user, metadata));
    reply::reply(&request, Dialect::Compute, made.map(|vm| HttpResponse::Accepted().json(Booted { vm })))
}

async fn delete(request: HttpRequest, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    done(&request, vm_id(&id).and_then(|vm| shared.sim.owner_delete(vm)))
}

async fn afflict(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<Afflict>,
) -> HttpResponse {
    let afflicted = vm_id(&id).and_then(|vm| {
        if body.crashed { shared.sim.crash_guest(vm, body.cure) } else { shared.sim.hang_guest(vm, body.cure) }
    });
    done(&request, afflicted)
}

async fn set_metadata(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<BTreeMap<String, String>>,
) -> HttpResponse {
    let set =
        vm_id(&id).and_then(|vm| body.iter().try_for_each(|(key, value)| shared.sim.set_metadata(vm, key, value)));
    done(&request, set)
}

async fn do_to_vm(request: HttpRequest, shared: web::Data<Shared>, path: web::Path<(String, String)>) -> HttpResponse {
    let (id, deed) = path.into_inner();
    done(&request, vm_id(&id).and_then(|vm| deed_to_vm(&shared.sim, vm, &deed)))
}

fn deed_to_vm(sim: &SimCloud, vm: VmId, deed: &str) -> Result<(), CloudError> {
    match deed {
        "start" => sim.owner_start(vm),
        "stop" => sim.owner_stop(vm),
        "soft_delete" => sim.owner_soft_delete(vm),
        "restore" => sim.owner_restore(vm),
        "lock" => sim.lock_vm(vm),
        "unlock" => sim.unlock_vm(vm),
        "vanish" => sim.vanish(vm),
        "cure" => sim.cure_guest(vm),
        other => Err(CloudError::NotFound(format!("deed {other}"))),
    }
}

async fn do_to_host(
    request: HttpRequest,
    shared: web::Data<Shared>,
    path: web::Path<(String, String)>,
) -> HttpResponse {
    let (host, deed) = path.into_inner();
    let host = HostName::new(host).map_err(|error| bad(&error.to_string()));
    let did = host.and_then(|host| match deed.as_str() {
        "up" => shared.sim.host_up(&host),
        "down" => shared.sim.host_down(&host),
        other => Err(CloudError::NotFound(format!("deed {other}"))),
    });
    done(&request, did)
}

async fn order(request: HttpRequest, shared: web::Data<Shared>, body: web::Json<OrderFault>) -> HttpResponse {
    let OrderFault { call, vm, skip, kind } = *body;
    let mut fault = Fault::next(call, kind).after(skip);
    if let Some(vm) = vm {
        fault = fault.on(vm);
    }
    done(&request, shared.sim.inject(fault).map_err(|error| bad(&error.to_string())))
}

async fn clear_faults(shared: web::Data<Shared>) -> HttpResponse {
    shared.sim.clear_faults();
    shared.http_faults.clear();
    HttpResponse::NoContent().finish()
}

async fn random_faults(shared: web::Data<Shared>, per_mille: web::Path<u16>) -> HttpResponse {
    shared.sim.set_random_faults(RandomFaults::transient((*per_mille).min(1_000)));
    HttpResponse::NoContent().finish()
}

async fn order_http(request: HttpRequest, shared: web::Data<Shared>, body: web::Json<HttpFault>) -> HttpResponse {
    done(&request, shared.http_faults.order(body.into_inner()))
}

async fn revoke_tokens(shared: web::Data<Shared>) -> HttpResponse {
    shared.tokens.revoke_all();
    ok(json!({}))
}

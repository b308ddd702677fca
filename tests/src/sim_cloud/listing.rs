//! Nova: the listing of servers, whole, of what changed, of what went, and of what an operation made.

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::SimCloud;
use reeve_drivers::cloud::openstack::operation_tag;
use reeve_drivers::cloud::sim::as_caller;
use reeve_ports::cloud::{ListPage, OPERATION_KEY};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::{Timestamp, VmId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Caller;
use super::nova::{bad, vm_id};
use super::record;
use super::reply::{self, Dialect};
use super::server::Shared;

const MAX_LIMIT: usize = 1_000;

/// The filters of a listing that are understood; others are refused as Nova refuses what it does not know.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<usize>,
    marker: Option<String>,
    /// Listed are the servers of all projects, always.
    #[serde(rename = "all_tenants")]
    _all_tenants: Option<String>,
    #[serde(rename = "changes-since")]
    changes_since: Option<String>,
    deleted: Option<String>,
    uuid: Option<String>,
    tags: Option<String>,
}

pub(super) async fn list(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<Filter>,
) -> HttpResponse {
    let version = record::microversion(&request);
    let listed = as_caller(caller.0, listed(&shared, &filter, version)).await;
    reply::reply(&request, Dialect::Compute, listed.map(|page| HttpResponse::Ok().json(page)))
}

async fn listed(shared: &Shared, filter: &Filter, version: u32) -> Result<Page, CloudError> {
    let sim = &shared.sim;
    let limit = filter.limit.unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT);
    let marker = filter.marker.as_deref().map(|marker| marker.parse::<VmId>().map_err(|_| bad("marker not found")));
    let marker = marker.transpose()?;
    if let Some(tag) = &filter.tags {
        return launched(sim, tag, version).await;
    }
    let hosts = record::hosts(sim);
    if let Some(vm) = &filter.uuid {
        let gone = filter.deleted.is_some();
        let mut found = sim.server_views(&[vm_id(vm)?]);
        found.retain(|view| view.gone == gone);
        return Ok(Page::of(found.iter().map(|view| record::server(view, &hosts, version))));
    }
    let (vms, partial, more) = match (&filter.changes_since, &filter.deleted) {
        (Some(since), Some(_)) => went(sim, time(since)?, marker, limit),
        (Some(since), None) => changed(sim, time(since)?, marker, limit).await?,
        (None, _) => page(sim, marker, limit).await?,
    };
    let last = vms.iter().chain(&partial).max().copied();
    let views = sim.server_views(&vms);
    let mut servers: Vec<_> = views.iter().map(|view| (view.facts.vm, record::server(view, &hosts, version))).collect();
    if version >= record::PARTIAL {
        servers.extend(partial.into_iter().map(|vm| (vm, record::partial(vm))));
        servers.sort_by_key(|(vm, _)| *vm);
    }
    let mut page = Page::of(servers.into_iter().map(|(_, server)| server));
    page.servers_links.extend(last.filter(|_| more).map(|last| {
        let href = format!("{}/compute/v2.1/servers/detail?limit={limit}&marker={last}", shared.base);
        json!({ "rel": "next", "href": href })
    }));
    Ok(page)
}

/// A page of a listing.
#[derive(Serialize)]
struct Page {
    servers: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers_links: Vec<Value>,
}

impl Page {
    fn of(servers: impl Iterator<Item = Box<RawValue>>) -> Self {
        Self { servers: servers.collect(), servers_links: Vec::new() }
    }
}

/// The listed servers of a page, those of silent cells among them, and whether there are more.
type Slice = (Vec<VmId>, Vec<VmId>, bool);

/// Nova's marker is the last server of the page before; the simulated cloud's is the first of the page to come.
fn first_after(marker: Option<VmId>) -> Option<String> {
    marker.map(|marker| Uuid::from_u128(marker.uuid().as_u128().saturating_add(1)).to_string())
}

fn time(text: &str) -> Result<Timestamp, CloudError> {
    text.parse().or_else(|_| format!("{text}Z").parse()).map_err(|_| bad("changes-since is no time"))
}

/// The servers of a page, cut to the limit, and whether there are more.
fn cut(page: ListPage, limit: usize) -> (Vec<VmId>, bool) {
    let mut vms: Vec<VmId> = page.vms.into_iter().map(|facts| facts.vm).collect();
    let more = page.next.is_some() || vms.len() > limit;
    vms.truncate(limit);
    (vms, more)
}

async fn page(sim: &SimCloud, marker: Option<VmId>, limit: usize) -> Result<Slice, CloudError> {
    let (vms, more) = cut(sim.list(first_after(marker)).await?, limit);
    let until = vms.last().copied().filter(|_| more);
    let silent = sim.unanswered_vms().into_iter();
    let silent = silent.filter(|vm| marker.is_none_or(|m| *vm > m) && until.is_none_or(|until| *vm < until));
    Ok((vms, silent.collect(), more))
}

/// Those that changed, gone or not.
async fn changed(sim: &SimCloud, since: Timestamp, marker: Option<VmId>, limit: usize) -> Result<Slice, CloudError> {
    let page = sim.changed(since, first_after(marker)).await?;
    let (vms, more) = page.map(|page| cut(page, limit)).unwrap_or_default();
    Ok((vms, Vec::new(), more))
}

/// Those that went.
fn went(sim: &SimCloud, since: Timestamp, marker: Option<VmId>, limit: usize) -> Slice {
    let every = sim.every_vm().into_iter().filter(|vm| marker.is_none_or(|marker| *vm > marker));
    let gone = every.filter(|vm| {
        let gone_at = sim.ground_truth(*vm).and_then(|truth| truth.facts.deleted_at);
        gone_at.is_some_and(|at| at >= since)
    });
    let mut vms: Vec<VmId> = gone.take(limit + 1).collect();
    let more = vms.len() > limit;
    vms.truncate(limit);
    (vms, Vec::new(), more)
}

/// The living servers with this tag, which is that of an operation.
async fn launched(sim: &SimCloud, tag: &str, version: u32) -> Result<Page, CloudError> {
    let living = sim.server_views(&sim.vm_ids());
    let mut operations = living.iter().filter_map(|view| view.facts.metadata.get(OPERATION_KEY));
    let operation = operations.find(|operation| operation_tag(operation) == tag);
    let found = sim.find_launched(operation.map_or(tag, String::as_str), Timestamp::EPOCH).await?;
    let hosts = record::hosts(sim);
    let found: Vec<VmId> = found.into_iter().map(|facts| facts.vm).collect();
    let mut found = sim.server_views(&found);
    found.retain(|view| !view.gone);
    Ok(Page::of(found.iter().map(|view| record::server(view, &hosts, version))))
}

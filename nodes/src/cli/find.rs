//! Which VM or backup a person means: an id, the start of one, or a name.

use reeve_protocol::admin::{AdminReply, AdminRequest, BackupView, VmView};
use reeve_protocol::{BackupId, VmId};
use serde_json::json;

use super::fail::{Code, Failure};
use super::session::{Session, unexpected};

/// Rows on one page: a VM with many backups takes kilobytes, and a page must fit a frame.
const PAGE: u32 = 200;
/// How many candidates an ambiguous name lists.
const MAX_CANDIDATES: usize = 8;
/// The least characters of the start of an id.
const MIN_PREFIX: usize = 4;

/// Walks over all VMs by pages; `visit` ends the walk by `false`.
pub(super) async fn each_vm(
    session: &Session,
    lease: Option<&str>,
    mut marker: Option<VmId>,
    mut visit: impl FnMut(VmView) -> bool,
) -> Result<(), Failure> {
    loop {
        let request = AdminRequest::VmList { limit: PAGE, marker, lease: lease.map(str::to_owned) };
        let page = match session.ask(request).await? {
            AdminReply::Vms(page) => page,
            other => return Err(unexpected(&other)),
        };
        // A page that does not advance would be asked for for ever.
        let last = page.last().map(|vm| vm.id).filter(|last| marker.is_none_or(|marker| *last > marker));
        for vm in page {
            if !visit(vm) {
                return Ok(());
            }
        }
        match last {
            Some(last) => marker = Some(last),
            None => return Ok(()),
        }
    }
}

/// The id of the VM that a text names. An id is taken as it is; else exactly one VM must have that name, or an id that
/// starts so.
pub(super) async fn vm_id(session: &Session, text: &str) -> Result<VmId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let (mut named, mut started, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    let prefix = text.to_lowercase();
    each_vm(session, None, None, |vm| {
        if vm.name == text && matches!(vm.state.as_str(), "requested" | "delivered" | "failed") {
            // A request for a VM has the VM's name.
            requests.push(vm);
        } else if vm.name == text {
            named.push(vm);
        } else if prefix.len() >= MIN_PREFIX && vm.id.to_string().starts_with(&prefix) {
            started.push(vm);
        }
        named.len() <= MAX_CANDIDATES
    })
    .await?;
    let found = [named, started, requests].into_iter().find(|found| !found.is_empty()).unwrap_or_default();
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => {
            let what = format!("no VM is called {text:?}");
            let why = format!("expected an id, at least {MIN_PREFIX} characters of its start, or a name");
            Err(Failure::new(Code::NotFound, what).because(why))
        }
        many => {
            let ids: Vec<String> = many.iter().take(MAX_CANDIDATES).map(|vm| vm.id.to_string()).collect();
            let list: Vec<String> =
                many.iter().take(MAX_CANDIDATES).map(|vm| format!("{} {}", vm.id, vm.name)).collect();
            let failure = Failure::new(Code::Usage, format!("{text:?} names {} VMs or more", many.len()));
            Err(failure.because(list.join(", ")).with_details(json!({"candidates": ids})))
        }
    }
}

/// The VM that a text names.
pub(super) async fn vm(session: &Session, text: &str) -> Result<VmView, Failure> {
    let id = vm_id(session, text).await?;
    match session.ask(AdminRequest::VmShow(id)).await? {
        AdminReply::Vm(vm) => Ok(*vm),
        other => Err(unexpected(&other)),
    }
}

/// The backups of a VM.
pub(super) async fn backups_of(session: &Session, vm: VmId) -> Result<Vec<BackupView>, Failure> {
    match session.ask(AdminRequest::BackupList(vm)).await? {
        AdminReply::Backups(backups) => Ok(backups),
        other => Err(unexpected(&other)),
    }
}

/// The backup that a text names, by its id or the start of it, of one VM or of any.
pub(super) async fn backup(session: &Session, text: &str, of: Option<VmId>) -> Result<BackupView, Failure> {
    let exact = text.parse::<BackupId>().ok();
    let prefix = text.to_lowercase();
    let matches = |backup: &BackupView| match exact {
        Some(id) => backup.id == id,
        None => prefix.len() >= MIN_PREFIX && backup.id.to_string().starts_with(&prefix),
    };
    let mut found = Vec::new();
    match of {
        Some(vm) => found.extend(backups_of(session, vm).await?.into_iter().filter(matches)),
        None => {
            each_vm(session, None, None, |vm| {
                found.extend(vm.backups.into_iter().filter(matches));
                exact.is_none() || found.is_empty()
            })
            .await?;
        }
    }
    if found.len() > 1 {
        let ids: Vec<String> = found.iter().take(MAX_CANDIDATES).map(|backup| backup.id.to_string()).collect();
        let failure = Failure::new(Code::Usage, format!("{text:?} names {} backups", found.len()));
        return Err(failure.because(ids.join(", ")).with_details(json!({"candidates": ids})));
    }
    found.pop().ok_or_else(|| Failure::new(Code::NotFound, format!("there is no backup {text:?}")))
}

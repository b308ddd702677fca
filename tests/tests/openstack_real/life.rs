//! The life of a real guest: asked for, handed over, leased, warned, extended by a link, denied, ended with a verified
//! backup, and back with its data.

use anyhow::{Context, Result};
use reeve_protocol::Timestamp;
use reeve_protocol::admin::VmView;
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::link::{ExtendLink, LinkKey};
use reeve_tests::harness::{Control, OpenStack, Port};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

use super::fixture::{events, listens, sections, until};
use super::guest::{client, fixed_address, served};
use super::held::Held;
use super::request::{reeve, templates};

const REAL: [(&str, &str); 3] = [("DRIVER", "libvirt.LibvirtDriver"), ("NEUTRON", "real"), ("CINDER", "1")];
const SECRET: &str = "a secret of the tests that signs links";
const MINUTES: &str = r#"
[runtime]
changes_every = "5s"

[policy.default.health]
enabled = false

[policy.default.backup]
every = "0s"

[policy.default.lease]
duration = "1m"
warn_before = ["30s"]
extension = "1m"
max_extensions = 3
max_total = "2m"

"#;
/// A guest with all that one may have; it is ready when it says on its console that it runs.
const WANTED: [&str; 24] = [
    "vm",
    "create",
    "marked",
    "--image",
    "guest",
    "--flavor",
    "small",
    "--network",
    "inside",
    "--public",
    "outside",
    "--open",
    "tcp:80",
    "--volume",
    "1",
    "--owner",
    "ann",
    "--template",
    "marker",
    "--set",
    "marker=first-life",
    "--ready",
    "console:guest: boot",
    "--wait",
];

fn named<'a>(vms: &'a [VmView], id: &str) -> Option<&'a VmView> {
    vms.iter().find(|vm| vm.id.to_string() == id)
}

/// What a click on the link of this period says.
async fn click(port: &Port, vm: &VmView) -> Result<StatusCode> {
    let link = ExtendLink {
        vm: vm.id,
        ends_at: vm.lease.ends_at.context("a lease")?,
        owner: vm.user.clone().context("an owner")?,
        expires_at: Timestamp::MAX,
    };
    let token = LinkKey::new(SECRET.as_bytes())?.token(&link);
    let request = client()?.post(format!("http://127.0.0.1:{}/extend", port.number()));
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json");
    Ok(request.body(format!("token={token}")).send().await?.status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_guest_is_asked_for_leased_for_a_minute_ended_and_revived_with_its_data() -> Result<()> {
    let cloud = OpenStack::start(&REAL).await?;
    let before = Held::by(&cloud).await?;
    let (folder, port) = (tempfile::tempdir()?, Port::reserve()?);
    let page = format!(
        "[http]\nlisten = \"127.0.0.1:{0}\"\n[notify.link]\nurl = \"http://127.0.0.1:{0}/extend\"\nsecret = \"{SECRET}\"\n",
        port.number()
    );
    let beside = format!("{MINUTES}{}{page}", templates(folder.path())?);
    let node = Control::start(&sections(&cloud, &beside)?).await?;
    listens(&cloud).await?;
    let said = reeve(&node, &[&WANTED[..], &["--wait-for", "3m"]].concat()).await?;
    assert!(said.contains("is there at"), "{said}");

    let is_it = |vm: &&VmView| vm.name == "marked" && vm.state == "active";
    let vms = until(&node, "a VM", |vms| vms.iter().any(|vm| is_it(&vm))).await?;
    let vm = vms.iter().find(is_it).context("the VM")?.clone();
    let id = vm.id.to_string();
    assert_eq!(vm.user.as_ref().map(|user| user.as_str()), Some("ann"));
    let is = |vms: &[VmView], state: &str| named(vms, &id).is_some_and(|vm| vm.lease.state == state);
    let vms = until(&node, "a warning", |vms| is(vms, "warned")).await?;
    let warned = named(&vms, &id).context("the VM")?.clone();
    assert_eq!(click(&port, &warned).await?, StatusCode::OK);
    let vms = until(&node, "an extension", |vms| named(vms, &id).is_some_and(|vm| vm.lease.extensions == 1)).await?;
    let extended = named(&vms, &id).context("the VM")?.clone();
    assert_eq!(click(&port, &extended).await?, StatusCode::FORBIDDEN, "beyond the cap");
    let address = fixed_address(&cloud, &id).await?;
    assert_eq!(served(&address, "marker").await?, "first-life");

    let vms = until(&node, "the end", |vms| is(vms, "ended")).await?;
    let ended = named(&vms, &id).context("the VM")?;
    assert_eq!(ended.lease.ended.as_deref(), Some("destroyed"));
    let backups: Vec<_> = ended.backups.iter().map(|backup| (backup.purpose, backup.state.as_str())).collect();
    assert_eq!(backups, [(BackupPurpose::Final, "verified")]);
    assert!(ended.backups[0].bytes > Some(1 << 30), "the root disk and a volume of 1 GiB: {:?}", ended.backups[0]);
    before.comes_back(&cloud).await?;
    let told: Vec<String> = events(&node).await?.into_iter().map(|event| event.kind).collect();
    for kind in
        ["vm.delivered", "lease.created", "lease.expiring", "lease.extended", "lease.extension-denied", "lease.ended"]
    {
        assert!(told.contains(&format!("reeve.{kind}")), "{kind} is not among {told:?}");
    }

    reeve(&node, &["vm", "revive", &id, "--name", "again", "--wait", "--wait-for", "5m"]).await?;
    let is_back = |one: &VmView| one.revived_from == Some(vm.id) && one.state == "active";
    let vms = until(&node, "a revival", |vms| vms.iter().any(is_back)).await?;
    let again = vms.iter().find(|one| is_back(one)).context("the VM that came back")?;
    let address = fixed_address(&cloud, &again.id.to_string()).await?;
    assert_eq!(served(&address, "marker").await?, "first-life", "what was on its disk");
    assert_eq!(served(&address, "boots").await?, "2", "the same disk, booted again");
    assert_eq!(again.user, vm.user, "it belongs to whom it belonged");
    let held = Held::by(&cloud).await?;
    for kind in ["servers", "volumes", "floating IPs"] {
        assert_eq!(held.count(kind), before.count(kind) + 1, "{kind}: {held:?}");
    }
    let id = again.id.to_string();
    reeve(&node, &["vm", "delete", &id, "--no-backup", "--yes", "--wait", "--wait-for", "3m"]).await?;
    before.comes_back(&cloud).await
}

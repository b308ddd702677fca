//! VMs that Reeve is asked for, on the real cloud.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use reeve_protocol::UserId;
use reeve_protocol::provision::{Ingress, IpProtocol, ProvisionRequest, Readiness, ServerPlan, VolumePlan};
use reeve_tests::harness::{Control, reeve_binary};

/// The user data of the tiny guest: what it keeps on its disk.
const TEMPLATE: &str = "MARKER={{ marker }}\n";

/// A configuration by which a marker gets to a guest: `[provision]` with a folder of templates.
pub(crate) fn templates(folder: &Path) -> Result<String> {
    std::fs::write(folder.join("marker.j2"), TEMPLATE)?;
    Ok(format!("[provision]\ntemplates = {folder:?}\n"))
}

/// A server of this image with everything that one may have.
pub(crate) fn request(image: &str, name: &str) -> Result<ProvisionRequest> {
    Ok(ProvisionRequest {
        cloud: None,
        owner: Some(UserId::new("ann")?),
        plan: ServerPlan {
            name: name.to_owned(),
            image: image.to_owned(),
            flavor: "small".to_owned(),
            network: "inside".to_owned(),
            key: None,
            zone: None,
            ingress: vec![Ingress { protocol: IpProtocol::Tcp, ports: Some((80, 80)), from: None }],
            public_network: Some("outside".to_owned()),
            volumes: vec![VolumePlan { gib: 1, kind: None }],
            metadata: BTreeMap::new(),
            ready: Readiness::Active,
        },
        template: None,
        parameters: BTreeMap::new(),
        policy: None,
        within: None,
    })
}

/// Runs `reeve` beside a node; returns what it says.
pub(crate) async fn reeve(node: &Control, arguments: &[&str]) -> Result<String> {
    let endpoint = format!("unix:{}", node.data_dir().join("reeve.sock").display());
    let mut command = Command::new(reeve_binary()?);
    command.args(["--endpoint", &endpoint]).args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output()).await?;
    let Output { status, stdout, stderr } = run.context("reeve does not run")?;
    let (said, complained) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    ensure!(status.success(), "reeve {}: {status}\n{said}\n{complained}", arguments.join(" "));
    Ok(format!("{said}{complained}"))
}

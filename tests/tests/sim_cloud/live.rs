//! The part of the suite of clouds that is about plans, against a real OpenStack with Neutron and Cinder
//! (`NEUTRON=real CINDER=1 tests/openstack/up`), where there is one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reeve_drivers::cloud::openstack::OpenStackCloud;
use reeve_drivers::cloud::sim::catalog;
use reeve_nodes::config::OpenStackSection;
use reeve_ports::Cloud;
use reeve_ports::conformance::cloud::CloudFixture;
use reeve_ports::conformance::provision;
use reeve_protocol::VmId;
use reeve_protocol::provision::{Ingress, IpProtocol, ServerPlan, VolumePlan};

use crate::fixture::driver;

/// Names the `clouds.yaml` of the testbed.
const CLOUDS: &str = "REEVE_OPENSTACK_CLOUDS";

struct Testbed(Arc<OpenStackCloud>);

impl Testbed {
    fn at(clouds: &str) -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let section: OpenStackSection = toml::from_str("cloud = \"reeve-test\"").expect("a cloud of a file");
        let section = OpenStackSection { clouds_yaml: Some(PathBuf::from(clouds)), ..section };
        Self(driver(section.resolve().expect("the testbed's own file")))
    }
}

#[async_trait]
impl CloudFixture for Testbed {
    fn cloud(&self) -> Arc<dyn Cloud> {
        Arc::<OpenStackCloud>::clone(&self.0)
    }

    async fn boot(&self, name: &str) -> VmId {
        panic!("nothing about plans needs a server that a user boots: {name}")
    }

    fn plan(&self) -> ServerPlan {
        // Neutron takes both for one rule.
        let all = |ports| Ingress { protocol: IpProtocol::Tcp, ports, from: None };
        let mut plan = catalog::plan_of_all();
        plan.ingress.extend([all(None), all(Some((1, 65_535)))]);
        ServerPlan {
            image: "blank".to_owned(),
            flavor: "tiny".to_owned(),
            network: "inside".to_owned(),
            key: None,
            public_network: Some("outside".to_owned()),
            volumes: vec![
                VolumePlan { gib: 1, kind: None },
                VolumePlan { gib: 1, kind: Some("__DEFAULT__".to_owned()) },
            ],
            ..plan
        }
    }

    async fn wait(&self) {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test]
async fn live_plans_are_made_and_taken_back_in_a_real_openstack() {
    match std::env::var(CLOUDS) {
        Ok(clouds) => provision::run(&Testbed::at(&clouds)).await,
        Err(_) => eprintln!("skipped: {CLOUDS} does not name the clouds.yaml of a testbed (tests/openstack/up)"),
    }
}

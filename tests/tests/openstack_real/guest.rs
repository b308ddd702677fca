//! A server with a volume and a floating IP, made by the plain client as a user would; and what a real guest serves.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::harness::OpenStack;
use serde_json::Value;

use super::fixture::PATIENCE;

/// A volume of its own, which goes with the server.
const VOLUME: &str = "source_type=blank,destination_type=volume,volume_size=1,delete_on_termination=true";

/// Boots one of this image with a volume, and gives it a floating IP; returns its id.
pub(crate) async fn boot(cloud: &OpenStack, image: &str, name: &str) -> Result<String> {
    let address = cloud.ask(&["floating", "ip", "create", "outside"]).await?;
    let floating = address["floating_ip_address"].as_str().context("a floating IP")?.to_owned();
    let what = ["server", "create", "--image", image, "--flavor", "small", "--network", "inside", "--wait"];
    let with = ["--block-device", VOLUME, name];
    let made = cloud.ask(&[&what[..], &with].concat()).await?;
    let id = made["id"].as_str().context("the id of a server")?.to_owned();
    cloud.tell(&["server", "add", "floating", "ip", &id, &floating]).await?;
    Ok(id)
}

/// The address of a server on the network `inside`.
pub(crate) async fn fixed_address(cloud: &OpenStack, server: &str) -> Result<String> {
    let ports = cloud.ask(&["port", "list", "--server", server]).await?;
    let address = |port: &Value| Some(port["Fixed IP Addresses"].get(0)?["ip_address"].as_str()?.to_owned());
    ports.get(0).and_then(address).with_context(|| format!("an address of {server}, in {ports}"))
}

/// A client of web pages on this machine.
pub(crate) fn client() -> Result<reqwest::Client> {
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?)
}

/// What the guest serves under this name, once it does.
pub(crate) async fn served(address: &str, name: &str) -> Result<String> {
    let client = client()?;
    let began = SystemClock.elapsed();
    loop {
        let asked = client.get(format!("http://{address}/{name}")).timeout(Duration::from_secs(5)).send().await;
        match asked.and_then(reqwest::Response::error_for_status) {
            Ok(answer) => return Ok(answer.text().await?.trim().to_owned()),
            Err(error) if SystemClock.elapsed().saturating_sub(began) > PATIENCE => {
                bail!("the guest at {address} serves no {name}: {error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

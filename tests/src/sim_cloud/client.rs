//! A client of `/sim`, for whoever plays owners and fate from another process.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_drivers::cloud::sim::{AuditEntry, Made};
use reeve_protocol::{HostName, VmId};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::{Afflict, Booted, Counts, HttpFault, NewVm, OrderFault, SimVmView};

const LIMIT: Duration = Duration::from_secs(60);

/// Controls a simulated cloud. The process must have installed a default provider of cryptography for rustls.
#[derive(Debug, Clone)]
pub struct SimControl {
    base: String,
    http: reqwest::Client,
}

impl SimControl {
    /// Of the cloud at this URL.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(url: &str) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        Ok(Self { base: format!("{}/sim", url.trim_end_matches('/')), http })
    }

    async fn call<B: Serialize + Sync>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Vec<u8>> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("simulated cloud: {path}"))?;
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("simulated cloud: {path}"))?;
        if !status.is_success() {
            bail!("simulated cloud: {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body.into())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        Ok(serde_json::from_slice(&self.call(Method::GET, path, None::<&()>).await?)?)
    }

    async fn post<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<()> {
        self.call(Method::POST, path, Some(body)).await.map(|_| ())
    }

    /// Numbers.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn counts(&self) -> Result<Counts> {
        self.get("/counts").await
    }

    /// The changing calls after this place in the order of what happened, at most 10,000.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn audit_after(&self, seq: u64) -> Result<Vec<AuditEntry>> {
        self.get(&format!("/audit?after={seq}")).await
    }

    /// Every VM that ever was, gone or not.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn every_vm(&self) -> Result<Vec<SimVmView>> {
        self.all(true).await
    }

    /// Every VM that is not gone.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn living_vms(&self) -> Result<Vec<SimVmView>> {
        self.all(false).await
    }

    /// Everything that exists and that an operation made.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn made(&self) -> Result<Vec<Made>> {
        self.get("/made").await
    }

    async fn all(&self, gone: bool) -> Result<Vec<SimVmView>> {
        let mut all: Vec<SimVmView> = Vec::new();
        loop {
            let after = all.last().map(|view| format!("&after={}", view.facts.vm)).unwrap_or_default();
            let page: Vec<SimVmView> = self.get(&format!("/vms?limit=5000&gone={gone}{after}")).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// One VM; `None` if it never was.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn vm(&self, vm: VmId) -> Result<Option<SimVmView>> {
        let response = self.http.get(format!("{}/vms/{vm}", self.base)).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(response.error_for_status()?.json().await?))
    }

    /// A user makes a VM.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn boot(&self, vm: &NewVm) -> Result<VmId> {
        let made = self.call(Method::POST, "/vms", Some(vm)).await?;
        Ok(serde_json::from_slice::<Booted>(&made)?.vm)
    }

    /// The owner deletes a VM.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn delete(&self, vm: VmId) -> Result<()> {
        self.call(Method::DELETE, &format!("/vms/{vm}"), None::<&()>).await.map(|_| ())
    }

    /// The owner or fate does one of `start`, `stop`, `soft_delete`, `restore`, `lock`, `unlock`, `vanish`, `cure`.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn deed(&self, vm: VmId, deed: &str) -> Result<()> {
        self.post(&format!("/vms/{vm}/{deed}"), &()).await
    }

    /// The guest of a VM hangs or dies.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn afflict(&self, vm: VmId, ailment: Afflict) -> Result<()> {
        self.post(&format!("/vms/{vm}/hang"), &ailment).await
    }

    /// The owner sets metadata.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn set_metadata(&self, vm: VmId, metadata: &BTreeMap<String, String>) -> Result<()> {
        self.post(&format!("/vms/{vm}/metadata"), metadata).await
    }

    /// A host dies.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn host_down(&self, host: &HostName) -> Result<()> {
        self.post(&format!("/hosts/{host}/down"), &()).await
    }

    /// A host comes back.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn host_up(&self, host: &HostName) -> Result<()> {
        self.post(&format!("/hosts/{host}/up"), &()).await
    }

    /// Orders a fault of the cloud.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn fault(&self, fault: &OrderFault) -> Result<()> {
        self.post("/faults", fault).await
    }

    /// Orders a fault of the HTTP layer.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn http_fault(&self, fault: &HttpFault) -> Result<()> {
        self.post("/http_faults", fault).await
    }

    /// Takes back every fault that is on order.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn clear_faults(&self) -> Result<()> {
        self.call(Method::DELETE, "/faults", None::<&()>).await.map(|_| ())
    }

    /// So many of 1,000 calls fail by chance from now on, in ways that go by.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn random_faults(&self, per_mille: u16) -> Result<()> {
        self.call(Method::PUT, &format!("/faults/random/{per_mille}"), None::<&()>).await.map(|_| ())
    }

    /// No token is good any more.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn revoke_tokens(&self) -> Result<()> {
        self.call(Method::DELETE, "/tokens", None::<&()>).await.map(|_| ())
    }
}

//! The HTTP clients of a driver.

use std::time::Duration;

use super::OpenStackError;
use super::config::OpenStackConfig;

/// Shorter than servers keep a connection that nobody uses, so that a request seldom meets one that is being closed.
const IDLE: Duration = Duration::from_secs(4);

/// The HTTP clients of a driver.
pub(super) struct Clients {
    pub(super) asking: reqwest::Client,
    /// For content that is sent: an answer comes only after the last byte of it.
    pub(super) sending: reqwest::Client,
}

impl Clients {
    pub(super) fn new(config: &OpenStackConfig, user_agent: &str) -> Result<Self, OpenStackError> {
        let client = || {
            reqwest::Client::builder()
                .user_agent(user_agent)
                .connect_timeout(config.connect_timeout.duration())
                .pool_idle_timeout(IDLE)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let (mut asking, mut sending) = (client().read_timeout(config.timeout.duration()), client());
        if let Some(path) = &config.cacert {
            let wrong = |why: String| OpenStackError::Certificates { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|why| wrong(why.to_string()))?;
            let more = reqwest::Certificate::from_pem_bundle(&pem).map_err(|why| wrong(why.to_string()))?;
            asking = asking.tls_certs_merge(more.clone());
            sending = sending.tls_certs_merge(more);
        }
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| OpenStackError::Client(error.to_string()))
        };
        Ok(Self { asking: built(asking)?, sending: built(sending)? })
    }
}

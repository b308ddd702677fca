//! `[http]`: where browsers and monitoring are answered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::pem::PemFile;

/// `[http]`. The page that the links of notices lead to (`/extend`, with `[notify.link]`), and `/healthz` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// `ADDRESS:PORT` to answer at, for example `127.0.0.1:7470` behind a reverse proxy, or `0.0.0.0:7470` with `cert` and
    /// `key`. Required.
    pub listen: SocketAddr,
    /// The certificate that browsers are shown (PEM), first its own and then those between it and the authority, or
    /// `{ credential = "NAME" }`. Together with `key`. Read again at SIGHUP. Default none: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PemFile>,
    /// The private key of `cert` (PEM). Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PemFile>,
}

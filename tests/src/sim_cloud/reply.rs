//! Answers in each service's own words, and answers that are lost.

use std::sync::atomic::Ordering;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use reeve_ports::CloudError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::server::{Line, Shared};

/// How a service writes an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Nova.
    Compute,
    /// Cinder.
    Volume,
    /// Glance, to whoever accepts JSON.
    Image,
    Network,
    Identity,
}

/// The answer to a call, or none.
pub(super) fn reply(request: &HttpRequest, dialect: Dialect, result: Result<HttpResponse, CloudError>) -> HttpResponse {
    match result {
        Ok(response) => response,
        Err(CloudError::Unknown(_)) => {
            hang_up(request);
            HttpResponse::GatewayTimeout().finish()
        }
        Err(CloudError::NotFound(why)) => error(dialect, 404, &why),
        Err(CloudError::Refused(why)) => refused(dialect, &why),
        Err(CloudError::Unavailable(why)) => {
            let mut response = error(dialect, 503, &why);
            // One call fails, not the service: nobody has to wait.
            response.headers_mut().insert(HeaderName::from_static("retry-after"), HeaderValue::from_static("0"));
            response
        }
    }
}

/// Over quota is 403 in Nova, 413 in Cinder and 409 in Neutron.
fn refused(dialect: Dialect, why: &str) -> HttpResponse {
    let is_quota = why.contains("quota exceeded");
    match dialect {
        Dialect::Volume if is_quota => {
            let mut response = error(dialect, 413, why);
            response.headers_mut().insert(HeaderName::from_static("retry-after"), HeaderValue::from_static("0"));
            response
        }
        Dialect::Network if is_quota => error(dialect, 409, why),
        Dialect::Compute | Dialect::Volume | Dialect::Image | Dialect::Network | Dialect::Identity => {
            error(dialect, leading_status(why).unwrap_or(409), why)
        }
    }
}

/// The simulated cloud begins what it refuses with the status.
fn leading_status(why: &str) -> Option<u16> {
    why.split(' ').next()?.parse().ok().filter(|status| (400..500).contains(status))
}

/// An error as the service writes it.
pub(super) fn error(dialect: Dialect, status: u16, message: &str) -> HttpResponse {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = code.canonical_reason().unwrap_or_default();
    let body = match dialect {
        Dialect::Compute | Dialect::Volume => {
            let name = match status {
                400 => "badRequest",
                401 => "unauthorized",
                403 => "forbidden",
                404 => "itemNotFound",
                409 => "conflictingRequest",
                413 | 429 => "overLimit",
                501 => "notImplemented",
                503 => "serviceUnavailable",
                _ => "computeFault",
            };
            json!({ name: { "code": status, "message": message } })
        }
        Dialect::Image => json!({ "message": message, "code": format!("{status} {title}"), "title": title }),
        Dialect::Network => {
            let kind = if message.contains("quota exceeded") { "OverQuota" } else { title };
            json!({ "NeutronError": { "type": kind, "message": message, "detail": "" } })
        }
        Dialect::Identity => json!({ "error": { "code": status, "title": title, "message": message } }),
    };
    HttpResponse::build(code).json(body)
}

pub(super) fn ok(body: Value) -> HttpResponse {
    HttpResponse::Ok().json(body)
}

/// Cuts the connection: whatever is answered does not arrive.
pub(super) fn hang_up(request: &HttpRequest) {
    if let Some(line) = request.conn_data::<Line>() {
        // One that is cut already is what is wanted.
        let _ = rustix::net::shutdown(&line.0, rustix::net::Shutdown::Both);
    }
}

/// Around every request: its id, and the HTTP faults that are on order.
pub(super) async fn outermost(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let shared = request.app_data::<web::Data<Shared>>().cloned();
    let shared = shared.filter(|_| !request.path().starts_with("/sim/"));
    let _counted = shared.as_ref().map(|shared| Counted::new(shared));
    let fault = shared.as_ref().and_then(|shared| shared.http_faults.pick(request.method().as_str(), request.path()));
    let refused = shared.as_ref().and_then(|shared| not_offered(shared, request.headers()));
    let mut response = match (fault, refused) {
        (Some(fault), _) if !fault.after_effect => request.into_response(fault.response()),
        (None, Some(refused)) => request.into_response(refused),
        (Some(fault), _) => {
            let answered = next.call(request).await?;
            if fault.status == 0 {
                hang_up(answered.request());
            }
            answered.into_response(fault.response())
        }
        (None, None) => next.call(request).await?.map_into_boxed_body(),
    };
    let id = HeaderValue::from_str(&format!("req-{}", Uuid::new_v4()));
    if let Ok(id) = id {
        response.headers_mut().insert(HeaderName::from_static("x-openstack-request-id"), id);
    }
    Ok(response)
}

/// A request that is under way.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let under_way = shared.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        shared.crowd.fetch_max(under_way, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the request asks for a microversion that the service does not have.
fn not_offered(shared: &Shared, headers: &HeaderMap) -> Option<HttpResponse> {
    let (word, wanted) = headers.get("openstack-api-version")?.to_str().ok()?.split_once(' ')?;
    let [least, most] = match word {
        "compute" => shared.microversions.compute,
        "volume" => shared.microversions.volume,
        _ => return None,
    };
    let number = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?))
    };
    let wanted_number = number(wanted)?;
    if (number(least)?..=number(most)?).contains(&wanted_number) {
        return None;
    }
    let why = format!("Version {wanted} is not supported by the API. Minimum is {least} and maximum is {most}.");
    Some(error(Dialect::Compute, 406, &why))
}

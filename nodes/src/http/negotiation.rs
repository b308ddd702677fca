//! Whether somebody wants a page or JSON.

use actix_web::HttpRequest;
use actix_web::http::header::ACCEPT;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Html,
    /// For programs.
    Json,
}

impl Form {
    /// JSON for who asks for it and for no page; browsers take anything.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let accepts = |kind: &str| {
            let headers = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
            let mut kinds = headers.flat_map(|value| value.split(','));
            kinds.any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind))
        };
        let json = accepts("application/json") || accepts("application/problem+json");
        if json && !accepts("text/html") { Self::Json } else { Self::Html }
    }
}

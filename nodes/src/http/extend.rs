//! `/extend`: what a link would do, and doing it.
//!
//! ```text
//! token ─► LinkKey::open ─► the VM, and what may be extended ─► GET: shown
//!                                        └─► POST: lease.extend of this period ─► result, and the VM once more
//! ```
//!
//! The command has an id that is made of the link, and it names the period that the link is for. So a click that comes
//! twice, is sent again or comes by another node extends once; what was seen before it only chooses the words.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::link::{ExtendLink, LinkError, MAX_TOKEN_BYTES};
use serde::Deserialize;

use super::Desk;
use super::negotiation::Form;
use super::says::{Page, Seen};

/// The most bytes of a query or a body: a token, and what trackers of mail add to a link.
const MAX_FORM_BYTES: usize = 2 * MAX_TOKEN_BYTES;
/// How long a body may take to come.
const BODY: Duration = Duration::from_secs(10);
/// What a browser's form is sent as.
const FORM: &str = "application/x-www-form-urlencoded";

/// What is sent, in the query or as a form. Other fields are not looked at.
#[derive(Deserialize)]
struct Sent {
    token: String,
}

/// `GET`: shows, and changes nothing.
pub(super) async fn show(request: HttpRequest, desk: web::Data<Desk>) -> HttpResponse {
    let page = match token_in(request.query_string()) {
        Ok(token) => desk.shown(&token).await.unwrap_or_else(|page| page),
        Err(page) => page,
    };
    desk.write(Form::of(&request), &page)
}

/// `POST`: extends.
pub(super) async fn extend(request: HttpRequest, body: web::Payload, desk: web::Data<Desk>) -> HttpResponse {
    let page = match token_of(&request, body).await {
        Ok(token) => desk.extended(&token).await.unwrap_or_else(|page| page),
        Err(page) => page,
    };
    desk.write(Form::of(&request), &page)
}

async fn token_of(request: &HttpRequest, body: web::Payload) -> Result<String, Page> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM) {
        return Err(Page::no_form());
    }
    let body = tokio::time::timeout(BODY, body.to_bytes_limited(MAX_FORM_BYTES)).await;
    let body = body.map_err(|_| Page::too_slow())?.map_err(|_| Page::too_large())?;
    let body = body.map_err(|_| Page::bad_link(&LinkError::Malformed))?;
    token_in(std::str::from_utf8(&body).map_err(|_| Page::bad_link(&LinkError::Malformed))?)
}

#[expect(clippy::result_large_err, reason = "made once a click: a box would gain nothing")]
fn token_in(form: &str) -> Result<String, Page> {
    if form.len() > MAX_FORM_BYTES {
        return Err(Page::too_large());
    }
    // The error is not shown: it could quote the token.
    let sent = web::Query::<Sent>::from_query(form).map_err(|_| Page::bad_link(&LinkError::Malformed))?;
    Ok(sent.into_inner().token)
}

impl Desk {
    async fn shown(&self, token: &str) -> Result<Page, Page> {
        let (link, service) = self.opened(token)?;
        let seen = look(&service, &link).await?;
        Ok(Page::shown(&link, &seen, token))
    }

    async fn extended(&self, token: &str) -> Result<Page, Page> {
        let (link, service) = self.opened(token)?;
        let before = look(&service, &link).await?;
        let reply = service.ask(&Principal::local(), AdminRequest::Command(link.command())).await;
        // What is left is shown if it can be seen; the result stands anyway.
        let after = look(&service, &link).await.unwrap_or_else(|_| before.clone());
        match reply {
            AdminReply::Accepted(accepted) => Ok(Page::extended(&link, &before, &after, &accepted)),
            AdminReply::Refused(refusal) => Err(Page::not_extended(&link, &after, &refusal)),
            _ => Err(Page::unavailable("the node answers something else")),
        }
    }

    /// The link, and who is to be asked for its VM.
    #[expect(clippy::result_large_err, reason = "made once a click: a box would gain nothing")]
    fn opened(&self, token: &str) -> Result<(ExtendLink, Arc<dyn AdminService>), Page> {
        let links = self.links.as_ref().ok_or_else(Page::no_such_page)?;
        let link = links.key.open(token, self.clock.now()).map_err(|error| Page::bad_link(&error))?;
        let service = self.stage.service().ok_or_else(|| Page::unavailable("the node is being started"))?;
        Ok((link, service))
    }
}

/// The VM, for whom the link was made for. Who is no owner any more is not told about it.
async fn look(service: &Arc<dyn AdminService>, link: &ExtendLink) -> Result<Seen, Page> {
    let vm = match service.ask(&Principal::local(), AdminRequest::VmShow(link.vm)).await {
        AdminReply::Vm(vm) => *vm,
        AdminReply::Refused(refusal) => return Err(Page::refused(&refusal)),
        _ => return Err(Page::unavailable("the node answers something else")),
    };
    if vm.user.as_ref() != Some(&link.owner) && !vm.lease.delegates.contains(&link.owner) {
        return Err(Page::not_owner());
    }
    let offer = match service.ask(&Principal::local(), AdminRequest::LeaseOffer(link.vm)).await {
        AdminReply::Offer(offer) => offer,
        AdminReply::Refused(refusal) => return Err(Page::refused(&refusal)),
        _ => return Err(Page::unavailable("the node answers something else")),
    };
    Ok(Seen { vm, offer })
}

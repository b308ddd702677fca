//! Every form of failure that the services have, row by row: what it means for a look, for a change, and for the service as
//! a whole.

use super::*;

/// What an error of the port means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// What was to be gone is gone, what was looked for is not there.
    NotThere,
    /// Without effect, and so again.
    NotApplied,
    /// Without effect, and perhaps not so again.
    Retryable,
    /// Nobody knows.
    Unknown,
}

fn means(error: &CloudError) -> Means {
    match error {
        CloudError::NotFound(_) => Means::NotThere,
        CloudError::Refused(_) => Means::NotApplied,
        CloudError::Unavailable(_) => Means::Retryable,
        CloudError::Unknown(_) => Means::Unknown,
    }
}

struct Row {
    status: u16,
    rest: Option<u64>,
    body: &'static str,
    look: Means,
    change: Means,
    /// What it tells of the service, from a listing and from a single thing.
    signs: (Sign, Sign),
    /// What people are told.
    said: &'static str,
}

fn check(row: &Row) {
    let status = StatusCode::from_u16(row.status).unwrap();
    let of = |effect| failure(effect, status, row.rest.map(Duration::from_secs), row.body.as_bytes());
    assert_eq!((means(&of(Effect::Look)), means(&of(Effect::Change))), (row.look, row.change));
    assert_eq!((sign(Scope::Service, status), sign(Scope::Thing, status)), row.signs);
    let said = of(Effect::Change).to_string();
    assert!(said.ends_with(&format!(": {} {}", row.status, row.said)), "{said}");
}

const ALIVE: (Sign, Sign) = (Sign::Alive, Sign::Alive);
const DEAD: (Sign, Sign) = (Sign::Dead, Sign::None);
const SILENT: (Sign, Sign) = (Sign::None, Sign::None);

macro_rules! rows {
    ($($name:ident: $status:literal, $rest:expr, $body:expr, $look:ident, $change:ident, $signs:expr, $said:literal;)*) => {
        $(#[test]
        fn $name() {
            check(&Row { status: $status, rest: $rest, body: $body, look: Means::$look, change: Means::$change,
                signs: $signs, said: $said });
        })*
    };
}

rows! {
    keystone_refuses_a_token: 401, None, r#"{"error": {"code": 401, "title": "Unauthorized", "message": "no"}}"#,
        Retryable, Retryable, ALIVE, "no";
    keystone_forbids: 403, None, r#"{"error": {"code": 403, "title": "Forbidden", "message": "no"}}"#,
        NotApplied, NotApplied, ALIVE, "no";
    nova_finds_a_reference_bad: 400, None, r#"{"badRequest": {"code": 400, "message": "Invalid imageRef"}}"#,
        NotApplied, NotApplied, ALIVE, "Invalid imageRef";
    nova_does_not_evacuate_a_host_in_use: 400, None, r#"{"badRequest": {"code": 400, "message": "h still in use"}}"#,
        NotApplied, NotApplied, ALIVE, "h still in use";
    nova_is_over_its_quota: 403, None, r#"{"forbidden": {"code": 403, "message": "Quota exceeded for instances"}}"#,
        NotApplied, NotApplied, ALIVE, "Quota exceeded for instances";
    nova_has_no_such_server: 404, None, r#"{"itemNotFound": {"code": 404, "message": "Instance x"}}"#,
        NotThere, NotThere, ALIVE, "Instance x";
    nova_does_not_speak_the_microversion: 406, None, r#"{"errors": [{"status": 406, "title": "Not Acceptable"}]}"#,
        NotApplied, NotApplied, ALIVE, "Not Acceptable";
    nova_has_a_locked_server: 409, None, r#"{"conflictingRequest": {"code": 409, "message": "Instance x is locked"}}"#,
        NotApplied, NotApplied, ALIVE, "Instance x is locked";
    nova_has_a_server_in_another_state: 409, None,
        r#"{"conflictingRequest": {"code": 409, "message": "Cannot 'stop' instance x while it is in vm_state stopped"}}"#,
        NotApplied, NotApplied, ALIVE, "Cannot 'stop' instance x while it is in vm_state stopped";
    nova_has_a_port_in_use: 409, None, r#"{"conflictingRequest": {"code": 409, "message": "Port p is still in use."}}"#,
        NotApplied, NotApplied, ALIVE, "Port p is still in use.";
    nova_cannot_do_it_at_all: 501, None, r#"{"notImplemented": {"code": 501, "message": "no console"}}"#,
        NotApplied, NotApplied, ALIVE, "no console";
    nova_fails: 500, None, r#"{"computeFault": {"code": 500, "message": "Unexpected API Error."}}"#,
        Retryable, Unknown, DEAD, "Unexpected API Error.";
    a_limit_of_rate_says_how_long: 413, Some(5), r#"{"overLimit": {"code": 413, "message": "slow", "retryAfter": 5}}"#,
        Retryable, Retryable, ALIVE, "slow";
    a_limit_of_rate_of_today: 429, Some(5), r#"{"overLimit": {"code": 429, "message": "slow"}}"#,
        Retryable, Retryable, ALIVE, "slow";
    a_limit_of_rate_without_a_time: 429, None, "", Retryable, Retryable, ALIVE, "Too Many Requests";
    cinder_is_over_its_quota: 413, Some(0), r#"{"overLimit": {"code": 413, "message": "VolumeLimitExceeded"}}"#,
        NotApplied, NotApplied, ALIVE, "VolumeLimitExceeded";
    cinder_is_over_its_quota_behind_a_proxy: 413, None, r#"{"overLimit": {"code": 413, "message": "quota"}}"#,
        NotApplied, NotApplied, ALIVE, "quota";
    cinder_has_a_volume_in_another_state: 400, None, r#"{"badRequest": {"code": 400, "message": "Invalid volume"}}"#,
        NotApplied, NotApplied, ALIVE, "Invalid volume";
    cinder_has_no_such_volume: 404, None, r#"{"itemNotFound": {"code": 404, "message": "Volume v"}}"#,
        NotThere, NotThere, ALIVE, "Volume v";
    glance_has_a_deactivated_image: 403, None, r#"{"message": "no", "code": "403 Forbidden", "title": "Forbidden"}"#,
        NotApplied, NotApplied, ALIVE, "no";
    glance_has_no_such_image: 404, None, r#"{"message": "No image", "code": "404 Not Found", "title": "Not Found"}"#,
        NotThere, NotThere, ALIVE, "No image";
    glance_says_so_in_html: 404, None, "<html><head><title>404 Not Found</title></head></html>",
        NotThere, NotThere, ALIVE, "Not Found";
    glance_has_an_image_in_use: 409, None, r#"{"message": "in use", "code": "409 Conflict", "title": "Conflict"}"#,
        NotApplied, NotApplied, ALIVE, "in use";
    glance_has_less_than_the_range: 416, None, "", NotApplied, NotApplied, ALIVE, "Range Not Satisfiable";
    neutron_is_over_its_quota: 409, None,
        r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded", "detail": ""}}"#,
        NotApplied, NotApplied, ALIVE, "Quota exceeded";
    neutron_has_no_such_address: 404, None,
        r#"{"NeutronError": {"type": "FloatingIPNotFound", "message": "gone", "detail": ""}}"#,
        NotThere, NotThere, ALIVE, "gone";
    neutron_has_another_revision: 412, None,
        r#"{"NeutronError": {"type": "RevisionNumberConstraintFailed", "message": "old", "detail": ""}}"#,
        NotApplied, NotApplied, ALIVE, "old";
    what_is_gone_for_good: 410, None, "", NotThere, NotThere, ALIVE, "Gone";
    a_list_of_versions: 300, None, "{}", Retryable, Unknown, SILENT, "Multiple Choices";
    a_redirect: 302, None, "", Retryable, Unknown, SILENT, "Found";
    a_request_that_came_too_slowly: 408, None, "", Retryable, Unknown, SILENT, "Request Timeout";
    a_proxy_without_a_service: 502, None, "<html>", Retryable, Unknown, (Sign::Dead, Sign::Dead), "Bad Gateway";
    a_service_that_is_away: 503, None, "", Retryable, Unknown, DEAD, "Service Unavailable";
    a_service_that_says_when_it_is_back: 503, Some(30), "", Retryable, Retryable, DEAD, "Service Unavailable";
    a_proxy_that_waited_too_long: 504, None, "", Retryable, Unknown, DEAD, "Gateway Timeout";
    a_status_that_nobody_knows: 599, None, "", Retryable, Unknown, DEAD, "no reason";
}

#[test]
fn the_message_is_bounded_and_has_no_line_breaks() {
    let said = |body: &str| failure(Effect::Look, StatusCode::CONFLICT, None, body.as_bytes()).to_string();
    assert_eq!(said(r#"{"message": "it is\nlocked"}"#), "refused: 409 it is locked");
    assert!(said(&format!(r#"{{"message": "{}"}}"#, "x".repeat(10_000))).len() < 400);
}

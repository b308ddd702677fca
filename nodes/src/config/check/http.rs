//! What `[http]` needs.

use crate::config::http::HttpSection;

/// Checks the section by itself.
pub(super) fn check(section: &HttpSection, complain: &mut impl FnMut(&str, String)) {
    if section.listen.port() == 0 {
        complain("http.listen", "has port 0: nobody would know where to ask".into());
    }
    let (cert, key) = (section.cert.is_some(), section.key.is_some());
    for (here, has, other, has_other) in [("cert", cert, "key", key), ("key", key, "cert", cert)] {
        if has && !has_other {
            complain(&format!("http.{here}"), format!("is set, but http.{other} is not: expected both or neither"));
        }
    }
}

//! What a node says in the handshake's own words when it does not accept a certificate.

use std::io;

use reeve_protocol::command::{Refusal, RefusalCode};
use rustls::AlertDescription;

/// The refusal in an error of a TLS stream, if it is one. With TLS 1.3 it comes after the caller's handshake is done.
pub(in crate::rpc) fn refusal(error: &io::Error) -> Option<Refusal> {
    let error = error.get_ref()?.downcast_ref()?;
    let rustls::Error::AlertReceived(alert) = error else { return None };
    let why = match alert {
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "another authority signed it",
        AlertDescription::CertificateRequired => "there is none",
        AlertDescription::UnsupportedCertificate => "it may not be used by a client (extended key usage clientAuth)",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "the node's log says why",
        // Theirs, and open ended; not about certificates.
        _ => return None,
    };
    Some(Refusal::new(RefusalCode::Denied, format!("it does not accept this certificate: {why}")))
}

//! What can go wrong between this node and etcd, sorted by the one question that matters: was it carried out?

use std::time::Duration;

use etcd_client::Error;
use reeve_ports::coordination::CoordinationError;

/// Why a call of etcd failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// It was not carried out. Later it may be.
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
    /// It may have been carried out, or may still be.
    #[error("no answer from etcd: {0}")]
    Unknown(String),
    /// It was not and will not be carried out.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// The configuration cannot work, or does not fit the cluster.
    #[error("{0}")]
    Config(String),
}

/// The numbers of gRPC's status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What etcd says when it did not even begin, though it gives the code of a call that may have been carried out.
const NOT_BEGUN: [&str; 3] = ["etcdserver: no leader", "etcdserver: not capable", "etcdserver: unhealthy cluster"];

impl EtcdError {
    pub(crate) fn timed_out(patience: Duration) -> Self {
        Self::Unknown(format!("none within {patience:?}"))
    }

    /// Whether the lease that the call named is gone.
    pub(crate) fn is_lease_gone(&self) -> bool {
        match self {
            Self::Refused(why) => why.contains("lease not found"),
            Self::Unavailable(_) | Self::Unknown(_) | Self::Config(_) => false,
        }
    }

    /// Whether the lease that a grant named is there already.
    pub(crate) fn is_lease_there(&self) -> bool {
        match self {
            Self::Refused(why) => why.contains("lease already exists"),
            Self::Unavailable(_) | Self::Unknown(_) | Self::Config(_) => false,
        }
    }

    /// Whether another endpoint may do better.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) => true,
            Self::Refused(_) | Self::Config(_) => false,
        }
    }
}

impl From<Error> for EtcdError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::GRpcStatus(status) => of_status(i32::from(status.code()), status.message()),
            Error::TransportError(_) | Error::IoError(_) => Self::Unknown(text),
            Error::LeaseKeepAliveError(why) if why.contains("lease not found") => Self::Refused(text),
            Error::LeaseKeepAliveError(_) | Error::WatchError(_) | Error::ElectError(_) | Error::Internal(_) => {
                Self::Unknown(text)
            }
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::Utf8Error(_)
            | Error::InvalidMetadataValue(_)
            | Error::EndpointError(_)
            | Error::EndpointsNotManaged => Self::Config(text),
        }
    }
}

fn of_status(found: i32, message: &str) -> EtcdError {
    let text = message.to_owned();
    match found {
        code::UNAVAILABLE if NOT_BEGUN.iter().any(|known| message.contains(known)) => EtcdError::Unavailable(text),
        // The transport's own words for a connection that was never made.
        code::UNAVAILABLE if message.contains("tcp connect error") || message.contains("dns error") => {
            EtcdError::Unavailable(text)
        }
        // No room, or too many requests: refused before it begins, and it passes.
        code::RESOURCE_EXHAUSTED => EtcdError::Unavailable(text),
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::PERMISSION_DENIED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::UNIMPLEMENTED
        | code::UNAUTHENTICATED => EtcdError::Refused(text),
        _ => EtcdError::Unknown(text),
    }
}

impl From<EtcdError> for CoordinationError {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Unavailable(_) | EtcdError::Unknown(_) => Self::Unavailable(error.to_string()),
            EtcdError::Refused(_) | EtcdError::Config(_) => Self::Refused(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_may_have_been_carried_out_is_never_called_unavailable() {
        for message in ["etcdserver: request timed out", "etcdserver: leader changed", "transport error", ""] {
            assert!(matches!(of_status(code::UNAVAILABLE, message), EtcdError::Unknown(_)), "{message}");
        }
        assert!(matches!(of_status(2, "h2 protocol error: broken pipe"), EtcdError::Unknown(_)));
        assert!(matches!(of_status(1, "Timeout expired"), EtcdError::Unknown(_)));
    }

    #[test]
    fn what_never_began_is_unavailable() {
        for message in ["etcdserver: no leader", "tcp connect error: Connection refused (os error 111)"] {
            assert!(matches!(of_status(code::UNAVAILABLE, message), EtcdError::Unavailable(_)), "{message}");
        }
    }

    #[test]
    fn a_lease_that_is_gone_is_told_apart() {
        assert!(of_status(code::NOT_FOUND, "etcdserver: requested lease not found").is_lease_gone());
        assert!(!of_status(code::PERMISSION_DENIED, "etcdserver: permission denied").is_lease_gone());
        assert!(EtcdError::from(Error::LeaseKeepAliveError("lease not found".into())).is_lease_gone());
        let there = of_status(code::FAILED_PRECONDITION, "etcdserver: lease already exists");
        assert!(there.is_lease_there() && !there.is_lease_gone());
    }
}

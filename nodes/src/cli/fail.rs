//! How a command fails: what, why, and the exit status.

use std::fmt;
use std::io;
use std::process::ExitCode;

use reeve_cluster::rpc::RpcError;
use reeve_protocol::command::{Refusal, RefusalCode};
use serde_json::{Value, json};

/// What kind of failure, by its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Nobody reads the output any more: no failure, and nothing to say.
    BrokenPipe = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The request makes no sense.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// It is not allowed.
    Denied = 4,
    /// A state or a lock is in the way.
    Conflict = 5,
    /// Nobody answers, or not now.
    Unavailable = 6,
    /// No answer in time.
    TimedOut = 7,
}

impl Code {
    /// The name in JSON.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BrokenPipe => "broken_pipe",
            Self::Failed => "failed",
            Self::Usage => "invalid",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    /// Its kind.
    pub(super) code: Code,
    /// What failed.
    pub(super) what: String,
    /// Why, if that is known beside it.
    pub(super) why: Option<String>,
    /// More for programs; `null` if nothing.
    pub(super) details: Value,
}

impl Failure {
    /// A failure of a kind.
    #[must_use]
    pub(super) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, details: Value::Null }
    }

    /// With the reason.
    #[must_use]
    pub(super) fn because(self, why: impl fmt::Display) -> Self {
        Self { why: Some(why.to_string()), ..self }
    }

    /// With more for programs.
    #[must_use]
    pub(super) fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// A request that the node refused.
    #[must_use]
    pub(super) fn refused(refusal: &Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::Denied => Code::Denied,
            RefusalCode::NotFound => Code::NotFound,
            RefusalCode::Conflict => Code::Conflict,
            RefusalCode::Invalid => Code::Usage,
            RefusalCode::Unavailable => Code::Unavailable,
        };
        Self::new(code, refusal.message.clone())
    }

    /// As JSON: `{"error":{"code","message","details"}}`.
    #[must_use]
    pub(super) fn json(&self) -> Value {
        json!({"error": {"code": self.code.name(), "message": self.to_string(), "details": self.details}})
    }

    /// The exit status.
    #[must_use]
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} ({why})", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Code::BrokenPipe, "nobody reads the output"),
            _ => Self::new(Code::Failed, "cannot write the output").because(error),
        }
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match &error {
            RpcError::Unreachable { endpoint, why } => {
                Self::new(Code::Unavailable, format!("no node answers at {endpoint}")).because(why)
            }
            RpcError::Files(why) => Self::new(Code::Usage, "the TLS files cannot be used").because(why),
            RpcError::Untrusted { endpoint, why } => {
                Self::new(Code::Unavailable, format!("{endpoint} is not trusted")).because(why)
            }
            RpcError::TimedOut(after) => {
                let what = format!("no answer within {}", humantime::format_duration(*after));
                Self::new(Code::TimedOut, what).because("it may have been carried out nevertheless")
            }
            RpcError::Closed(why) => Self::new(Code::Unavailable, "the node went away").because(why),
            RpcError::Refused(refusal) => Self::refused(refusal),
            RpcError::Request(why) => Self::new(Code::Usage, "the request is too large").because(why),
        }
    }
}

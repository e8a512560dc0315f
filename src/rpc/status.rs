//! Domain errors as gRPC statuses: a code, a reason (docs/errors.md) and a text.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::ops::Error;
use crate::ops::error::Reason;

/// The domain of every `google.rpc.ErrorInfo`.
pub(super) const DOMAIN: &str = "keyward";

pub(super) fn code(reason: Reason) -> Code {
    match reason {
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::ArgumentInvalid
        | Reason::CiphertextMalformed
        | Reason::CiphertextRefused
        | Reason::ContextInvalid
        | Reason::NameInvalid
        | Reason::TooLarge => Code::InvalidArgument,
        Reason::Conflict => Code::Aborted,
        Reason::AmbiguousCaller
        | Reason::Frozen
        | Reason::PermissionDenied
        | Reason::StaffLevel
        | Reason::StaffRequired
        | Reason::UnknownCaller => Code::PermissionDenied,
        Reason::HsmBusy
        | Reason::LoginLimit
        | Reason::RefusedTooOften
        | Reason::StoreFull
        | Reason::TooMuchInFlight => Code::ResourceExhausted,
        Reason::CallerStalled => Code::DeadlineExceeded,
        Reason::MethodUnknown => Code::Unimplemented,
        Reason::AssertionRefused | Reason::LoginFailed | Reason::ProofRefused | Reason::ProofRequired => {
            Code::Unauthenticated
        }
        Reason::AuditUnavailable
        | Reason::HsmUnavailable
        | Reason::NotReady
        | Reason::RightsChanged
        | Reason::ShuttingDown
        | Reason::StoreUnavailable => Code::Unavailable,
        Reason::Internal => Code::Internal,
        Reason::AdministratorRequired
        | Reason::ApprovalRefused
        | Reason::CeremonyRequired
        | Reason::ClockSuspect
        | Reason::ConfigurationRefused
        | Reason::Destroyed
        | Reason::DestructionScheduled
        | Reason::EnrolmentRefused
        | Reason::IndexFieldLimit
        | Reason::KeyDisabled
        | Reason::KeyExhausted
        | Reason::NotAllowed
        | Reason::VersionDisabled
        | Reason::VersionTooOld => Code::FailedPrecondition,
        Reason::NotFound => Code::NotFound,
        Reason::AuditTampered | Reason::StoreTampered => Code::DataLoss,
    }
}

pub(super) fn status(error: &Error) -> Status {
    let reason = error.reason();
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(reason), error.told(), details)
}

/// The same as a message, for items of batches and sessions.
pub(super) fn item_status(error: &Error) -> tonic_types::Status {
    use tonic_types::pb;
    let reason = error.reason();
    let info = pb::ErrorInfo {
        reason: reason.as_str().to_owned(),
        domain: DOMAIN.to_owned(),
        metadata: HashMap::new(),
    };
    let mut details = vec![any("ErrorInfo", &info)];
    if let Some(delay) = error.retry_after() {
        // Retry hints are seconds at most.
        let retry_delay = prost_types::Duration::try_from(delay).ok();
        details.push(any("RetryInfo", &pb::RetryInfo { retry_delay }));
    }
    tonic_types::Status { code: i32::from(code(reason)), message: error.told(), details }
}

fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    let type_url = format!("type.googleapis.com/google.rpc.{name}");
    prost_types::Any { type_url, value: message.encode_to_vec() }
}

/// A status as a message, its details kept.
pub(super) fn as_message(status: &Status) -> tonic_types::Status {
    // The details of a status made here are the encoded message itself.
    prost::Message::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented_with_its_code() {
        let table = include_str!("../../docs/errors.md");
        for reason in Reason::ALL {
            let row = format!("| `{}` | {:?} |", reason.as_str(), code(reason));
            assert!(table.contains(&row), "docs/errors.md has no row {row}");
        }
    }

    #[test]
    fn a_status_carries_reason_and_retry_hint() {
        let status = status(&Error::Conflict);
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(details.error_info().unwrap().reason, "CONFLICT");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }
}

//! Why a call failed, in the words of docs/errors.md.

use std::time::Duration;

use crate::access::Denied;
use crate::audit::refusals::TOO_OFTEN;
use crate::audit::{AuditError, TreeError};
use crate::envelope::{ContextError, NormalizeError, OpenError, ParseError, SealError};
use crate::hsm::HsmError;
use crate::hsm::process::TaskError;
use crate::id::{
    CeremonyId, CustodianId, Epoch, FieldId, KekVersion, KeyName, NameError, RotationName, TenantName,
    VersionName,
};
use crate::keyring::ceremony::ApprovalError;
use crate::keyring::roster::RosterError;
use crate::keyring::state::KeyState;
use crate::store::StoreError;
use crate::store::kv::KvError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field of the request is not what it must be.
    #[error("{0}")]
    Argument(String),
    /// The encryption context is not one.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The value cannot be normalised for a blind index.
    #[error(transparent)]
    Normalize(#[from] NormalizeError),
    /// The bytes are not a ciphertext of a known format.
    #[error(transparent)]
    Malformed(ParseError),
    /// The ciphertext does not belong to this key and context, or was changed.
    #[error("the ciphertext cannot be decrypted under this key and context")]
    Refused,
    /// A plaintext, ciphertext or batch is over a limit.
    #[error("{what} has {size} {unit}; the limit is {limit} (limits.{option} in the configuration)")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// In what.
        unit: &'static str,
        /// How large it may be.
        limit: usize,
        /// The option that says so.
        option: &'static str,
    },
    /// A batch has more parts than it may, counted before anything is made of them.
    #[error("{what} has more than {limit} {unit} (limits.{option} in the configuration)")]
    TooMany {
        /// What has.
        what: &'static str,
        /// Of what.
        unit: &'static str,
        /// How many it may have.
        limit: usize,
        /// The option that says so.
        option: &'static str,
    },
    /// A message is longer than its method takes, or has more parts.
    #[error("the request is too large: {0}")]
    MessageTooLarge(String),
    /// The calls of a connection or principal hold all the bytes that they may.
    #[error(
        "the calls of this connection or principal hold all the bytes that they may (limits.in_flight_per_connection, limits.in_flight_per_principal in the configuration); let some end first"
    )]
    TooMuchInFlight,
    /// A caller did not read its answers.
    #[error("the answers were not read for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// A configuration cannot be put in force.
    #[error("the configuration was not taken up, and the one before stays in force: {}", .0.join("; "))]
    ConfigurationRefused(Vec<String>),
    /// The API has no such method.
    #[error("the daemon has no such method; its version may be another than the caller's")]
    NoMethod,
    /// There is no such tenant.
    #[error("{0} does not exist")]
    NoTenant(TenantName),
    /// There is no such key.
    #[error("{0} does not exist")]
    NoKey(KeyName),
    /// There is no such key version.
    #[error("{0} does not exist")]
    NoVersion(VersionName),
    /// There is no such rotation.
    #[error("{0} does not exist")]
    NoRotation(RotationName),
    /// There is no such ceremony.
    #[error("ceremonies/{0} does not exist")]
    NoCeremony(CeremonyId),
    /// There is no such account.
    #[error("{0} does not exist")]
    NoAccount(crate::id::AccountName),
    /// A login failed. The caller is told that, and nothing more.
    #[error("login of {whose}: {why}")]
    LoginFailed {
        /// The account, and where from.
        whose: String,
        /// Why.
        why: super::login::Refusal,
    },
    /// An application shows an assertion that is good for nothing.
    #[error("{0}")]
    Assertion(super::login::staff::AssertionFlaw),
    /// An application shows a proof of possession that proves nothing.
    #[error("{0}")]
    Proof(super::login::proof::ProofFlaw),
    /// The class of the key takes a proof of possession.
    #[error("{0} takes a proof of possession by the session's key with each call (docs/login.md)")]
    ProofRequired(KeyName),
    /// An application works with the key for a staff member only.
    #[error("{0} is for staff: show the assertion of the staff member whom you act for (docs/login.md)")]
    StaffRequired(KeyName),
    /// The staff member may not.
    #[error("{account} has level {}, and this takes level {} with data of class {}", .has.get(), .needs.get(), .class.number())]
    StaffLevel {
        /// Who.
        account: crate::id::AccountName,
        /// Their level.
        has: crate::keyring::account::Level,
        /// The level that the class takes.
        needs: crate::keyring::account::Level,
        /// The key's class.
        class: crate::keyring::state::DataClass,
    },
    /// Too many logins from one source are open.
    #[error("too many logins from there are open; try again in a while")]
    LoginLimit(Duration),
    /// A token cannot be put on record.
    #[error("{0}")]
    EnrolmentRefused(String),
    /// There are administrators: one of them approves it.
    #[error("there are administrators, so one of them approves it: `keyward admin propose {0} --reason WHY`")]
    AdministratorRequired(String),
    /// An administrator's approval does not count.
    #[error("{0}")]
    ActRefused(String),
    /// An approval does not count.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// A signature is not the custodian's over this ceremony.
    #[error(
        "the signature of {0} does not verify: it must be made over this ceremony, with the key that the roster names"
    )]
    Signature(CustodianId),
    /// Custodians and quorum make no roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The root is founded: custodians decide.
    #[error("the root is founded, so custodians decide: `keyward ceremony propose {0} --reason WHY`")]
    CeremonyRequired(String),
    /// There is no index key for the field yet.
    #[error("{0} has no blind index for field {1}; computing one creates it")]
    NoField(KeyName, FieldId),
    /// The configuration has no such principal.
    #[error("principals/{0} is not in the configuration")]
    NoPrincipal(crate::id::PrincipalId),
    /// The name is taken.
    #[error("{0} exists already; names are never reused")]
    Exists(String),
    /// The tenant or key is frozen.
    #[error("{0} is frozen; an operator must unfreeze it")]
    Frozen(String),
    /// The state of the key forbids it.
    #[error("{0} is {1}")]
    KeyState(KeyName, KeyState),
    /// The state of the key version forbids it.
    #[error("{0} is {1}")]
    VersionState(VersionName, KeyState),
    /// The tenant is destroyed, or about to be.
    #[error("{0} is {1}")]
    TenantState(TenantName, KeyState),
    /// The version is below the minimum version of its key.
    #[error("{0} is below the minimum version {1} of its key")]
    BelowMinimum(VersionName, Epoch),
    /// A field more than a key may have.
    #[error("{0} has {1} index fields and may have no more (limits.index_fields in the configuration)")]
    FieldLimit(KeyName, usize),
    /// The caller is refused all the time, and too many of its calls wait for the record that counts them.
    #[error("too many calls of this principal are refused; the audit log says which, and why")]
    RefusedTooOften,
    /// The clock is not believed, so nothing is done by date.
    #[error("{0}; see `keyward clock accept --reason WHY`")]
    ClockSuspect(String),
    /// The change is not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// A KEK version sealed as many keys as it safely may.
    #[error("KEK version {1} of {0} is used up; rotate the tenant")]
    Exhausted(TenantName, KekVersion),
    /// Somebody else changed the same thing.
    #[error("somebody else changed it at the same moment; try again")]
    Conflict,
    /// The HSM did not serve.
    #[error(transparent)]
    Hsm(HsmError),
    /// A root key could not be made or destroyed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The store did not serve.
    #[error(transparent)]
    Store(StoreError),
    /// The audit log cannot be written, so nothing is served.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The audit log has no such record.
    #[error("the audit log has no record {0}")]
    NoRecord(u64),
    /// What stands beside the audit log does not fit it.
    #[error(transparent)]
    Tree(TreeError),
    /// The newest checkpoint was not signed by this installation.
    #[error(
        "the newest checkpoint of the audit log, over {size} records, is not this installation's: {reason}; put the newest copy of the audit directory in its place, and keep this one as evidence"
    )]
    Forged {
        /// How many records it covers.
        size: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The daemon has not opened its store yet.
    #[error("the daemon is not ready: {0}")]
    NotReady(String),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The operating system has no randomness.
    #[error("the operating system's random generator failed: {0}")]
    Entropy(#[from] getrandom::Error),
    /// A bug, or a module or record that breaks a promise.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The reasons that clients see, one for each row of docs/errors.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reason {
    AdministratorRequired,
    AlreadyExists,
    AmbiguousCaller,
    ApprovalRefused,
    ArgumentInvalid,
    AssertionRefused,
    AuditTampered,
    AuditUnavailable,
    CallerStalled,
    CeremonyRequired,
    CiphertextMalformed,
    CiphertextRefused,
    ClockSuspect,
    ConfigurationRefused,
    Conflict,
    ContextInvalid,
    Destroyed,
    DestructionScheduled,
    EnrolmentRefused,
    Frozen,
    HsmBusy,
    HsmUnavailable,
    IndexFieldLimit,
    Internal,
    KeyDisabled,
    KeyExhausted,
    LoginFailed,
    LoginLimit,
    MethodUnknown,
    NameInvalid,
    NotAllowed,
    NotFound,
    NotReady,
    PermissionDenied,
    ProofRefused,
    ProofRequired,
    RefusedTooOften,
    RightsChanged,
    ShuttingDown,
    StaffLevel,
    StaffRequired,
    StoreFull,
    StoreTampered,
    StoreUnavailable,
    TooLarge,
    TooMuchInFlight,
    UnknownCaller,
    VersionDisabled,
    VersionTooOld,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 49] = [
        Self::AdministratorRequired,
        Self::AlreadyExists,
        Self::AmbiguousCaller,
        Self::ApprovalRefused,
        Self::ArgumentInvalid,
        Self::AssertionRefused,
        Self::AuditTampered,
        Self::AuditUnavailable,
        Self::CallerStalled,
        Self::CeremonyRequired,
        Self::CiphertextMalformed,
        Self::CiphertextRefused,
        Self::ClockSuspect,
        Self::ConfigurationRefused,
        Self::Conflict,
        Self::ContextInvalid,
        Self::Destroyed,
        Self::DestructionScheduled,
        Self::EnrolmentRefused,
        Self::Frozen,
        Self::HsmBusy,
        Self::HsmUnavailable,
        Self::IndexFieldLimit,
        Self::Internal,
        Self::KeyDisabled,
        Self::KeyExhausted,
        Self::LoginFailed,
        Self::LoginLimit,
        Self::MethodUnknown,
        Self::NameInvalid,
        Self::NotAllowed,
        Self::NotFound,
        Self::NotReady,
        Self::PermissionDenied,
        Self::ProofRefused,
        Self::ProofRequired,
        Self::RefusedTooOften,
        Self::RightsChanged,
        Self::ShuttingDown,
        Self::StaffLevel,
        Self::StaffRequired,
        Self::StoreFull,
        Self::StoreTampered,
        Self::StoreUnavailable,
        Self::TooLarge,
        Self::TooMuchInFlight,
        Self::UnknownCaller,
        Self::VersionDisabled,
        Self::VersionTooOld,
    ];

    /// The word in ErrorInfo and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdministratorRequired => "ADMINISTRATOR_REQUIRED",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::AmbiguousCaller => "AMBIGUOUS_CALLER",
            Self::ApprovalRefused => "APPROVAL_REFUSED",
            Self::ArgumentInvalid => "ARGUMENT_INVALID",
            Self::AssertionRefused => "ASSERTION_REFUSED",
            Self::AuditTampered => "AUDIT_TAMPERED",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::CallerStalled => "CALLER_STALLED",
            Self::CeremonyRequired => "CEREMONY_REQUIRED",
            Self::CiphertextMalformed => "CIPHERTEXT_MALFORMED",
            Self::CiphertextRefused => "CIPHERTEXT_REFUSED",
            Self::ClockSuspect => "CLOCK_SUSPECT",
            Self::ConfigurationRefused => "CONFIGURATION_REFUSED",
            Self::Conflict => "CONFLICT",
            Self::ContextInvalid => "CONTEXT_INVALID",
            Self::Destroyed => "DESTROYED",
            Self::DestructionScheduled => "DESTRUCTION_SCHEDULED",
            Self::EnrolmentRefused => "ENROLMENT_REFUSED",
            Self::Frozen => "FROZEN",
            Self::HsmBusy => "HSM_BUSY",
            Self::HsmUnavailable => "HSM_UNAVAILABLE",
            Self::IndexFieldLimit => "INDEX_FIELD_LIMIT",
            Self::Internal => "INTERNAL",
            Self::KeyDisabled => "KEY_DISABLED",
            Self::KeyExhausted => "KEY_EXHAUSTED",
            Self::LoginFailed => "LOGIN_FAILED",
            Self::LoginLimit => "LOGIN_LIMIT",
            Self::MethodUnknown => "METHOD_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotFound => "NOT_FOUND",
            Self::NotReady => "NOT_READY",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ProofRefused => "PROOF_REFUSED",
            Self::ProofRequired => "PROOF_REQUIRED",
            Self::RefusedTooOften => TOO_OFTEN,
            Self::RightsChanged => "RIGHTS_CHANGED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::StaffLevel => "STAFF_LEVEL",
            Self::StaffRequired => "STAFF_REQUIRED",
            Self::StoreFull => "STORE_FULL",
            Self::StoreTampered => "STORE_TAMPERED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::TooLarge => "TOO_LARGE",
            Self::TooMuchInFlight => "TOO_MUCH_IN_FLIGHT",
            Self::UnknownCaller => "UNKNOWN_CALLER",
            Self::VersionDisabled => "VERSION_DISABLED",
            Self::VersionTooOld => "VERSION_TOO_OLD",
        }
    }
}

impl Error {
    /// Whether the caller brought it about: it asked for what it may not, or cannot, have. The daemon's own failures
    /// are none, so that nobody waits for more than their record.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self.reason(),
            Reason::AuditTampered
                | Reason::AuditUnavailable
                | Reason::HsmBusy
                | Reason::HsmUnavailable
                | Reason::Internal
                | Reason::NotReady
                | Reason::ShuttingDown
                | Reason::StoreFull
                | Reason::StoreTampered
                | Reason::StoreUnavailable
        )
    }

    /// The reason that clients see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Denied(Denied::Unknown { .. }) => Reason::UnknownCaller,
            Self::Denied(Denied::Ambiguous { .. }) => Reason::AmbiguousCaller,
            Self::Denied(Denied::Frozen(_)) | Self::Frozen(_) => Reason::Frozen,
            Self::Denied(Denied::Withdrawn(_)) => Reason::RightsChanged,
            Self::Denied(_) => Reason::PermissionDenied,
            Self::Name(_) => Reason::NameInvalid,
            Self::Argument(_) | Self::Normalize(_) | Self::Roster(_) => Reason::ArgumentInvalid,
            Self::Approval(_) | Self::Signature(_) => Reason::ApprovalRefused,
            Self::CeremonyRequired(_) => Reason::CeremonyRequired,
            Self::Context(_) => Reason::ContextInvalid,
            Self::Malformed(_) => Reason::CiphertextMalformed,
            Self::Refused => Reason::CiphertextRefused,
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::MessageTooLarge(_) => Reason::TooLarge,
            Self::TooMuchInFlight => Reason::TooMuchInFlight,
            Self::Stalled(_) => Reason::CallerStalled,
            Self::ConfigurationRefused(_) => Reason::ConfigurationRefused,
            Self::NoMethod => Reason::MethodUnknown,
            Self::NoTenant(_) | Self::NoKey(_) | Self::NoVersion(_) => Reason::NotFound,
            Self::NoRotation(_) | Self::NoField(..) | Self::NoPrincipal(_) => Reason::NotFound,
            Self::NoCeremony(_) | Self::NoAccount(_) => Reason::NotFound,
            Self::LoginFailed { .. } => Reason::LoginFailed,
            Self::AdministratorRequired(_) => Reason::AdministratorRequired,
            Self::ActRefused(_) => Reason::ApprovalRefused,
            Self::Assertion(_) => Reason::AssertionRefused,
            Self::Proof(_) => Reason::ProofRefused,
            Self::ProofRequired(_) => Reason::ProofRequired,
            Self::StaffRequired(_) => Reason::StaffRequired,
            Self::StaffLevel { .. } => Reason::StaffLevel,
            Self::LoginLimit(_) => Reason::LoginLimit,
            Self::EnrolmentRefused(_) => Reason::EnrolmentRefused,
            Self::NoRecord(_) => Reason::NotFound,
            Self::Tree(TreeError::Io { .. }) => Reason::AuditUnavailable,
            Self::Tree(_) | Self::Forged { .. } => Reason::AuditTampered,
            Self::Exists(_) => Reason::AlreadyExists,
            Self::TenantState(_, state) | Self::KeyState(_, state) => of_state(*state, Reason::KeyDisabled),
            Self::VersionState(_, state) => of_state(*state, Reason::VersionDisabled),
            Self::BelowMinimum(..) => Reason::VersionTooOld,
            Self::FieldLimit(..) => Reason::IndexFieldLimit,
            Self::RefusedTooOften => Reason::RefusedTooOften,
            Self::ClockSuspect(_) => Reason::ClockSuspect,
            Self::NotAllowed(_) => Reason::NotAllowed,
            Self::Exhausted(..) => Reason::KeyExhausted,
            Self::Conflict => Reason::Conflict,
            Self::Hsm(HsmError::Busy { .. }) => Reason::HsmBusy,
            Self::Hsm(HsmError::Unavailable(_) | HsmError::UnknownRoot(_)) => Reason::HsmUnavailable,
            Self::Task(_) => Reason::HsmUnavailable,
            Self::Hsm(HsmError::Integrity) => Reason::StoreTampered,
            Self::Hsm(HsmError::Misbehaved(_)) => Reason::Internal,
            Self::Store(error) => error.into(),
            Self::Audit(_) => Reason::AuditUnavailable,
            Self::NotReady(_) => Reason::NotReady,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Entropy(_) | Self::Internal(_) => Reason::Internal,
        }
    }

    /// What the caller is told. The audit log is told more of a login that failed.
    pub fn told(&self) -> String {
        match self {
            Self::LoginFailed { .. } => {
                "the login failed: begin again, with the right token and a new one-time password".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// How long to wait before another try, where another try can help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Hsm(HsmError::Busy { retry_after }) => Some(*retry_after),
            Self::Hsm(HsmError::Unavailable(_)) | Self::NotReady(_) => Some(Duration::from_secs(1)),
            Self::Store(error) if error.is_full() => Some(Duration::from_secs(1)),
            Self::Audit(_) => Some(Duration::from_secs(1)),
            Self::LoginLimit(pause) => Some(*pause),
            // The socket of a service manager takes the next connection while the daemon restarts.
            Self::TooMuchInFlight | Self::ShuttingDown => Some(Duration::from_millis(100)),
            Self::Conflict | Self::Denied(Denied::Withdrawn(_)) => Some(Duration::from_millis(20)),
            _ => None,
        }
    }
}

/// The reason of a state that forbids something; `usual` where it can be changed again.
fn of_state(state: KeyState, usual: Reason) -> Reason {
    match state {
        KeyState::Destroyed => Reason::Destroyed,
        KeyState::Scheduled => Reason::DestructionScheduled,
        _ => usual,
    }
}

impl From<&StoreError> for Reason {
    fn from(error: &StoreError) -> Self {
        match error {
            full if full.is_full() => Self::StoreFull,
            StoreError::Kv(KvError::Damaged(_) | KvError::Foreign(_)) => Self::StoreTampered,
            StoreError::Tampered { .. }
            | StoreError::Incomplete { .. }
            | StoreError::NotMigrated { .. }
            | StoreError::Erased { .. } => Self::StoreTampered,
            _ => Self::StoreUnavailable,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } | StoreError::Changed { .. } => Self::Conflict,
            other => Self::Store(other),
        }
    }
}

impl From<TreeError> for Error {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Beyond(sequence) => Self::NoRecord(sequence),
            other => Self::Tree(other),
        }
    }
}

impl From<HsmError> for Error {
    fn from(error: HsmError) -> Self {
        Self::Hsm(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Malformed(error) => Self::Malformed(error),
            OpenError::Refused => Self::Refused,
        }
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Self::Malformed(error)
    }
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        Self::Internal(error.to_string())
    }
}

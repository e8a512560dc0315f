//! Permissions, and the proof that one was granted.

use std::sync::Arc;

use super::caller::Principal;
use super::policy::Denied;
use super::staff::Staff;
use crate::config::value::Operation;
use crate::id::{
    AccountName, CeremonyId, DestroyTarget, Destroyable, Freezable, Installation, KeyName, LoginId, Origin,
    PrincipalId, ProposalId, RecordNumber, RootId, TenantName, TicketId,
};

/// Something that can be permitted on a resource.
pub trait Permission: Send + Sync + 'static {
    /// What it is permitted on.
    type Resource: Resource;
    /// What a caller needs for it.
    const NEEDS: Needs;
}

/// Something that a permission is about.
pub trait Resource: Send + Sync {
    /// The key that grants are matched with, for operations on data.
    fn key(&self) -> Option<&KeyName> {
        None
    }
}

impl Resource for KeyName {
    fn key(&self) -> Option<&KeyName> {
        Some(self)
    }
}
impl Resource for AccountName {}
impl Resource for TenantName {}
impl Resource for Freezable {}
impl Resource for Destroyable {}
impl Resource for Installation {}
impl Resource for RecordNumber {}
impl Resource for DestroyTarget {}
impl Resource for CeremonyId {}
impl Resource for ProposalId {}
impl Resource for TicketId {}
impl Resource for LoginId {}
impl Resource for RootId {}

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A grant of this operation on the key.
    Grant(Operation),
    /// Any grant on the key, or the role operator: to see that it exists.
    Sight,
    /// The role operator.
    Operator,
    /// The role operator, or to be the daemon's own user.
    OperatorOrOwnUser,
    /// The role operator or monitor.
    OperatorOrMonitor,
    /// To be an application that staff log in to.
    Origin,
    /// To be known, and no monitor: whatever it does is shown or signed by somebody else.
    Known,
    /// To be known, or to be the daemon's own user.
    KnownOrOwnUser,
}

/// Proof that a principal may do `P` on one resource. Operations demand it and
/// take the resource from it, so a check cannot be left out or made for another key.
#[derive(Debug)]
pub struct Authorized<P: Permission> {
    resource: P::Resource,
    principal: Arc<Principal>,
    staff: Option<Staff>,
}

/// The kind of rule by which work on data is done, for the record.
pub(crate) fn grant_rule(for_staff: bool) -> &'static str {
    if for_staff { "grant and staff level" } else { "grant" }
}

impl<P: Permission> Authorized<P> {
    /// Only [`super::Policy`] decides.
    pub(super) fn grant(resource: P::Resource, principal: Arc<Principal>, staff: Option<Staff>) -> Self {
        Self { resource, principal, staff }
    }

    /// What it was granted on.
    pub fn resource(&self) -> &P::Resource {
        &self.resource
    }

    /// By which kind of rule, for the record.
    pub fn rule(&self) -> &'static str {
        match P::NEEDS {
            Needs::Grant(_) => grant_rule(self.staff.is_some()),
            Needs::Sight => "grant or operator",
            Needs::Operator => "operator",
            Needs::Origin => "application with logins",
            Needs::OperatorOrOwnUser => "operator or own user",
            Needs::OperatorOrMonitor => "operator or monitor",
            Needs::Known | Needs::KnownOrOwnUser => "known caller",
        }
    }

    /// To whom.
    pub fn principal(&self) -> &PrincipalId {
        self.principal.name()
    }

    /// The staff member whom the principal acts for.
    pub fn staff(&self) -> Option<&Staff> {
        self.staff.as_ref()
    }

    /// How staff know the application that it was granted to.
    pub fn origin(&self) -> Option<&Origin> {
        self.principal.origin()
    }

    /// That the principal is neither frozen nor narrowed since the decision. Long-lived calls ask for each item.
    ///
    /// # Errors
    /// [`Denied`] that says which.
    pub fn holds(&self) -> Result<(), Denied> {
        self.principal.holds()
    }
}

/// What is done with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It is read, or searched.
    Read,
    /// It is made or changed.
    Write,
}

/// A permission to work on the data of a key.
pub trait OnData {
    /// What is done with it.
    const DEED: Deed;
}

macro_rules! on_data {
    ($($name:ident $deed:ident;)*) => {$(
        impl OnData for $name {
            const DEED: Deed = Deed::$deed;
        }
    )*};
}

on_data! {
    Encrypt Write;
    ReEncrypt Write;
    GenerateDataKey Write;
    Decrypt Read;
    DecryptDataKey Read;
    BlindIndex Read;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident($resource:ty) needs $needs:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Permission for $name {
            type Resource = $resource;
            const NEEDS: Needs = $needs;
        }
    )*};
}

permissions! {
    /// Encrypt fields and files under a key.
    Encrypt(KeyName) needs Needs::Grant(Operation::Encrypt);
    /// Decrypt fields and files of a key.
    Decrypt(KeyName) needs Needs::Grant(Operation::Decrypt);
    /// Re-encrypt fields of a key.
    ReEncrypt(KeyName) needs Needs::Grant(Operation::ReEncrypt);
    /// Make data keys.
    GenerateDataKey(KeyName) needs Needs::Grant(Operation::GenerateDataKey);
    /// Open data keys.
    DecryptDataKey(KeyName) needs Needs::Grant(Operation::DecryptDataKey);
    /// Compute blind indexes.
    BlindIndex(KeyName) needs Needs::Grant(Operation::BlindIndex);
    /// See a key and its versions.
    ViewKey(KeyName) needs Needs::Sight;
    /// Create and change a key.
    ManageKey(KeyName) needs Needs::Operator;
    /// See a tenant, its keys and rotations.
    ViewTenant(TenantName) needs Needs::Operator;
    /// Create, change and rotate a tenant.
    ManageTenant(TenantName) needs Needs::Operator;
    /// List all tenants.
    ListTenants(Installation) needs Needs::Operator;
    /// Freeze and unfreeze.
    Freeze(Freezable) needs Needs::Operator;
    /// Plan a destruction, and call it off.
    Destroy(Destroyable) needs Needs::Operator;
    /// Decide about the daemon itself.
    ManageDaemon(Installation) needs Needs::Operator;
    /// Have the daemon read its configuration anew.
    Reload(Installation) needs Needs::OperatorOrOwnUser;
    /// Propose a ceremony.
    ProposeCeremony(Installation) needs Needs::Operator;
    /// Take a ceremony back.
    CancelCeremony(CeremonyId) needs Needs::Operator;
    /// Hand in a custodian's signature, which proves itself.
    ApproveCeremony(CeremonyId) needs Needs::Known;
    /// See all ceremonies and the roster.
    ListCeremonies(Installation) needs Needs::Known;
    /// See a ceremony and its transcript.
    ViewCeremony(CeremonyId) needs Needs::Known;
    /// See what a restore of the root begins with.
    ViewEscrow(Installation) needs Needs::Operator;
    /// See a record of the audit log, with its proof.
    ViewRecord(RecordNumber) needs Needs::Operator;
    /// See the certificate of a destruction.
    ViewCertificate(DestroyTarget) needs Needs::Operator;
    /// See the checkpoints of the audit log, that one extends another, and the keys that verify them.
    ViewCheckpoints(Installation) needs Needs::OperatorOrMonitor;
    /// See and replace the erasure key.
    ManageErasure(Installation) needs Needs::Operator;
    /// Have an erasure root destroyed that no record names.
    ForgetErasureRoot(RootId) needs Needs::Operator;
    /// Make and list recovery exports.
    ManageBackups(Installation) needs Needs::Operator;
    /// Check and copy the store.
    ManageStore(Installation) needs Needs::OperatorOrOwnUser;
    /// Put the outcome of a drill on record.
    RecordDrill(Installation) needs Needs::OperatorOrOwnUser;
    /// Begin a login of a staff member to the application that calls.
    BeginLogin(AccountName) needs Needs::Origin;
    /// Complete a login that the application has begun.
    CompleteLogin(LoginId) needs Needs::Origin;
    /// Ask for, and end, assertions that the application was issued.
    UseAssertions(Installation) needs Needs::Origin;
    /// See the keys that verify assertions.
    ViewLoginKeys(Installation) needs Needs::Known;
    /// See and change a staff account and its tokens.
    ManageAccount(AccountName) needs Needs::Operator;
    /// See all staff accounts.
    ListAccounts(Installation) needs Needs::Operator;
    /// Hand in what a token has signed for its enrolment, which proves itself.
    SubmitEnrolment(TicketId) needs Needs::Known;
    /// See the acts that wait for an administrator.
    ListActs(Installation) needs Needs::Known;
    /// Hand in an administrator's signature, which proves itself.
    ApproveAct(ProposalId) needs Needs::Known;
    /// Take an act back.
    CancelAct(ProposalId) needs Needs::Operator;
    /// See the state of the daemon.
    ViewStatus(Installation) needs Needs::KnownOrOwnUser;
}

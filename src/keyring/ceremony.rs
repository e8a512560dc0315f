//! Ceremonies: acts on master keys that no single person can do.
//!
//! ```text
//! proposed → collecting → executing → done
//!     └──────────┴────────→ expired | cancelled        executing → failed
//! ```
//!
//! Pure: what follows from a ceremony, its roster and the time. An approval
//! reaches [`Ceremony::approve`] only after its signature was verified.

use std::fmt;

use minicbor::{Decode, Encode};

use super::credential::CredentialId;
use super::credential::Verified;
use super::roster::Members;
use crate::clock::Date;
use crate::id::{AccountId, CustodianId, KeyName, RootGeneration, RootId, RosterVersion, TenantId};

/// What a ceremony does.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CeremonyAction {
    /// Puts the root under custodians: a new root, escrowed among them. Signed by all of them, once.
    #[n(1)]
    Found(#[n(0)] Members),
    /// Replaces the root by a new generation.
    #[n(2)]
    RotateRoot,
    /// Puts other custodians, or another quorum, in force; that needs a new root, escrowed among them.
    #[n(3)]
    ChangeRoster(#[n(0)] Members),
    /// Gives one tenant a new KEK version.
    #[n(4)]
    RotateTenant(#[n(0)] TenantId),
    /// Destroys a tenant, a key, or a version of one, for ever.
    #[n(5)]
    Destroy(#[n(0)] String),
    /// Ends a freeze.
    #[n(6)]
    Unfreeze(#[n(0)] String),
    /// Puts another minimum version of a key in force: versions below it decrypt no more.
    #[n(7)]
    SetMinVersion {
        /// The key.
        #[n(0)]
        key: KeyName,
        /// The oldest version that still decrypts.
        #[n(1)]
        version: u32,
        /// The oldest version that decrypted when this was proposed; it must not have changed since.
        #[n(2)]
        today: u32,
    },
    /// Moves a tenant's KEK into the HSM for good, or back into the store.
    #[n(8)]
    MoveTenant {
        /// The tenant.
        #[n(0)]
        tenant: TenantId,
        /// Into the HSM.
        #[n(1)]
        resident: bool,
    },
    /// Makes a staff account an administrator's, with one of its tokens.
    #[n(9)]
    MakeAdministrator {
        /// The account.
        #[n(0)]
        account: AccountId,
        /// The token's key.
        #[n(1)]
        credential: CredentialId,
    },
    /// Destroys an erasure root that stands on the tokens and in no record.
    #[n(10)]
    ForgetErasureRoot(#[n(0)] RootId),
}

impl CeremonyAction {
    /// The word for it, as people and scripts read it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::RotateRoot => "rotate-root",
            Self::ChangeRoster(_) => "change-roster",
            Self::RotateTenant(_) => "rotate-tenant",
            Self::Destroy(_) => "destroy",
            Self::Unfreeze(_) => "unfreeze",
            Self::SetMinVersion { .. } => "set-min-version",
            Self::MoveTenant { .. } => "move-tenant",
            Self::MakeAdministrator { .. } => "make-administrator",
            Self::ForgetErasureRoot(_) => "forget-erasure-root",
        }
    }

    /// Whether it makes a new generation of the root. Such ceremonies run one at a time.
    pub fn changes_root(&self) -> bool {
        self.new_members().is_some() || *self == Self::RotateRoot
    }

    /// The members that it puts in force.
    pub fn new_members(&self) -> Option<&Members> {
        match self {
            Self::Found(members) | Self::ChangeRoster(members) => Some(members),
            _ => None,
        }
    }
}

/// How far a ceremony is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    /// Nobody has approved it yet.
    #[n(1)]
    Proposed,
    /// Some have approved it.
    #[n(2)]
    Collecting,
    /// Approved; the daemon works on it, after a restart too.
    #[n(3)]
    Executing,
    /// Done.
    #[n(4)]
    Done,
    /// Not approved in time.
    #[n(5)]
    Expired,
    /// Taken back before it was approved.
    #[n(6)]
    Cancelled,
    /// Approved, and impossible: the outcome says why.
    #[n(7)]
    Failed,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Collecting => "collecting",
            Self::Executing => "executing",
            Self::Done => "done",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether approvals are taken.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Proposed | Self::Collecting)
    }

    /// Whether nothing more happens.
    pub fn is_final(self) -> bool {
        !self.is_open() && self != Self::Executing
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A custodian's signature over the ceremony's envelope. It was verified before it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Approval {
    /// Who.
    #[n(1)]
    pub custodian: CustodianId,
    /// The signature, in the form of the custodian's credential.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
    /// When it arrived.
    #[n(3)]
    pub date: Date,
}

/// A ceremony.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ceremony {
    /// What it does.
    #[n(1)]
    pub action: CeremonyAction,
    /// How far it is.
    #[n(2)]
    pub state: State,
    /// What the custodians sign, word for word.
    #[n(3)]
    pub statement: String,
    /// The principal that proposed it.
    #[n(4)]
    pub proposer: String,
    /// When.
    #[n(5)]
    pub created: Date,
    /// When it can be approved no more.
    #[n(6)]
    pub expires: Date,
    /// The roster that decides; none for the founding, which its own members decide.
    #[n(7)]
    pub roster: Option<RosterVersion>,
    /// SHA-256 of the members that decide.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub roster_digest: [u8; 32],
    /// Who has approved it.
    #[n(9)]
    pub approvals: Vec<Approval>,
    /// How far the execution is.
    #[n(10)]
    pub progress: Progress,
    /// When it came to its end.
    #[n(11)]
    pub finished: Option<Date>,
    /// What came of it, in words.
    #[n(12)]
    pub outcome: Option<String>,
}

/// How far an execution is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Progress {
    /// What is being done, in words.
    #[n(1)]
    pub step: String,
    /// How many are done.
    #[n(2)]
    pub done: u64,
    /// Of how many.
    #[n(3)]
    pub total: u64,
    /// The generation of the root that this ceremony has made.
    #[n(4)]
    pub generation: Option<RootGeneration>,
    /// The last tenant that is finished; the next one is where it resumes.
    #[n(5)]
    pub tenant: Option<TenantId>,
}

/// Why an approval does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// Too late.
    #[error("the ceremony expired and can be approved no more; propose it again")]
    Expired,
    /// It is not open.
    #[error("the ceremony is {0} and takes no approvals")]
    Closed(State),
    /// Not a custodian of the roster that decides.
    #[error("{0} is not a custodian of the roster that decides this ceremony")]
    Stranger(CustodianId),
    /// One person, one vote.
    #[error("{0} has approved it already; another custodian must approve it too")]
    Twice(CustodianId),
}

impl Ceremony {
    /// How many approvals it needs from these members: a founding is signed by everybody.
    pub fn needed(&self, members: &Members) -> usize {
        match self.action {
            CeremonyAction::Found(_) => members.custodians().len(),
            _ => members.quorum().get().into(),
        }
    }

    /// Those who could still approve it.
    pub fn missing<'a>(&self, members: &'a Members) -> Vec<&'a CustodianId> {
        let names = members.custodians().iter().map(super::custodian::Custodian::name);
        names.filter(|name| !self.approvals.iter().any(|approval| approval.custodian == **name)).collect()
    }

    /// Whether its time has passed without enough approvals.
    pub fn is_overdue(&self, now: Date) -> bool {
        self.state.is_open() && now >= self.expires
    }

    /// Whether this custodian may approve it now.
    ///
    /// # Errors
    /// [`ApprovalError`]
    pub fn check_approval(
        &self,
        members: &Members,
        custodian: &CustodianId,
        now: Date,
    ) -> Result<(), ApprovalError> {
        if self.is_overdue(now) || self.state == State::Expired {
            return Err(ApprovalError::Expired);
        }
        if !self.state.is_open() {
            return Err(ApprovalError::Closed(self.state));
        }
        if members.find(custodian).is_none() {
            return Err(ApprovalError::Stranger(custodian.clone()));
        }
        match self.approvals.iter().any(|approval| approval.custodian == *custodian) {
            true => Err(ApprovalError::Twice(custodian.clone())),
            false => Ok(()),
        }
    }

    /// The ceremony with one more approval, by the signature of a custodian. With enough of them it is executed.
    ///
    /// # Errors
    /// [`ApprovalError`], also when another key signed than the custodian's.
    pub fn approve(
        mut self,
        members: &Members,
        custodian: &CustodianId,
        signed: &Verified,
        date: Date,
    ) -> Result<Self, ApprovalError> {
        self.check_approval(members, custodian, date)?;
        members
            .find(custodian)
            .filter(|member| member.signing().id() == signed.by())
            .ok_or_else(|| ApprovalError::Stranger(custodian.clone()))?;
        let (custodian, signature) = (custodian.clone(), signed.signature().to_vec());
        self.approvals.push(Approval { custodian, signature, date });
        let enough = self.approvals.len() >= self.needed(members);
        self.state = if enough { State::Executing } else { State::Collecting };
        Ok(self)
    }

    /// The ceremony at its end.
    pub fn ended(self, state: State, now: Date, outcome: Option<String>) -> Self {
        Self { state, finished: Some(now), outcome, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::tests::custodian;
    use super::*;

    const BEGIN: Date = Date(1_000);
    const END: Date = Date(2_000);

    fn members(quorum: u32) -> Members {
        Members::new(quorum, ["alice", "bob", "carol"].map(custodian).to_vec()).unwrap()
    }

    fn ceremony(action: CeremonyAction, members: &Members) -> Ceremony {
        Ceremony {
            action,
            state: State::Proposed,
            statement: "Do it.".into(),
            proposer: "ops".into(),
            created: BEGIN,
            expires: END,
            roster: Some(RosterVersion::FIRST),
            roster_digest: members.digest(),
            approvals: Vec::new(),
            progress: Progress::default(),
            finished: None,
            outcome: None,
        }
    }

    /// With a signature of the member who has the name, or of the first one.
    fn approve(
        ceremony: Ceremony,
        members: &Members,
        name: &str,
        date: u64,
    ) -> Result<Ceremony, ApprovalError> {
        let name = CustodianId::new(name).unwrap();
        let signer = members.find(&name).unwrap_or_else(|| &members.custodians()[0]);
        ceremony.approve(members, &name, &Verified::of(signer.signing(), &[1]), Date(date))
    }

    #[test]
    fn a_signature_of_another_key_is_no_approval() {
        let members = members(2);
        let (alice, bob) = (&members.custodians()[0], &members.custodians()[1]);
        let signed = Verified::of(bob.signing(), &[1]);
        let open = ceremony(CeremonyAction::RotateRoot, &members);
        let refused = open.approve(&members, alice.name(), &signed, Date(1_500)).unwrap_err();
        assert_eq!(refused, ApprovalError::Stranger(alice.name().clone()));
    }

    #[test]
    fn actions_of_before_read_as_they_were() {
        let old = hex::decode("820280").unwrap();
        assert_eq!(minicbor::decode::<CeremonyAction>(&old).unwrap(), CeremonyAction::RotateRoot);
        let forget = CeremonyAction::ForgetErasureRoot(RootId([7; 16]));
        let new = minicbor::to_vec(&forget).unwrap();
        assert_eq!(hex::encode(&new), format!("820a8150{}", "07".repeat(16)));
        assert_eq!(minicbor::decode::<CeremonyAction>(&new).unwrap(), forget);
    }

    #[test]
    fn a_quorum_executes_it() {
        let members = members(2);
        let one = approve(ceremony(CeremonyAction::RotateRoot, &members), &members, "bob", 1_500).unwrap();
        assert_eq!((one.state, one.missing(&members).len()), (State::Collecting, 2));
        let two = approve(one, &members, "alice", 1_999).unwrap();
        assert_eq!(two.state, State::Executing);
        let late = approve(two, &members, "carol", 1_999).unwrap_err();
        assert_eq!(late, ApprovalError::Closed(State::Executing));
    }

    #[test]
    fn a_founding_is_signed_by_everybody() {
        let members = members(2);
        let mut founding = ceremony(CeremonyAction::Found(members.clone()), &members);
        for (name, state) in
            [("alice", State::Collecting), ("bob", State::Collecting), ("carol", State::Executing)]
        {
            founding = approve(founding, &members, name, 1_500).unwrap();
            assert_eq!(founding.state, state);
        }
    }

    #[test]
    fn strangers_repeaters_and_latecomers_do_not_count() {
        let members = members(2);
        let open = ceremony(CeremonyAction::RotateRoot, &members);
        let name = |name| CustodianId::new(name).unwrap();
        let refused =
            |ceremony: &Ceremony, name, date| approve(ceremony.clone(), &members, name, date).unwrap_err();
        assert_eq!(refused(&open, "mallory", 1_500), ApprovalError::Stranger(name("mallory")));
        assert_eq!(refused(&open, "alice", 2_000), ApprovalError::Expired);
        let one = approve(open.clone(), &members, "alice", 1_500).unwrap();
        assert_eq!(refused(&one, "alice", 1_501), ApprovalError::Twice(name("alice")));
        for state in [State::Done, State::Cancelled, State::Failed] {
            let ended = open.clone().ended(state, Date(1_400), None);
            assert_eq!(refused(&ended, "alice", 1_500), ApprovalError::Closed(state));
        }
        let expired = open.ended(State::Expired, END, None);
        assert_eq!(refused(&expired, "alice", 1_500), ApprovalError::Expired);
    }
}

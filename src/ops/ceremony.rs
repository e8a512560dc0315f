//! Ceremonies: proposing, approving, cancelling, looking at them.
//!
//! What a ceremony is and when it may go on is in `keyring::ceremony`; what custodians
//! sign is in [`statement`]; what is done once they have signed is in [`execute`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::vault::Vault;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{
    CeremonyId, CustodianId, DestroyTarget, Epoch, Freezable, Installation, KeyName, RosterVersion, TenantId,
};
use crate::keyring::armour::Armoured;
use crate::keyring::ceremony::{Ceremony, CeremonyAction, Progress, State};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::{Custodian, CustodianCard};
use crate::keyring::record::Custody;
use crate::keyring::recovery::EscrowFile;
use crate::keyring::roster::{Members, Roster};
use crate::keyring::state::KeyState;
use crate::store::{Changes, StoreError, Stored, tables};
use crate::token::enrolment;
use crate::token::envelope::Envelope;
use crate::token::printable::Statement;
use crate::token::verify::verify;

pub mod execute;
pub(in crate::ops) mod statement;
pub mod transcript;

/// Most ceremonies that may be open at a time.
const MOST_OPEN: usize = 64;
/// Shortest time to collect approvals.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest time to collect approvals.
const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);

/// What somebody proposes.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// To put the root under custodians.
    Found {
        /// How many must agree from then on.
        quorum: u32,
        /// The custodians' cards.
        cards: Vec<String>,
    },
    /// To replace the root.
    RotateRoot,
    /// To put other custodians or another quorum in force.
    ChangeRoster {
        /// The new quorum; the old one when none is given.
        quorum: Option<u32>,
        /// The cards of new custodians; a card of one who is there replaces that person's keys.
        add: Vec<String>,
        /// Those who leave.
        remove: Vec<CustodianId>,
    },
    /// To put another minimum version of a key in force.
    SetMinVersion {
        /// The key.
        key: KeyName,
        /// The oldest version that decrypts from then on.
        version: u32,
    },
    /// Anything else.
    Other(CeremonyAction),
}

/// A ceremony, who decides it, and what it waits for.
#[derive(Debug, Clone)]
pub struct CeremonyInfo {
    /// Its name.
    pub id: CeremonyId,
    /// The installation that it is for.
    pub deployment: crate::id::DeploymentId,
    /// Its record.
    pub record: Ceremony,
    /// The members who decide it.
    pub members: Members,
    /// Why its execution does not go on at the moment.
    pub waiting_for: Option<String>,
}

impl CeremonyInfo {
    /// What a custodian signs.
    ///
    /// # Errors
    /// When the statement is none, which only a record can be that was not made here.
    pub fn envelope(&self, custodian: &Custodian) -> Result<Envelope, Error> {
        let statement = Statement::new(&self.record.statement);
        let statement =
            statement.map_err(|error| Error::Internal(format!("the statement of {}: {error}", self.id)))?;
        let signed = crate::token::envelope::Ceremony {
            ceremony: self.id,
            roster: self.record.roster_digest,
            created: self.record.created,
            expires: self.record.expires,
            statement,
        };
        Ok(signed.envelope(self.deployment, custodian.signing().id()))
    }
}

/// Ceremonies that are worked on, and what each waits for, in words.
#[derive(Default)]
pub(super) struct Ceremonies {
    working: Mutex<HashMap<CeremonyId, Option<String>>>,
    proposing: tokio::sync::Mutex<()>,
}

impl Ceremonies {
    fn lock(&self) -> MutexGuard<'_, HashMap<CeremonyId, Option<String>>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Proposes a ceremony. Nothing happens until custodians approve it.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it cannot be done now, or there is something like it already.
    pub async fn propose(
        &self,
        right: &Authorized<permission::ProposeCeremony>,
        proposal: Proposal,
        reason: &str,
        lasts: Duration,
    ) -> Result<Done<CeremonyInfo>, Error> {
        if !(SHORTEST..=LONGEST).contains(&lasts) {
            return Err(Error::Argument("approvals are collected for 1 second to 90 days".into()));
        }
        unhindered!(self.try_propose(right.principal().as_str(), proposal.clone(), reason, lasts))
    }

    async fn try_propose(
        &self,
        proposer: &str,
        proposal: Proposal,
        reason: &str,
        lasts: Duration,
    ) -> Result<Done<CeremonyInfo>, Error> {
        // Whoever holds this sees every other one that is open.
        let _alone = self.ceremonies.proposing.lock().await;
        self.keep_expired().await?;
        let roster = self.roster().await?;
        let action = self.action(proposal, roster.as_ref().map(|(_, roster)| roster)).await?;
        self.check_action(&action).await?;
        let deciding = match &action {
            CeremonyAction::Found(members) => (None, members.clone()),
            _ => {
                let (version, roster) = roster.ok_or_else(|| unfounded(&action))?;
                (Some(version), roster.record.members)
            }
        };
        self.check_open(&action).await?;
        let (id, created) = (CeremonyId::random()?, Date::now());
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let expires = Date(created.millis().saturating_add(lasts));
        let (roster, members) = deciding;
        let head = statement::Head { id, deployment: self.deployment(), proposer, reason, created, expires };
        let statement = statement::text(&head, &action, &members);
        let record = Ceremony {
            roster_digest: members.digest(),
            action,
            state: State::Proposed,
            statement,
            proposer: proposer.to_owned(),
            created,
            expires,
            roster,
            approvals: Vec::new(),
            progress: Progress::default(),
            finished: None,
            outcome: None,
        };
        let info = CeremonyInfo { id, deployment: self.deployment(), record, members, waiting_for: None };
        // A statement that nobody could sign is not kept.
        info.envelope(&info.members.custodians()[0])?;
        let mut changes = Changes::default();
        changes.create(&tables::ceremony(id), &info.record);
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change(info, change).detail(format!("ceremonies/{id}")))
    }

    /// Takes a custodian's signature. With enough of them the ceremony is to be executed: see
    /// [`resume_ceremony`](Self::resume_ceremony).
    ///
    /// # Errors
    /// [`Error::Approval`] when it does not count, [`Error::Signature`] when it is not the custodian's.
    pub async fn approve(
        &self,
        right: &Authorized<permission::ApproveCeremony>,
        custodian: &CustodianId,
        signature: &[u8],
    ) -> Result<Done<CeremonyInfo>, Error> {
        unhindered!(self.try_approve(*right.resource(), custodian, signature))
    }

    async fn try_approve(
        &self,
        id: CeremonyId,
        custodian: &CustodianId,
        signature: &[u8],
    ) -> Result<Done<CeremonyInfo>, Error> {
        self.keep_expired().await?;
        let (info, revision) = self.ceremony(id).await?;
        let now = self.ceremony_time();
        let member = info.members.find(custodian);
        info.record.check_approval(&info.members, custodian, now)?;
        let member = member.ok_or_else(|| Error::Internal("an approval by nobody".into()))?;
        let signed = verify(member.signing(), &info.envelope(member)?, signature)
            .map_err(|_| Error::Signature(custodian.clone()))?;
        // Whatever puts another roster in force puts another root in force.
        let root = self.root_in_force().await?;
        self.require_roster(&info.record).await?;
        let mut changes = Changes::default();
        changes.require(&tables::root(root.record.generation), root.revision);
        let record = info.record.approve(&info.members, custodian, &signed, now)?;
        changes.replace(&tables::ceremony(id), &record, revision);
        let change = self.commit(changes, Affects::Nothing).await?;
        let detail =
            format!("by {custodian}, {} of {}", record.approvals.len(), record.needed(&info.members));
        Ok(Done::with_change(CeremonyInfo { record, ..info }, change).detail(detail))
    }

    /// Takes a proposal back.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it is not open.
    pub async fn cancel_ceremony(
        &self,
        right: &Authorized<permission::CancelCeremony>,
        reason: &str,
    ) -> Result<Done<CeremonyInfo>, Error> {
        let id = *right.resource();
        let (info, revision) = self.ceremony(id).await?;
        if !info.record.state.is_open() {
            return Err(Error::NotAllowed(format!(
                "ceremonies/{id} is {} and cannot be cancelled",
                info.record.state
            )));
        }
        let record = info.record.ended(State::Cancelled, Date::now(), Some(reason.to_owned()));
        let mut changes = Changes::default();
        changes.replace(&tables::ceremony(id), &record, revision);
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change(CeremonyInfo { record, ..info }, change).detail(reason))
    }

    /// One ceremony.
    ///
    /// # Errors
    /// [`Error::NoCeremony`] when there is none of that name.
    pub async fn show_ceremony(
        &self,
        right: &Authorized<permission::ViewCeremony>,
    ) -> Result<Done<CeremonyInfo>, Error> {
        Ok(Done::new(self.ceremony(*right.resource()).await?.0))
    }

    /// One ceremony, for somebody who was shown it before.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn peek_ceremony(&self, id: CeremonyId) -> Result<CeremonyInfo, Error> {
        Ok(self.ceremony(id).await?.0)
    }

    /// All ceremonies, the newest first.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn list_ceremonies(
        &self,
        right: &Authorized<permission::ListCeremonies>,
    ) -> Result<Done<Vec<CeremonyInfo>>, Error> {
        let Installation = right.resource();
        let mut found = Vec::new();
        for (path, _) in self.records.complete::<Ceremony>().await? {
            found.push(self.ceremony(path.id).await?.0);
        }
        found.sort_by_key(|info| std::cmp::Reverse((info.record.created, info.id)));
        Ok(Done::new(found))
    }

    /// The roster in force; `None` while the root is unfounded.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn show_roster(
        &self,
        right: &Authorized<permission::ListCeremonies>,
    ) -> Result<Done<Option<(RosterVersion, Roster)>>, Error> {
        let Installation = right.resource();
        Ok(Done::new(self.roster().await?.map(|(version, stored)| (version, stored.record))))
    }

    /// What must be kept beside a backup so that custodians can put the root together again.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] while the root is unfounded.
    pub async fn escrow_file(
        &self,
        right: &Authorized<permission::ViewEscrow>,
    ) -> Result<Done<String>, Error> {
        let Installation = right.resource();
        let text = self.escrow_of_root().await?.to_text();
        match text.len() <= EscrowFile::LONGEST {
            true => Ok(Done::new(text)),
            false => Err(Error::Internal("the escrow is longer than a restore would read".into())),
        }
    }

    pub(super) async fn escrow_of_root(&self) -> Result<EscrowFile, Error> {
        self.require_settled_keys().await?;
        let root = self.root_in_force().await?.record;
        let (version, roster) = self.roster().await?.ok_or_else(|| unfounded_word("restores"))?;
        let path = tables::escrow(root.generation);
        let escrow = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record;
        let chain = serde_json::to_string(&self.chain_to(version).await?);
        let chain = chain.map_err(|error| Error::Internal(error.to_string()))?;
        let keks = Some(self.escrowed_keks().await?);
        Ok(EscrowFile { root, escrow, members: roster.record.members, chain, keks })
    }

    /// A ceremony with its members, and the revision of its record. One whose time has passed shows as expired.
    pub(super) async fn ceremony(&self, id: CeremonyId) -> Result<(CeremonyInfo, u64), Error> {
        let stored = self.records.get(&tables::ceremony(id)).await?.ok_or(Error::NoCeremony(id))?;
        let Stored { mut record, revision } = stored;
        let members = match (&record.action, record.roster) {
            (CeremonyAction::Found(members), _) => members.clone(),
            (_, Some(version)) => self.roster_of(version).await?.record.members,
            (_, None) => return Err(Error::Internal(format!("ceremonies/{id} has no roster"))),
        };
        if record.is_overdue(self.ceremony_time()) {
            record.state = State::Expired;
        }
        let waiting_for = self.ceremonies.lock().get(&id).cloned().flatten();
        Ok((CeremonyInfo { id, deployment: self.deployment(), record, members, waiting_for }, revision))
    }

    /// The time for ceremonies: a clock that is set back does not open again what has expired.
    fn ceremony_time(&self) -> Date {
        Date::now().max(self.schedule_status().high)
    }

    /// Writes down which ceremonies have expired, so that no clock brings one back.
    async fn keep_expired(&self) -> Result<(), Error> {
        let now = self.ceremony_time();
        let all = self.records.complete::<Ceremony>().await?;
        for (path, Stored { record, revision }) in all {
            if record.is_overdue(now) {
                let expired = record.ended(State::Expired, now, None);
                let mut changes = Changes::default();
                changes.replace(&path, &expired, revision);
                let resource = format!("ceremonies/{}", path.id);
                self.commit_own(changes, Affects::Nothing, Action::CeremonyExpired, resource).await?;
            }
        }
        Ok(())
    }

    /// That no ceremony is giving tenants other KEKs: a copy that is made meanwhile would need keys of both sides.
    pub(super) async fn require_settled_keys(&self) -> Result<(), Error> {
        let all = self.records.complete::<Ceremony>().await?;
        let at_work = |ceremony: &Ceremony| {
            ceremony.state == State::Executing
                && (ceremony.action.changes_root()
                    || matches!(ceremony.action, CeremonyAction::MoveTenant { .. }))
        };
        match all.into_iter().find(|(_, stored)| at_work(&stored.record)) {
            Some((path, _)) => Err(Error::NotAllowed(format!(
                "ceremonies/{} is giving tenants other keys; do this when it is done",
                path.id
            ))),
            None => Ok(()),
        }
    }

    /// The newest roster.
    pub(super) async fn roster(&self) -> Result<Option<(RosterVersion, Stored<Roster>)>, Error> {
        let rosters = self.records.complete::<Roster>().await?;
        Ok(rosters.into_iter().next_back().map(|(path, stored)| (path.id, stored)))
    }

    async fn roster_of(&self, version: RosterVersion) -> Result<Stored<Roster>, Error> {
        let path = tables::roster(version);
        Ok(self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?)
    }

    /// That the roster which decides is the one in force: custodians who left decide nothing any more,
    /// and a founded root is not founded again.
    pub(super) async fn require_roster(&self, record: &Ceremony) -> Result<(), Error> {
        let newest = self.roster().await?.map(|(version, _)| version);
        match record.roster == newest {
            true => Ok(()),
            false => Err(outdated()),
        }
    }

    /// That these members are in force.
    pub(super) async fn require_members(&self, members: &Members) -> Result<(), Error> {
        match self.roster().await? {
            Some((_, stored)) if stored.record.members == *members => Ok(()),
            _ => Err(outdated()),
        }
    }

    async fn action(
        &self,
        proposal: Proposal,
        roster: Option<&Stored<Roster>>,
    ) -> Result<CeremonyAction, Error> {
        Ok(match proposal {
            Proposal::Found { quorum, cards } => {
                CeremonyAction::Found(Members::new(quorum, self.custodians(&cards)?)?)
            }
            Proposal::SetMinVersion { key, version } => {
                let today = self.key_record(&key).await?.record.min_version.unwrap_or(Epoch::FIRST).get();
                CeremonyAction::SetMinVersion { key, version, today }
            }
            Proposal::RotateRoot => CeremonyAction::RotateRoot,
            Proposal::ChangeRoster { quorum, add, remove } => {
                let Some(roster) = roster else { return Err(unfounded_word("change-roster")) };
                CeremonyAction::ChangeRoster(self.changed(&roster.record.members, quorum, &add, &remove)?)
            }
            Proposal::Other(action) => action,
        })
    }

    fn changed(
        &self,
        members: &Members,
        quorum: Option<u32>,
        add: &[String],
        remove: &[CustodianId],
    ) -> Result<Members, Error> {
        if let Some(stranger) = remove.iter().find(|name| members.find(name).is_none()) {
            return Err(Error::Argument(format!("{stranger} is not on the roster")));
        }
        let mut custodians = self.custodians(add)?;
        let stays = |custodian: &&Custodian| {
            !remove.contains(custodian.name()) && !custodians.iter().any(|new| new.name() == custodian.name())
        };
        let staying: Vec<_> = members.custodians().iter().filter(stays).cloned().collect();
        custodians.extend(staying);
        let changed = Members::new(quorum.unwrap_or_else(|| members.quorum().get().into()), custodians)?;
        match changed == *members {
            true => Err(Error::Argument("the roster would be the same".into())),
            false => Ok(changed),
        }
    }

    /// The custodians of cards whose tokens have proved their keys.
    fn custodians(&self, cards: &[String]) -> Result<Vec<Custodian>, Error> {
        if cards.len() > Members::MOST {
            return Err(Error::Argument(format!("there can be {} custodians at most", Members::MOST)));
        }
        let custodian = |(at, text): (usize, &String)| {
            let card = CustodianCard::parse(text);
            let card = card.map_err(|error| Error::Argument(format!("card {}: {error}", at + 1)))?;
            let name = card.custodian.name().clone();
            enrolment::prove(card, self.deployment())
                .map_err(|error| Error::Argument(format!("the card of {name}: {error}")))
        };
        cards.iter().enumerate().map(custodian).collect()
    }

    /// That the act can be done as things are.
    async fn check_action(&self, action: &CeremonyAction) -> Result<(), Error> {
        let founded = self.root().custody == Custody::Founded;
        match action {
            CeremonyAction::Found(_) if founded => {
                Err(Error::NotAllowed("the root is founded already; propose change-roster instead".into()))
            }
            CeremonyAction::Found(members) => self.require_no_login_keys(members).await,
            _ if !founded => Err(unfounded(action)),
            CeremonyAction::RotateTenant(tenant) => self.living_tenant(tenant).await,
            CeremonyAction::MoveTenant { tenant, resident } => {
                self.living_tenant(tenant).await?;
                match (self.is_resident(tenant).await?, *resident) {
                    (true, true) => {
                        Err(Error::NotAllowed(format!("the KEK of tenants/{tenant} is in the HSM already")))
                    }
                    (false, false) => {
                        Err(Error::NotAllowed(format!("the KEK of tenants/{tenant} is in the store already")))
                    }
                    _ => Ok(()),
                }
            }
            CeremonyAction::SetMinVersion { key, version, today } if version == today => {
                Err(Error::NotAllowed(format!("{version} is the minimum version of {key} already")))
            }
            CeremonyAction::SetMinVersion { key, version, .. } => {
                self.min_version_allowed(key, *version).await
            }
            CeremonyAction::RotateRoot => Ok(()),
            CeremonyAction::ChangeRoster(members) => self.require_no_login_keys(members).await,
            CeremonyAction::MakeAdministrator { account, credential } => {
                self.check_administrator(account, *credential).await
            }
            CeremonyAction::Unfreeze(name) => self.check_resource(name).await,
            CeremonyAction::Destroy(name) => self.check_target(name).await,
            CeremonyAction::ForgetErasureRoot(root) => self.require_stray(*root).await,
        }
    }

    /// A key decides or logs in, and never both: whoever asks for a login must not get an approval.
    async fn require_no_login_keys(&self, members: &Members) -> Result<(), Error> {
        for custodian in members.custodians() {
            for key in [custodian.signing().id(), CredentialId::of(custodian.agreement().spki())] {
                if self.records.get(&tables::login_credential(key)).await?.is_some() {
                    let name = custodian.name();
                    return Err(Error::NotAllowed(format!(
                        "a key of {name} is on record for logins: have keys of a custodian's own made, `keyward token generate --name {name}`"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn living_tenant(&self, id: &TenantId) -> Result<(), Error> {
        match self.tenant(id).await?.record.state() {
            KeyState::Destroyed => {
                Err(Error::TenantState(crate::id::TenantName(id.clone()), KeyState::Destroyed))
            }
            _ => Ok(()),
        }
    }

    async fn check_target(&self, name: &str) -> Result<(), Error> {
        match DestroyTarget::parse(name)? {
            DestroyTarget::Tenant(tenant) | DestroyTarget::Kek(tenant, _) => {
                self.tenant(&tenant).await.map(drop)
            }
            DestroyTarget::Key(key) => self.key_record(&key).await.map(drop),
            DestroyTarget::Version(version) => {
                self.version_record(&version.key, version.epoch).await.map(drop)
            }
        }
    }

    async fn check_resource(&self, name: &str) -> Result<(), Error> {
        match Freezable::parse(name)? {
            Freezable::Tenant(tenant) => self.tenant(&tenant.0).await.map(drop),
            Freezable::Key(key) => self.key_record(&key).await.map(drop),
            Freezable::Principal(principal) if self.policy.knows(&principal) => Ok(()),
            Freezable::Principal(principal) => Err(Error::NoPrincipal(principal)),
        }
    }

    /// That not too many are open, and no other one is about to make a new root.
    async fn check_open(&self, action: &CeremonyAction) -> Result<(), Error> {
        let now = self.ceremony_time();
        let all = self.records.complete::<Ceremony>().await?;
        let live = all
            .rows()
            .iter()
            .filter(|(_, stored)| !stored.record.state.is_final() && !stored.record.is_overdue(now));
        let (mut count, mut changing) = (0, None);
        for (path, stored) in live {
            count += 1;
            if stored.record.action.changes_root() {
                changing = Some(path.id);
            }
        }
        match changing.filter(|_| action.changes_root()) {
            Some(other) => Err(Error::NotAllowed(format!(
                "ceremonies/{other} is about to make a new root; cancel it, or wait for its end"
            ))),
            None if count >= MOST_OPEN => Err(Error::NotAllowed(format!(
                "{MOST_OPEN} ceremonies are open; finish or cancel some first"
            ))),
            None => Ok(()),
        }
    }
}

fn outdated() -> Error {
    Error::NotAllowed("the roster has changed since this was proposed; propose it again".into())
}

fn unfounded(action: &CeremonyAction) -> Error {
    unfounded_word(action.as_str())
}

fn unfounded_word(word: &str) -> Error {
    Error::NotAllowed(format!(
        "the root is unfounded, so there are no custodians who could decide {word}; propose a founding first"
    ))
}

//! Administrators: staff of level 3. Where there are any, an operator proposes what is done to accounts, and an
//! administrator approves it by a signature of their token over the exact text.
//!
//! The first ones: while the root is unfounded an operator makes them; once it is founded, custodians do, by
//! a ceremony (`make-administrator`).

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::accounts::AccountInfo;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{AccountId, DeploymentId, Installation, PrincipalId, ProposalId};
use crate::keyring::account::{Account, Approver, CredentialState, Level, LoginCredential, Otp};
use crate::keyring::act::{Act, ProposedAct};
use crate::keyring::credential::CredentialId;
use crate::keyring::otp::Failures;
use crate::keyring::record::Custody;
use crate::ops::Error;
use crate::ops::ceremony::statement::date;
use crate::ops::commit::{Affects, unhindered};
use crate::ops::done::Done;
use crate::ops::vault::Vault;
use crate::store::{Changes, Stored, tables};
use crate::token::envelope::StepUp;
use crate::token::printable::{Statement, quote};
use crate::token::verify::verify;

/// How long an act waits for an administrator.
const LASTS: Duration = Duration::from_secs(24 * 3600);
/// Most acts that may wait at a time.
const MOST_ACTS: usize = 1000;
/// Longest reason in bytes.
const LONGEST_REASON: usize = 500;

/// An act, as administrators see it.
#[derive(Debug, Clone)]
pub struct ActInfo {
    /// The act.
    pub id: ProposalId,
    /// This installation.
    pub deployment: DeploymentId,
    /// What was proposed.
    pub record: ProposedAct,
}

/// An administrator's approval.
#[derive(Debug, Clone)]
pub struct ActApproval {
    /// Who approves.
    pub administrator: AccountId,
    /// The key that signed.
    pub credential: CredentialId,
    /// Its signature over the act, in the form of the key's algorithm.
    pub signature: Vec<u8>,
}

impl Vault {
    /// That an operator may do this alone: there is no administrator who could be asked.
    pub(super) async fn require_no_administrator(&self, proposal: &str) -> Result<(), Error> {
        let founded = self.root().custody == Custody::Founded;
        for (_, stored) in self.records.complete::<Account>().await? {
            let account = stored.record;
            // While one operator can revoke every token alone, who cannot approve binds nobody.
            let counts = founded || (!account.suspended && self.has_token(&account).await?);
            if account.level == Level::Three && counts {
                return Err(Error::AdministratorRequired(proposal.to_owned()));
            }
        }
        Ok(())
    }

    async fn has_token(&self, account: &Account) -> Result<bool, Error> {
        for credential in &account.credentials {
            let stored = self.records.get(&tables::login_credential(*credential)).await?;
            if stored.is_some_and(|stored| stored.record.state == CredentialState::Active) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The level of an account.
    ///
    /// # Errors
    /// [`Error::NoAccount`] when there is none.
    pub async fn level_of(&self, right: &Authorized<permission::ManageAccount>) -> Result<Level, Error> {
        Ok(self.account(&right.resource().0).await?.record.level)
    }

    /// Proposes an act.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it cannot be done as things are.
    pub async fn propose_act(
        &self,
        right: &Authorized<permission::ManageAccount>,
        act: Act,
        reason: &str,
    ) -> Result<Done<ActInfo>, Error> {
        if *act.account() != right.resource().0 {
            return Err(Error::Internal("a right for another account".into()));
        }
        if reason.is_empty() || reason.len() > LONGEST_REASON {
            return Err(Error::Argument(format!("reason: say why, in 1 to {LONGEST_REASON} bytes")));
        }
        self.apply(&mut Changes::default(), &act, None).await?;
        let state = self.state_of(&act).await?;
        let (id, created, proposed_by) = (ProposalId::random()?, Date::now(), right.principal().clone());
        let expires = created.after(LASTS);
        let head = Head { id, proposed_by: &proposed_by, reason, created, expires };
        let statement = self.act_statement(&head, &act).await?;
        let detail = format!("acts/{id}: {} of accounts/{}", act.as_str(), act.account());
        let record = ProposedAct { act, proposed_by, created, expires, statement, state };
        let change = unhindered!(self.put_act(id, &record))?;
        Ok(Done::with_change(ActInfo { id, deployment: self.deployment(), record }, change).detail(detail))
    }

    async fn put_act(
        &self,
        id: ProposalId,
        record: &ProposedAct,
    ) -> Result<crate::audit::StoreChange, Error> {
        let (mut changes, mut waiting) = (Changes::default(), 0);
        for (path, stored) in self.records.complete::<ProposedAct>().await? {
            match stored.record.expires < self.latest_date() {
                true => drop(changes.delete(&path, stored.revision)),
                false => waiting += 1,
            }
        }
        if waiting >= MOST_ACTS {
            return Err(Error::NotAllowed(
                "too many acts wait for administrators; have some approved first".into(),
            ));
        }
        changes.create(&tables::act(id), record);
        self.commit(changes, Affects::Nothing).await
    }

    /// The acts that wait.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn list_acts(
        &self,
        right: &Authorized<permission::ListActs>,
    ) -> Result<Done<Vec<ActInfo>>, Error> {
        let Installation = right.resource();
        let all = self.records.complete::<ProposedAct>().await?;
        let (deployment, now) = (self.deployment(), self.latest_date());
        let waiting = all.into_iter().filter(|(_, stored)| now < stored.record.expires);
        Ok(Done::new(
            waiting
                .map(|(path, stored)| ActInfo { id: path.id, deployment, record: stored.record })
                .collect(),
        ))
    }

    /// Does an act that an administrator's token has signed. It is done once.
    ///
    /// # Errors
    /// [`Error::ActRefused`] when the approval does not count.
    pub async fn approve_act(
        &self,
        right: &Authorized<permission::ApproveAct>,
        approval: &ActApproval,
    ) -> Result<Done<AccountInfo>, Error> {
        unhindered!(self.try_approve_act(*right.resource(), approval))
    }

    async fn try_approve_act(
        &self,
        id: ProposalId,
        approval: &ActApproval,
    ) -> Result<Done<AccountInfo>, Error> {
        let refused = |why: &str| Error::ActRefused(why.to_owned());
        let stored = self.records.get(&tables::act(id)).await?;
        let Stored { record, revision } = stored
            .filter(|stored| self.latest_date() < stored.record.expires)
            .ok_or_else(|| refused("there is no such act: it was done, or has expired; propose it again"))?;
        let (administrator, credential) = self.administrator(approval, &record.act).await?;
        let statement =
            Statement::new(&record.statement).map_err(|error| Error::Internal(error.to_string()))?;
        let signed = StepUp {
            proposal: id,
            account: approval.administrator.clone(),
            created: record.created,
            expires: record.expires,
            statement,
        };
        let signed = signed.envelope(self.deployment(), approval.credential);
        let signed = verify(&credential.record.credential, &signed, &approval.signature)
            .map_err(|_| refused("the signature is not that of the administrator's token over this act"))?;
        self.recheck_evidence(&credential.record).await.map_err(|why| refused(&why.to_string()))?;
        let mut changes = Changes::default();
        changes.delete(&tables::act(id), revision);
        // Whoever was suspended, or lost their level, at this moment approves nothing.
        changes.require(&tables::account(&approval.administrator), administrator);
        changes.require(&tables::login_credential(approval.credential), credential.revision);
        let by = Approver::Administrator(approval.administrator.clone());
        self.apply(&mut changes, &record.act, Some(by)).await?;
        if self.state_of(&record.act).await? != record.state {
            return Err(refused("what it is about was changed since: propose it again"));
        }
        let change = self.commit(changes, Affects::Staff).await?;
        let account = record.act.account();
        let info = self.account_info(account, self.account(account).await?.record).await?;
        let detail = format!(
            "acts/{}: {} of accounts/{account}, approved by accounts/{} with credential {}, statement {}, signature {}",
            id,
            record.act.as_str(),
            approval.administrator,
            signed.by(),
            hex::encode(Sha256::digest(&record.statement)),
            hex::encode(signed.signature())
        );
        Ok(Done::with_change(info, change).detail(detail))
    }

    /// The administrator's record's revision, and the key that they approve with.
    async fn administrator(
        &self,
        approval: &ActApproval,
        act: &Act,
    ) -> Result<(u64, Stored<LoginCredential>), Error> {
        let refused = |why: &str| Error::ActRefused(why.to_owned());
        if approval.administrator == *act.account() {
            return Err(refused(
                "nobody approves what is done to their own account: ask another administrator",
            ));
        }
        let account = self.records.get(&tables::account(&approval.administrator)).await?;
        let account = account
            .filter(|stored| stored.record.level == Level::Three && !stored.record.suspended)
            .ok_or_else(|| refused("the account is no administrator's (level 3)"))?;
        let credential = self.records.get(&tables::login_credential(approval.credential)).await?;
        let credential = credential.filter(|Stored { record, .. }| {
            record.account == approval.administrator && record.state == CredentialState::Active
        });
        Ok((
            account.revision,
            credential.ok_or_else(|| refused("the token is none that the administrator logs in with"))?,
        ))
    }

    /// Takes an act back.
    ///
    /// # Errors
    /// [`Error::ActRefused`] when there is none.
    pub async fn cancel_act(&self, right: &Authorized<permission::CancelAct>) -> Result<Done<()>, Error> {
        let id = *right.resource();
        let stored = self.records.get(&tables::act(id)).await?;
        let stored = stored.ok_or_else(|| Error::ActRefused("there is no such act".into()))?;
        let act = &stored.record.act;
        let detail = format!("acts/{id}: {} of accounts/{}", act.as_str(), act.account());
        let mut changes = Changes::default();
        changes.delete(&tables::act(id), stored.revision);
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change((), change).detail(detail))
    }

    /// In which state that is which an act is about: an act that waits is not for a later one that looks the same.
    async fn state_of(&self, act: &Act) -> Result<u64, Error> {
        Ok(match act {
            Act::ApproveToken { account, credential } => {
                self.credential_of(account, *credential).await?.revision
            }
            Act::Unlock { account } => {
                self.records.get(&tables::otp(account)).await?.map_or(0, |otp| otp.revision)
            }
            Act::SetLevel { account, .. } | Act::Resume { account } => self.account(account).await?.revision,
            // It changes with each login.
            Act::ResetOtp { account } => {
                self.records.get(&tables::otp(account)).await?.map_or(0, |otp| otp.record.created.millis())
            }
        })
    }

    /// Puts what an act changes into `changes`; fails when it cannot be done as things are.
    pub(super) async fn apply(
        &self,
        changes: &mut Changes,
        act: &Act,
        by: Option<Approver>,
    ) -> Result<(), Error> {
        match act {
            Act::ApproveToken { account, credential } => {
                let Stored { record, revision } = self.pending_credential(account, *credential).await?;
                let approved = LoginCredential { state: CredentialState::Active, approver: by, ..record };
                changes.replace(&tables::login_credential(*credential), &approved, revision);
            }
            Act::Unlock { account } => {
                let otp = self.records.get(&tables::otp(account)).await?;
                let otp = otp.filter(|otp| otp.record.failures.count > 0);
                let otp =
                    otp.ok_or_else(|| Error::NotAllowed(format!("accounts/{account} is not locked")))?;
                let unlocked = Otp { failures: Failures::default(), ..otp.record };
                changes.replace(&tables::otp(account), &unlocked, otp.revision);
            }
            Act::SetLevel { account, level, today } => {
                let Stored { record, revision } = self.account(account).await?;
                if record.level != *today || level == today {
                    return Err(Error::NotAllowed(format!(
                        "accounts/{account} has level {} now",
                        record.level.get()
                    )));
                }
                changes.replace(
                    &tables::account(account),
                    &Account { level: *level, ..record }.anew(),
                    revision,
                );
            }
            Act::Resume { account } => {
                let Stored { record, revision } = self.account(account).await?;
                if !record.suspended {
                    return Err(Error::NotAllowed(format!("accounts/{account} is not suspended")));
                }
                changes.replace(&tables::account(account), &Account { suspended: false, ..record }, revision);
            }
            Act::ResetOtp { account } => {
                let otp = self.records.get(&tables::otp(account)).await?;
                let none = || Error::NotAllowed(format!("accounts/{account} has no one-time password"));
                changes.delete(&tables::otp(account), otp.ok_or_else(none)?.revision);
            }
        }
        Ok(())
    }

    async fn act_statement(&self, head: &Head<'_>, act: &Act) -> Result<String, Error> {
        let account = act.account();
        let mut lines = vec![
            "KEYWARD ADMINISTRATION".to_owned(),
            format!("Act: {}", head.id),
            format!("Deployment: {}", self.deployment()),
            format!("Action: {}", act.as_str()),
            String::new(),
            format!("Account: accounts/{account}"),
        ];
        match act {
            Act::ApproveToken { credential, .. } => {
                let record = self.credential_of(account, *credential).await?.record;
                lines.push(format!(
                    "Token: {} ({}, {})",
                    quote(record.name.as_str()),
                    record.credential.kind().as_str(),
                    record.assurance.as_str()
                ));
                lines.push(format!("Credential: {credential}"));
                lines.push("Whoever has this token and its PIN can log in to the account.".into());
            }
            Act::Unlock { .. } => {
                lines.push("Its one-time passwords count again after too many wrong ones.".into());
            }
            Act::SetLevel { level, today, .. } => {
                lines.push(format!("Level: {} (today {})", level.get(), today.get()));
            }
            Act::Resume { .. } => lines.push("It is suspended, and can be logged in to again.".into()),
            Act::ResetOtp { .. } => {
                lines.push("Its one-time password is taken away. An operator can make another one.".into());
            }
        }
        lines.extend([
            String::new(),
            format!("This needs the signature of an administrator other than accounts/{account}."),
            format!("Proposed by: {}", quote(head.proposed_by.as_str())),
            format!("Reason: {}", quote(head.reason)),
            format!("Proposed: {}", date(head.created)),
            format!("Expires: {}", date(head.expires)),
        ]);
        Ok(lines.join("\n"))
    }

    /// Makes an account an administrator's, with one token: the custodians have decided that.
    pub(in crate::ops) async fn make_administrator(
        &self,
        account: &AccountId,
        credential: CredentialId,
        ceremony: crate::id::CeremonyId,
    ) -> Result<String, Error> {
        let done = format!("accounts/{account} has level 3 and credential {credential}");
        let Stored { record, revision } = self.account(account).await?;
        let token = self.credential_of(account, credential).await?;
        let mut changes = Changes::default();
        match token.record.state {
            CredentialState::Active if record.level == Level::Three && !record.suspended => return Ok(done),
            CredentialState::Active => {}
            CredentialState::Pending => {
                let approver = Some(Approver::Ceremony(ceremony));
                let approved = LoginCredential { state: CredentialState::Active, approver, ..token.record };
                changes.replace(&tables::login_credential(credential), &approved, token.revision);
            }
            CredentialState::Revoked => {
                return Err(Error::NotAllowed(format!("credential {credential} is revoked")));
            }
        }
        let administrator = Account { level: Level::Three, suspended: false, ..record }.anew();
        changes.replace(&tables::account(account), &administrator, revision);
        self.commit_own(changes, Affects::Staff, Action::MakeAdministrator, format!("accounts/{account}"))
            .await?;
        Ok(done)
    }

    /// That custodians can be asked for that.
    pub(in crate::ops) async fn check_administrator(
        &self,
        account: &AccountId,
        credential: CredentialId,
    ) -> Result<(), Error> {
        self.account(account).await?;
        match self.credential_of(account, credential).await?.record.state {
            CredentialState::Revoked => Err(Error::NotAllowed(format!("credential {credential} is revoked"))),
            CredentialState::Pending | CredentialState::Active => Ok(()),
        }
    }
}

/// What stands in every statement.
struct Head<'a> {
    id: ProposalId,
    proposed_by: &'a PrincipalId,
    reason: &'a str,
    created: Date,
    expires: Date,
}

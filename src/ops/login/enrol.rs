//! Putting a token on record for an account: a ticket, the token's own signature, a second person's approval.

use std::time::Duration;

use super::accounts::AccountInfo;
use super::evidence::Shown;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{AccountId, DeploymentId, TicketId, TokenName};
use crate::keyring::account::{CredentialState, LoginCredential, MOST_TOKENS, Ticket};
use crate::keyring::credential::{Credential, CredentialId};
use crate::keyring::record::Custody;
use crate::ops::Error;
use crate::ops::commit::{Affects, unhindered};
use crate::ops::done::Done;
use crate::ops::vault::Vault;
use crate::store::{Changes, Stored, tables};
use crate::token::envelope::LoginEnrolment;
use crate::token::verify::verify;

/// How long a ticket is good for.
pub const TICKET: Duration = Duration::from_secs(24 * 3600);
/// Most tickets that may be open at a time.
const MOST_TICKETS: usize = 1000;

/// A ticket, as the workstation needs it.
#[derive(Debug, Clone)]
pub struct OpenTicket {
    /// The ticket.
    pub id: TicketId,
    /// This installation.
    pub deployment: DeploymentId,
    /// What it permits.
    pub record: Ticket,
}

/// What the workstation made of a ticket.
#[derive(Debug, Clone)]
pub struct EnrolmentRequest {
    /// What the staff member calls the token.
    pub name: TokenName,
    /// The token's key.
    pub credential: Credential,
    /// Its signature over the enrolment.
    pub signature: Vec<u8>,
    /// What it shows of where its key was made.
    pub shown: Shown,
}

impl Vault {
    /// Permits the enrolment of one token for an account. A token that is lost is revoked at once.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when the account has too many tokens, or not the one that is replaced.
    pub async fn open_enrolment(
        &self,
        right: &Authorized<permission::ManageAccount>,
        replaces: Option<CredentialId>,
    ) -> Result<Done<OpenTicket>, Error> {
        let id = &right.resource().0;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)?;
        let expires = Date::now().after(TICKET);
        let requested_by = right.principal().clone();
        let record = Ticket { account: id.clone(), nonce, expires, requested_by, replaces };
        let ticket = TicketId::random()?;
        let change = unhindered!(self.put_ticket(ticket, &record))?;
        let lost = replaces.map(|lost| format!(", credential {lost} revoked")).unwrap_or_default();
        Ok(Done::with_change(OpenTicket { id: ticket, deployment: self.deployment(), record }, change)
            .detail(format!("tickets/{ticket}{lost}")))
    }

    async fn put_ticket(&self, id: TicketId, ticket: &Ticket) -> Result<crate::audit::StoreChange, Error> {
        let account = self.account(&ticket.account).await?;
        let mut changes = Changes::default();
        changes.require(&tables::account(&ticket.account), account.revision);
        if account.record.credentials.len() >= MOST_TOKENS {
            return Err(Error::NotAllowed(format!(
                "accounts/{} has had {MOST_TOKENS} tokens, the most that one account may have",
                ticket.account
            )));
        }
        if let Some(lost) = ticket.replaces {
            self.revoke_in(&mut changes, &ticket.account, lost, "lost, to be replaced").await?;
        }
        let mut open = 0;
        for (path, stored) in self.records.complete::<Ticket>().await? {
            match stored.record.expires < self.latest_date() {
                true => drop(changes.delete(&path, stored.revision)),
                false => open += 1,
            }
        }
        if open >= MOST_TICKETS {
            return Err(Error::NotAllowed(
                "too many enrolments are open; wait until some have expired".into(),
            ));
        }
        changes.create(&tables::ticket(id), ticket);
        self.commit(changes, Affects::Staff).await
    }

    /// Takes what the workstation made of a ticket. The token waits for approval.
    ///
    /// # Errors
    /// [`Error::EnrolmentRefused`] when ticket and signature do not fit, or the key is on record already.
    pub async fn submit_enrolment(
        &self,
        right: &Authorized<permission::SubmitEnrolment>,
        request: EnrolmentRequest,
    ) -> Result<Done<(AccountInfo, CredentialId)>, Error> {
        unhindered!(self.try_submit(*right.resource(), &request))
    }

    async fn try_submit(
        &self,
        id: TicketId,
        request: &EnrolmentRequest,
    ) -> Result<Done<(AccountInfo, CredentialId)>, Error> {
        let refused = |why: &str| Error::EnrolmentRefused(why.to_owned());
        let EnrolmentRequest { name, credential, signature, shown } = request;
        let ticket = self.records.get(&tables::ticket(id)).await?;
        let ticket = ticket.filter(|ticket| self.latest_date() < ticket.record.expires);
        let Stored { record: ticket, revision } =
            ticket.ok_or_else(|| refused("the ticket is used or has expired: open another one"))?;
        let (account, expires) = (ticket.account.clone(), ticket.expires);
        let signed = LoginEnrolment { account, ticket: id, nonce: ticket.nonce, expires, name: name.clone() };
        let signed = signed.envelope(self.deployment(), credential.id());
        let signed = verify(credential, &signed, signature)
            .map_err(|_| refused("the token has not signed this enrolment: make it again from the ticket"))?;
        // What goes on record is the key that has signed.
        let key = signed.by();
        self.require_new_key(key).await?;
        let (assurance, evidence) = self.judge_evidence(credential, shown).await?;
        let mut changes = Changes::default();
        changes.delete(&tables::ticket(id), revision);
        let enrolled = LoginCredential {
            account: ticket.account.clone(),
            name: name.clone(),
            credential: credential.clone(),
            assurance,
            state: CredentialState::Pending,
            requested_by: ticket.requested_by,
            enrolled: Date::now(),
            approved_by: None,
            last_used: None,
            reason: None,
            replaces: ticket.replaces,
            evidence,
            approver: None,
        };
        changes.create(&tables::login_credential(key), &enrolled);
        let Stored { record: mut account, revision } = self.account(&ticket.account).await?;
        account.credentials.push(key);
        changes.replace(&tables::account(&ticket.account), &account, revision);
        let change = self.commit(changes, Affects::Staff).await?;
        let detail = format!("accounts/{}, credential {key}, {}", ticket.account, assurance.as_str());
        let info = self.account_info(&ticket.account, account).await?;
        Ok(Done::with_change((info, key), change).detail(detail))
    }

    /// A key is on record once: for one account, and never for custodians too.
    async fn require_new_key(&self, key: CredentialId) -> Result<(), Error> {
        if self.records.get(&tables::login_credential(key)).await?.is_some() {
            return Err(Error::EnrolmentRefused(
                "the key is on record already: make a new one in the token".into(),
            ));
        }
        let roster = self.roster().await?.map(|(_, stored)| stored.record.members);
        let custodian = roster.is_some_and(|members| {
            members
                .custodians()
                .iter()
                .any(|one| one.signing().id() == key || CredentialId::of(one.agreement().spki()) == key)
        });
        match custodian {
            true => Err(Error::EnrolmentRefused("the key is a custodian's: log in with another key".into())),
            false => Ok(()),
        }
    }

    /// Lets a token be logged in with. Once the root is founded, whoever opened the enrolment cannot approve it.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] for the same person, and when nothing waits for approval.
    pub async fn approve_credential(
        &self,
        right: &Authorized<permission::ManageAccount>,
        credential: CredentialId,
    ) -> Result<Done<AccountInfo>, Error> {
        unhindered!(self.try_approve_credential(right, credential))
    }

    async fn try_approve_credential(
        &self,
        right: &Authorized<permission::ManageAccount>,
        id: CredentialId,
    ) -> Result<Done<AccountInfo>, Error> {
        let (account, approver) = (&right.resource().0, right.principal());
        let Stored { record, revision } = self.pending_credential(account, id).await?;
        self.require_no_administrator(&format!("approve-token {account} {id}")).await?;
        if record.requested_by == *approver && self.root().custody == Custody::Founded {
            return Err(Error::NotAllowed(format!(
                "principals/{approver} opened this enrolment; another operator must approve it"
            )));
        }
        let approved =
            LoginCredential { state: CredentialState::Active, approved_by: Some(approver.clone()), ..record };
        let mut changes = Changes::default();
        changes.replace(&tables::login_credential(id), &approved, revision);
        let change = self.commit(changes, Affects::Staff).await?;
        let record = self.account(account).await?.record;
        let info = self.account_info(account, record).await?;
        Ok(Done::with_change(info, change).detail(format!("credential {id}")))
    }

    /// A token that waits for approval.
    pub(super) async fn pending_credential(
        &self,
        account: &AccountId,
        id: CredentialId,
    ) -> Result<Stored<LoginCredential>, Error> {
        let stored = self.credential_of(account, id).await?;
        match stored.record.state {
            CredentialState::Pending => Ok(stored),
            other => Err(Error::NotAllowed(format!("credential {id} is {}", other.as_str()))),
        }
    }

    /// Takes a token off record for ever; assertions that it brought end at once.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it is revoked already.
    pub async fn revoke_credential(
        &self,
        right: &Authorized<permission::ManageAccount>,
        credential: CredentialId,
        reason: &str,
    ) -> Result<Done<AccountInfo>, Error> {
        unhindered!(self.try_revoke(&right.resource().0, credential, reason))
    }

    async fn try_revoke(
        &self,
        account: &AccountId,
        credential: CredentialId,
        reason: &str,
    ) -> Result<Done<AccountInfo>, Error> {
        let mut changes = Changes::default();
        self.revoke_in(&mut changes, account, credential, reason).await?;
        let change = self.commit(changes, Affects::Staff).await?;
        let record = self.account(account).await?.record;
        let info = self.account_info(account, record).await?;
        Ok(Done::with_change(info, change).detail(format!("credential {credential}: {reason}")))
    }

    async fn revoke_in(
        &self,
        changes: &mut Changes,
        account: &AccountId,
        id: CredentialId,
        reason: &str,
    ) -> Result<(), Error> {
        let Stored { record, revision } = self.credential_of(account, id).await?;
        if record.state == CredentialState::Revoked {
            return Err(Error::NotAllowed(format!("credential {id} is revoked already")));
        }
        let (state, reason) = (CredentialState::Revoked, Some(reason.to_owned()));
        changes.replace(
            &tables::login_credential(id),
            &LoginCredential { state, reason, ..record },
            revision,
        );
        Ok(())
    }

    pub(super) async fn credential_of(
        &self,
        account: &AccountId,
        id: CredentialId,
    ) -> Result<Stored<LoginCredential>, Error> {
        let stored = self.records.get(&tables::login_credential(id)).await?;
        stored
            .filter(|stored| stored.record.account == *account)
            .ok_or_else(|| Error::NotAllowed(format!("accounts/{account} has no credential {id}")))
    }
}

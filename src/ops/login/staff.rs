//! Staff on the data path: an application shows the assertion of the staff member whom it acts for, and
//! the right is the intersection of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::assertion::{self, Claims};
use super::issuer;
use super::proof::{self, ProofFlaw, Shown, Subject};
use crate::access::permission::{Deed, OnData};
use crate::access::staff::{FoundGood, Member, Staff};
use crate::access::{Authorized, Permission};
use crate::clock::{Date, Moment};
use crate::id::{AccountName, AssertionId, KeyName, PrincipalId};
use crate::keyring::account::{CredentialState, Level};
use crate::keyring::credential::CredentialId;
use crate::keyring::record::SigningPurpose;
use crate::keyring::signing::PublicKey;
use crate::keyring::state::DataClass;
use crate::ops::Error;
use crate::ops::vault::Vault;
use crate::ops::views::KeyView;
use crate::store::tables;

/// Assertions that are remembered as verified.
const REMEMBERED: usize = 10_000;

/// Classes above this one take a proof of possession for each call or session.
const DEFAULT_CLASS: DataClass = DataClass::Sensitive;

/// Why an assertion is good for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionFlaw {
    /// It has another form, or is of another installation, or its signature does not verify.
    #[error("the assertion is none of this installation")]
    Foreign,
    /// It was issued to another application.
    #[error("the assertion was issued to another application")]
    OtherApplication,
    /// It has expired.
    #[error("the assertion has expired: log in again")]
    Expired,
    /// A logout, a suspended account, a revoked token.
    #[error("the assertion was ended before its time: log in again")]
    Ended,
    /// The level was changed since.
    #[error("the level of the account was changed: log in again")]
    OtherLevel,
}

/// What an application shows of the staff member whom it acts for.
#[derive(Debug, Clone, Copy)]
pub struct Showing<'a> {
    /// The assertion.
    pub assertion: &'a str,
    /// A proof by the session's key, if there is one.
    pub proof: Option<&'a str>,
    /// The full name of the method that is called.
    pub method: &'static str,
}

/// What is remembered of assertions.
pub(in crate::ops) struct Members {
    verified: Cache<[u8; 32], Arc<Member>>,
    /// Counts the changes that may end an assertion before its time.
    accounts: AtomicU64,
    proofs: Shown,
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            verified: Cache::new(REMEMBERED),
            accounts: AtomicU64::new(0),
            proofs: Shown::new(Date::now()),
        }
    }

    /// An account, a token or an assertion was changed, or may have been: everybody is looked at again.
    pub(in crate::ops) fn accounts_changed(&self) {
        self.accounts.fetch_add(1, Ordering::AcqRel);
    }

    fn accounts(&self) -> u64 {
        self.accounts.load(Ordering::Acquire)
    }
}

impl Vault {
    /// The staff member whom an application acts for.
    ///
    /// # Errors
    /// [`Error::Assertion`] and [`Error::Proof`] when what it shows is good for nothing.
    pub async fn staff(&self, application: &PrincipalId, shown: Showing<'_>) -> Result<Staff, Error> {
        let digest = Sha256::digest(shown.assertion).into();
        let known = self.logins.members.verified.get(&digest);
        let member = match known {
            Some(known) => known,
            None => {
                let verified = Arc::new(self.verified(shown.assertion).await?);
                self.logins.members.verified.insert(digest, verified.clone());
                verified
            }
        };
        if member.application != *application {
            return Err(AssertionFlaw::OtherApplication.into());
        }
        self.require_good(&member).await?;
        let proved = self.is_proved(&member, shown)?;
        Ok(Staff { member, proved })
    }

    async fn verified(&self, assertion: &str) -> Result<Member, Error> {
        let accounts = self.logins.members.accounts();
        let claims = self.signed_claims(assertion).await?.ok_or(AssertionFlaw::Foreign)?;
        let member = member(&claims, accounts).ok_or(AssertionFlaw::Foreign)?;
        self.require_in_time(&member)?;
        self.require_not_ended(&member).await?;
        Ok(member)
    }

    /// What an assertion says that this installation has signed, whether it is good or not.
    async fn signed_claims(&self, assertion: &str) -> Result<Option<Claims>, Error> {
        let keys = self.login_keys().await?;
        let latest = self.latest_date().millis() / 1000;
        let ours = |claims: &Claims| claims.iss == issuer(self.deployment()) && claims.iat <= latest;
        let lasts = self.settings().assertion_ttl.as_secs();
        // For no longer than this daemon issues them now, whatever it says.
        let cut = |claims: Claims| Claims { exp: claims.exp.min(claims.iat.saturating_add(lasts)), ..claims };
        Ok(assertion::verify(&keys, assertion).filter(ours).map(cut))
    }

    /// The keys whose assertions count: the newest, and each before it for as long as what it has signed may last.
    /// Whoever holds an old root, or what it wraps, signs nothing that counts later.
    pub(super) async fn login_keys(&self) -> Result<Vec<PublicKey>, Error> {
        let keys = self.signing_keys(SigningPurpose::Login).await?;
        let (now, lasts) = (self.latest_date(), self.settings().assertion_ttl);
        let followed = keys.iter().skip(1).map(|(_, next)| Some(next.created)).chain([None]);
        let counts = |followed: Option<Date>| followed.is_none_or(|date| now < date.after(lasts));
        let counting = keys.iter().zip(followed).filter(|(_, followed)| counts(*followed));
        Ok(counting.map(|((_, record), _)| record.key.public).collect())
    }

    /// What an assertion says that was issued to `application` and is good now.
    pub(super) async fn good_claims(
        &self,
        application: &PrincipalId,
        assertion: &str,
    ) -> Result<Option<Claims>, Error> {
        let claims = self.signed_claims(assertion).await?;
        let Some(claims) = claims.filter(|claims| claims.aud == application.as_str()) else {
            return Ok(None);
        };
        Ok(if self.is_good(&claims).await? { Some(claims) } else { None })
    }

    /// Whether what a signed assertion says still counts.
    pub(super) async fn is_good(&self, claims: &Claims) -> Result<bool, Error> {
        let Some(member) = member(claims, self.logins.members.accounts()) else { return Ok(false) };
        let good = match self.require_in_time(&member) {
            Ok(()) => self.require_not_ended(&member).await,
            late => late,
        };
        match good {
            Ok(()) => Ok(true),
            Err(Error::Assertion(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_proved(&self, member: &Member, shown: Showing<'_>) -> Result<bool, Error> {
        let Some(proof) = shown.proof else { return Ok(false) };
        let (method, assertion, now) = (shown.method, shown.assertion, Date::now().millis() / 1000);
        let id = proof::verify(
            proof,
            &member.session,
            &Subject { method, assertion, now },
            self.logins.members.proofs.since,
        )?;
        self.logins.members.proofs.note(&member.session, &id, Moment::now())?;
        Ok(true)
    }

    /// That an assertion that was verified is still good: at once when nothing has changed since.
    async fn require_good(&self, member: &Member) -> Result<(), Error> {
        self.require_in_time(member)?;
        let accounts = self.logins.members.accounts();
        if member.found_good.holds(accounts) {
            return Ok(());
        }
        self.require_not_ended(member).await?;
        member.found_good.again(accounts);
        Ok(())
    }

    fn require_in_time(&self, member: &Member) -> Result<(), Error> {
        // It may have been remembered before the settings said how long assertions last now.
        let end = member.expires.min(member.issued.after(self.settings().assertion_ttl));
        if self.latest_date() < end { Ok(()) } else { Err(AssertionFlaw::Expired.into()) }
    }

    /// That assertion, account and token were not ended before their time.
    async fn require_not_ended(&self, member: &Member) -> Result<(), Error> {
        let mut view = self.records.view().await?;
        if view.get(&tables::ended_assertion(member.assertion)).await?.is_some() {
            return Err(AssertionFlaw::Ended.into());
        }
        let account = view.get(&tables::account(&member.account)).await?.map(|stored| stored.record);
        let account = account.filter(|account| !account.suspended).ok_or(AssertionFlaw::Ended)?;
        let credential = view.get(&tables::login_credential(member.credential)).await?;
        if credential.is_none_or(|found| found.record.state != CredentialState::Active) {
            return Err(AssertionFlaw::Ended.into());
        }
        match account.level == member.level {
            false => Err(AssertionFlaw::OtherLevel.into()),
            // Suspended and resumed since, or given another level and this one again.
            true if account.generation() != member.generation => Err(AssertionFlaw::Ended.into()),
            true => Ok(()),
        }
    }

    /// The view of a key, for whoever may do this with it now: where a staff member acts through the
    /// application, what both may.
    pub(in crate::ops) async fn view_for<P: Permission<Resource = KeyName> + OnData>(
        &self,
        right: &Authorized<P>,
    ) -> Result<Arc<KeyView>, Error> {
        right.holds()?;
        let view = self.key_view(right.resource()).await?;
        match right.staff() {
            Some(staff) => self.check_staff(staff, P::DEED, &view).await?,
            None if view.record.staff_required() => return Err(Error::StaffRequired(view.name.clone())),
            None => {}
        }
        Ok(view)
    }

    async fn check_staff(&self, staff: &Staff, deed: Deed, view: &KeyView) -> Result<(), Error> {
        self.require_good(&staff.member).await?;
        let class = view.record.data_class;
        let settings = self.settings();
        let rules = settings.classes.of(class);
        let needed = if deed == Deed::Write { rules.staff_write } else { rules.staff_read };
        if staff.member.level < needed {
            let account = AccountName(staff.member.account.clone());
            return Err(Error::StaffLevel { account, has: staff.member.level, needs: needed, class });
        }
        match class > DEFAULT_CLASS && !staff.proved {
            true => Err(Error::ProofRequired(view.name.clone())),
            false => Ok(()),
        }
    }
}

impl From<AssertionFlaw> for Error {
    fn from(flaw: AssertionFlaw) -> Self {
        Self::Assertion(flaw)
    }
}

impl From<ProofFlaw> for Error {
    fn from(flaw: ProofFlaw) -> Self {
        match flaw {
            // Whoever tries again with a new one is served.
            ProofFlaw::BeforeStart | ProofFlaw::Crowded => Self::NotReady(flaw.to_string()),
            other => Self::Proof(other),
        }
    }
}

/// What the claims of a verified assertion say; `None` when they are not as this version writes them.
fn member(claims: &Claims, accounts: u64) -> Option<Member> {
    Some(Member {
        account: AccountName::parse(&claims.sub).ok()?.0,
        level: Level::new(claims.level)?,
        generation: claims.generation,
        application: PrincipalId::new(&claims.aud).ok()?,
        assertion: AssertionId::parse(&claims.jti)?,
        credential: CredentialId::parse(&claims.credential)?,
        session: claims.cnf.jkt.clone(),
        issued: Date(claims.iat.checked_mul(1000)?),
        expires: Date(claims.exp.checked_mul(1000)?),
        found_good: FoundGood::at(accounts),
    })
}

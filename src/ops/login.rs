//! Logging in: the daemon checks the one-time password and the USB token; the account's own
//! password, if it has one, is the application's matter.
//!
//! ```text
//! begin → challenge (one try, 2 minutes) → complete: take it, token signature, one-time password → assertion
//! ```
//!
//! Outside, every failure is the same answer after the same time; the audit log has the reason.
//! Nobody without the token can burn passwords or lock an account: its signature is checked first.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::vault::Vault;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::audit::StoreChange;
use crate::clock::{Date, Moment};
use crate::id::{AccountId, AssertionId, ClientAddress, DeploymentId, LoginId, Origin};
use crate::keyring::account::{Account, Asked, Assurance, CredentialState, LoginCredential, Otp};
use crate::keyring::credential::{CredentialId, Verified};
use crate::keyring::custodian::AgreementKey;
use crate::keyring::otp::{Given, Lock};
use crate::keyring::record::SigningPurpose;
use crate::keyring::signing::PublicKey;
use crate::store::{Changes, Stored, tables};
use crate::token::envelope;
use crate::token::verify::verify;

pub mod accounts;
pub mod admin;
pub mod assertion;
pub mod challenge;
pub mod enrol;
pub mod evidence;
pub mod keys;
pub mod proof;
pub mod staff;

use assertion::{Claims, Confirmation};
use challenge::{Caps, Challenge, Challenges, Taken};
use keys::LoginKeys;
use staff::Members;

/// Every failure is answered after this time.
const FAILURE: Duration = Duration::from_millis(250);
/// Every challenge is answered, or refused, after this time.
const BEGINNING: Duration = Duration::from_millis(10);
/// A challenge names so many keys, or a multiple: most people have one token or two.
const ANSWERERS: usize = 4;

/// What logging in keeps in memory.
pub(super) struct Logins {
    pub(super) keys: LoginKeys,
    pub(super) members: Members,
    challenges: Challenges,
}

impl Logins {
    pub(super) fn new(keys: LoginKeys) -> Self {
        Self { keys, members: Members::new(), challenges: Challenges::new(Caps::DEFAULT) }
    }
}

/// Why a login failed: for the audit log, not for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Never begun, completed already, displaced by others of a crowded source, or begun before the daemon started.
    #[error("there is no such login open")]
    NoChallenge,
    /// Another application began it.
    #[error("it was begun by another application")]
    OtherApplication,
    /// The challenge is too old.
    #[error("the challenge has expired")]
    Expired,
    /// The account does not exist.
    #[error("there is no such account")]
    NoAccount,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The key is none that the challenge named.
    #[error("the key is not one of those that may answer")]
    OtherCredential,
    /// The key was revoked since the challenge was made.
    #[error("the key is not active any more")]
    Revoked,
    /// The session's key is none.
    #[error("the session key is no P-256 key")]
    SessionKey,
    /// The token's signature is not one over this login.
    #[error("the token's signature does not verify")]
    Signature,
    /// The account has no one-time password yet.
    #[error("the account has no confirmed one-time password")]
    NoOtp,
    /// What is known of where the token's key was made is not accepted any more.
    #[error("the token is {}, which is not accepted any more (login.assurance)", .0.as_str())]
    NotAccepted(Assurance),
    /// The token does not meet the rules any more.
    #[error("the token does not meet the rules of [login] any more; the daemon's log says which")]
    Unfit,
    /// The certificate of the token's key has expired.
    #[error("the certificate of the token's key has expired")]
    CertificateExpired,
    /// The certificate of the token's key was revoked.
    #[error("the certificate of the token's key was revoked")]
    CertificateRevoked,
    /// Nobody can say that the certificate of the token's key is good.
    #[error("the certificate of the token's key cannot be found to be good; the daemon's log says why")]
    CertificateUnknown,
    /// The one-time password is wrong.
    #[error("the one-time password is wrong")]
    WrongOtp,
    /// The one-time password was used before.
    #[error("the one-time password was used before")]
    UsedOtp,
    /// Too many one-time passwords were wrong: a pause.
    #[error("after wrong one-time passwords the account is paused")]
    Paused,
    /// Too many one-time passwords were wrong: locked.
    #[error("after too many wrong one-time passwords the account is locked")]
    Locked,
}

/// A challenge, as the workstation needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The attempt.
    pub login: LoginId,
    /// This installation.
    pub deployment: DeploymentId,
    /// What was begun.
    pub challenge: Challenge,
}

/// The answer to a challenge.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The one-time password.
    pub otp: String,
    /// The key that signed.
    pub credential: CredentialId,
    /// The session's key: SubjectPublicKeyInfo in DER.
    pub session: Vec<u8>,
    /// The signature of the envelope, in the form of the key's algorithm.
    pub signature: Vec<u8>,
}

/// Somebody has logged in.
#[derive(Debug, Clone)]
pub struct LoggedIn {
    /// The assertion (RFC 7519).
    pub assertion: String,
    /// What it says.
    pub claims: Claims,
}

/// Who has logged in, and by what.
struct Known {
    account: Account,
    credential: LoginCredential,
    session: PublicKey,
}

/// What was proved, before it counts.
struct Proved {
    account: Stored<Account>,
    credential: Stored<LoginCredential>,
    otp: Stored<Otp>,
    session: PublicKey,
    /// The signature of the token.
    signed: Verified,
}

impl Vault {
    /// Opens a login. It changes nothing that is kept, and tells nothing of whether the account exists.
    ///
    /// # Errors
    /// [`Error::LoginLimit`] when too many of the same source are open, or have failed.
    pub async fn begin_login(
        &self,
        right: &Authorized<permission::BeginLogin>,
        client: ClientAddress,
    ) -> Result<Done<Begun>, Error> {
        let answered = Instant::now() + BEGINNING;
        let begun = self.try_begin(right, client).await;
        tokio::time::sleep_until(answered).await;
        begun
    }

    async fn try_begin(
        &self,
        right: &Authorized<permission::BeginLogin>,
        client: ClientAddress,
    ) -> Result<Done<Begun>, Error> {
        let account = right.resource().0.clone();
        self.require_time_for_logins()?;
        let credentials = self.answerers(&account).await?;
        let (login, issued, now) = (LoginId::random()?, Date::now(), Moment::now());
        let answerable = self.settings().challenge_ttl;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)?;
        let challenge = Challenge {
            application: right.principal().clone(),
            origin: origin_of(right)?,
            account,
            client,
            nonce,
            credentials,
            issued,
            expires: issued.after(answerable),
        };
        let end = now.after(answerable);
        let opened = self.logins.challenges.begin(login, challenge.clone(), now, end);
        opened.map_err(Error::LoginLimit)?;
        let detail = format!("accounts/{} from {}", challenge.account, challenge.client);
        Ok(Done::new(Begun { login, deployment: self.deployment(), challenge }).detail(detail))
    }

    /// The active keys of an account among others that are nobody's, in no order that tells them apart.
    async fn answerers(&self, id: &AccountId) -> Result<Vec<CredentialId>, Error> {
        let account = self.records.get(&tables::account(id)).await?.map(|stored| stored.record);
        let known = account.filter(|account| !account.suspended).map(|account| account.credentials);
        let mut answerers = Vec::new();
        for credential in known.unwrap_or_default() {
            let stored = self.records.get(&tables::login_credential(credential)).await?;
            let active = stored.filter(|stored| stored.record.state == CredentialState::Active);
            answerers.extend(active.map(|_| credential));
        }
        let missing = answerers.len().max(1).next_multiple_of(ANSWERERS) - answerers.len();
        answerers.extend((0..missing).map(|number| self.logins.keys.decoy(id, number)));
        answerers.sort_unstable();
        Ok(answerers)
    }

    /// Completes a login: takes the challenge, checks the token's signature, then the one-time password.
    ///
    /// # Errors
    /// [`Error::LoginFailed`] for everything that somebody who logs in could have done wrong.
    pub async fn complete_login(
        &self,
        right: &Authorized<permission::CompleteLogin>,
        completion: &Completion,
    ) -> Result<Done<LoggedIn>, Error> {
        let answered = Instant::now() + FAILURE;
        let completed = self.try_complete(right, completion).await;
        if matches!(completed, Err(Error::LoginFailed { .. })) {
            tokio::time::sleep_until(answered).await;
        }
        completed
    }

    async fn try_complete(
        &self,
        right: &Authorized<permission::CompleteLogin>,
        completion: &Completion,
    ) -> Result<Done<LoggedIn>, Error> {
        let taken = self.logins.challenges.take(*right.resource(), right.principal(), Moment::now());
        let (challenge, fresh) = match taken {
            Taken::Challenge { challenge, fresh } => (challenge, fresh),
            Taken::OfAnother(challenge) => return Err(failed(Some(&challenge), Refusal::OtherApplication)),
            Taken::Nothing => return Err(failed(None, Refusal::NoChallenge)),
        };
        self.require_time_for_logins()?;
        if !fresh {
            return Err(failed(Some(&challenge), Refusal::Expired));
        }
        let (logged_in, change) = unhindered!(self.judge(right, &challenge, completion))?;
        self.logins.challenges.succeeded(*right.resource());
        let from = format!("accounts/{} from {}", challenge.account, challenge.client);
        let detail =
            format!("{from}, credential {}, assertion {}", completion.credential, logged_in.claims.jti);
        Ok(Done::with_change(logged_in, change).detail(detail))
    }

    /// Checks everything, and keeps that the password is used, or that it was wrong. The assertion is made before that
    /// and given out after it: while the HSM is away nobody loses a password.
    async fn judge(
        &self,
        right: &Authorized<permission::CompleteLogin>,
        challenge: &Challenge,
        completion: &Completion,
    ) -> Result<(LoggedIn, StoreChange), Error> {
        let refused = |why| failed(Some(challenge), why);
        let Proved { account, credential, otp, session, signed } =
            self.check_token(*right.resource(), challenge, completion).await?;
        let now = Date::now();
        match otp.record.failures.lock(now) {
            Lock::Open => {}
            Lock::Until(_) => return Err(refused(Refusal::Paused)),
            Lock::Hard => return Err(refused(Refusal::Locked)),
        }
        let seed = self.logins.keys.open(self.deployment(), &challenge.account, &otp.record.sealed)?;
        let given = otp.record.scheme.judge(seed.expose(), otp.record.next, now, &completion.otp);
        let path = tables::otp(&challenge.account);
        let mut changes = Changes::default();
        changes.require(&tables::account(&challenge.account), account.revision);
        let why = match given {
            Given::Right(counter) => {
                let known = Known { account: account.record, credential: credential.record, session };
                let claims = self.claims(right, challenge, completion, &known)?;
                let assertion = self.issue(&claims).await?;
                let next = counter.saturating_add(1);
                let used = Otp { next, failures: Default::default(), ..otp.record };
                changes.replace(&path, &used, otp.revision);
                let seen = LoginCredential { last_used: Some(now), ..known.credential };
                changes.replace(&tables::login_credential(signed.by()), &seen, credential.revision);
                let change = self.commit(changes, Affects::Nothing).await?;
                return Ok((LoggedIn { assertion, claims }, change));
            }
            Given::Used => Refusal::UsedOtp,
            Given::Wrong => Refusal::WrongOtp,
        };
        let failures = otp.record.failures.and(now);
        changes.replace(&path, &Otp { failures, ..otp.record }, otp.revision);
        let resource = format!("accounts/{}", challenge.account);
        self.commit_own(changes, Affects::Nothing, Action::LoginFailure, resource).await?;
        Err(refused(why))
    }

    /// That the account's token signed this login.
    async fn check_token(
        &self,
        login: LoginId,
        challenge: &Challenge,
        completion: &Completion,
    ) -> Result<Proved, Error> {
        let refused = |why| failed(Some(challenge), why);
        let id = &challenge.account;
        let account = self.records.get(&tables::account(id)).await?;
        let account = account.ok_or_else(|| refused(Refusal::NoAccount))?;
        if account.record.suspended {
            return Err(refused(Refusal::Suspended));
        }
        if !challenge.credentials.contains(&completion.credential) {
            return Err(refused(Refusal::OtherCredential));
        }
        let credential = self.records.get(&tables::login_credential(completion.credential)).await?;
        let credential = credential
            .filter(|stored| stored.record.account == *id && stored.record.state == CredentialState::Active)
            .ok_or_else(|| refused(Refusal::Revoked))?;
        let session =
            PublicKey::from_spki(&completion.session).ok_or_else(|| refused(Refusal::SessionKey))?;
        let agreed =
            AgreementKey::new(completion.session.clone()).map_err(|_| refused(Refusal::SessionKey))?;
        let signed = envelope::Login {
            origin: challenge.origin.clone(),
            login,
            nonce: challenge.nonce,
            account: id.clone(),
            issued: challenge.issued,
            expires: challenge.expires,
            session: agreed,
        };
        let signed = signed.envelope(self.deployment(), completion.credential);
        let signed = verify(&credential.record.credential, &signed, &completion.signature)
            .map_err(|_| refused(Refusal::Signature))?;
        self.recheck_evidence(&credential.record).await.map_err(refused)?;
        let otp = self.records.get(&tables::otp(id)).await?.filter(|stored| stored.record.confirmed);
        let otp = otp.ok_or_else(|| refused(Refusal::NoOtp))?;
        Ok(Proved { account, credential, otp, session, signed })
    }

    fn claims(
        &self,
        right: &Authorized<permission::CompleteLogin>,
        challenge: &Challenge,
        completion: &Completion,
        Known { account, credential, session }: &Known,
    ) -> Result<Claims, Error> {
        let issued = Date::now().millis() / 1000;
        Ok(Claims {
            iss: issuer(self.deployment()),
            sub: format!("accounts/{}", challenge.account),
            aud: right.principal().to_string(),
            iat: issued,
            exp: issued.saturating_add(self.settings().assertion_ttl.as_secs()),
            jti: AssertionId::random()?.to_string(),
            amr: methods(credential),
            acr: credential.assurance.as_str().to_owned(),
            level: account.level.get(),
            generation: account.generation(),
            credential: completion.credential.to_string(),
            cnf: Confirmation { jkt: assertion::thumbprint(session) },
        })
    }

    async fn issue(&self, claims: &Claims) -> Result<String, Error> {
        let (_, record) = self.signing_key(SigningPurpose::Login).await?;
        let input = assertion::signing_input(&record.key.public, claims);
        let input = input.map_err(|error| Error::Internal(error.to_string()))?;
        let signature = self.sign(&record.key, Sha256::digest(&input).into()).await?;
        Ok(assertion::complete(&input, &signature))
    }

    /// A clock that was set back would let old passwords count again.
    fn require_time_for_logins(&self) -> Result<(), Error> {
        match self.schedule_status().verdict {
            Some(verdict) if !verdict.permits_schedules() => {
                Err(Error::ClockSuspect(verdict.reason().unwrap_or_else(|| "the clock was set back".into())))
            }
            _ => Ok(()),
        }
    }
}

/// What was verified (RFC 8176), and no more: a signature by a key that may be anywhere, or one in hardware
/// that wants its PIN and perhaps a touch, as its maker attests; and a password that counts once.
fn methods(credential: &LoginCredential) -> Vec<String> {
    let evidence = credential.evidence.as_ref().filter(|_| credential.assurance == Assurance::Attested);
    let wants = |asked: Option<Asked>| asked.is_some_and(|asked| asked != Asked::Never);
    let touched = evidence.is_some_and(|evidence| evidence.touch == Some(Asked::Always));
    let methods = [
        Some(if evidence.is_some() { "hwk" } else { "pop" }),
        evidence.and_then(|evidence| wants(evidence.pin).then_some("pin")),
        touched.then_some("user"),
        Some("otp"),
        Some("mfa"),
    ];
    methods.into_iter().flatten().map(str::to_owned).collect()
}

/// Who issues the assertions of an installation.
pub(super) fn issuer(deployment: DeploymentId) -> String {
    format!("keyward:{deployment}")
}

fn origin_of(right: &Authorized<permission::BeginLogin>) -> Result<Origin, Error> {
    right.origin().cloned().ok_or_else(|| Error::Internal("a right to log in without an origin".into()))
}

fn failed(challenge: Option<&Challenge>, why: Refusal) -> Error {
    let whose =
        challenge.map(|challenge| format!("accounts/{} from {}", challenge.account, challenge.client));
    Error::LoginFailed { whose: whose.unwrap_or_else(|| "an unknown login".into()), why }
}

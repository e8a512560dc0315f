//! Accounts, their one-time passwords, and what became of assertions.

use std::time::Duration;

use super::Claims;
use super::assertion::jwk;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::hsm::{Operation, Reply};
use crate::id::{AccountId, AccountName, AssertionId, Installation};
use crate::keyring::account::{Account, EndedAssertion, Level, LoginCredential, Otp};
use crate::keyring::act::Act;
use crate::keyring::credential::CredentialId;
use crate::keyring::otp::{Failures, Given, Lock, OtpKind, OtpScheme};
use crate::keyring::record::{Custody, SigningPurpose};
use crate::ops::Error;
use crate::ops::commit::{Affects, unhindered};
use crate::ops::done::Done;
use crate::ops::vault::{Vault, misfit};
use crate::secret::Key256;
use crate::store::{Changes, Prefix, Stored, tables};

/// Longest name for people in bytes.
const LONGEST_NAME: usize = 200;

/// An account with what belongs to it.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// The account.
    pub id: AccountId,
    /// Its record.
    pub record: Account,
    /// Its one-time passwords.
    pub otp: Option<Otp>,
    /// Whether it is paused or locked after wrong ones.
    pub lock: Lock,
    /// Its tokens.
    pub credentials: Vec<(CredentialId, LoginCredential)>,
}

/// What is changed of an account; nothing where there is nothing.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    /// Its level.
    pub level: Option<Level>,
    /// Whether nobody logs in to it.
    pub suspended: Option<bool>,
    /// Its name for people.
    pub display_name: Option<String>,
}

impl Vault {
    /// Makes an account that nobody can log in to yet.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    pub async fn create_account(
        &self,
        right: &Authorized<permission::ManageAccount>,
        level: Level,
        display_name: Option<String>,
    ) -> Result<Done<AccountInfo>, Error> {
        check_name(display_name.as_deref())?;
        self.require_level(level)?;
        let id = &right.resource().0;
        if self.records.get(&tables::account(id)).await?.is_some() {
            return Err(Error::Exists(right.resource().to_string()));
        }
        if level > Level::One {
            self.require_no_administrator(&format!("set-level {id} {}", level.get())).await?;
        }
        let (created, credentials) = (Date::now(), Vec::new());
        let record =
            Account { display_name, level, suspended: false, created, credentials, generation: None };
        let mut changes = Changes::default();
        changes.create(&tables::account(id), &record);
        let detail = format!("level {}", level.get());
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change(self.account_info(id, record).await?, change).detail(detail))
    }

    /// One account.
    ///
    /// # Errors
    /// [`Error::NoAccount`] when there is none of that name.
    pub async fn show_account(
        &self,
        right: &Authorized<permission::ManageAccount>,
    ) -> Result<Done<AccountInfo>, Error> {
        let id = &right.resource().0;
        let record = self.account(id).await?.record;
        Ok(Done::new(self.account_info(id, record).await?))
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn list_accounts(
        &self,
        right: &Authorized<permission::ListAccounts>,
    ) -> Result<Done<Vec<AccountInfo>>, Error> {
        let Installation = right.resource();
        let mut found = Vec::new();
        for (path, stored) in self.records.complete::<Account>().await? {
            found.push(self.account_info(&path.id, stored.record).await?);
        }
        Ok(Done::new(found))
    }

    /// Changes an account. A suspension ends its assertions at once.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] for a level that this daemon may not give.
    pub async fn update_account(
        &self,
        right: &Authorized<permission::ManageAccount>,
        change: AccountChange,
    ) -> Result<Done<AccountInfo>, Error> {
        check_name(change.display_name.as_deref())?;
        unhindered!(self.try_update_account(&right.resource().0, &change))
    }

    async fn try_update_account(
        &self,
        id: &AccountId,
        change: &AccountChange,
    ) -> Result<Done<AccountInfo>, Error> {
        let Stored { mut record, revision } = self.account(id).await?;
        let before = record.clone();
        if let Some(level) = change.level {
            if level > record.level {
                self.require_level(level)?;
            }
            // Whoever could lower the administrators' levels alone would be rid of them.
            if level > record.level || (level < record.level && record.level == Level::Three) {
                self.require_no_administrator(&format!("set-level {id} {}", level.get())).await?;
            }
            record.level = level;
        }
        if record.suspended && change.suspended == Some(false) {
            self.require_no_administrator(&format!("resume {id}")).await?;
        }
        record.suspended = change.suspended.unwrap_or(record.suspended);
        record.display_name = change.display_name.clone().or(record.display_name);
        if record.level != before.level || (record.suspended && !before.suspended) {
            record = record.anew();
        }
        let mut changes = Changes::default();
        changes.replace(&tables::account(id), &record, revision);
        let detail = difference(&before, &record);
        let change = self.commit(changes, Affects::Staff).await?;
        Ok(Done::with_change(self.account_info(id, record).await?, change).detail(detail))
    }

    /// Ends the pause or lock after wrong one-time passwords.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when there is none.
    pub async fn unlock_account(
        &self,
        right: &Authorized<permission::ManageAccount>,
        reason: &str,
    ) -> Result<Done<AccountInfo>, Error> {
        unhindered!(self.try_unlock(&right.resource().0, reason))
    }

    async fn try_unlock(&self, id: &AccountId, reason: &str) -> Result<Done<AccountInfo>, Error> {
        let account = self.account(id).await?.record;
        self.require_no_administrator(&format!("unlock {id}")).await?;
        let mut changes = Changes::default();
        self.apply(&mut changes, &Act::Unlock { account: id.clone() }, None).await?;
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change(self.account_info(id, account).await?, change).detail(reason))
    }

    /// Gives an account a new one-time password, which counts once a first password has confirmed it. The
    /// seed is drawn by HSM and system unless a token's own is given; whoever gets it shows it once.
    ///
    /// # Errors
    /// [`Error::NoAccount`] when there is none of that name.
    pub async fn create_otp(
        &self,
        right: &Authorized<permission::ManageAccount>,
        scheme: OtpScheme,
        seed: Option<Key256>,
    ) -> Result<Done<Key256>, Error> {
        let id = &right.resource().0;
        let seed = match seed {
            Some(seed) => seed,
            None => self.new_seed().await?,
        };
        let sealed = self.logins.keys.seal(self.deployment(), id, &seed)?;
        let (next, created) = (0, Date::now());
        let otp = Otp { scheme, sealed, next, confirmed: false, failures: Failures::default(), created };
        let change = unhindered!(self.put_otp(id, &otp))?;
        Ok(Done::with_change(seed, change))
    }

    async fn new_seed(&self) -> Result<Key256, Error> {
        let Reply::Random(drawn) = self.hsm(Operation::Random { len: Key256::LEN }).await? else {
            return Err(misfit("random"));
        };
        Key256::try_init_with(|seed| {
            getrandom::fill(seed)?;
            seed.iter_mut().zip(drawn.expose()).for_each(|(byte, drawn)| *byte ^= drawn);
            Ok::<_, Error>(())
        })
    }

    async fn put_otp(&self, id: &AccountId, otp: &Otp) -> Result<crate::audit::StoreChange, Error> {
        let account = self.account(id).await?;
        let mut changes = Changes::default();
        changes.require(&tables::account(id), account.revision);
        match self.records.get(&tables::otp(id)).await? {
            Some(old) => {
                // Another password would be a way past the lock.
                if old.record.confirmed {
                    self.require_no_administrator(&format!("reset-otp {id}")).await?;
                }
                changes.replace(&tables::otp(id), otp, old.revision)
            }
            None => changes.create(&tables::otp(id), otp),
        };
        self.commit(changes, Affects::Nothing).await
    }

    /// Confirms a new one-time password by a first password, which is used up by that. With the password after
    /// it the counter of a token may be far ahead, and one that was confirmed is set right.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it is wrong.
    pub async fn confirm_otp(
        &self,
        right: &Authorized<permission::ManageAccount>,
        password: &str,
        following: Option<&str>,
    ) -> Result<Done<AccountInfo>, Error> {
        unhindered!(self.try_confirm(&right.resource().0, password, following))
    }

    async fn try_confirm(
        &self,
        id: &AccountId,
        password: &str,
        following: Option<&str>,
    ) -> Result<Done<AccountInfo>, Error> {
        let otp = self.records.get(&tables::otp(id)).await?;
        let otp = otp.filter(|otp| !otp.record.confirmed || following.is_some());
        let Stored { record, revision } = otp.ok_or_else(|| {
            Error::NotAllowed(format!("accounts/{id} has no one-time password that waits to be confirmed"))
        })?;
        let now = Date::now();
        match record.failures.lock(now) {
            Lock::Open => {}
            Lock::Until(end) => {
                let pause = Duration::from_millis(end.millis().saturating_sub(now.millis())).as_secs() + 1;
                let words =
                    format!("after wrong passwords the account is paused: try again in {pause} seconds");
                return Err(Error::NotAllowed(words));
            }
            Lock::Hard => {
                let words = "too many wrong passwords: make a new one-time password, or unlock the account";
                return Err(Error::NotAllowed(words.into()));
            }
        }
        if following.is_some() && record.scheme.kind != OtpKind::Hotp {
            return Err(Error::NotAllowed("only passwords by counter take two in a row".into()));
        }
        let seed = self.logins.keys.open(self.deployment(), id, &record.sealed)?;
        let given = match following {
            Some(following) => record.scheme.resynchronise(seed.expose(), record.next, [password, following]),
            None => record.scheme.judge(seed.expose(), record.next, now, password),
        };
        // What was wrong in logins is no matter of this.
        let failures = if record.confirmed { record.failures } else { Failures::default() };
        let (kept, right) = match given {
            Given::Right(counter) => {
                (Otp { next: counter.saturating_add(1), confirmed: true, failures, ..record }, true)
            }
            Given::Used | Given::Wrong => (Otp { failures: record.failures.and(now), ..record }, false),
        };
        let clock = matches!(kept.scheme.kind, OtpKind::Totp(_));
        let mut changes = Changes::default();
        changes.replace(&tables::otp(id), &kept, revision);
        if right {
            let change = self.commit(changes, Affects::Nothing).await?;
            let account = self.account(id).await?.record;
            return Ok(Done::with_change(self.account_info(id, account).await?, change));
        }
        self.commit_own(changes, Affects::Nothing, Action::LoginFailure, format!("accounts/{id}")).await?;
        let hint = if clock {
            "; compare the clocks of both devices"
        } else {
            "; a token that was in use takes two passwords in a row: `keyward account otp-confirm NAME --resync`"
        };
        Err(Error::NotAllowed(format!("the password is not the one expected now{hint}")))
    }

    /// The keys that verify assertions (RFC 7517), the newest first. Those before it go once nothing that they have
    /// signed can be good any more.
    ///
    /// # Errors
    /// When the store or, for the first time, the HSM does not serve.
    pub async fn jwks(&self, right: &Authorized<permission::ViewLoginKeys>) -> Result<Done<String>, Error> {
        let Installation = right.resource();
        self.signing_key(SigningPurpose::Login).await?;
        let keys: Vec<_> = self.login_keys().await?.iter().rev().map(jwk).collect();
        Ok(Done::new(serde_json::json!({ "keys": keys }).to_string()))
    }

    /// Whether an assertion is good now for the application that asks: `None` for every one that is not.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn introspect(
        &self,
        right: &Authorized<permission::UseAssertions>,
        assertion: &str,
    ) -> Result<Done<Option<Claims>>, Error> {
        let good = self.good_claims(right.principal(), assertion).await?;
        let detail = good
            .as_ref()
            .map_or_else(|| "not good".into(), |claims| format!("{} {}", claims.sub, claims.jti));
        Ok(Done::new(good).detail(detail))
    }

    /// Ends an assertion: the staff member logs out. One that is not good is ended already.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn end_assertion(
        &self,
        right: &Authorized<permission::UseAssertions>,
        assertion: &str,
    ) -> Result<Done<()>, Error> {
        unhindered!(self.try_end(right, assertion))
    }

    async fn try_end(
        &self,
        right: &Authorized<permission::UseAssertions>,
        assertion: &str,
    ) -> Result<Done<()>, Error> {
        let Some(claims) = self.good_claims(right.principal(), assertion).await? else {
            return Ok(Done::new(()).detail("not good"));
        };
        let id = AssertionId::parse(&claims.jti).ok_or_else(|| Error::Internal("a jti of no form".into()))?;
        let mut changes = Changes::default();
        self.forget_ended(&mut changes).await?;
        let expires = Date(claims.exp.saturating_mul(1000));
        changes.create(&tables::ended_assertion(id), &EndedAssertion { expires });
        let change = self.commit(changes, Affects::Staff).await?;
        Ok(Done::with_change((), change).detail(format!("{} {}", claims.sub, claims.jti)))
    }

    /// Drops some rows of assertions that have ended by themselves, each time elsewhere: their names are random.
    async fn forget_ended(&self, changes: &mut Changes) -> Result<(), Error> {
        /// At most so many at a time: each call adds one.
        const SOME: usize = 16;
        let somewhere = tables::ended_assertion(AssertionId::random()?);
        // Longer than any clock here may be wrong.
        let long_ago = std::time::Duration::from_secs(24 * 3600);
        let rows =
            self.records.page(&Prefix::<EndedAssertion>::all(), Some(&somewhere), SOME).await?.into_rows();
        for (path, stored) in rows {
            if stored.record.expires.after(long_ago) < Date::now() {
                changes.delete(&path, stored.revision);
            }
        }
        Ok(())
    }

    pub(super) async fn account(&self, id: &AccountId) -> Result<Stored<Account>, Error> {
        let stored = self.records.get(&tables::account(id)).await?;
        stored.ok_or_else(|| Error::NoAccount(AccountName(id.clone())))
    }

    pub(super) async fn account_info(&self, id: &AccountId, record: Account) -> Result<AccountInfo, Error> {
        let otp = self.records.get(&tables::otp(id)).await?.map(|stored| stored.record);
        let mut credentials = Vec::new();
        for credential in &record.credentials {
            let stored = self.records.get(&tables::login_credential(*credential)).await?;
            credentials.extend(stored.map(|stored| (*credential, stored.record)));
        }
        let lock = otp.as_ref().map_or(Lock::Open, |otp| otp.failures.lock(Date::now()));
        Ok(AccountInfo { id: id.clone(), record, otp, lock, credentials })
    }

    /// One operator gives level 3 only while one operator holds the root too.
    fn require_level(&self, level: Level) -> Result<(), Error> {
        match level == Level::Three && self.root().custody == Custody::Founded {
            true => Err(Error::NotAllowed(
                "no single person gives level 3 once the root is founded: `keyward ceremony propose make-administrator NAME CREDENTIAL --reason WHY`, or `keyward admin propose set-level NAME 3 --reason WHY`".into(),
            )),
            false => Ok(()),
        }
    }
}

/// What was changed of an account, for the audit log.
fn difference(before: &Account, after: &Account) -> String {
    let level = (before.level != after.level)
        .then(|| format!("level {} to {}", before.level.get(), after.level.get()));
    let suspended = (before.suspended != after.suspended)
        .then(|| if after.suspended { "suspended" } else { "resumed" }.to_owned());
    let name = (before.display_name != after.display_name).then(|| "another display name".to_owned());
    let all: Vec<_> = [level, suspended, name].into_iter().flatten().collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

fn check_name(name: Option<&str>) -> Result<(), Error> {
    match name.is_some_and(|name| name.len() > LONGEST_NAME || name.chars().any(char::is_control)) {
        true => Err(Error::Argument(format!(
            "display_name: at most {LONGEST_NAME} bytes, without control characters"
        ))),
        false => Ok(()),
    }
}

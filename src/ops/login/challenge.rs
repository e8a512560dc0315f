//! Logins that were begun: in memory only, each for one try.
//!
//! A login counts against its source until it could be completed no longer, also when it has failed; one that
//! succeeded counts no more. So the caps of a source are a limit of attempts too.
//!
//! An application, and the daemon, have room for so many. Where it is used up nobody is refused: the oldest login of
//! the most crowded source of the most crowded application gives way, one that was answered before one that was not.
//! A visitor of a login page so displaces himself, and not those who come from elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Date, Moment};
use crate::id::{AccountId, ClientAddress, LoginId, Origin, PrincipalId};
use crate::keyring::credential::CredentialId;

mod crowd;
mod source;

use crowd::Crowd;
use source::Source;

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The application that began it.
    pub application: PrincipalId,
    /// How staff know that application.
    pub origin: Origin,
    /// Who wants to log in; there may be no such account.
    pub account: AccountId,
    /// Where from, as the application says.
    pub client: ClientAddress,
    /// Signed by the token.
    pub nonce: [u8; 32],
    /// The keys that may answer.
    pub credentials: Vec<CredentialId>,
    /// When it was begun.
    pub issued: Date,
    /// When it is too late; what counts is the boot-time clock.
    pub expires: Date,
}

/// Most logins that may be open, or have failed, within the time of a challenge.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Of one account from one address: more are refused.
    pub per_client: usize,
    /// From one address: more are refused.
    pub per_address: usize,
    /// Of one application: one more displaces one.
    pub per_application: usize,
    /// Altogether: one more displaces one.
    pub total: usize,
}

impl Caps {
    /// What the daemon allows.
    pub const DEFAULT: Self = Self { per_client: 10, per_address: 256, per_application: 4096, total: 8192 };
}

/// What comes of taking a login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is taken: whatever comes of it, nobody takes it again.
    Challenge {
        /// What was begun.
        challenge: Challenge,
        /// Whether it is still in time.
        fresh: bool,
    },
    /// Another application began it, and may still take it.
    OfAnother(Challenge),
    /// Never begun, displaced, or taken before.
    Nothing,
}

/// The logins that count.
pub struct Challenges {
    caps: Caps,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    logins: HashMap<LoginId, Counted>,
    by_end: BTreeSet<(Moment, LoginId)>,
    by_client: HashMap<(AccountId, String), usize>,
    by_address: HashMap<String, usize>,
    applications: HashMap<PrincipalId, Crowd>,
    /// How many logins each application has, the most crowded last.
    by_application: BTreeSet<(usize, PrincipalId)>,
}

struct Counted {
    end: Moment,
    challenge: Challenge,
    source: Source,
    taken: bool,
}

impl Challenges {
    pub(super) fn new(caps: Caps) -> Self {
        Self { caps, open: Mutex::default() }
    }

    /// Opens a login until `end`. Answers how long to wait where too many of its source are open. What it costs grows
    /// with the logarithm of how many there are.
    pub(super) fn begin(
        &self,
        login: LoginId,
        challenge: Challenge,
        now: Moment,
        end: Moment,
    ) -> Result<(), Duration> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.close_ended(now);
        let source = Source::of(&challenge.client);
        let client = (challenge.account.clone(), source.address.clone());
        let of_client = open.by_client.get(&client).copied().unwrap_or_default();
        let of_address = open.by_address.get(&source.address).copied().unwrap_or_default();
        if of_client >= self.caps.per_client || of_address >= self.caps.per_address {
            let next = open.by_end.first().map_or(end, |(end, _)| *end);
            return Err(next.since(now).max(Duration::from_secs(1)));
        }
        if open.applications.get(&challenge.application).map_or(0, Crowd::len) >= self.caps.per_application {
            open.displace_one_of(&challenge.application);
        }
        // Another application's flood is that application's matter: the most crowded one gives way.
        if open.logins.len() >= self.caps.total
            && let Some((_, crowded)) = open.by_application.last().cloned()
        {
            open.displace_one_of(&crowded);
        }
        open.insert(login, Counted { end, challenge, source, taken: false });
        Ok(())
    }

    /// Takes a login for the application that began it.
    pub(super) fn take(&self, login: LoginId, application: &PrincipalId, now: Moment) -> Taken {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = open.logins.get_mut(&login).filter(|found| !found.taken) else {
            return Taken::Nothing;
        };
        // Before it is taken: whoever learns a login's id must not be able to use it up for others.
        if found.challenge.application != *application {
            return Taken::OfAnother(found.challenge.clone());
        }
        found.taken = true;
        let (end, challenge, source) = (found.end, found.challenge.clone(), found.source.clone());
        if let Some(crowd) = open.applications.get_mut(application) {
            crowd.answered(&source, end, login);
        }
        Taken::Challenge { challenge, fresh: now < end }
    }

    /// A login that was taken has succeeded.
    pub(super) fn succeeded(&self, login: LoginId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).close(login);
    }
}

impl Open {
    fn close_ended(&mut self, now: Moment) {
        while let Some((end, login)) = self.by_end.first().copied()
            && end <= now
        {
            self.close(login);
        }
    }

    /// Gives up the login that an application misses least.
    fn displace_one_of(&mut self, application: &PrincipalId) {
        if let Some(login) = self.applications.get(application).and_then(Crowd::most_crowded) {
            self.close(login);
        }
    }

    fn insert(&mut self, login: LoginId, counted: Counted) {
        let Counted { end, challenge, source, .. } = &counted;
        let client = (challenge.account.clone(), source.address.clone());
        *self.by_client.entry(client).or_default() += 1;
        *self.by_address.entry(source.address.clone()).or_default() += 1;
        self.by_end.insert((*end, login));
        let application = challenge.application.clone();
        let crowd = self.applications.entry(application.clone()).or_default();
        let before = crowd.len();
        crowd.insert(source, *end, login);
        self.recount(application, before);
        self.logins.insert(login, counted);
    }

    fn close(&mut self, login: LoginId) {
        let Some(Counted { end, challenge, source, taken }) = self.logins.remove(&login) else { return };
        self.by_end.remove(&(end, login));
        count_down(&mut self.by_address, &source.address);
        count_down(&mut self.by_client, &(challenge.account.clone(), source.address.clone()));
        let Some(crowd) = self.applications.get_mut(&challenge.application) else { return };
        let before = crowd.len();
        crowd.remove(&source, taken, end, login);
        self.recount(challenge.application, before);
    }

    /// Ranks an application anew, which had `before` logins.
    fn recount(&mut self, application: PrincipalId, before: usize) {
        let now = self.applications.get(&application).map_or(0, Crowd::len);
        if now == 0 {
            self.applications.remove(&application);
        } else {
            self.by_application.insert((now, application.clone()));
        }
        if now != before {
            self.by_application.remove(&(before, application));
        }
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

#[cfg(test)]
mod tests;

//! Logins that were begun: in memory only, each for one try.
//!
//! A login counts against the caps until it could be completed no longer, also when it has failed; one that
//! succeeded counts no more. So the caps are a limit of attempts too.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Date, Moment};
use crate::id::{AccountId, ClientAddress, LoginId, Origin, PrincipalId};
use crate::keyring::credential::CredentialId;

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
    /// Of one account from one address.
    pub per_client: usize,
    /// From one address.
    pub per_address: usize,
    /// Of one application.
    pub per_application: usize,
    /// Altogether.
    pub total: usize,
}

impl Caps {
    /// What the daemon allows.
    pub const DEFAULT: Self = Self { per_client: 10, per_address: 256, per_application: 4096, total: 8192 };
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
    by_application: HashMap<PrincipalId, usize>,
}

struct Counted {
    end: Moment,
    challenge: Challenge,
    taken: bool,
}

impl Challenges {
    pub(super) fn new(caps: Caps) -> Self {
        Self { caps, open: Mutex::default() }
    }

    /// Opens a login until `end`. Answers how long to wait where too many are open; none is closed for it.
    pub(super) fn begin(
        &self,
        login: LoginId,
        challenge: Challenge,
        now: Moment,
        end: Moment,
    ) -> Result<(), Duration> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.close_ended(now);
        let address = source(&challenge.client);
        let client = (challenge.account.clone(), address.clone());
        let of_client = open.by_client.get(&client).copied().unwrap_or_default();
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let of_application = open.by_application.get(&challenge.application).copied().unwrap_or_default();
        if of_client >= self.caps.per_client
            || of_address >= self.caps.per_address
            || of_application >= self.caps.per_application
            || open.logins.len() >= self.caps.total
        {
            let next = open.by_end.first().map_or(end, |(end, _)| *end);
            return Err(next.since(now).max(Duration::from_secs(1)));
        }
        open.by_client.insert(client, of_client + 1);
        open.by_address.insert(address, of_address + 1);
        open.by_application.insert(challenge.application.clone(), of_application + 1);
        open.by_end.insert((end, login));
        open.logins.insert(login, Counted { end, challenge, taken: false });
        Ok(())
    }

    /// Takes a login: whatever comes of it, nobody takes it again. Says whether it was still in time.
    pub(super) fn take(&self, login: LoginId, now: Moment) -> Option<(Challenge, bool)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.logins.get_mut(&login).filter(|found| !found.taken)?;
        found.taken = true;
        Some((found.challenge.clone(), now < found.end))
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

    fn close(&mut self, login: LoginId) {
        let Some(Counted { end, challenge, .. }) = self.logins.remove(&login) else { return };
        self.by_end.remove(&(end, login));
        let address = source(&challenge.client);
        count_down(&mut self.by_address, &address);
        count_down(&mut self.by_client, &(challenge.account.clone(), address));
        count_down(&mut self.by_application, &challenge.application);
    }
}

/// What counts as one address: an IPv6 network of 64 bits, which one computer has to itself, and each address in its
/// one spelling.
fn source(client: &ClientAddress) -> String {
    let client = client.as_str();
    let port = client.parse::<SocketAddr>().map(|with_port| with_port.ip());
    match client.parse::<IpAddr>().or(port).map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Err(_) => client.to_owned(),
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(account: &str, client: &str) -> Challenge {
        Challenge {
            application: PrincipalId::new("crm").unwrap(),
            origin: Origin::new("https://crm.example").unwrap(),
            account: AccountId::new(account).unwrap(),
            client: ClientAddress::new(client).unwrap(),
            nonce: [0; 32],
            credentials: Vec::new(),
            issued: Date(0),
            expires: Date(0),
        }
    }

    fn login(number: u16) -> LoginId {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        LoginId(id)
    }

    const LASTS: Duration = Duration::from_secs(120);

    #[test]
    fn a_login_is_taken_once_and_known_to_be_late() {
        let (challenges, now) = (Challenges::new(Caps::DEFAULT), Moment::now());
        let end = now.after(LASTS);
        challenges.begin(login(1), challenge("alice", "::1"), now, end).unwrap();
        challenges.begin(login(2), challenge("alice", "::1"), now, end).unwrap();
        assert_eq!(challenges.take(login(1), now).map(|(_, fresh)| fresh), Some(true));
        assert_eq!(challenges.take(login(1), now), None);
        assert_eq!(challenges.take(login(2), end).map(|(_, fresh)| fresh), Some(false));
        assert_eq!(challenges.take(login(3), now), None);
    }

    #[test]
    fn an_address_counts_in_every_spelling() {
        let from = |text| source(&ClientAddress::new(text).unwrap());
        for (one, other) in [
            ("2001:db8::1", "2001:DB8:0::ffff"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("192.0.2.1", "192.0.2.1:4711"),
            ("[2001:db8::1]:443", "2001:db8::2"),
        ] {
            assert_eq!(from(one), from(other));
        }
        assert_ne!(from("192.0.2.1"), from("192.0.2.2"));
        assert_ne!(from("2001:db8::1"), from("2001:db8:0:1::1"));
        assert_eq!(from("counter-7"), "counter-7");
    }

    #[test]
    fn caps_hold_and_close_nothing() {
        let caps = Caps { per_client: 2, per_address: 3, per_application: 5, total: 100 };
        let (challenges, now) = (Challenges::new(caps), Moment::now());
        let end = now.after(LASTS);
        let begin =
            |number, account, client| challenges.begin(login(number), challenge(account, client), now, end);
        assert!(begin(1, "alice", "a").is_ok() && begin(2, "alice", "a").is_ok());
        assert_eq!(begin(3, "alice", "a"), Err(LASTS));
        assert!(begin(4, "alice", "b").is_ok() && begin(5, "bob", "a").is_ok());
        assert!(begin(6, "carol", "a").is_err(), "too many from there");
        assert!(begin(6, "carol", "c").is_ok());
        assert!(begin(8, "dave", "d").is_err(), "too many of the application");
        // One that failed counts on.
        assert!(challenges.take(login(1), now).is_some());
        assert!(begin(7, "alice", "a").is_err());
        challenges.succeeded(login(1));
        assert!(begin(7, "alice", "a").is_ok());
        assert_eq!(challenges.take(login(1), now), None);
    }

    #[test]
    fn ten_thousand_begins_leave_what_the_caps_allow_and_later_nothing() {
        let (challenges, now) = (Challenges::new(Caps::DEFAULT), Moment::now());
        let end = now.after(LASTS);
        let begun = (0..10_000u16)
            .filter(|number| {
                challenges
                    .begin(
                        login(*number),
                        challenge(&format!("a{number}"), &format!("10.0.0.{}", number % 100)),
                        now,
                        end,
                    )
                    .is_ok()
            })
            .count();
        assert_eq!(begun, Caps::DEFAULT.per_application);
        challenges.begin(login(10_001), challenge("late", "::1"), end, end.after(LASTS)).unwrap();
        let open = challenges.open.lock().unwrap();
        assert_eq!(
            (open.logins.len(), open.by_end.len(), open.by_client.len(), open.by_address.len()),
            (1, 1, 1, 1)
        );
    }
}

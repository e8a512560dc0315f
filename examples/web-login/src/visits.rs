//! Who is there: a random cookie, and on this side what belongs to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, header};
use keyward::client::{Client, SessionKey};
use keyward::rpc::proto::BeginLoginResponse;

/// How long a visit is remembered without a login; no challenge is good for longer.
const VISITOR: Duration = Duration::from_secs(300);
/// Most visits at a time.
const MOST: usize = 10_000;
/// How often visits that are over are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// What belongs to a cookie.
#[derive(Clone)]
pub(crate) struct Visit {
    /// Stands in every form: other sites do not know it.
    pub(crate) form: String,
    /// How far the login is.
    pub(crate) state: State,
    ends: Instant,
}

/// How far a login is.
#[derive(Clone)]
pub(crate) enum State {
    /// Nothing was begun.
    Nobody,
    /// A challenge waits for its answer.
    Begun(Arc<Begun>),
    /// Somebody is logged in.
    Staff(Arc<Staff>),
}

/// A challenge, and the key that the session will have.
pub(crate) struct Begun {
    pub(crate) challenge: BeginLoginResponse,
    pub(crate) key: Arc<SessionKey>,
}

/// Who is logged in.
pub(crate) struct Staff {
    pub(crate) account: String,
    pub(crate) level: u32,
    pub(crate) assertion: String,
    /// Acts for the staff member.
    pub(crate) client: Client,
}

/// All visits.
pub(crate) struct Visits {
    secure: bool,
    all: Mutex<All>,
}

struct All {
    visits: HashMap<String, Visit>,
    /// When those that are over were dropped last.
    swept: Instant,
}

impl All {
    /// Makes room: for what is over, and then for whoever has only looked at the first page for the longest time, so
    /// that nobody keeps others out by looking often.
    fn make_room(&mut self, now: Instant) {
        if self.visits.len() >= MOST || now.duration_since(self.swept) > SWEEP {
            self.visits.retain(|_, visit| visit.ends > now);
            self.swept = now;
        }
        if self.visits.len() >= MOST {
            let strangers = self.visits.iter().filter(|(_, visit)| !matches!(visit.state, State::Staff(_)));
            let oldest = strangers.min_by_key(|(_, visit)| visit.ends).map(|(id, _)| id.clone());
            oldest.and_then(|id| self.visits.remove(&id));
        }
    }
}

impl Visits {
    pub(crate) fn new(secure: bool) -> Self {
        Self { secure, all: Mutex::new(All { visits: HashMap::new(), swept: Instant::now() }) }
    }

    /// The visit of a request, if its cookie is known.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<(String, Visit)> {
        let id = cookie(headers, self.name())?;
        let visit = self.all.lock().unwrap_or_else(PoisonError::into_inner).visits.get(&id).cloned()?;
        (visit.ends > Instant::now()).then_some((id, visit))
    }

    /// A new visit in the place of `old`, under another cookie: one that somebody else may have set is worth
    /// nothing after a login. `None` when there are too many.
    pub(crate) fn open(
        &self,
        old: Option<&str>,
        state: State,
        lasts: Option<Duration>,
    ) -> Option<(HeaderValue, Visit)> {
        let (id, form) = (random()?, random()?);
        let visit = Visit { form, state, ends: Instant::now() + lasts.unwrap_or(VISITOR) };
        let secure = if self.secure { "; Secure" } else { "" };
        let cookie =
            format!("{}={id}; HttpOnly; SameSite=Strict; Path=/{secure}", self.name()).parse().ok()?;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        old.map(|old| all.visits.remove(old));
        all.make_room(Instant::now());
        (all.visits.len() < MOST).then(|| all.visits.insert(id, visit.clone()))?;
        Some((cookie, visit))
    }

    /// Takes what a visit has begun: it has one try.
    pub(crate) fn take_begun(&self, id: &str) -> Option<Arc<Begun>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let visit = all.visits.get_mut(id)?;
        match std::mem::replace(&mut visit.state, State::Nobody) {
            State::Begun(begun) => Some(begun),
            other => {
                visit.state = other;
                None
            }
        }
    }

    /// Forgets a visit.
    pub(crate) fn forget(&self, id: &str) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).visits.remove(id);
    }

    /// Over https a cookie that no other host of the domain can set (RFC 6265bis, section 4.1.3.2).
    fn name(&self) -> &'static str {
        if self.secure { "__Host-session" } else { "session" }
    }
}

fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let all = headers.get(header::COOKIE)?.to_str().ok()?;
    let mut pairs = all.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

fn random() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(header::COOKIE, pair.parse().unwrap())])
    }

    #[test]
    fn whoever_looks_often_keeps_nobody_out() {
        let visits = Visits::new(false);
        let (first, _) = visits.open(None, State::Nobody, None).unwrap();
        for _ in 0..MOST {
            assert!(visits.open(None, State::Nobody, None).is_some());
        }
        assert!(visits.of(&request(&first)).is_none(), "the oldest makes room");
        assert_eq!(visits.all.lock().unwrap().visits.len(), MOST);
    }

    #[test]
    fn over_https_the_cookie_is_this_hosts_own() {
        let visits = Visits::new(true);
        let (cookie, _) = visits.open(None, State::Nobody, None).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(text.starts_with("__Host-session=") && text.ends_with("Path=/; Secure"), "{text}");
        assert!(visits.of(&request(&cookie)).is_some());
    }
}

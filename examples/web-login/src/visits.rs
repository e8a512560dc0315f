//! Who is there: a random cookie, and on this side what belongs to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, header};
use keyward::client::{Client, SessionKey};
use keyward::rpc::proto::BeginLoginResponse;

/// How long a visit is remembered without a login; a challenge is good for two minutes.
const VISITOR: Duration = Duration::from_secs(300);
/// Most visits at a time.
const MOST: usize = 10_000;
const COOKIE: &str = "session";

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
    all: Mutex<HashMap<String, Visit>>,
}

impl Visits {
    pub(crate) fn new(secure: bool) -> Self {
        Self { secure, all: Mutex::default() }
    }

    /// The visit of a request, if its cookie is known.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<(String, Visit)> {
        let id = cookie(headers)?;
        let visit = self.all.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()?;
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
        let cookie = format!("{COOKIE}={id}; HttpOnly; SameSite=Strict; Path=/{secure}").parse().ok()?;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        old.map(|old| all.remove(old));
        if all.len() >= MOST {
            all.retain(|_, visit| visit.ends > Instant::now());
        }
        (all.len() < MOST).then(|| all.insert(id, visit.clone()))?;
        Some((cookie, visit))
    }

    /// Takes what a visit has begun: it has one try.
    pub(crate) fn take_begun(&self, id: &str) -> Option<Arc<Begun>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let visit = all.get_mut(id)?;
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
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let all = headers.get(header::COOKIE)?.to_str().ok()?;
    let mut pairs = all.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.to_owned())
}

fn random() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

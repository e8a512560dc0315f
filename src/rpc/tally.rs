//! Callers that are turned away before they are served, counted together.
//!
//! A range of subordinate ids has 65 536 users, each of which can connect thousands of times a
//! second. So nothing is kept and nothing is written for each of them: a tally counts, and at most
//! one record a second says how many there were, and names some.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::access::Action;
use crate::access::Peer;
use crate::audit::{self, AuditError, AuditLog, Outcome, Pending};
use crate::ops::error::Reason;

/// The shortest time between two records.
const EVERY: Duration = Duration::from_secs(1);
/// How many users a record names.
const NAMED: usize = 8;

/// The tallies of one daemon.
pub struct TurnedAway {
    /// Peers that are no principal.
    pub unknown: Arc<Tally>,
    /// Peers that are two.
    pub ambiguous: Arc<Tally>,
    /// Peers that have all the connections that they may.
    pub crowded: Arc<Tally>,
}

impl TurnedAway {
    pub(super) fn new(audit: &Arc<dyn AuditLog>) -> Self {
        let tally = |action, reason| Arc::new(Tally::new(audit.clone(), action, reason));
        Self {
            unknown: tally(Action::UnknownCallers, Reason::UnknownCaller),
            ambiguous: tally(Action::AmbiguousCallers, Reason::AmbiguousCaller),
            crowded: tally(Action::ConnectionsRefused, Reason::TooMuchInFlight),
        }
    }

    /// Writes the records of all three, until the process ends.
    pub fn keep(&self) {
        for tally in self.all() {
            tokio::spawn(tally.clone().keep());
        }
    }

    /// Writes what is counted and not on record yet.
    pub async fn write(&self) {
        for tally in self.all() {
            tally.write().await;
        }
    }

    fn all(&self) -> [&Arc<Tally>; 3] {
        [&self.unknown, &self.ambiguous, &self.crowded]
    }
}

/// What is counted for one record after the other.
pub struct Tally {
    audit: Arc<dyn AuditLog>,
    action: Action,
    reason: Reason,
    open: Mutex<Counted>,
    some: Notify,
    written: watch::Sender<Written>,
}

/// The number of a record of a tally, from 1.
type Round = u64;

/// The newest record.
#[derive(Debug, Clone)]
struct Written {
    round: Round,
    outcome: Result<(), AuditError>,
}

/// What one record tells of.
#[derive(Debug, Default)]
struct Counted {
    round: Round,
    calls: u64,
    connections: u64,
    last: Option<Peer>,
    named: BTreeMap<u32, u64>,
    others: u64,
}

impl Tally {
    fn new(audit: Arc<dyn AuditLog>, action: Action, reason: Reason) -> Self {
        let open = Counted { round: 1, ..Counted::default() };
        let written = watch::Sender::new(Written { round: 0, outcome: Ok(()) });
        Self { audit, action, reason, open: Mutex::new(open), some: Notify::new(), written }
    }

    /// Counts a call that is refused, and waits until that is durable.
    ///
    /// # Errors
    /// [`AuditError`] when it could not be recorded.
    pub(super) async fn call(&self, peer: &Peer) -> Result<(), AuditError> {
        let round = {
            let mut open = self.open();
            open.calls += 1;
            open.add(peer)
        };
        self.some.notify_one();
        let mut written = self.written.subscribe();
        match written.wait_for(|newest| newest.round >= round).await {
            Ok(newest) => newest.outcome.clone(),
            Err(_) => Err(AuditError::Stopped),
        }
    }

    /// Counts a connection that was closed without an answer.
    pub fn connection(&self, peer: &Peer) {
        let mut open = self.open();
        open.connections += 1;
        open.add(peer);
        drop(open);
        self.some.notify_one();
    }

    async fn keep(self: Arc<Self>) {
        loop {
            self.some.notified().await;
            let next = Instant::now() + EVERY;
            self.write().await;
            // What is counted meanwhile becomes one record.
            sleep_until(next).await;
        }
    }

    /// Writes one record of what is counted, if anything is.
    async fn write(&self) {
        let Some(counted) = self.close() else { return };
        let words = counted.words();
        tracing::warn!(reason = self.reason.as_str(), "turned away: {words}");
        let mut record = Pending::begin(self.audit.clone(), counted.caller(), self.action, "", 0);
        record.detail(words);
        let outcome = match record.finish(Outcome::Failed(self.reason.as_str().to_owned())) {
            Ok(receipt) => receipt.await.map(drop),
            Err(error) => Err(error),
        };
        self.written.send_replace(Written { round: counted.round, outcome });
    }

    fn close(&self) -> Option<Counted> {
        let mut open = self.open();
        // Nobody was turned away since the last time.
        open.last.as_ref()?;
        let next = Counted { round: open.round + 1, ..Counted::default() };
        Some(std::mem::replace(&mut open, next))
    }

    /// Counts are whole after a panic elsewhere.
    fn open(&self) -> MutexGuard<'_, Counted> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Counts a peer; answers which record will tell of it.
    fn add(&mut self, peer: &Peer) -> Round {
        self.last = Some(peer.clone());
        let room = self.named.len() < NAMED;
        match self.named.get_mut(&peer.uid) {
            Some(count) => *count += 1,
            None if room => drop(self.named.insert(peer.uid, 1)),
            None => self.others += 1,
        }
        self.round
    }

    /// The caller of the record, when there was only one.
    fn caller(&self) -> Option<audit::Caller> {
        let one = self.named.len() == 1 && self.others == 0;
        let peer = self.last.as_ref().filter(|_| one)?;
        Some(audit::Caller {
            principal: None,
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            staff: None,
            assertion: None,
            client: None,
        })
    }

    fn words(&self) -> String {
        let mut who: Vec<_> = self.named.iter().map(|(uid, count)| format!("uid {uid} ({count})")).collect();
        if self.others > 0 {
            who.push(format!("others ({})", self.others));
        }
        format!("{} calls, {} connections: {}", self.calls, self.connections, who.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, pid: Option<i32>) -> Peer {
        Peer { uid, gid, groups: Arc::default(), pid }
    }

    #[test]
    fn nothing_grows_with_the_number_of_users() {
        let mut counted = Counted { round: 3, ..Counted::default() };
        for uid in 0..65_536 {
            assert_eq!(counted.add(&peer(uid, 7, Some(1))), 3);
        }
        counted.add(&peer(0, 7, None));
        assert_eq!((counted.named.len(), counted.others), (NAMED, 65_528));
        assert!(
            counted.words().len() < 200 && counted.words().contains("uid 0 (2), uid 1 (1)"),
            "{}",
            counted.words()
        );
        assert_eq!(counted.caller(), None);
    }

    #[test]
    fn one_user_alone_is_the_caller() {
        let mut counted = Counted::default();
        counted.add(&peer(7, 8, Some(9)));
        counted.add(&peer(7, 8, Some(10)));
        let caller = counted.caller().unwrap();
        assert_eq!((caller.uid, caller.gid, caller.pid, caller.principal), (7, 8, Some(10), None));
    }
}

//! Refusals beyond a budget: counted, and told by one record a second for each principal.
//!
//! What is refused costs its caller nothing, and a log from which nothing may be cut ends where its disk does.
//! A caller whose budget is used up waits for the record that counts its call: the answer still comes after a
//! durable record, and the waiting slows down whoever asks on and on.
//!
//! ```text
//! refused → within the budget: a record and a log line of its own
//!         → beyond it:         counted by reason, operation and resource → after a second one record → answered
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{AuditError, AuditLog, Caller, Committed, Items, Outcome, Record, merkle};
use crate::access::Action;
use crate::clock::{Date, Moment};

/// The audit log's word for a record that counts refusals.
pub const OPERATION: &str = Action::Refusals.word();
/// Why the calls that it counts have no record of their own, and what a caller of whom too many calls wait is told.
pub const TOO_OFTEN: &str = "REFUSED_TOO_OFTEN";
/// How long refusals are counted before they are told.
const PERIOD: Duration = Duration::from_secs(1);
/// The same while the daemon stops, which waits for it.
const LAST_PERIOD: Duration = Duration::from_millis(100);
/// Kinds of refusals that one record names; the others have a count in common.
const NAMED: usize = 16;
/// Bytes of a resource that are kept: the name of any key, and of most versions.
const RESOURCE: usize = 160;
/// Calls of one principal that may wait for their record: each keeps its request in memory.
const WAITING: usize = 256;

/// How many refusals of one principal have a record of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// In each second, on the average; at least 1.
    pub per_second: u32,
    /// At once, after a time without any.
    pub burst: u32,
}

impl Budget {
    /// So many a second, and ten times as many at once.
    pub fn of(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, burst: per_second.saturating_mul(10) }
    }
}

/// The refusals of every principal. Callers who are no principal are one.
pub struct Refusals {
    log: Arc<dyn AuditLog>,
    budget: RwLock<Budget>,
    tasks: TaskTracker,
    stop: watch::Receiver<bool>,
    principals: Mutex<HashMap<Option<String>, Principal>>,
}

/// One refused call.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who called.
    pub caller: Option<Caller>,
    /// What for, in the words of docs/audit-format.md.
    pub operation: &'static str,
    /// What about, as the caller said.
    pub resource: String,
    /// Why it was refused, in the words of docs/errors.md.
    pub reason: &'static str,
    /// How many items it had, all of them refused; 0 for a call that has none.
    pub items: u32,
}

/// A call that is counted: its answer waits for the record that says so.
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Told>);

/// What came of the record that counts; `None` until then.
type Told = Option<Result<Committed, AuditError>>;

#[derive(Default)]
struct Principal {
    records: Bucket,
    lines: Bucket,
    tally: Option<Tally>,
}

impl Refusals {
    /// Nothing refused yet. `tasks` runs what closes a count, and must be waited for before the log is closed;
    /// once `stop` is true, counts are closed early.
    pub fn new(
        log: Arc<dyn AuditLog>,
        budget: Budget,
        tasks: TaskTracker,
        stop: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let budget = RwLock::new(budget);
        Arc::new(Self { log, budget, tasks, stop, principals: Mutex::default() })
    }

    /// Counts by another budget from now on.
    pub fn set_budget(&self, budget: Budget) {
        *self.budget.write().unwrap_or_else(PoisonError::into_inner) = budget;
    }

    fn budget(&self) -> Budget {
        *self.budget.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a refusal of `principal` has a record and a log line of its own.
    pub fn admit(&self, principal: Option<&str>, now: Moment) -> bool {
        self.lock().entry(principal.map(str::to_owned)).or_default().records.take(self.budget(), now)
    }

    /// Whether a call that was served in part has a log line for what was refused of it.
    pub fn admit_line(&self, principal: Option<&str>, now: Moment) -> bool {
        self.lock().entry(principal.map(str::to_owned)).or_default().lines.take(self.budget(), now)
    }

    /// Counts a refusal that was not [admitted](Self::admit), whatever becomes of its caller. `None` when too many
    /// calls of the principal wait already: then it is answered at once, with nothing but [`TOO_OFTEN`].
    ///
    /// Must be called on the runtime.
    pub fn count(self: &Arc<Self>, refusal: Refusal, now: Moment) -> Option<Waiting> {
        let who = refusal.caller.as_ref().and_then(|caller| caller.principal.clone());
        let mut principals = self.lock();
        let tally = &mut principals.entry(who.clone()).or_default().tally;
        let opened = tally.is_none();
        let tally = tally.get_or_insert_with(|| Tally::new(now));
        tally.add(refusal);
        let waiting = (tally.told.receiver_count() < WAITING).then(|| Waiting(tally.told.subscribe()));
        tally.not_waiting += u64::from(waiting.is_none());
        drop(principals);
        // Whoever opens a count has it closed: none is left open, though every caller of it goes away.
        if opened {
            self.tasks.spawn(self.clone().close(who));
        }
        waiting
    }

    /// After a while, writes the record of what was counted until then.
    async fn close(self: Arc<Self>, who: Option<String>) {
        let mut stop = self.stop.clone();
        let stopping = *stop.borrow();
        let pause = if stopping { LAST_PERIOD } else { PERIOD };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error means that whoever could say so is gone, which is the same.
            () = async { stop.wait_for(|stop| *stop).await.map(drop).ok(); }, if !stopping => {}
        }
        let tally = self.lock().get_mut(&who).and_then(|principal| principal.tally.take());
        let Some(tally) = tally else { return };
        tracing::info!(
            principal = who.as_deref(),
            uid = tally.caller.as_ref().map(|caller| caller.uid),
            calls = tally.calls(),
            why = TOO_OFTEN,
            "refused, and counted in one record"
        );
        // What is refused from here on opens the next count, which is closed a second from now at the earliest.
        let (record, told) = tally.close(Moment::now());
        let outcome = match self.log.submit(record) {
            Ok(receipt) => receipt.await,
            Err(unwritable) => Err(unwritable),
        };
        told.send_replace(Some(outcome));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<String>, Principal>> {
        self.principals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Waits until the record that counts the call is durable.
    ///
    /// # Errors
    /// [`AuditError`] when it could not be written: then the caller is told that.
    pub async fn durable(mut self) -> Result<Committed, AuditError> {
        let told = self.0.wait_for(Option::is_some).await.ok().and_then(|told| (*told).clone());
        told.unwrap_or(Err(AuditError::Stopped))
    }
}

/// A token bucket: it fills by the budget's rate and holds its burst.
#[derive(Debug, Default)]
struct Bucket {
    /// When it is full again; `None` while it was never used.
    full: Option<Moment>,
}

impl Bucket {
    fn take(&mut self, budget: Budget, now: Moment) -> bool {
        let each = Duration::from_secs(1) / budget.per_second.max(1);
        let full = self.full.map_or(now, |full| full.max(now));
        if full.since(now) + each > each.saturating_mul(budget.burst) {
            return false;
        }
        self.full = Some(full.after(each));
        true
    }
}

/// What one record will count.
struct Tally {
    /// The first caller; others may be other processes of the same principal.
    caller: Option<Caller>,
    time: Date,
    begun: Moment,
    kinds: BTreeMap<Kind, u64>,
    others: u64,
    items: u32,
    not_waiting: u64,
    told: watch::Sender<Told>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    reason: &'static str,
    operation: &'static str,
    resource: String,
}

impl Tally {
    fn new(now: Moment) -> Self {
        Self {
            caller: None,
            time: Date::now(),
            begun: now,
            kinds: BTreeMap::new(),
            others: 0,
            items: 0,
            not_waiting: 0,
            told: watch::Sender::new(None),
        }
    }

    fn add(&mut self, refusal: Refusal) {
        let Refusal { caller, operation, resource, reason, items } = refusal;
        // Who and where is the same for all; which process, and for which staff member, is not.
        let whole =
            |caller: Caller| Caller { pid: None, staff: None, assertion: None, client: None, ..caller };
        self.caller = self.caller.take().or_else(|| caller.map(whole));
        self.items = self.items.saturating_add(items);
        let kind = Kind { reason, operation, resource: shortened(resource) };
        let full = self.kinds.len() >= NAMED;
        match self.kinds.get_mut(&kind) {
            Some(count) => *count += 1,
            None if full => self.others += 1,
            None => drop(self.kinds.insert(kind, 1)),
        }
    }

    fn calls(&self) -> u64 {
        self.kinds.values().sum::<u64>() + self.others
    }

    /// `"37 calls: 30 PERMISSION_DENIED encrypt tenants/a/keys/b; 7 others; 2 of them not waited for"`
    fn words(&self) -> String {
        let mut words = format!("{} calls", self.calls());
        let mut mark = ": ";
        for (Kind { reason, operation, resource }, count) in &self.kinds {
            // Writing to a string does not fail.
            write!(words, "{mark}{count} {reason} {operation}").ok();
            if !resource.is_empty() {
                write!(words, " {resource}").ok();
            }
            mark = "; ";
        }
        if self.others > 0 {
            write!(words, "{mark}{} others", self.others).ok();
        }
        if self.not_waiting > 0 {
            write!(words, "; {} of them answered {TOO_OFTEN}", self.not_waiting).ok();
        }
        words
    }

    fn close(self, now: Moment) -> (Record, watch::Sender<Told>) {
        let detail = Some(self.words());
        let items = (self.items > 0).then(|| Items {
            done: 0,
            refused: self.items,
            root: merkle::root(&[]),
            digests: None,
        });
        let record = Record {
            time: self.time,
            request_id: 0,
            caller: self.caller,
            operation: OPERATION.to_owned(),
            resource: String::new(),
            outcome: Outcome::Failed(TOO_OFTEN.to_owned()),
            policy: String::new(),
            latency_us: u64::try_from(now.since(self.begun).as_micros()).unwrap_or(u64::MAX),
            items,
            change: None,
            detail,
        };
        (record, self.told)
    }
}

/// A resource without its end, where it is longer than any name.
fn shortened(mut resource: String) -> String {
    let fits = |(at, character): &(usize, char)| at + character.len_utf8() <= RESOURCE;
    let end = resource.char_indices().take_while(fits).last();
    resource.truncate(end.map_or(0, |(at, character)| at + character.len_utf8()));
    resource
}

#[cfg(test)]
mod tests;

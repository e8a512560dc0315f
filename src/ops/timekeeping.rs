//! Watching the clock, and what hangs on it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Error;
use super::commit::Affects;
use super::done::Done;
use super::vault::Vault;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::audit::{Outcome, Pending};
use crate::clock::Date;
use crate::id::Installation;
use crate::keyring::timekeeping::{ClockMark, Now, Timekeeper, Verdict};
use crate::store::{Changes, Stored, tables};

/// The clock of this daemon, as it was judged last.
pub(super) struct Timekeeping(Mutex<State>);

struct State {
    keeper: Timekeeper,
    verdict: Option<Verdict>,
    leading: bool,
}

/// What is done by date, and whether it is.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleStatus {
    /// What is thought of the clock; none before the first look.
    pub verdict: Option<Verdict>,
    /// The latest date that was believed.
    pub high: Date,
    /// Whether this daemon runs what is due.
    pub leading: bool,
}

impl Timekeeping {
    pub(super) fn new(high: Date, max_ahead: std::time::Duration) -> Self {
        Self(Mutex::new(State { keeper: Timekeeper::new(high, max_ahead), verdict: None, leading: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict, and whether it is another one than before.
    fn look(&self, now: Now) -> (Verdict, bool) {
        let mut state = self.lock();
        let verdict = state.keeper.look(now);
        let before = state.verdict.replace(verdict);
        let same =
            before.is_some_and(|before| std::mem::discriminant(&before) == std::mem::discriminant(&verdict));
        // That the clock is right at the first look is no news.
        (verdict, !(same || before.is_none() && verdict == Verdict::Trusted))
    }

    pub(super) fn set_max_ahead(&self, max_ahead: std::time::Duration) {
        self.lock().keeper.set_max_ahead(max_ahead);
    }

    pub(super) fn set_leading(&self, leading: bool) {
        self.lock().leading = leading;
    }
}

impl Vault {
    /// What is thought of the clock, and whether this daemon runs what is due.
    pub fn schedule_status(&self) -> ScheduleStatus {
        let state = self.time.lock();
        ScheduleStatus { verdict: state.verdict, high: state.keeper.high(), leading: state.leading }
    }

    /// Now, or the latest date that was seen where the clock was set back: what has expired stays so.
    pub(super) fn latest_date(&self) -> Date {
        Date::now().max(self.schedule_status().high)
    }

    /// Judges the clock; says so where it is another verdict than before, and keeps the mark of the latest date.
    pub(super) async fn look_at_clock(&self, now: Now) -> Result<Verdict, Error> {
        let (verdict, news) = self.time.look(now);
        if news {
            self.tell_verdict(verdict).await?;
        }
        if verdict == Verdict::Trusted {
            let stored = self.records.get(&tables::clock_mark()).await?;
            let mark = self.time.lock().keeper.mark(stored.as_ref().map(|stored| stored.record));
            if let Some(mark) = mark {
                self.keep_mark(mark, stored).await?;
            }
        }
        Ok(verdict)
    }

    async fn tell_verdict(&self, verdict: Verdict) -> Result<(), Error> {
        let detail = match verdict.reason() {
            Some(reason) => {
                tracing::error!(%reason, "the clock is not believed; see `keyward clock accept --reason WHY`");
                reason
            }
            None => {
                tracing::info!("the clock is believed again");
                "believed again".to_owned()
            }
        };
        let mut record = Pending::begin(self.audit.clone(), None, Action::ClockState, "", 0);
        record.detail(detail);
        record.finish(Outcome::Ok)?.await?;
        Ok(())
    }

    async fn keep_mark(&self, mark: ClockMark, stored: Option<Stored<ClockMark>>) -> Result<(), Error> {
        let mut changes = Changes::default();
        put_mark(&mut changes, mark, stored);
        self.commit_own(changes, Affects::Nothing, Action::ClockMark, String::new()).await?;
        Ok(())
    }

    /// Takes the clock as it is. What is due by it is done from now on.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn accept_clock(
        &self,
        right: &Authorized<permission::ManageDaemon>,
        reason: &str,
    ) -> Result<Done<Date>, Error> {
        let Installation = right.resource();
        let now = Now::read();
        let stored = self.records.get(&tables::clock_mark()).await?;
        let mut changes = Changes::default();
        put_mark(&mut changes, ClockMark { high: now.wall, accepted: Some(now.wall) }, stored);
        let lease = self.records.get(&tables::lease()).await?;
        if let Some(Stored { record, revision }) = lease {
            // It says when it was renewed, which may be after the date that is accepted.
            changes.replace(&tables::lease(), &self.own_lease(now, Some(&record)), revision);
        }
        let change = self.commit(changes, Affects::Nothing).await?;
        self.time.lock().keeper.accept(now);
        Ok(Done::with_change(now.wall, change).detail(reason))
    }
}

fn put_mark(changes: &mut Changes, mark: ClockMark, stored: Option<Stored<ClockMark>>) {
    match stored {
        Some(stored) => changes.replace(&tables::clock_mark(), &mark, stored.revision),
        None => changes.create(&tables::clock_mark(), &mark),
    };
}

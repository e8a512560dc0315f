//! The one thread that writes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::grow::{self, Growth};
use super::queue::{Answer, Queue, Waiting, Work};
use super::tail::{Keep, Place, Tail};
use super::{Debts, OpenError, reserve};
use crate::access::Action;
use crate::audit::frame::Batch;
use crate::audit::{AuditError, Committed, Record};

/// Writes what the queue holds: everything in one write and one sync, again
/// and again.
pub(super) struct Writer {
    queue: Arc<Queue>,
    place: Arc<Place>,
    tail: Tail,
    growth: Growth,
    /// Why the log cannot be written, while it cannot.
    broken: Option<String>,
    taken: Vec<Waiting>,
    batch: Batch,
    answers: Vec<Answer>,
    /// Revisions of the changes in the batch.
    changes: Vec<u64>,
    debts: Arc<Debts>,
    /// Held as long as the files may be written.
    _lock: File,
}

/// Closes the queue when the writer ends, however it ends, so that nobody
/// waits for a thread that is gone.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
        self.0.break_off("its writer has ended");
    }
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        place: Arc<Place>,
        tail: Tail,
        growth: Growth,
        debts: Arc<Debts>,
        lock: File,
    ) -> Self {
        let (taken, batch, answers, changes) = (Vec::new(), Batch::default(), Vec::new(), Vec::new());
        Self { queue, place, tail, growth, broken: None, taken, batch, answers, changes, debts, _lock: lock }
    }

    /// Works until the queue is closed. Says why when it ends broken.
    pub(super) fn run(mut self) -> Result<(), AuditError> {
        let _closing = Closing(Arc::clone(&self.queue));
        loop {
            match self.queue.next(&mut self.taken, self.place.settings.probe_every) {
                Work::Write => self.write(),
                Work::Probe => self.probe(),
                Work::Stop => return self.finish(),
            }
        }
    }

    fn write(&mut self) {
        self.collect();
        if self.batch.is_empty() {
            return;
        }
        let first = self.tail.tip().sequence + 1;
        match self.tail.append(&mut self.batch, &self.place) {
            Ok(()) => {
                self.acknowledge(first);
                // Nobody waits for this any more.
                self.grow().unwrap_or_else(|error| self.give_up(&error));
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Adds what was appended to the tree.
    fn grow(&mut self) -> io::Result<()> {
        self.growth.add(&self.batch, self.tail.tip().hash);
        self.growth.flush(&*self.place.disk)
    }

    fn collect(&mut self) {
        self.batch.clear();
        self.changes.clear();
        for Waiting { record, answer } in self.taken.drain(..) {
            match self.batch.push(&record) {
                Ok(()) => {
                    self.answers.push(answer);
                    self.changes.extend(record.change.map(|change| change.revision));
                }
                Err(unfit) => answer.resolve(Err(AuditError::Unwritable(unfit.to_string()))),
            }
        }
    }

    fn acknowledge(&mut self, first: u64) {
        // Before what it owes is taken off: a change that is not on the list any more is durable in what the next
        // one sees of the log.
        self.queue.set_durable(self.tail.tip());
        // Before the answers: whoever has one may look whether a record is still owed.
        self.debts.paid(&self.changes);
        for (sequence, answer) in (first..).zip(self.answers.drain(..)) {
            answer.resolve(Ok(Committed { sequence }));
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        let reason = error.to_string();
        tracing::error!(%reason, "the audit log cannot be written: nothing is served until it can");
        self.queue.break_off(&reason);
        for answer in self.answers.drain(..) {
            answer.resolve(Err(AuditError::Unwritable(reason.clone())));
        }
        if let Err(error) = self.last_words(&reason) {
            tracing::error!(%error, "the audit log cannot even say that it stopped");
        }
        self.broken = Some(reason);
    }

    /// Writes why the log stops, with the room reserved for that.
    fn last_words(&mut self, reason: &str) -> Result<(), OpenError> {
        reserve::release(&self.place).map_err(OpenError::io(&self.place.settings.dir))?;
        self.restore()?;
        self.append_own(Action::AuditStopped, reason)
    }

    /// Opens the tail again: after an error, what the disk has is unknown.
    fn restore(&mut self) -> Result<(), OpenError> {
        (self.tail, _) = self.place.open(Keep::UpTo(self.tail.tip().sequence))?;
        Ok(())
    }

    fn append_own(&mut self, action: Action, reason: &str) -> Result<(), OpenError> {
        self.append_all([Record::own(action, reason.into())])
    }

    fn append_all(&mut self, records: impl IntoIterator<Item = Record>) -> Result<(), OpenError> {
        let dir = &self.place.settings.dir;
        self.batch.clear();
        self.changes.clear();
        for record in records {
            self.batch.push(&record).map_err(io::Error::other).map_err(OpenError::io(dir))?;
            self.changes.extend(record.change.map(|change| change.revision));
        }
        self.tail.append(&mut self.batch, &self.place).map_err(OpenError::io(dir))?;
        self.queue.set_durable(self.tail.tip());
        self.debts.paid(&self.changes);
        self.grow().map_err(OpenError::io(&self.place.dir().join("tree")))
    }

    fn probe(&mut self) {
        let Some(reason) = self.broken.take() else { return self.queue.resume() };
        match self.recover(&reason) {
            Ok(()) => {
                tracing::info!("the audit log can be written again");
                self.queue.resume();
            }
            Err(error) => {
                self.queue.break_off(&error.to_string());
                self.broken = Some(reason);
            }
        }
    }

    /// Goes on only with the reserve in place, so that the next failure finds it, and with the tree
    /// written as far as the records: the record says that everything is.
    fn recover(&mut self, reason: &str) -> Result<(), OpenError> {
        reserve::take(&self.place).map_err(OpenError::io(&self.place.settings.dir))?;
        self.restore()?;
        self.growth.flush(&*self.place.disk).map_err(OpenError::io(&self.place.dir().join("tree")))?;
        self.append_own(Action::AuditResumed, reason)?;
        // Before anything is served: a change whose record was lost with the disk is told now, or it is told again
        // at the next attempt.
        match self.debts.owed() {
            owed if owed.is_empty() => Ok(()),
            owed => self.append_all(owed),
        }
    }

    /// So that the next start has nothing to read.
    fn settle(&self) -> Result<(), String> {
        grow::settle(self.growth.tree(), &self.place).map(drop).map_err(|error| error.to_string())
    }

    fn finish(mut self) -> Result<(), AuditError> {
        let trimmed = match self.broken.take() {
            Some(reason) => Err(reason),
            None => {
                self.tail.trim(&self.place).map_err(|error| error.to_string()).and_then(|()| self.settle())
            }
        };
        trimmed.map_err(AuditError::Unwritable)
    }
}

//! Between the callers and the writer: records that wait to be written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::audit::frame::Tip;
use crate::audit::{AuditError, Committed, Receipt, Record};

/// One record and whoever waits for it.
pub(super) struct Waiting {
    pub(super) record: Record,
    pub(super) answer: Answer,
}

/// The other end of a [`Receipt`].
pub(super) struct Answer(oneshot::Sender<Result<Committed, AuditError>>);

impl Answer {
    /// Resolves the receipt, unless it was dropped: nobody has to wait.
    pub(super) fn resolve(self, result: Result<Committed, AuditError>) {
        drop(self.0.send(result));
    }
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write the records taken.
    Write,
    /// Try whether the log can be written again.
    Probe,
    /// End: nothing waits any more and nothing will.
    Stop,
}

/// Whether records are taken.
enum Gate {
    Open,
    Broken(String),
    Closed,
}

/// The queue. One writer takes from it.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    bell: Condvar,
    durable: AtomicU64,
    /// The newest durable record, whole: number and chain hash.
    newest: Mutex<Tip>,
}

struct Inner {
    waiting: Vec<Waiting>,
    gate: Gate,
    /// The writer sleeps and has to be woken. Whoever wakes it clears this, so
    /// that the others are spared the system call.
    asleep: bool,
}

impl Queue {
    /// An open queue of a log whose newest durable record is given.
    pub(super) fn new(newest: Tip) -> Self {
        let inner = Inner { waiting: Vec::new(), gate: Gate::Open, asleep: false };
        let durable = AtomicU64::new(newest.sequence);
        Self { inner: Mutex::new(inner), bell: Condvar::new(), durable, newest: Mutex::new(newest) }
    }

    /// Queues a record.
    pub(super) fn push(&self, record: Record) -> Result<Receipt, AuditError> {
        let (answer, receipt) = oneshot::channel();
        let waiting = Waiting { record, answer: Answer(answer) };
        let mut inner = self.lock();
        inner.check()?;
        inner.waiting.push(waiting);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.bell.notify_one();
        }
        Ok(Receipt(receipt))
    }

    /// Whether records are taken.
    pub(super) fn check(&self) -> Result<(), AuditError> {
        self.lock().check()
    }

    /// Sequence number of the newest durable record.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Notes the newest durable record.
    pub(super) fn set_durable(&self, newest: Tip) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
        self.durable.store(newest.sequence, Ordering::Release);
    }

    /// The newest durable record: number and chain hash.
    pub(super) fn newest(&self) -> Tip {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until there is work. Puts records into the empty `taken`. While
    /// the log is broken, asks for a probe every `probe_every`.
    pub(super) fn next(&self, taken: &mut Vec<Waiting>, probe_every: Duration) -> Work {
        let mut inner = self.lock();
        loop {
            if !inner.waiting.is_empty() {
                std::mem::swap(&mut inner.waiting, taken);
                return Work::Write;
            }
            inner = match inner.gate {
                Gate::Closed => return Work::Stop,
                Gate::Open => self.sleep(inner),
                Gate::Broken(_) => match self.sleep_for(inner, probe_every) {
                    Some(inner) => inner,
                    None => return Work::Probe,
                },
            };
        }
    }

    fn sleep<'a>(&self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        inner.asleep = true;
        let mut inner = self.bell.wait(inner).unwrap_or_else(PoisonError::into_inner);
        inner.asleep = false;
        inner
    }

    /// `None` when the time is over.
    fn sleep_for<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        time: Duration,
    ) -> Option<MutexGuard<'a, Inner>> {
        inner.asleep = true;
        let (mut inner, result) = self.bell.wait_timeout(inner, time).unwrap_or_else(PoisonError::into_inner);
        inner.asleep = false;
        (!result.timed_out()).then_some(inner)
    }

    /// Takes no more records, and answers those that wait.
    pub(super) fn break_off(&self, reason: &str) {
        let mut inner = self.lock();
        if !matches!(inner.gate, Gate::Closed) {
            inner.gate = Gate::Broken(reason.into());
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        for Waiting { answer, .. } in waiting {
            answer.resolve(Err(AuditError::Unwritable(reason.into())));
        }
    }

    /// Takes records again.
    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        if !matches!(inner.gate, Gate::Closed) {
            inner.gate = Gate::Open;
        }
    }

    /// Takes no more records; those that wait are still written.
    pub(super) fn close(&self) {
        self.lock().gate = Gate::Closed;
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can fail halfway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check(&self) -> Result<(), AuditError> {
        match &self.gate {
            Gate::Open => Ok(()),
            Gate::Broken(reason) => Err(AuditError::Unwritable(reason.clone())),
            Gate::Closed => Err(AuditError::Stopped),
        }
    }
}

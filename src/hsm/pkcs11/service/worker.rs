//! A session thread: takes lists of operations and executes them.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select_biased};
use cryptoki::session::Session;

use crate::hsm::pkcs11::connection::Connection;
use crate::hsm::pkcs11::service::{Job, Shared};

/// Jobs that were in work when a connection was lost.
pub(super) type Interrupted = Mutex<Vec<Job>>;

pub(super) struct Worker<'a> {
    pub(super) epoch: u64,
    pub(super) connection: &'a Connection,
    pub(super) session: &'a mut Session,
    pub(super) shared: &'a Shared,
    pub(super) interrupted: &'a Interrupted,
    pub(super) jobs: Receiver<Job>,
    /// Disconnected when every session thread shall leave.
    pub(super) leave: Receiver<Infallible>,
    /// Takes the proof that the connection is lost.
    pub(super) lost: Sender<String>,
}

impl Worker<'_> {
    pub(super) fn run(self) {
        let executor = self.connection.executor(self.session, &self.shared.operations);
        while let Some(job) = self.next() {
            if job.abandoned() {
                continue;
            }
            match executor.run(&job.operations) {
                Ok(answers) => job.answer(answers),
                Err(reason) => return self.lose(job, reason),
            }
        }
    }

    /// The next job; `None` when this thread shall leave.
    fn next(&self) -> Option<Job> {
        if self.leave.try_recv() == Err(TryRecvError::Disconnected) {
            return None;
        }
        // What was interrupted on this connection is for the next one.
        let earlier = lock(self.interrupted).pop_if(|job| job.interrupted != Some(self.epoch));
        if earlier.is_some() {
            return earlier;
        }
        select_biased! {
            recv(self.leave) -> _ => None,
            recv(self.jobs) -> job => job.ok(),
        }
    }

    /// An interrupted job is repeated once on the next connection.
    fn lose(&self, mut job: Job, reason: String) {
        if job.interrupted.is_some() {
            job.unavailable(&reason);
        } else {
            job.interrupted = Some(self.epoch);
            lock(self.interrupted).push(job);
        }
        // When the channel is full or closed, the loss is known already.
        drop(self.lost.try_send(reason));
    }
}

pub(super) fn lock(interrupted: &Interrupted) -> std::sync::MutexGuard<'_, Vec<Job>> {
    interrupted.lock().unwrap_or_else(PoisonError::into_inner)
}

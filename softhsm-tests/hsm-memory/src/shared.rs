//! What an HSM, the test's hand on it and the tasks that it has begun share: the connection and its state.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::hsm::figures::Figures;
use keyward::hsm::pkcs11::ConnectError;
use keyward::hsm::process::TaskError;
use keyward::hsm::{Forget, HsmError, Operation, Reply, Status};
use keyward::id::RootId;
use keyward::keyring::wrapped::Canary;
use tokio::sync::watch;

use crate::connection::{Connection, Executor, falsified, prove};
use crate::controls::{Kind, Plans, Turn};
use crate::token::Token;

/// Hint for callers that are turned away.
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Answers = Vec<Result<Reply, HsmError>>;

pub(crate) struct Shared {
    pub(crate) token: Token,
    pub(crate) plans: Plans,
    /// Locked before the token and before the status is changed.
    connection: Mutex<Connection>,
    canary: Mutex<Option<Canary>>,
    pub(crate) status: watch::Sender<Status>,
    in_hand: AtomicUsize,
    operations: AtomicU64,
    losses: AtomicU64,
    repeated: AtomicU64,
    pub(crate) unanswered: AtomicU64,
}

/// Why the connection is lost: the whole list can be repeated.
struct Lost(String);

/// A place among the lists in hand.
struct InHand<'a>(&'a AtomicUsize);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Without a connection yet.
    pub(crate) fn new(token: &Token, canary: Option<Canary>) -> Self {
        Self {
            token: token.clone(),
            plans: Plans::default(),
            connection: Mutex::default(),
            canary: Mutex::new(canary),
            status: watch::Sender::new(Status::Starting),
            in_hand: AtomicUsize::new(0),
            operations: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }
    }

    /// Makes the next connection, and proves the root.
    pub(crate) fn connect(&self) {
        let mut connection = self.connection();
        connection.next();
        let proved = lock(&self.canary).as_ref().map_or(Ok(()), |canary| prove(&self.token, canary));
        let token = self.token.info();
        self.status.send_replace(match proved {
            Ok(()) => Status::Ready { epoch: connection.epoch, token },
            Err(error) => Status::Refused {
                reason: format!("the token {} is not the one with the root: {error}", token.label),
            },
        });
    }

    pub(crate) fn lose(&self, reason: &str) {
        let mut connection = self.connection();
        connection.forget(&Forget::All);
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.status.send_replace(Status::Down { reason: reason.to_owned() });
    }

    pub(crate) fn lose_handles(&self) {
        self.connection().dead = true;
    }

    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        lock(&self.connection)
    }

    /// The number of the connection that serves.
    fn serving(&self) -> Result<u64, String> {
        match &*self.status.borrow() {
            Status::Ready { epoch, .. } => Ok(*epoch),
            Status::Starting => Err("the first connection is still being made".to_owned()),
            Status::Down { reason } | Status::Refused { reason } => Err(reason.clone()),
        }
    }

    /// That there is a token for a task of its own, whatever root it has.
    pub(crate) fn reachable(&self) -> Result<(), TaskError> {
        match &*self.status.borrow() {
            Status::Down { reason } => Err(ConnectError::Away(reason.clone()).into()),
            _ => Ok(()),
        }
    }

    fn place(&self) -> Option<InHand<'_>> {
        let place = InHand(&self.in_hand);
        let before = self.in_hand.fetch_add(1, Ordering::AcqRel);
        let full = before >= self.plans.capacity.load(Ordering::Acquire);
        (!full && !self.plans.busy.load(Ordering::Acquire)).then_some(place)
    }

    pub(crate) async fn list(&self, operations: Vec<Operation>) -> Answers {
        let count = operations.len();
        let Some(_place) = self.place() else {
            return all(count, &HsmError::Busy { retry_after: RETRY_AFTER });
        };
        match self.attempt(&operations).await {
            Ok(answers) => answers,
            Err(Lost(_)) => {
                self.repeated.fetch_add(1, Ordering::Relaxed);
                let again = self.attempt(&operations).await;
                again.unwrap_or_else(|Lost(reason)| all(count, &HsmError::Unavailable(reason)))
            }
        }
    }

    async fn attempt(&self, operations: &[Operation]) -> Result<Answers, Lost> {
        let begun = match self.serving() {
            Ok(epoch) => epoch,
            Err(reason) => return Ok(all(operations.len(), &HsmError::Unavailable(reason))),
        };
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            let turn = self.plans.pass(Kind::of(operation)).await;
            answers.push(match turn {
                Err(error) => Err(error),
                Ok(turn) => self.execute(operation, begun).map(|answer| match (turn, answer) {
                    (Turn::Failing(error), _) => Err(error),
                    (Turn::Lying, Ok(reply)) => Ok(falsified(reply)),
                    (_, answer) => answer,
                })?,
            });
        }
        Ok(answers)
    }

    /// One operation on the connection that its list has begun on, and on no other.
    fn execute(&self, operation: &Operation, begun: u64) -> Result<Result<Reply, HsmError>, Lost> {
        let mut connection = self.connection();
        match self.serving() {
            Ok(now) if now == begun => {}
            Ok(_) => return Err(Lost("the connection was lost".to_owned())),
            Err(reason) => return Err(Lost(reason)),
        }
        if connection.dead {
            drop(connection);
            self.losses.fetch_add(1, Ordering::Relaxed);
            self.connect();
            return Err(Lost("a key has vanished from the token".to_owned()));
        }
        let (token, calls) = (&self.token, &self.operations);
        Ok(Executor { token, connection: &mut connection, calls }.execute(operation))
    }

    /// Destroys a master key as [`Turn`] says.
    pub(crate) fn destroy(&self, id: RootId, turn: Turn) -> Result<(), TaskError> {
        match turn {
            Turn::Lying => Ok(()),
            Turn::Honest => {
                self.token.with(|token| token.destroy(id));
                Ok(())
            }
            Turn::Failing(error) => {
                self.token.with(|token| token.destroy(id));
                Err(failed(error))
            }
        }
    }

    pub(crate) fn forget(&self, keks: &Forget) {
        self.connection().forget(keks);
    }

    pub(crate) fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            operations: read(&self.operations),
            losses: read(&self.losses),
            repeated: read(&self.repeated),
            unanswered: read(&self.unanswered),
        }
    }

    pub(crate) fn expect(&self, canary: Canary) {
        let proved = prove(&self.token, &canary);
        *lock(&self.canary) = Some(canary);
        let now = self.status.borrow().clone();
        // One that opens is no news to a connection that serves; one that was refused is looked at again. A
        // connection that is away stays away.
        if matches!((now, proved), (Status::Ready { .. }, Err(_)) | (Status::Refused { .. }, _)) {
            self.connect();
        }
    }
}

fn all(count: usize, error: &HsmError) -> Answers {
    std::iter::repeat_with(|| Err(error.clone())).take(count).collect()
}

pub(crate) fn failed(error: HsmError) -> TaskError {
    TaskError::Failed(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

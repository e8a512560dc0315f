//! The service: a queue in front, a supervisor and session threads behind.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::{oneshot, watch};

use crate::clock::Moment;
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::service::supervisor::Supervisor;
use crate::hsm::{Hsm, HsmError, Operation, Reply, Status};
use crate::keyring::wrapped::Canary;

mod supervisor;
mod worker;

/// While the connection has been away no longer than this, calls wait for it to come back.
const GRACE: Duration = Duration::from_secs(1);
/// Hint for callers that found the queue full.
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Answers = Vec<Result<Reply, HsmError>>;

/// A list of operations on its way.
struct Job {
    operations: Vec<Operation>,
    reply: oneshot::Sender<Answers>,
    deadline: Moment,
    /// The connection that was lost while this was in work.
    interrupted: Option<u64>,
}

impl Job {
    fn answer(self, answers: Answers) {
        // A caller that has gone away wants no answer.
        drop(self.reply.send(answers));
    }

    fn unavailable(self, reason: &str) {
        let answers = all(self.operations.len(), HsmError::Unavailable(reason.to_owned()));
        self.answer(answers);
    }

    /// Nobody waits for the answer any more.
    fn abandoned(&self) -> bool {
        self.reply.is_closed() || Moment::now() >= self.deadline
    }
}

fn all(count: usize, error: HsmError) -> Answers {
    std::iter::repeat_with(|| Err(error.clone())).take(count).collect()
}

/// What callers and threads share.
struct Shared {
    status: watch::Sender<Status>,
    away_since: Mutex<Moment>,
    grace: Duration,
    operations: AtomicU64,
}

impl Shared {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            status: watch::Sender::new(Status::Starting),
            away_since: Mutex::new(Moment::now()),
            operations: AtomicU64::new(0),
        }
    }

    /// Announces a status; the grace begins when the service was ready before.
    fn announce(&self, status: Status) {
        if matches!(*self.status.borrow(), Status::Ready { .. }) {
            *self.away_since.lock().unwrap_or_else(PoisonError::into_inner) = Moment::now();
        }
        self.status.send_if_modified(|now| {
            let changed = *now != status;
            *now = status;
            changed
        });
    }

    /// What is left of the grace.
    fn grace_left(&self) -> Duration {
        let since = *self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.grace.saturating_sub(Moment::now().since(since))
    }

    /// Why calls are turned away at once; `None` while they are served or may wait.
    fn turned_away(&self) -> Option<String> {
        match &*self.status.borrow() {
            Status::Ready { .. } => None,
            Status::Refused { reason } => Some(reason.clone()),
            Status::Starting | Status::Down { .. } if !self.grace_left().is_zero() => None,
            Status::Down { reason } => Some(reason.clone()),
            Status::Starting => Some("the first connection is still being made".to_owned()),
        }
    }
}

/// The HSM behind a PKCS#11 module.
pub struct Pkcs11Hsm {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// Dropped to stop.
    stop: Mutex<Option<Sender<Infallible>>>,
    /// Disconnected at the end.
    ended: Receiver<Infallible>,
    thread: Mutex<Option<JoinHandle<()>>>,
    deadline: Duration,
}

/// Starts the threads and returns at once; the connection is made by them. With a
/// canary, a token that does not open it is refused.
pub fn start(settings: Settings, canary: Option<Canary>) -> Arc<Pkcs11Hsm> {
    let (jobs, queue) = bounded(settings.queue.max(1));
    let (stop, stopped) = bounded(0);
    let (end, ended) = bounded::<Infallible>(0);
    let shared = Arc::new(Shared::new(GRACE));
    let deadline = settings.deadline;
    let supervisor = Supervisor::new(settings, canary, Arc::clone(&shared), queue, stopped);
    let spawned = std::thread::Builder::new().name("hsm".to_owned()).spawn(move || {
        let _until_the_end = end;
        supervisor.run();
    });
    if let Err(error) = &spawned {
        shared.announce(Status::Down { reason: format!("cannot start a thread: {error}") });
    }
    Arc::new(Pkcs11Hsm {
        shared,
        jobs,
        stop: Mutex::new(Some(stop)),
        ended,
        thread: Mutex::new(spawned.ok()),
        deadline,
    })
}

impl Pkcs11Hsm {
    /// Lets work in hand finish, closes the sessions and finalises the module.
    /// Blocks for at most one deadline; `false` when a call still hangs in the module then.
    pub fn shutdown(&self) -> bool {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = match self.ended.recv_timeout(self.deadline) {
            Err(error) => error.is_disconnected(),
        };
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| ended)
            && thread.join().is_err()
        {
            tracing::error!("the HSM thread ended by a panic");
        }
        ended
    }

    /// See [`Settings::deadline`].
    fn limit(&self, count: usize) -> Duration {
        let further = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        self.deadline.saturating_add((self.deadline / 50).saturating_mul(further))
    }

    fn enqueue(
        &self,
        operations: Vec<Operation>,
        limit: Duration,
    ) -> Result<oneshot::Receiver<Answers>, HsmError> {
        if let Some(reason) = self.shared.turned_away() {
            return Err(HsmError::Unavailable(reason));
        }
        let (reply, answer) = oneshot::channel();
        let deadline = Moment::now().after(limit);
        match self.jobs.try_send(Job { operations, reply, deadline, interrupted: None }) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(HsmError::Busy { retry_after: RETRY_AFTER }),
            Err(TrySendError::Disconnected(_)) => Err(HsmError::Unavailable("it was shut down".to_owned())),
        }
    }
}

#[async_trait]
impl Hsm for Pkcs11Hsm {
    async fn run(&self, operations: Vec<Operation>) -> Vec<Result<Reply, HsmError>> {
        let count = operations.len();
        let limit = self.limit(count);
        let answer = match self.enqueue(operations, limit) {
            Ok(answer) => answer,
            Err(error) => return all(count, error),
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) => all(count, HsmError::Unavailable("the connection ended".to_owned())),
            Err(_) => all(count, HsmError::Unavailable(format!("no answer within {limit:?}"))),
        }
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::TokenInfo;
    use crate::hsm::pin::PinSource;
    use crate::hsm::pkcs11::TokenSelector;

    fn down(reason: &str) -> Status {
        Status::Down { reason: reason.to_owned() }
    }

    #[test]
    fn calls_wait_for_a_short_absence_only() {
        for (grace, waits) in [(Duration::MAX, true), (Duration::ZERO, false)] {
            let shared = Shared::new(grace);
            assert_eq!(shared.turned_away().is_none(), waits, "starting");
            shared.announce(Status::Ready { epoch: 1, token: TokenInfo::default() });
            assert_eq!(shared.turned_away(), None);
            shared.announce(down("a"));
            assert_eq!(shared.turned_away(), (!waits).then(|| "a".to_owned()));
        }
    }

    #[test]
    fn a_new_reason_is_no_new_grace() {
        let shared = Shared::new(GRACE);
        shared.announce(down("a"));
        let since = *shared.away_since.lock().unwrap();
        shared.announce(down("b"));
        assert_eq!(*shared.away_since.lock().unwrap(), since);
    }

    #[test]
    fn a_refusal_turns_away_at_once() {
        let shared = Shared::new(GRACE);
        shared.announce(Status::Refused { reason: "pin".into() });
        assert_eq!(shared.turned_away().as_deref(), Some("pin"));
    }

    #[tokio::test]
    async fn a_missing_module_is_down_and_shuts_down() {
        let folder = tempfile::TempDir::new().unwrap();
        let pin = PinSource::File(folder.path().join("pin"));
        let module = folder.path().join("missing.so");
        let hsm = start(Settings::new(module, TokenSelector::label("a"), pin, folder.path().into()), None);
        let mut status = hsm.status();
        let now = status.wait_for(|status| matches!(status, Status::Down { .. })).await.unwrap().clone();
        assert!(format!("{now:?}").contains("missing.so"), "{now:?}");
        assert!(hsm.run(Vec::new()).await.is_empty());
        assert!(hsm.shutdown());
        let answers = hsm.run(vec![Operation::Random { len: 1 }, Operation::Random { len: 1 }]).await;
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| matches!(answer, Err(HsmError::Unavailable(_)))), "{answers:?}");
    }
}

//! The HSM behind processes of its own: one for each token of a group.
//!
//! A vendor's library that crashes, hangs or leaks takes its process with it,
//! not the daemon: the process is ended and started again, and what it had in
//! work is repeated once, by whichever token of the group is free first.
//!
//! ```text
//! slot     supervises one token: process, login, pause, again        task   done once: roots, check
//! serve    one live process: work out, answers in, deadlines
//! group  queue  flight    states of all tokens, waiting work, work in hand
//! link                    a process and its socket
//! child                   the process itself
//! wire                    messages
//! ```
//!
//! The process is trusted with every key, as the library in it is; what it says
//! is nevertheless checked for length and form, and its death is no news.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Moment;
use crate::hsm::birth::{BackupPlan, NewRoot, Purpose, Standing};
use crate::hsm::figures::{CacheFigures, Figures};
use crate::hsm::process::group::{GRACE, Group};
use crate::hsm::process::queue::{Answers, Job, all};
use crate::hsm::process::slot::Supervisor;
use crate::hsm::{Forget, Hsm, HsmError, KeepNewborn, Operation, Reply, SlotStatus, Status};
use crate::id::RootId;
use crate::keyring::wrapped::Canary;

mod child;
mod flight;
mod group;
mod link;
mod queue;
mod serve;
mod settings;
mod slot;
mod task;
mod wire;

pub use crate::child::{ChildError, Program};
pub use child::run as run_child;
pub use settings::{Settings, Slot};
pub use task::{Heir, TaskError, check, create_root, destroy_root, roots, standing};

/// Hint for callers that found the queue full.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The HSM behind its processes.
pub struct HsmGroup {
    group: Arc<Group>,
    settings: Arc<Settings>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<bool>>,
}

/// Starts a process for each token and returns at once; the connections are
/// made by them. With a canary, a token that does not open it is refused.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time.
pub fn start(settings: Settings, canary: Option<Canary>) -> Arc<HsmGroup> {
    let settings = Arc::new(settings);
    let names = settings.slots.iter().map(Slot::name).collect();
    let sessions = settings.slots.iter().map(|slot| slot.hsm.sessions.max(1)).sum();
    let group = Arc::new(Group::new(names, sessions, settings.queue, GRACE, canary));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for index in 0..settings.slots.len() {
        let (group, settings) = (Arc::clone(&group), Arc::clone(&settings));
        let (canary, stop) = (group.canary.subscribe(), stop.clone());
        tasks.spawn(Supervisor { index, group, settings, canary, stop, typed: None, told: None }.run());
    }
    let turning_away = (Arc::clone(&group), stop.clone());
    tasks.spawn(async move {
        let (group, stop) = turning_away;
        stop.run_until_cancelled(group.turn_away()).await;
        true
    });
    Arc::new(HsmGroup { group, settings, stop, tasks: Mutex::new(tasks) })
}

impl HsmGroup {
    /// Lets work in hand finish and ends the processes. Waits for at most one
    /// deadline; `false` when a call still hung in a module then.
    pub async fn shutdown(&self) -> bool {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            let mut clean = true;
            while let Some(ended) = tasks.join_next().await {
                clean &= ended.unwrap_or(false);
            }
            clean
        };
        let clean = tokio::time::timeout(self.settings.deadline, ended).await.unwrap_or(false);
        for job in self.group.queue.drain() {
            job.unavailable("it was shut down");
        }
        clean
    }

    /// Does work in a process of its own to its end, also when nobody waits for it any more: a
    /// process that is killed while it logs in costs a software token. `shutdown` waits for it.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Result<T, TaskError> {
        if self.stop.is_cancelled() {
            return Err(TaskError::Failed("the HSM was shut down".to_owned()));
        }
        let (tell, told) = oneshot::channel();
        {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            // Supervisors do not end before the stop, so these are former ones of this kind.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move {
                // An error says that nobody waits.
                tell.send(work.await).ok();
                true
            });
        }
        told.await.unwrap_or_else(|_| Err(TaskError::Failed("the HSM was shut down".to_owned())))
    }

    async fn answers(&self, operations: Vec<Operation>) -> Result<Answers, HsmError> {
        let limit = self.settings.limit(operations.len());
        let answer = self.enqueue(operations, limit)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(_)) => Err(HsmError::Unavailable("the connection ended".to_owned())),
            Err(_) => Err(HsmError::Unavailable(format!("no answer within {limit:?}"))),
        }
    }

    fn enqueue(
        &self,
        operations: Vec<Operation>,
        limit: Duration,
    ) -> Result<oneshot::Receiver<Answers>, HsmError> {
        if self.stop.is_cancelled() {
            return Err(HsmError::Unavailable("it was shut down".to_owned()));
        }
        if let Some(reason) = self.group.turned_away() {
            return Err(HsmError::Unavailable(reason));
        }
        let (reply, answer) = oneshot::channel();
        let deadline = Moment::now().after(limit);
        match self.group.queue.push(Job { operations, reply, deadline, repeated: false }) {
            Ok(()) => Ok(answer),
            Err(_) => Err(HsmError::Busy { retry_after: RETRY_AFTER }),
        }
    }
}

#[async_trait]
impl Hsm for HsmGroup {
    async fn run(&self, operations: Vec<Operation>) -> Vec<Result<Reply, HsmError>> {
        let count = operations.len();
        let answers = match self.answers(operations).await {
            Ok(answers) => answers,
            Err(error) => all(count, &error),
        };
        if let Some(Err(HsmError::Busy { .. } | HsmError::Unavailable(_))) = answers.first() {
            self.group.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }

    fn forget(&self, keks: Forget) {
        // An error says that no process serves: nothing is kept open then.
        self.group.forget.send(Arc::new(keks)).ok();
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.group.status()
    }

    fn slots(&self) -> Vec<SlotStatus> {
        self.group.slots()
    }

    fn keks(&self) -> CacheFigures {
        self.group.keks()
    }

    fn figures(&self) -> Figures {
        self.group.counters.read()
    }

    fn expect(&self, canary: Canary) {
        self.group.canary.send_replace(Some(canary));
    }

    async fn create_root(
        &self,
        purpose: Purpose,
        plan: BackupPlan,
        keep: KeepNewborn<'_>,
    ) -> Result<NewRoot, TaskError> {
        create_root(&self.settings, purpose, plan, async |newborn| keep(newborn).await).await
    }

    async fn roots(&self, purpose: Purpose) -> Result<Vec<RootId>, TaskError> {
        let settings = Arc::clone(&self.settings);
        self.apart(async move { roots(&settings, purpose).await }).await
    }

    async fn standing(&self, purposes: &[Purpose]) -> Result<Vec<Standing>, TaskError> {
        let (settings, purposes) = (Arc::clone(&self.settings), purposes.to_vec());
        self.apart(async move { standing(&settings, &purposes).await }).await
    }

    async fn destroy_root(&self, id: RootId) -> Result<(), TaskError> {
        self.forget(Forget::Root(id));
        let settings = Arc::clone(&self.settings);
        self.apart(async move { destroy_root(&settings, id).await }).await
    }
}

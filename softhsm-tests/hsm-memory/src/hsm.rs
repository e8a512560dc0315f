//! The HSM itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use keyward::hsm::birth::{BackupPlan, NewRoot, Purpose, Standing};
use keyward::hsm::figures::{CacheFigures, Figures};
use keyward::hsm::process::TaskError;
use keyward::hsm::{Forget, Hsm, HsmError, KeepNewborn, Operation, Reply, SlotState, SlotStatus, Status};
use keyward::id::RootId;
use keyward::keyring::wrapped::Canary;
use tokio::sync::watch;

use crate::birth::Birth;
use crate::controls::{Controls, Kind, Turn};
use crate::shared::{Shared, failed};
use crate::token::Token;

/// An HSM with one token, connected at once.
pub struct MemoryHsm {
    shared: Arc<Shared>,
}

impl MemoryHsm {
    /// Connects to a token. With a canary, a token that does not open it is refused.
    pub fn open(token: &Token, canary: Option<Canary>) -> Arc<Self> {
        let shared = Shared::new(token, canary);
        shared.connect();
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// The test's hand on it.
    pub fn controls(&self) -> Controls {
        Controls(self.shared.clone())
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.shared.token
    }
}

#[async_trait]
impl Hsm for MemoryHsm {
    async fn run(&self, operations: Vec<Operation>) -> Vec<Result<Reply, HsmError>> {
        let shared = self.shared.clone();
        // In a task of its own: a caller that goes away does not stop work that has begun.
        let answers = settled(tokio::spawn(async move { shared.list(operations).await })).await;
        if let Some(Err(HsmError::Busy { .. } | HsmError::Unavailable(_))) = answers.first() {
            self.shared.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }

    fn forget(&self, keks: Forget) {
        self.shared.forget(&keks);
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    fn slots(&self) -> Vec<SlotStatus> {
        let state = match self.shared.status.borrow().clone() {
            Status::Starting => SlotState::Starting,
            Status::Ready { epoch, token } => SlotState::Ready { epoch, token },
            Status::Down { reason } => SlotState::Down(reason),
            Status::Refused { reason } => SlotState::Foreign(reason),
        };
        let (name, objects) = (self.token().info().label, self.token().with(|token| token.count()));
        vec![SlotStatus { name, state, objects: Some(objects), confinement: None }]
    }

    fn figures(&self) -> Figures {
        self.shared.figures()
    }

    fn keks(&self) -> CacheFigures {
        self.shared.connection().keks()
    }

    fn expect(&self, canary: Canary) {
        self.shared.expect(canary);
    }

    async fn create_root(
        &self,
        purpose: Purpose,
        plan: BackupPlan,
        keep: KeepNewborn<'_>,
    ) -> Result<NewRoot, TaskError> {
        let shared = &*self.shared;
        shared.reachable()?;
        let begun = shared.plans.pass(Kind::CreateRoot).await.map_err(failed)?;
        let objects = shared.token.with(|token| token.count());
        if purpose == Purpose::Resident && objects.is_full() {
            return Err(TaskError::Full(format!("the token has {} objects of Keyward", objects.own)));
        }
        let (birth, newborn) = Birth::begin(purpose, &plan)?;
        // The escrow is durable before there is a token object.
        keep(newborn).await.map_err(TaskError::Persist)?;
        let settling = shared.plans.pass(Kind::SettleRoot).await.map_err(failed)?;
        let settled = birth.settled(shared.token.info())?;
        let Birth { id, purpose, key, escrow } = birth;
        if begun != Turn::Lying && settling != Turn::Lying {
            shared.token.with(|token| token.put(id, purpose, key));
        }
        let half = |error: HsmError| TaskError::Half { id, reason: error.to_string() };
        let answering = shared.plans.pass(Kind::AnswerRoot).await.map_err(half)?;
        for turn in [begun, settling, answering] {
            if let Turn::Failing(error) = turn {
                return Err(half(error));
            }
        }
        Ok(NewRoot { id, escrow, settled: vec![settled] })
    }

    async fn roots(&self, purpose: Purpose) -> Result<Vec<RootId>, TaskError> {
        self.shared.reachable()?;
        let turn = self.shared.plans.pass(Kind::Roots).await.map_err(failed)?;
        let mut found = self.token().roots(purpose);
        found.retain(|id| self.shared.plans.shown(id));
        match turn {
            Turn::Honest => Ok(found),
            Turn::Lying => Ok(Vec::new()),
            Turn::Failing(error) => Err(failed(error)),
        }
    }

    async fn standing(&self, purposes: &[Purpose]) -> Result<Vec<Standing>, TaskError> {
        let token = self.token().info().label;
        let mut found = Vec::new();
        for purpose in purposes.iter().copied() {
            let keys = self.roots(purpose).await?;
            found.extend(keys.into_iter().map(|id| Standing { purpose, id, token: token.clone() }));
        }
        Ok(found)
    }

    async fn destroy_root(&self, id: RootId) -> Result<(), TaskError> {
        // First the handles, then the key.
        self.shared.forget(&Forget::Root(id));
        let shared = self.shared.clone();
        // In a task of its own, as in a process of its own: it goes on to its end.
        let task = tokio::spawn(async move {
            shared.reachable()?;
            let turn = shared.plans.pass(Kind::DestroyRoot).await.map_err(failed)?;
            shared.destroy(id, turn)
        });
        settled(task).await
    }
}

/// What a task answered; a panic in it is one of the test.
async fn settled<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => panic!("the runtime ended while the HSM worked: {error}"),
    }
}

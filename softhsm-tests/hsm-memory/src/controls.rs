//! What a test decides about an HSM.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward::hsm::{HsmError, Operation};
use keyward::id::RootId;

use crate::gate::Gate;
use crate::shared::Shared;

/// A kind of work, for a control that concerns one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Operation::Random`].
    Random,
    /// [`Operation::GenerateKek`].
    GenerateKek,
    /// [`Operation::GenerateKey`].
    GenerateKey,
    /// [`Operation::OpenKey`].
    OpenKey,
    /// [`Operation::MoveKey`].
    MoveKey,
    /// [`Operation::GenerateSigningKey`].
    GenerateSigningKey,
    /// [`Operation::Sign`].
    Sign,
    /// The birth of a master key, before anything is made.
    CreateRoot,
    /// The birth of a master key: its escrow is kept, and it is no token object yet.
    SettleRoot,
    /// The birth of a master key: it is a token object, and nobody was told so yet. Who drops the call here
    /// leaves what a daemon leaves that ends between the birth and its record.
    AnswerRoot,
    /// The list of master keys.
    Roots,
    /// The destruction of a master key.
    DestroyRoot,
}

impl Kind {
    /// The kind of an operation.
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Random { .. } => Self::Random,
            Operation::GenerateKek { .. } => Self::GenerateKek,
            Operation::GenerateKey { .. } => Self::GenerateKey,
            Operation::OpenKey { .. } => Self::OpenKey,
            Operation::MoveKey { .. } => Self::MoveKey,
            Operation::GenerateSigningKey { .. } => Self::GenerateSigningKey,
            Operation::Sign { .. } => Self::Sign,
        }
    }
}

/// What becomes of one piece of work.
enum Act {
    NotDone(HsmError),
    DoneButFailed(HsmError),
    Lie,
    Wait(Gate),
}

struct Plan {
    kind: Kind,
    /// Pieces of work of this kind that are left alone before.
    skip: usize,
    act: Act,
}

/// How a piece of work that may be done is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Honest,
    /// It is done, and answered so.
    Failing(HsmError),
    /// What is answered is wrong, or nothing is done.
    Lying,
}

/// What the test has decided, and what was asked.
pub(crate) struct Plans {
    plans: Mutex<Vec<Plan>>,
    asked: Mutex<BTreeMap<Kind, u64>>,
    hidden: Mutex<Vec<RootId>>,
    pub(crate) busy: AtomicBool,
    pub(crate) capacity: AtomicUsize,
}

/// Lists of operations that may be in hand at once: the default of a daemon.
const CAPACITY: usize = keyward::hsm::process::Settings::QUEUE;

impl Default for Plans {
    fn default() -> Self {
        Self {
            plans: Mutex::default(),
            asked: Mutex::default(),
            hidden: Mutex::default(),
            busy: AtomicBool::new(false),
            capacity: AtomicUsize::new(CAPACITY),
        }
    }
}

impl Plans {
    /// Counts a piece of work and waits before its gate, when it has one.
    pub(crate) async fn pass(&self, kind: Kind) -> Result<Turn, HsmError> {
        *lock(&self.asked).entry(kind).or_default() += 1;
        match self.take(kind) {
            None => Ok(Turn::Honest),
            Some(Act::NotDone(error)) => Err(error),
            Some(Act::DoneButFailed(error)) => Ok(Turn::Failing(error)),
            Some(Act::Lie) => Ok(Turn::Lying),
            Some(Act::Wait(gate)) => gate.pass().await.map(|()| Turn::Honest),
        }
    }

    /// The plan whose turn it is; every other of this kind comes one nearer.
    fn take(&self, kind: Kind) -> Option<Act> {
        let mut plans = lock(&self.plans);
        let due = plans.iter().position(|plan| plan.kind == kind && plan.skip == 0);
        for plan in plans.iter_mut().filter(|plan| plan.kind == kind && plan.skip > 0) {
            plan.skip -= 1;
        }
        due.map(|at| plans.remove(at).act)
    }

    pub(crate) fn shown(&self, id: &RootId) -> bool {
        !lock(&self.hidden).contains(id)
    }
}

/// The test's hand on an HSM. Clones are the same hand.
#[derive(Clone)]
pub struct Controls(pub(crate) Arc<Shared>);

impl Controls {
    /// Takes the connection away: handles are lost, and whatever is asked is answered
    /// [`HsmError::Unavailable`] with this reason until [`reconnect`](Self::reconnect).
    pub fn lose_connection(&self, reason: &str) {
        self.0.lose(reason);
    }

    /// Makes the next connection: the epoch grows, and the canary is opened.
    pub fn reconnect(&self) {
        self.0.connect();
    }

    /// Kills every handle behind the HSM's back: the next list of operations finds it, and is repeated on a
    /// connection with the next epoch.
    pub fn lose_handles(&self) {
        self.0.lose_handles();
    }

    /// Has the `nth` piece of work of this kind from now on, from 1, not done and answered so.
    pub fn fail(&self, kind: Kind, nth: usize, error: HsmError) {
        self.plan(kind, nth, Act::NotDone(error));
    }

    /// Has the `nth` piece of work of this kind from now on, from 1, done and answered so all the same.
    pub fn fail_after(&self, kind: Kind, nth: usize, error: HsmError) {
        self.plan(kind, nth, Act::DoneButFailed(error));
    }

    /// Has the HSM lie about the `nth` piece of work of this kind from now on, from 1: an operation's answer
    /// has a wrong bit; a master key is said to be made, or destroyed, and is not; the list of master keys
    /// is empty.
    pub fn lie(&self, kind: Kind, nth: usize) {
        self.plan(kind, nth, Act::Lie);
    }

    /// Has the `nth` piece of work of this kind from now on, from 1, wait.
    pub fn hold(&self, kind: Kind, nth: usize) -> Gate {
        let gate = Gate::new();
        self.plan(kind, nth, Act::Wait(gate.clone()));
        gate
    }

    /// Has every list of operations answered [`HsmError::Busy`], or no longer.
    pub fn set_busy(&self, busy: bool) {
        self.0.plans.busy.store(busy, Ordering::Release);
    }

    /// How many lists of operations may be in hand at once; a further one is answered [`HsmError::Busy`].
    pub fn set_capacity(&self, lists: usize) {
        self.0.plans.capacity.store(lists, Ordering::Release);
    }

    /// Leaves a master key, which stays where it is, out of every list of them.
    pub fn hide(&self, id: RootId) {
        lock(&self.0.plans.hidden).push(id);
    }

    /// Shows again what was hidden.
    pub fn show_all(&self) {
        lock(&self.0.plans.hidden).clear();
    }

    /// How many pieces of work of this kind were asked for, repeated ones counted again.
    pub fn asked(&self, kind: Kind) -> u64 {
        lock(&self.0.plans.asked).get(&kind).copied().unwrap_or(0)
    }

    /// Whether everything that was planned has happened.
    pub fn is_spent(&self) -> bool {
        lock(&self.0.plans.plans).is_empty()
    }

    /// Calls off what was planned and has not happened.
    pub fn clear(&self) {
        lock(&self.0.plans.plans).clear();
    }

    fn plan(&self, kind: Kind, nth: usize, act: Act) {
        assert!(nth > 0, "pieces of work are counted from 1");
        lock(&self.0.plans.plans).push(Plan { kind, skip: nth - 1, act });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

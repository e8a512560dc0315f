//! Session threads: lists of operations in, answers out.
//!
//! A session belongs to one thread for life. KEKs are unwrapped on the session
//! that first needs them and used by all, so all sessions are closed together.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use cryptoki::session::Session;

use crate::hsm::figures::{CacheFigures, Objects};
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::connection::{Connected, Connection};
use crate::hsm::pkcs11::error::{ConnectError, words};
use crate::hsm::pkcs11::execute::{Executor, Failure};
use crate::hsm::pkcs11::module::Library;
use crate::hsm::pkcs11::objects::Counter;
use crate::hsm::{Forget, HsmError, Operation, Reply, TokenInfo};
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// What became of a list of operations.
#[derive(Debug)]
pub struct Executed {
    /// One entry for each operation, in order.
    pub answers: Vec<Result<Reply, HsmError>>,
    /// Calls that used a key or the generator of the HSM.
    pub calls: u64,
}

/// Takes what became of a list; called on the session's thread.
pub type Answer = Box<dyn FnOnce(Executed) + Send>;

enum Work {
    Run(Vec<Operation>, Answer),
    /// Handles were given up, and are to be destroyed.
    Reap,
    Expect(Canary),
}

/// The threads' input. When it is dropped, they finish what they have and end.
pub struct Pool {
    work: Sender<Work>,
    token: TokenInfo,
    connection: Arc<Connection>,
}

/// Watches over the threads and the health of the connection.
///
/// Dropping it waits for the threads, closes the sessions and finalises the module.
pub struct Watch {
    // Dropped in this order: the holder is closed last of all sessions, and
    // the module is finalised when nothing holds the connection any more.
    threads: Vec<JoinHandle<()>>,
    holder: Session,
    connection: Arc<Connection>,
    losses: Receiver<String>,
    counter: RefCell<Counter>,
    max_objects: usize,
}

/// What the watch saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// The connection is healthy.
    Healthy,
    /// The connection is lost, and why. Threads may hang in the module.
    Lost(String),
    /// The [`Pool`] was dropped and every thread has ended.
    Ended,
}

/// Loads the module, logs in, tests it, proves the root by its canary, and
/// starts the session threads.
///
/// The pool stands last, so that whoever drops both drops it first: the watch waits for threads that wait for it.
///
/// # Errors
/// [`ConnectError`] says whether another try makes sense.
pub fn start(settings: &Settings, pin: &Pin, canary: Option<Canary>) -> Result<(Watch, Pool), ConnectError> {
    let library = Library::load(&settings.module)?;
    let Connected { holder, connection } = Connected::open(&library, settings, pin, canary, false)?;
    let connection = Arc::new(connection);
    let (lost, losses) = unbounded();
    let token = connection.module.token().clone();
    let (counter, max_objects) = (RefCell::default(), settings.max_objects);
    let cached = Arc::clone(&connection);
    let mut watch = Watch { threads: Vec::new(), holder, connection, losses, counter, max_objects };
    // Made after the watch, so that on an error it goes first and the threads end.
    let (work, queue) = bounded(settings.sessions.max(1));
    for _ in 0..settings.sessions.max(1) {
        let session = watch.connection.module.session(false).map_err(too_few)?;
        let worker = Worker {
            session,
            connection: Arc::clone(&watch.connection),
            queue: queue.clone(),
            lost: lost.clone(),
        };
        let thread = Builder::new().name("hsm-session".to_owned()).spawn(|| worker.run());
        watch.threads.push(
            thread.map_err(|error| ConnectError::Away(format!("cannot start a session thread: {error}")))?,
        );
    }
    Ok((watch, Pool { work, token, connection: cached }))
}

fn too_few(error: ConnectError) -> ConnectError {
    match error {
        ConnectError::Away(reason) => {
            ConnectError::Away(format!("{reason} (are there fewer sessions than hsm.sessions says?)"))
        }
        other => other,
    }
}

impl Pool {
    /// The token that serves.
    pub fn token(&self) -> &TokenInfo {
        &self.token
    }

    /// Hands a list to the next free session; waits while as many lists as there
    /// are sessions wait already. After a loss, nothing is answered any more.
    pub fn run(&self, operations: Vec<Operation>, answer: Answer) {
        // An error says that every thread has left, which the watch has seen too.
        self.work.send(Work::Run(operations, answer)).ok();
    }

    /// Has handles of KEKs destroyed as soon as no list in work uses them.
    pub fn forget(&self, keks: Forget) {
        let cache = &self.connection.keks;
        // Here and not by a session: another one could be quicker to begin the list that comes next.
        match keks {
            Forget::All => cache.forget_all(),
            Forget::These(keks) => keks.iter().for_each(|kek| cache.forget(kek)),
            Forget::Root(root) => {
                cache.forget_all();
                self.connection.forget_root(&root);
            }
        }
        self.work.send(Work::Reap).ok();
    }

    /// From now on this canary proves the root. A token that does not open it loses its connection.
    pub fn expect(&self, canary: Canary) {
        self.work.send(Work::Expect(canary)).ok();
    }
}

impl Watch {
    /// Waits for a loss or the end, at most for `span`; then proves the connection's health.
    pub fn look(&self, span: Duration) -> Seen {
        match self.losses.recv_timeout(span) {
            Ok(reason) => Seen::Lost(reason),
            Err(RecvTimeoutError::Disconnected) => Seen::Ended,
            Err(RecvTimeoutError::Timeout) => match self.tend() {
                Ok(()) => Seen::Healthy,
                Err(reason) => Seen::Lost(reason),
            },
        }
    }

    /// The cache of unwrapped KEKs.
    pub fn keks(&self) -> CacheFigures {
        self.connection.keks.figures()
    }

    /// How full the token is; `None` when it does not say.
    pub fn objects(&self) -> Option<Objects> {
        let counted = self.counter.borrow_mut().look(&self.holder, self.max_objects);
        counted.inspect_err(|error| tracing::warn!(error = %words(error), "cannot count the objects")).ok()
    }

    fn tend(&self) -> Result<(), String> {
        self.connection.keks.sweep();
        self.connection.executor(&self.holder, &AtomicU64::new(0)).destroy_retired()?;
        self.connection.health(&self.holder)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a session thread ended by a panic");
            }
        }
    }
}

struct Worker {
    session: Session,
    connection: Arc<Connection>,
    queue: Receiver<Work>,
    /// Takes the proof that the connection is lost.
    lost: Sender<String>,
}

impl Worker {
    fn run(self) {
        let calls = AtomicU64::new(0);
        let executor = self.connection.executor(&self.session, &calls);
        for work in &self.queue {
            let done = match work {
                Work::Run(operations, answer) => executor.run(&operations).map(|answers| {
                    answer(Executed { answers, calls: calls.swap(0, Ordering::Relaxed) });
                }),
                Work::Reap => executor.destroy_retired(),
                Work::Expect(canary) => self.expect(&executor, canary),
            };
            if let Err(reason) = done {
                // The watch lives as long as this thread.
                return drop(self.lost.send(reason));
            }
        }
    }

    fn expect(&self, executor: &Executor<'_>, canary: Canary) -> Result<(), String> {
        executor.prove(&canary).map_err(|failure| match failure {
            Failure::Answer(error) => format!("the token does not open the new canary: {error}"),
            Failure::Lost(reason) => reason,
        })?;
        self.connection.expect(canary);
        Ok(())
    }
}

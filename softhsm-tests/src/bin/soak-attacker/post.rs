//! What the attacks of one caller share: where they go, whether they go on, what came of them.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyward_softhsm_tests::wire::{self, Wire};
use serde_json::{Value, json};

/// The pause after a connection that was not to be had.
const PAUSE: Duration = Duration::from_millis(20);
/// How soon a pause is over when everything is.
const STEP: Duration = Duration::from_millis(100);

/// Where attacks go, and their sums.
pub(crate) struct Post {
    socket: PathBuf,
    over: AtomicBool,
    connections: AtomicU64,
    messages: AtomicU64,
    refused: AtomicU64,
    served: AtomicU64,
}

impl Post {
    pub(crate) fn to(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            over: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }
    }

    /// Lets the attacks end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether they go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// The pace of an attack. It is the same against every server: what is compared with another server must not
    /// attack faster where it is turned away faster.
    pub(crate) fn rest(&self, time: Duration) {
        let began = Instant::now();
        while self.goes_on() && began.elapsed() < time {
            std::thread::sleep((time - began.elapsed().min(time)).min(STEP));
        }
    }

    /// A connection on which nothing was said yet.
    pub(crate) fn connect(&self) -> Option<UnixStream> {
        self.counted(wire::connect(&self.socket))
    }

    /// A connection that has begun HTTP/2; `window` is how much of each answer it takes.
    pub(crate) fn hello(&self, window: u32) -> Option<Wire> {
        self.counted(Wire::hello(&self.socket, window))
    }

    fn counted<T>(&self, made: io::Result<T>) -> Option<T> {
        if made.is_ok() {
            self.connections.fetch_add(1, Ordering::Relaxed);
        } else {
            self.rest(PAUSE);
        }
        made.ok()
    }

    /// Counts messages that were sent.
    pub(crate) fn sent(&self, count: u64) {
        self.messages.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts what came back on a connection on which everything must be refused: a refusal has no message, so
    /// every byte of one is an answer that nobody may get.
    pub(crate) fn all_refused(&self, wire: &Wire) {
        self.refused.fetch_add(wire.ended + u64::from(wire.dead), Ordering::Relaxed);
        self.served.fetch_add(wire.answered, Ordering::Relaxed);
    }

    /// The sums.
    pub(crate) fn told(&self) -> Value {
        let sum = |number: &AtomicU64| number.load(Ordering::Relaxed);
        json!({
            "connections": sum(&self.connections),
            "messages": sum(&self.messages),
            "refused": sum(&self.refused),
            "served": sum(&self.served),
        })
    }
}

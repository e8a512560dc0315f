//! Bytes in flight: what callers have the daemon hold, against what a connection and a principal may.
//!
//! A call takes what it needs before anything is made of its bytes, and gives it back when its
//! answer has left. What does not fit is refused and never waited for: whoever waited would hold
//! what it has already.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes are held now.
#[derive(Debug, Default)]
pub struct Meter(AtomicUsize);

impl Meter {
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How many bytes may be in flight.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// On one connection.
    pub connection: usize,
    /// Of one principal, on all its connections.
    pub principal: usize,
}

/// What one call holds; given back when it is dropped.
#[derive(Debug)]
pub struct Load {
    connection: Arc<Meter>,
    principal: Arc<Meter>,
    room: Room,
    bytes: AtomicUsize,
}

impl Load {
    /// Begins a call that holds `bytes`; `None` when there is no room for it.
    pub fn begin(
        connection: Arc<Meter>,
        principal: Arc<Meter>,
        room: Room,
        bytes: usize,
    ) -> Option<Arc<Self>> {
        let load = Self { connection, principal, room, bytes: AtomicUsize::new(0) };
        load.add(bytes).then(|| Arc::new(load))
    }

    /// Holds more; answers whether there was room for it.
    pub fn add(&self, bytes: usize) -> bool {
        if !self.principal.take(bytes, self.room.principal) {
            return false;
        }
        if !self.connection.take(bytes, self.room.connection) {
            self.principal.give_back(bytes);
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// A part that is given back before the call ends; it holds nothing yet.
    pub fn part(self: &Arc<Self>) -> Part {
        Part { load: self.clone(), bytes: 0 }
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.principal.give_back(bytes);
        self.connection.give_back(bytes);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.remove(self.bytes.load(Ordering::Relaxed));
    }
}

/// A part of what a call holds: an answer that waits to be read.
#[derive(Debug)]
pub struct Part {
    load: Arc<Load>,
    bytes: usize,
}

/// Parts grow by this many bytes at least, so that small items do not count one by one.
const STEP: usize = 64 << 10;

impl Part {
    /// Sees to it that the part holds `bytes` in all; answers whether there was room for it.
    pub fn hold(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let step = (bytes - self.bytes).max(STEP);
        let grown = self.load.add(step);
        if grown {
            self.bytes += step;
        }
        grown
    }

    /// Takes `bytes` of what the part holds, or all if that is less, into a part of their own.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { load: self.load.clone(), bytes }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.load.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { connection: 100, principal: 150 };

    fn held(meter: &Meter) -> usize {
        meter.0.load(Ordering::Relaxed)
    }

    #[test]
    fn what_does_not_fit_a_connection_or_a_principal_is_refused_and_costs_nothing() {
        let (one, other, principal) = <(Arc<Meter>, Arc<Meter>, Arc<Meter>)>::default();
        let begin =
            |connection: &Arc<Meter>, bytes| Load::begin(connection.clone(), principal.clone(), ROOM, bytes);
        let first = begin(&one, 60).unwrap();
        assert!(!first.add(41), "over the connection's");
        assert!(begin(&one, usize::MAX).is_none(), "no sum wraps");
        assert!(first.add(40));
        assert!(begin(&other, 51).is_none(), "over the principal's");
        let second = begin(&other, 50).unwrap();
        assert_eq!((held(&one), held(&other), held(&principal)), (100, 50, 150));
        drop(first);
        drop(second);
        assert_eq!((held(&one), held(&other), held(&principal)), (0, 0, 0));
    }

    #[test]
    fn a_part_is_given_back_alone_and_not_twice() {
        let (connection, principal) = <(Arc<Meter>, Arc<Meter>)>::default();
        let room = Room { connection: 4 * STEP, principal: 4 * STEP };
        let load = Load::begin(connection.clone(), principal.clone(), room, 10).unwrap();
        let mut part = load.part();
        assert!(part.hold(1) && part.hold(STEP) && part.hold(STEP + 1));
        assert_eq!(held(&connection), 10 + 2 * STEP);
        assert!(!part.hold(4 * STEP));
        let waiting = part.split(STEP + 1);
        assert!(part.hold(5), "what is left is enough");
        assert_eq!(held(&connection), 10 + 2 * STEP);
        drop(waiting);
        assert_eq!(held(&connection), 10 + STEP - 1);
        drop((part, load));
        assert_eq!((held(&connection), held(&principal)), (0, 0));
    }
}

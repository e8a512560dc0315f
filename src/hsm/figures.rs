//! What is counted, for the operator and the benchmark.

use std::sync::atomic::{AtomicU64, Ordering};

use minicbor::{Decode, Encode};

/// What was done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Calls that used a key or the generator of an HSM.
    pub operations: u64,
    /// Connections that were lost.
    pub losses: u64,
    /// Lists of operations that were repeated because their connection was lost.
    pub repeated: u64,
    /// Lists of operations that were answered with [`Busy`](super::HsmError::Busy)
    /// or [`Unavailable`](super::HsmError::Unavailable).
    pub unanswered: u64,
}

/// How full a cache of keys is, and how well it serves. Counts are since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct CacheFigures {
    /// Keys that are open.
    #[n(0)]
    pub entries: u64,
    /// Uses of a key that was open, or that another call was opening.
    #[n(1)]
    pub hits: u64,
    /// Uses for which it had to be opened.
    #[n(2)]
    pub misses: u64,
    /// Keys given up because they were too old, or the HSM away too long.
    #[n(3)]
    pub expired: u64,
    /// Keys given up because they were used as often as they may be.
    #[n(4)]
    pub used_up: u64,
    /// Keys given up because something was frozen or changed, or a token was full.
    #[n(5)]
    pub flushed: u64,
    /// Keys given up to make room for others.
    #[n(6)]
    pub evicted: u64,
}

/// How full a token is. PKCS#11 does not say how many objects a token can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Objects {
    /// Token objects in all that the user sees.
    #[n(0)]
    pub total: usize,
    /// Those that Keyward has made.
    #[n(1)]
    pub own: usize,
    /// How many Keyward may have (`hsm.max_objects`).
    #[n(2)]
    pub limit: usize,
}

impl Objects {
    /// Whether there is no room for another one.
    pub fn is_full(self) -> bool {
        self.own >= self.limit
    }

    /// Whether four fifths of what Keyward may have are used.
    pub fn is_scarce(self) -> bool {
        self.own.saturating_mul(5) >= self.limit.saturating_mul(4)
    }
}

/// What an HSM process counts is its word: a number that it makes up ends nothing.
impl std::ops::Add for CacheFigures {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            entries: self.entries.saturating_add(other.entries),
            hits: self.hits.saturating_add(other.hits),
            misses: self.misses.saturating_add(other.misses),
            expired: self.expired.saturating_add(other.expired),
            used_up: self.used_up.saturating_add(other.used_up),
            flushed: self.flushed.saturating_add(other.flushed),
            evicted: self.evicted.saturating_add(other.evicted),
        }
    }
}

/// Counts what becomes of the keys of a cache.
#[derive(Debug, Default)]
pub(crate) struct CacheCounters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) used_up: AtomicU64,
    pub(crate) flushed: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

impl CacheCounters {
    pub(crate) fn read(&self, entries: usize) -> CacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheFigures {
            entries: entries as u64,
            hits: read(&self.hits),
            misses: read(&self.misses),
            expired: read(&self.expired),
            used_up: read(&self.used_up),
            flushed: read(&self.flushed),
            evicted: read(&self.evicted),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

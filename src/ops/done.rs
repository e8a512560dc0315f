//! Work that is done, and not released yet.

use crate::audit::{Committed, ItemDigest, Items, StoreChange};

/// The result of an operation. Its value can only be had against the proof
/// that the operation's record is durable.
#[derive(Debug)]
pub struct Done<T> {
    value: T,
    trace: Trace,
}

/// What the audit record says of the work.
#[derive(Debug, Default)]
pub struct Trace {
    /// The items worked on.
    pub items: Option<Items>,
    /// The change of the store.
    pub change: Option<StoreChange>,
    /// More in words.
    pub detail: Option<String>,
    /// Whether something failed that its caller did not bring about: the HSM, the store.
    pub fault: bool,
}

impl Trace {
    /// How many items were refused.
    pub fn refused(&self) -> u32 {
        self.items.as_ref().map_or(0, |items| items.refused)
    }
}

impl<T> Done<T> {
    /// Work that touched no item and changed nothing.
    pub fn new(value: T) -> Self {
        Self { value, trace: Trace::default() }
    }

    /// Work on the items with these digests.
    pub(super) fn with_items(value: T, items: Items) -> Self {
        Self { value, trace: Trace { items: Some(items), ..Trace::default() } }
    }

    /// Work that changed the store.
    pub(super) fn with_change(value: T, change: StoreChange) -> Self {
        Self { value, trace: Trace { change: Some(change), ..Trace::default() } }
    }

    /// Notes that something failed that its caller did not bring about.
    pub(super) fn fault(mut self, fault: bool) -> Self {
        self.trace.fault = fault;
        self
    }

    /// Says more in words.
    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.trace.detail = Some(detail.into());
        self
    }

    /// The change of the store, for work of the daemon's own.
    pub(super) fn change(&self) -> Option<StoreChange> {
        self.trace.change
    }

    /// Changes the value, not the trace.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Done<U> {
        Done { value: change(self.value), trace: self.trace }
    }

    /// Takes the trace for the record.
    pub fn take_trace(&mut self) -> Trace {
        std::mem::take(&mut self.trace)
    }

    /// Gives the value out, now that the record is durable.
    pub fn release(self, _proof: Committed) -> T {
        self.value
    }
}

/// The items of a record: their number and Merkle root, and the digests where they are kept.
pub(super) fn items(digests: Vec<ItemDigest>, refused: usize, keep: bool) -> Items {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Items {
        done: count(digests.len()),
        refused: count(refused),
        root: crate::audit::merkle::root(&digests),
        digests: (keep && !digests.is_empty()).then_some(digests),
    }
}

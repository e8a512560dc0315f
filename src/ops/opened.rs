//! Keys that are open, and for how long they may stay so.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

use super::Error;
use crate::clock::Moment;
use crate::config::{Class, Classes};
use crate::hsm::figures::{CacheCounters, CacheFigures, count};
use crate::hsm::{HsmError, Status};
use crate::id::KeyName;
use crate::keyring::state::DataClass;

/// An open DEK or index key.
#[derive(Debug)]
pub(super) struct Opened<K> {
    pub(super) secret: K,
    pub(super) name: KeyName,
    pub(super) class: DataClass,
    opened: Moment,
    uses: AtomicU64,
}

/// What decides how long a key stays open.
#[derive(Debug)]
pub(super) struct Rules {
    classes: RwLock<Classes>,
    presence: HsmPresence,
}

/// Open keys. Many calls that miss the same one make one call to the HSM.
pub(super) struct OpenKeys<I, K> {
    cache: Cache<I, Arc<Opened<K>>, UnitWeighter, DefaultHashBuilder, CountEvictions>,
    /// How often keys were flushed: a key whose opening began before a flush does not stay.
    flushes: AtomicU64,
    counters: Arc<CacheCounters>,
}

/// Whether an open key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Usable,
    Expired,
    UsedUp,
}

impl<K> Opened<K> {
    /// A key whose opening began at `opened`: its age counts from there, however often it is used.
    pub(super) fn new(secret: K, name: KeyName, class: DataClass, opened: Moment) -> Self {
        Self { secret, name, class, opened, uses: AtomicU64::new(0) }
    }

    /// While the HSM is there age and uses decide. While it is away the time since it went decides, for
    /// keys that were not too old then; uses do not count, since the key could not be opened anew.
    fn fitness(&self, now: Moment, rules: &Rules) -> Fitness {
        let class = rules.of(self.class);
        let gone = rules.presence.gone();
        let old = gone.unwrap_or(now).since(self.opened) >= class.cache_ttl.0;
        match gone {
            _ if old => Fitness::Expired,
            Some(gone) if now.since(gone) >= class.serve_without_hsm.0 => Fitness::Expired,
            None if self.uses.load(Ordering::Relaxed) >= class.cache_uses => Fitness::UsedUp,
            _ => Fitness::Usable,
        }
    }

    /// Whether it may serve once more although the HSM did not answer. The HSM may be away before that is noted.
    fn outlasts(&self, error: &Error, rules: &Rules) -> bool {
        matches!(error, Error::Hsm(HsmError::Unavailable(_)))
            && !rules.of(self.class).serve_without_hsm.0.is_zero()
            && self.fitness(Moment::now(), rules) != Fitness::Expired
    }
}

impl Rules {
    pub(super) fn new(classes: Classes) -> Self {
        Self { classes: RwLock::new(classes), presence: HsmPresence::default() }
    }

    /// Puts other rules in force, for keys that are open too.
    pub(super) fn set_classes(&self, classes: Classes) {
        *self.classes.write().unwrap_or_else(PoisonError::into_inner) = classes;
    }

    fn of(&self, class: DataClass) -> Class {
        *self.classes.read().unwrap_or_else(PoisonError::into_inner).of(class)
    }

    /// Takes over a change of the HSM connection.
    pub(super) fn note(&self, status: &Status) {
        self.presence.note(status);
    }
}

impl<I: Eq + Hash + Clone, K> OpenKeys<I, K> {
    pub(super) fn new(capacity: usize) -> Self {
        let counters = Arc::new(CacheCounters::default());
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        let evictions = CountEvictions(counters.clone());
        let hasher = DefaultHashBuilder::default();
        let cache = Cache::with(capacity, weight, UnitWeighter, hasher, evictions);
        Self { cache, flushes: AtomicU64::new(0), counters }
    }

    /// The open key, or what `open` answers.
    pub(super) async fn find_or_open(
        &self,
        id: &I,
        rules: &Rules,
        open: impl Future<Output = Result<Opened<K>, Error>>,
    ) -> Result<Arc<Opened<K>>, Error> {
        let used_up = self.give_up_unfit(id, rules);
        match self.cache.get_value_or_guard_async(id).await {
            Ok(found) => {
                count(&self.counters.hits);
                found.uses.fetch_add(1, Ordering::Relaxed);
                Ok(found)
            }
            Err(place) => {
                count(&self.counters.misses);
                let flushes = self.flushes.load(Ordering::SeqCst);
                let opened = open.await.map(Arc::new).or_else(|error| match used_up {
                    Some(last) if last.outlasts(&error, rules) => Ok(last),
                    _ => Err(error),
                })?;
                opened.uses.fetch_add(1, Ordering::Relaxed);
                // No place means that it was flushed meanwhile: this call alone has the key.
                drop(place.insert(opened.clone()));
                self.forget_if_flushed(id, flushes);
                Ok(opened)
            }
        }
    }

    /// Gives up a key that may not be used; the key, if it was only used too often.
    fn give_up_unfit(&self, id: &I, rules: &Rules) -> Option<Arc<Opened<K>>> {
        let found = self.cache.get(id)?;
        let fitness = found.fitness(Moment::now(), rules);
        if fitness == Fitness::Usable {
            return None;
        }
        // Another call may have opened it anew already.
        self.cache.remove_if(id, |cached| Arc::ptr_eq(cached, &found))?;
        count_given_up(&self.counters, fitness);
        (fitness == Fitness::UsedUp).then_some(found)
    }

    /// A flush either sees the key in the cache, or is seen here.
    fn forget_if_flushed(&self, id: &I, flushes: u64) {
        if self.flushes.load(Ordering::SeqCst) != flushes && self.cache.remove(id).is_some() {
            count(&self.counters.flushed);
        }
    }

    /// Wipes those that may no longer be used.
    pub(super) fn sweep(&self, rules: &Rules) {
        let now = Moment::now();
        self.cache.retain(|_, open| {
            // A key that is used up waits for its next use: it serves on if the HSM goes before.
            let keep = open.fitness(now, rules) != Fitness::Expired;
            if !keep {
                count(&self.counters.expired);
            }
            keep
        });
    }

    /// Wipes those whose key `affected` names, and those that are being opened now.
    pub(super) fn flush(&self, affected: impl Fn(&KeyName) -> bool) {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.cache.retain(|_, open| {
            let wipe = affected(&open.name);
            if wipe {
                count(&self.counters.flushed);
            }
            !wipe
        });
    }

    /// Whether it is open now.
    pub(super) fn holds(&self, id: &I) -> bool {
        self.cache.peek(id).is_some()
    }

    /// Keeps at most so many open.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.cache.set_capacity(u64::try_from(capacity).unwrap_or(u64::MAX));
    }

    pub(super) fn stats(&self) -> CacheFigures {
        self.counters.read(self.cache.len())
    }
}

/// Counts a key that was given up.
fn count_given_up(counters: &CacheCounters, fitness: Fitness) {
    match fitness {
        Fitness::Usable => {}
        Fitness::Expired => count(&counters.expired),
        Fitness::UsedUp => count(&counters.used_up),
    }
}

/// Told by the cache when it makes room.
#[derive(Clone)]
struct CountEvictions(Arc<CacheCounters>);

impl<I, V> Lifecycle<I, V> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: I, _: V) {
        count(&self.0.evicted);
    }
}

/// Whether the HSM is there, and since when it is not.
#[derive(Debug, Default)]
struct HsmPresence(Mutex<Option<Moment>>);

impl HsmPresence {
    fn note(&self, status: &Status) {
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *gone = match status {
            Status::Ready { .. } => None,
            _ => gone.or_else(|| Some(Moment::now())),
        };
    }

    /// Since when the HSM has been away; `None` when it is there.
    fn gone(&self) -> Option<Moment> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

//! Keys that are open, and for how long they may stay so.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;

use super::Error;
use crate::clock::Moment;
use crate::config::Classes;
use crate::hsm::Status;
use crate::id::KeyName;
use crate::keyring::state::DataClass;

/// An open DEK or index key.
#[derive(Debug)]
pub(super) struct Opened<K> {
    pub(super) secret: K,
    pub(super) name: KeyName,
    pub(super) class: DataClass,
    pub(super) opened: Moment,
}

/// What decides how long a key stays open.
#[derive(Debug)]
pub(super) struct Rules {
    classes: Classes,
    presence: HsmPresence,
}

/// Open keys. Many calls that miss the same one make one call to the HSM.
pub(super) struct OpenKeys<I, K> {
    cache: Cache<I, Arc<Opened<K>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How full the caches are and how well they serve.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheStats {
    /// Data keys that are open.
    pub entries: u64,
    /// Data keys found open.
    pub hits: u64,
    /// Data keys that the HSM had to open.
    pub misses: u64,
}

impl<K> Opened<K> {
    /// Whether it may still be used. While the HSM is there its age decides,
    /// while it is away the time since it went.
    fn usable(&self, now: Moment, rules: &Rules) -> bool {
        let class = rules.classes.of(self.class);
        match rules.presence.away(now) {
            None => now.since(self.opened) <= class.cache_ttl.0,
            Some(away) => away <= class.serve_without_hsm.0 && !class.serve_without_hsm.0.is_zero(),
        }
    }
}

impl Rules {
    pub(super) fn new(classes: Classes) -> Self {
        Self { classes, presence: HsmPresence::default() }
    }

    /// Takes over a change of the HSM connection.
    pub(super) fn note(&self, status: &Status) {
        self.presence.note(status);
    }
}

impl<I: Eq + Hash + Clone, K> OpenKeys<I, K> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { cache: Cache::new(capacity), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The open key, or what `open` answers.
    pub(super) async fn find_or_open(
        &self,
        id: &I,
        rules: &Rules,
        open: impl Future<Output = Result<Opened<K>, Error>>,
    ) -> Result<Arc<Opened<K>>, Error> {
        if let Some(found) = self.cache.get(id) {
            if found.usable(Moment::now(), rules) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(found);
            }
            self.cache.remove(id);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.cache.get_or_insert_async(id, async { open.await.map(Arc::new) }).await
    }

    /// Wipes those that may no longer be used.
    pub(super) fn sweep(&self, rules: &Rules) {
        let now = Moment::now();
        self.cache.retain(|_, open| open.usable(now, rules));
    }

    /// Wipes those whose key `affected` names.
    pub(super) fn flush(&self, affected: impl Fn(&KeyName) -> bool) {
        self.cache.retain(|_, open| !affected(&open.name));
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.cache.len() as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
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

    /// How long the HSM has been away; `None` when it is there.
    fn away(&self, now: Moment) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|gone| now.since(gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::TokenInfo;

    fn open(class: DataClass, opened: Moment) -> Opened<()> {
        Opened { secret: (), name: KeyName::parse("tenants/a/keys/b").unwrap(), class, opened }
    }

    #[test]
    fn age_counts_while_the_hsm_is_there_and_absence_while_it_is_not() {
        let (rules, start) = (Rules::new(Classes::default()), Moment::now());
        let later = |seconds| start.after(Duration::from_secs(seconds));
        let (basic, highest) = (open(DataClass::Basic, start), open(DataClass::Highest, start));
        assert!(basic.usable(later(900), &rules));
        assert!(!basic.usable(later(901), &rules));
        rules.note(&Status::Down { reason: String::new() });
        assert!(basic.usable(later(299), &rules));
        assert!(!basic.usable(later(310), &rules));
        assert!(!highest.usable(later(0), &rules));
        rules.note(&Status::Ready { epoch: 2, token: TokenInfo::default() });
        assert!(highest.usable(later(900), &rules));
    }
}

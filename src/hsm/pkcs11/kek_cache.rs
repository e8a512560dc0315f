//! Unwrapped KEKs of one connection, shared by its sessions.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

use crate::clock::Moment;
use crate::hsm::Kek;
use crate::hsm::figures::{CacheCounters, CacheFigures, count};

/// A bounded cache of handles. Each KEK is loaded once, however many sessions
/// ask for it at the same time. A handle that is evicted, forgotten or too old
/// waits in a list until no session uses it; [`reap`](Self::reap) then hands it
/// out to be destroyed.
pub(super) struct KekCache<H> {
    cache: Cache<Kek, Lease<H>, UnitWeighter, DefaultHashBuilder, Retire<H>>,
    retired: Retired<H>,
    ttl: Duration,
    /// Uses of a handle before it is loaded anew.
    uses: u64,
    counters: Arc<CacheCounters>,
}

/// A handle and its age.
#[derive(Debug)]
pub(super) struct Held<H> {
    handle: H,
    since: Moment,
    uses: AtomicU64,
}

impl<H> Deref for Held<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handle
    }
}

/// The right to use a handle: while a lease lives, the handle is not destroyed.
pub(super) type Lease<H> = Arc<Held<H>>;
type Retired<H> = Arc<Mutex<Vec<Lease<H>>>>;

#[derive(Clone)]
struct Retire<H>(Retired<H>, Arc<CacheCounters>);

impl<H> Lifecycle<Kek, Lease<H>> for Retire<H> {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Kek, lease: Lease<H>) {
        count(&self.1.evicted);
        lock(&self.0).push(lease);
    }
}

fn lock<H>(retired: &Retired<H>) -> std::sync::MutexGuard<'_, Vec<Lease<H>>> {
    // Nothing panics while the list is locked, and a list of handles has no broken state.
    retired.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Copy> KekCache<H> {
    /// A cache of `capacity` handles, each for at most `ttl` from its loading and for so many uses.
    pub(super) fn new(capacity: usize, ttl: Duration, uses: u64) -> Self {
        let retired = Retired::default();
        let counters = Arc::new(CacheCounters::default());
        let lifecycle = Retire(Arc::clone(&retired), Arc::clone(&counters));
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        let cache = Cache::with(capacity, weight, UnitWeighter, DefaultHashBuilder::default(), lifecycle);
        Self { cache, retired, ttl, uses, counters }
    }

    /// The handle of `kek`; `load` makes it when there is none. A failed load leaves nothing behind.
    pub(super) fn lease<E>(&self, kek: &Kek, load: impl FnOnce() -> Result<H, E>) -> Result<Lease<H>, E> {
        if let Some(found) = self.cache.get(kek)
            && let Some(why) = self.unfit(&found)
        {
            // Another session may have loaded it anew already.
            let removed = self.cache.remove_if(kek, |cached| Arc::ptr_eq(cached, &found));
            removed.iter().for_each(|_| count(why));
            self.retire(removed);
        }
        let since = Moment::now();
        let mut counter = &self.counters.hits;
        let lease = self.cache.get_or_insert_with(kek, || {
            counter = &self.counters.misses;
            Ok(Arc::new(Held { handle: load()?, since, uses: AtomicU64::new(0) }))
        });
        count(counter);
        lease.inspect(|lease| count(&lease.uses))
    }

    /// The counter of the reason why a handle may not be used, if there is one.
    fn unfit(&self, lease: &Lease<H>) -> Option<&AtomicU64> {
        match () {
            () if self.too_old(lease, Moment::now()) => Some(&self.counters.expired),
            () if lease.uses.load(Ordering::Relaxed) >= self.uses => Some(&self.counters.used_up),
            () => None,
        }
    }

    /// How full it is and how well it serves.
    pub(super) fn figures(&self) -> CacheFigures {
        self.counters.read(self.cache.len())
    }

    /// Gives up the handle of one KEK.
    pub(super) fn forget(&self, kek: &Kek) {
        let removed = self.cache.remove(kek);
        removed.iter().for_each(|_| count(&self.counters.flushed));
        self.retire(removed);
    }

    /// Gives up every handle.
    pub(super) fn forget_all(&self) {
        self.keep(&self.counters.flushed, |_| false);
    }

    /// Gives up the handles that are too old.
    pub(super) fn sweep(&self) {
        let now = Moment::now();
        self.keep(&self.counters.expired, |lease| !self.too_old(lease, now));
    }

    fn too_old(&self, lease: &Lease<H>, now: Moment) -> bool {
        now.since(lease.since) >= self.ttl
    }

    fn keep(&self, counter: &AtomicU64, keep: impl Fn(&Lease<H>) -> bool) {
        self.cache.retain(|_, lease| {
            let stays = keep(lease);
            if !stays {
                count(counter);
                lock(&self.retired).push(lease.clone());
            }
            stays
        });
    }

    fn retire(&self, removed: Option<(Kek, Lease<H>)>) {
        lock(&self.retired).extend(removed.map(|(_, lease)| lease));
    }

    /// Takes the evicted handles that nobody uses any more.
    pub(super) fn reap(&self) -> Vec<H> {
        // A lease that only this list holds can gain no other owner: the cache no longer has it.
        lock(&self.retired)
            .extract_if(.., |lease| Arc::strong_count(lease) == 1)
            .map(|lease| lease.handle)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;
    use crate::id::RootId;
    use crate::keyring::wrapped::{WrapMechanism, WrappedKek};

    fn kek(number: u8) -> Kek {
        let wrapped = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![number; 40] };
        Kek::Sealed { root: RootId([0; 16]), wrapped }
    }

    #[test]
    fn an_evicted_handle_lives_as_long_as_its_lease() {
        let cache = KekCache::new(1, Duration::MAX, u64::MAX);
        let lease = cache.lease(&kek(0), || Ok::<_, Infallible>(0)).unwrap();
        for number in 1..20 {
            cache.lease(&kek(number), || Ok::<_, Infallible>(number)).unwrap();
        }
        assert!(!cache.reap().contains(&**lease));
        let number = **lease;
        drop(lease);
        let still_cached = cache.cache.peek(&kek(number)).is_some();
        assert!(still_cached || cache.reap().contains(&number));
    }

    #[test]
    fn a_handle_that_is_too_old_is_loaded_anew_and_destroyed_after_its_last_use() {
        let cache = KekCache::new(4, Duration::ZERO, u64::MAX);
        let first = cache.lease(&kek(1), || Ok::<_, Infallible>(1)).unwrap();
        assert_eq!(**cache.lease(&kek(1), || Ok::<_, Infallible>(2)).unwrap(), 2);
        cache.sweep();
        assert_eq!(cache.reap(), [2]);
        drop(first);
        assert_eq!(cache.reap(), [1]);
    }

    #[test]
    fn a_handle_is_loaded_anew_after_its_uses() {
        let cache = KekCache::new(4, Duration::MAX, 2);
        let mut loads = 0..;
        let mut next =
            || cache.lease(&kek(1), || Ok::<_, Infallible>(loads.next().unwrap())).map(|lease| **lease);
        assert_eq!([next(), next(), next()], [Ok(0), Ok(0), Ok(1)]);
        assert_eq!(cache.reap(), [0]);
        let figures = cache.figures();
        assert_eq!((figures.hits, figures.misses, figures.used_up, figures.entries), (1, 2, 1, 1));
    }

    #[test]
    fn what_is_forgotten_is_destroyed() {
        let cache = KekCache::new(4, Duration::MAX, u64::MAX);
        for number in 1..=3 {
            cache.lease(&kek(number), || Ok::<_, Infallible>(number)).unwrap();
        }
        cache.sweep();
        assert!(cache.reap().is_empty());
        cache.forget(&kek(2));
        assert_eq!(cache.reap(), [2]);
        cache.forget_all();
        let mut rest = cache.reap();
        rest.sort_unstable();
        assert_eq!(rest, [1, 3]);
    }

    #[test]
    fn a_failed_load_is_tried_again() {
        let cache = KekCache::new(4, Duration::MAX, u64::MAX);
        assert_eq!(cache.lease(&kek(1), || Err::<u8, _>("no")).unwrap_err(), "no");
        assert_eq!(**cache.lease(&kek(1), || Ok::<_, Infallible>(7)).unwrap(), 7);
    }

    #[test]
    fn threads_that_ask_together_load_once() {
        let cache = KekCache::new(4, Duration::MAX, u64::MAX);
        let loads = AtomicU32::new(0);
        let gate = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    gate.wait();
                    let load = || Ok::<_, Infallible>(loads.fetch_add(1, Ordering::SeqCst));
                    assert_eq!(**cache.lease(&kek(1), load).unwrap(), 0);
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    }

    proptest! {
        /// Against a model: no handle is destroyed twice or while leased, and what is
        /// neither destroyed nor leased stays within the capacity.
        #[test]
        fn handles_are_neither_leaked_nor_destroyed_in_use(
            capacity in 1usize..6,
            steps in prop::collection::vec((0u8..12, any::<bool>()), 1..200),
        ) {
            let cache = KekCache::new(capacity, Duration::MAX, u64::MAX);
            let (mut made, mut destroyed, mut held) = (0u32, HashSet::new(), Vec::new());
            for (number, keep) in steps {
                let lease = cache
                    .lease(&kek(number), || {
                        made += 1;
                        Ok::<_, Infallible>(made)
                    })
                    .unwrap();
                prop_assert!(!destroyed.contains(&**lease));
                if keep { held.push(lease) } else { held.clear() }
                for handle in cache.reap() {
                    prop_assert!(destroyed.insert(handle), "destroyed twice");
                    prop_assert!(held.iter().all(|lease| ***lease != handle), "destroyed in use");
                }
            }
            held.clear();
            destroyed.extend(cache.reap());
            prop_assert!(made as usize - destroyed.len() <= capacity);
        }
    }
}

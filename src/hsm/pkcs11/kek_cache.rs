//! Unwrapped KEKs of one connection, shared by its sessions.

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

use crate::hsm::Kek;

/// A bounded cache of handles. Each KEK is loaded once, however many sessions
/// ask for it at the same time. An evicted handle waits in a list until no
/// session uses it; [`reap`](Self::reap) then hands it out to be destroyed.
pub(super) struct KekCache<H> {
    cache: Cache<Kek, Lease<H>, UnitWeighter, DefaultHashBuilder, Retire<H>>,
    retired: Retired<H>,
}

/// The right to use a handle: while a lease lives, the handle is not destroyed.
pub(super) type Lease<H> = Arc<H>;
type Retired<H> = Arc<Mutex<Vec<Lease<H>>>>;

#[derive(Clone)]
struct Retire<H>(Retired<H>);

impl<H> Lifecycle<Kek, Lease<H>> for Retire<H> {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Kek, lease: Lease<H>) {
        lock(&self.0).push(lease);
    }
}

fn lock<H>(retired: &Retired<H>) -> std::sync::MutexGuard<'_, Vec<Lease<H>>> {
    // Nothing panics while the list is locked, and a list of handles has no broken state.
    retired.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Copy> KekCache<H> {
    pub(super) fn new(capacity: usize) -> Self {
        let retired = Retired::default();
        let lifecycle = Retire(Arc::clone(&retired));
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        let cache = Cache::with(capacity, weight, UnitWeighter, DefaultHashBuilder::default(), lifecycle);
        Self { cache, retired }
    }

    /// The handle of `kek`; `load` makes it when there is none. A failed load leaves nothing behind.
    pub(super) fn lease<E>(&self, kek: &Kek, load: impl FnOnce() -> Result<H, E>) -> Result<Lease<H>, E> {
        self.cache.get_or_insert_with(kek, || load().map(Arc::new))
    }

    /// Takes the evicted handles that nobody uses any more.
    pub(super) fn reap(&self) -> Vec<H> {
        // A lease that only this list holds can gain no other owner: the cache no longer has it.
        lock(&self.retired)
            .extract_if(.., |lease| Arc::strong_count(lease) == 1)
            .map(|lease| *lease)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::id::RootId;
    use crate::keyring::wrapped::{WrapMechanism, WrappedKek};

    fn kek(number: u8) -> Kek {
        let wrapped = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![number; 40] };
        Kek { root: RootId([0; 16]), wrapped }
    }

    #[test]
    fn an_evicted_handle_lives_as_long_as_its_lease() {
        let cache = KekCache::new(1);
        let lease = cache.lease(&kek(0), || Ok::<_, Infallible>(0)).unwrap();
        for number in 1..20 {
            cache.lease(&kek(number), || Ok::<_, Infallible>(number)).unwrap();
        }
        assert!(!cache.reap().contains(&lease));
        let number = *lease;
        drop(lease);
        let still_cached = cache.cache.peek(&kek(number)).is_some();
        assert!(still_cached || cache.reap().contains(&number));
    }

    #[test]
    fn a_failed_load_is_tried_again() {
        let cache = KekCache::new(4);
        assert_eq!(cache.lease(&kek(1), || Err::<u8, _>("no")).unwrap_err(), "no");
        assert_eq!(*cache.lease(&kek(1), || Ok::<_, Infallible>(7)).unwrap(), 7);
    }

    #[test]
    fn threads_that_ask_together_load_once() {
        let cache = KekCache::new(4);
        let loads = AtomicU32::new(0);
        let gate = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    gate.wait();
                    let load = || Ok::<_, Infallible>(loads.fetch_add(1, Ordering::SeqCst));
                    assert_eq!(*cache.lease(&kek(1), load).unwrap(), 0);
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
            let cache = KekCache::new(capacity);
            let (mut made, mut destroyed, mut held) = (0u32, HashSet::new(), Vec::new());
            for (number, keep) in steps {
                let lease = cache
                    .lease(&kek(number), || {
                        made += 1;
                        Ok::<_, Infallible>(made)
                    })
                    .unwrap();
                prop_assert!(!destroyed.contains(&*lease));
                if keep { held.push(lease) } else { held.clear() }
                for handle in cache.reap() {
                    prop_assert!(destroyed.insert(handle), "destroyed twice");
                    prop_assert!(held.iter().all(|lease| **lease != handle), "destroyed in use");
                }
            }
            held.clear();
            destroyed.extend(cache.reap());
            prop_assert!(made as usize - destroyed.len() <= capacity);
        }
    }
}

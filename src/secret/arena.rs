//! The arena: where the bytes of keys and PINs lie.
//!
//! Slabs of [pages](super::pages) are cut into places of a few sizes. A place
//! is wiped when it is given back, and used again. Slabs are never given back:
//! their number is bounded by the most secrets that were alive at one time.
#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

use super::pages::{self, Protection};

/// Bytes of the places, smallest first. Each divides [`SLAB`].
const SIZES: [usize; 6] = [32, 64, 128, 256, 512, 1024];
/// Bytes of a slab: a multiple of every page size in use.
const SLAB: NonZeroUsize = NonZeroUsize::new(64 << 10).unwrap();

struct Arena {
    /// Free places, by size.
    free: [Vec<Free>; SIZES.len()],
    best: Protection,
    /// The weakest of all slabs.
    worst: Option<Protection>,
}

/// A place that nobody has.
struct Free(NonNull<u8>);

// SAFETY: a free place belongs to the arena alone, and its pages stay mapped.
unsafe impl Send for Free {}

static ARENA: Mutex<Arena> =
    Mutex::new(Arena { free: [const { Vec::new() }; SIZES.len()], best: Protection::Secret, worst: None });

fn lock() -> MutexGuard<'static, Arena> {
    // Nothing panics between two steps that belong together.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The protection that new slabs shall have at best.
pub(super) fn prefer(best: Protection) {
    lock().best = best;
}

/// The protection that every secret has at least; `None` before the first one.
pub(super) fn protection() -> Option<Protection> {
    lock().worst
}

impl Arena {
    fn take(&mut self, class: usize) -> NonNull<u8> {
        loop {
            if let Some(Free(place)) = self.free[class].pop() {
                return place;
            }
            self.grow(class);
        }
    }

    fn grow(&mut self, class: usize) {
        let Ok((slab, protection)) = pages::map(SLAB, self.best) else {
            // No memory at all: as every allocator does.
            handle_alloc_error(Layout::new::<[u8; SLAB.get()]>());
        };
        if self.worst.is_none_or(|worst| worst < protection) {
            self.worst = Some(protection);
            if protection == Protection::Unlocked {
                tracing::warn!(
                    "memory of keys cannot be locked and might be swapped: raise RLIMIT_MEMLOCK (LimitMEMLOCK= in the unit)"
                );
            }
        }
        let size = SIZES[class];
        // SAFETY: each offset lies within the slab.
        let places = (0..SLAB.get() / size).rev().map(|place| Free(unsafe { slab.add(place * size) }));
        self.free[class].extend(places);
    }
}

/// A value in the arena. It is dropped, and its place wiped, with its owner.
pub(crate) struct Guarded<T>(NonNull<T>);

// SAFETY: a `Guarded` owns its value, as a `Box` does.
unsafe impl<T: Send> Send for Guarded<T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    /// The smallest size that holds a `T`. Places are aligned to their size.
    const CLASS: usize = {
        let layout = Layout::new::<T>();
        let mut class = 0;
        while SIZES[class] < layout.size() || SIZES[class] < layout.align() {
            class += 1;
        }
        class
    };

    /// Moves a value into the arena. What lay on the stack before is the caller's to wipe.
    pub(crate) fn new(value: T) -> Self {
        let place = lock().take(Self::CLASS).cast::<T>();
        // SAFETY: the place is large enough, aligned, and ours alone.
        unsafe { place.write(value) };
        Self(place)
    }
}

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the place holds a value for as long as we live.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the same, and nobody else has it.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped here and never used again.
        unsafe { self.0.drop_in_place() };
        let place = self.0.cast::<u8>();
        // SAFETY: the whole place is ours, and mapped for the life of the process.
        unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), SIZES[Self::CLASS]) }.zeroize();
        lock().free[Self::CLASS].push(Free(place));
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn address<T>(guarded: &Guarded<T>) -> usize {
        guarded.0.addr().get()
    }

    /// The mapping of this process that an address lies in, as `/proc/self/maps` shows it.
    fn mapping(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let contains = |line: &&str| {
            let (from, rest) = line.split_once('-').unwrap();
            let (to, _) = rest.split_once(' ').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(from)..number(to)).contains(&address)
        };
        maps.lines().find(contains).unwrap().to_owned()
    }

    #[test]
    fn secrets_lie_in_pages_of_their_own() {
        let secret = Guarded::new([7u8; 32]);
        let mapping = mapping(address(&secret));
        assert!(mapping.contains("secretmem") || mapping.contains("keyward-secrets"), "{mapping}");
        assert!(protection().is_some());
    }

    #[test]
    fn every_protection_gives_pages_that_can_be_used() {
        for best in [Protection::Secret, Protection::Locked, Protection::Unlocked] {
            let (pages, got) = pages::map(SLAB, best).unwrap();
            assert!(got >= best, "{got:?}");
            // SAFETY: just mapped, and of this length.
            let bytes = unsafe { std::slice::from_raw_parts_mut(pages.as_ptr(), SLAB.get()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(1);
            let mapping = mapping(pages.addr().get());
            assert_eq!(mapping.contains("secretmem"), got == Protection::Secret, "{mapping}");
        }
    }

    #[test]
    fn a_place_is_wiped_before_it_is_used_again() {
        // A size that no other test uses.
        let secret = Guarded::new([0x5a_u8; 1000]);
        let place = secret.0.cast::<u8>();
        drop(secret);
        // SAFETY: the place stays mapped, and no other test takes one of this size.
        assert!(unsafe { std::slice::from_raw_parts(place.as_ptr(), 1024) }.iter().all(|byte| *byte == 0));
        assert_eq!(Guarded::new([0x5a_u8; 1000]).0.cast(), place);
    }

    #[test]
    fn a_value_is_dropped_with_its_owner() {
        let value = std::sync::Arc::new(());
        drop(Guarded::new(value.clone()));
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    }

    #[test]
    fn threads_do_not_get_the_same_place() {
        let threads: Vec<_> = (0..8u8)
            .map(|thread| {
                std::thread::spawn(move || {
                    for _ in 0..500 {
                        let held: Vec<_> = (0..20).map(|_| Guarded::new([thread; 32])).collect();
                        assert!(held.iter().all(|secret| **secret == [thread; 32]));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    proptest! {
        #[test]
        fn places_do_not_overlap(steps in prop::collection::vec((any::<bool>(), any::<u8>()), 1..300)) {
            let (mut small, mut large) = (Vec::new(), Vec::new());
            for (wide, byte) in steps {
                match (wide, byte % 3) {
                    (_, 0) => drop((small.pop(), large.pop())),
                    (false, _) => small.push((byte, Guarded::new([byte; 33]))),
                    (true, _) => large.push((byte, Guarded::new([byte; 200]))),
                }
                prop_assert!(small.iter().all(|(byte, secret)| **secret == [*byte; 33]));
                prop_assert!(large.iter().all(|(byte, secret)| **secret == [*byte; 200]));
            }
            let places: HashSet<usize> = small.iter().map(|(_, secret)| address(secret)).collect();
            prop_assert_eq!(places.len(), small.len());
        }
    }
}

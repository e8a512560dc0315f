//! Chance that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// Random numbers with which a failure can be repeated: `KEYWARD_SEED=…`.
pub struct Random(u64);

impl Random {
    /// Numbers from `$KEYWARD_SEED`, or from a seed that is shown when the test fails.
    pub fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos().into();
        let given = std::env::var("KEYWARD_SEED").ok();
        let seed: u64 = given.map_or_else(now, |seed| seed.parse().expect("KEYWARD_SEED is a number"));
        #[allow(clippy::print_stdout)] // shown when the test fails
        {
            println!("KEYWARD_SEED={seed}");
        }
        Self(seed | 1 << 63)
    }

    /// A number below `limit` (xorshift64*).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of a list.
    pub fn choose<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.below(list.len() as u64)).expect("below a length")]
    }

    /// Numbers for another task.
    pub fn split(&mut self) -> Self {
        Self(self.next() | 1 << 63)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

//! A small deterministic mutation engine.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest input that mutation makes.
const MAX_LEN: usize = 4096;

/// Bytes at which parsers tend to turn.
const TELLING: [u8; 12] = [0, 1, 2, 3, 0x0f, 0x10, b'K', b'W', 0x7f, 0x80, 0xfe, 0xff];

/// Runs `target` on every seed and on `iterations` mutations of them.
///
/// # Panics
/// When the target does; the message holds the input in hex.
pub fn run(seeds: &[Vec<u8>], iterations: u32, target: fn(&[u8])) {
    assert!(!seeds.is_empty(), "a fuzz run needs a seed");
    seeds.iter().for_each(|seed| check(seed, target));
    let mut random = Random(0x6b65_7977_6172_6421);
    for _ in 0..wanted(iterations) {
        let mut input = random.pick(seeds).clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, seeds, &mut random);
        }
        input.truncate(MAX_LEN);
        check(&input, target);
    }
}

fn wanted(default: u32) -> u32 {
    match std::env::var("KEYWARD_FUZZ_ITERATIONS") {
        Ok(text) => text.parse().expect("KEYWARD_FUZZ_ITERATIONS is a number"),
        Err(_) if std::env::var_os("KEYWARD_TEST_FULL").is_some_and(|value| value == "1") => 10 * default,
        Err(_) => default,
    }
}

fn check(input: &[u8], target: fn(&[u8])) {
    let passed = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
    assert!(passed, "the target panicked, see above, on input {}", hex::encode(input));
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 => change(input, at, |byte| *byte ^= 1 << random.below(8)),
        1 => change(input, at, |byte| *byte = *random.pick(&TELLING)),
        2 => change(input, at, |byte| *byte = random.byte()),
        3 => input.truncate(at),
        4 => input.insert(at, *random.pick(&TELLING)),
        5 => drop(input.drain(at..(at + random.below(20)).min(input.len()))),
        6 => repeat(input, at, random.below(40)),
        _ => splice(input, at, random.pick::<Vec<u8>>(seeds)),
    }
}

fn change(input: &mut [u8], at: usize, with: impl FnOnce(&mut u8)) {
    if let Some(byte) = input.get_mut(at) {
        with(byte);
    }
}

/// Inserts a copy of what stands there.
fn repeat(input: &mut Vec<u8>, at: usize, len: usize) {
    let copy = input[at..(at + len).min(input.len())].to_vec();
    input.splice(at..at, copy);
}

/// Goes on as another seed does from the same place.
fn splice(input: &mut Vec<u8>, at: usize, other: &[u8]) {
    input.truncate(at);
    input.extend_from_slice(other.get(at..).unwrap_or(other));
}

/// SplitMix64 (Steele, Lea and Flood, 2014): for tests only.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// A number below `limit`, which is not zero and small, so the bias does not matter.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_broken_promise_is_found() {
        let broken = |data: &[u8]| assert!(data.first() != Some(&b'K') || data.get(1) != Some(&0xff));
        let found = catch_unwind(|| run(&[b"KW".to_vec()], 20_000, broken));
        assert!(found.is_err());
    }

    #[test]
    fn two_runs_are_the_same() {
        static SUM: AtomicU64 = AtomicU64::new(0);
        let count = |data: &[u8]| {
            let sum = data.iter().map(|byte| u64::from(*byte)).sum::<u64>() + data.len() as u64;
            SUM.fetch_add(sum, Ordering::Relaxed);
        };
        let sums = [0; 2].map(|_| {
            run(&[b"seed".to_vec(), vec![7; 100]], 1000, count);
            SUM.swap(0, Ordering::Relaxed)
        });
        assert_eq!(sums[0], sums[1]);
    }
}

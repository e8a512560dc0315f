//! Fuzzing on the stable compiler: targets are ordinary functions that take
//! bytes and panic when a promise is broken; [`engine::run`] feeds them with
//! mutated seeds, the same ones in every run.
//!
//! A new target is one function in a file under `targets/` and one test that
//! runs it. `KEYWARD_FUZZ_ITERATIONS` makes a run longer.

pub mod engine;
pub mod targets {
    //! What is fuzzed.
    pub mod backup;
    pub mod card;
    pub mod ceremony;
    pub mod ciphertext;
    pub mod config;
    pub mod envelope;
    pub mod evidence;
    pub mod text;
    pub mod values;
}

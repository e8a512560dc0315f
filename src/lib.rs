//! Keyward: a hardware-backed key-management and crypto daemon.
//!
//! Imports go downwards only; `softhsm-tests/tests/all/layers.rs` enforces it.
//!
//! ```text
//! cli   daemon                     commands | wiring
//! client   rpc                     the two ends of the API
//! ops                              one use case per file
//! access  hsm  store  audit  token  who may | keys | records | what happened | USB tokens
//! envelope  keyring  config        pure: bytes, states, checked configuration
//! id  secret  clock  child  modes  ground floor
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod access;
pub mod audit;
pub mod child;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod envelope;
pub mod hsm;
pub mod id;
pub mod keyring;
pub mod modes;
pub mod ops;
pub mod rpc;
pub mod secret;
pub mod store;
pub mod token;

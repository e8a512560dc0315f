//! The integration tests: a module for each subject, in one program, beside each other. Each test has a folder, a token, a store and a
//! socket of its own. `cargo test --test all reload::` runs one subject.
//!
//! What needs a process to itself, or a long time, is a test of its own beside this folder: `faults`, `kind`, `soak`, `units`.

mod actions;
mod admin;
mod audit;
mod backup;
mod budgets;
mod cache;
mod callers;
mod ceremony;
mod checkpoint;
mod chromium;
mod clients;
mod command_line;
mod confinement;
mod crash;
mod custodians;
mod degraded;
mod destroy;
mod erasure;
mod evidence;
mod examples;
mod fields;
mod format_reader;
mod full_disk;
mod group;
mod hsm_live;
mod input;
mod isolation;
mod keys;
mod layers;
mod locks;
mod login;
mod memory;
mod modules;
mod no_memory_hsm;
mod pins;
mod piv;
mod piv_native;
mod reload;
mod resident;
mod restart;
mod schedule;
mod staff;
mod start;
mod stop;
mod systemd;
mod tamper;
mod threat_model;
mod token;
mod web_login;

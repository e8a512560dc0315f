//! Tenants, keys and their versions: records and states, and what follows from
//! them at a given time. Pure: no I/O, no clock of its own.

pub mod agenda;
pub mod binding;
pub mod record;
pub mod remains;
pub mod schedule;
pub mod state;
pub mod timekeeping;
pub mod wrapped;

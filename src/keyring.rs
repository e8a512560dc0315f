//! Tenants, keys and their versions: records and states, and what follows from
//! them at a given time. Pure: no I/O, no clock of its own.

pub mod binding;
pub mod record;
pub mod signing;
pub mod state;
pub mod wrapped;

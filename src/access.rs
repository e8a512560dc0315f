//! Who may do what: peers of the socket become principals, principals have
//! grants, and a decision is a value that the operation demands.

pub mod action;
pub mod caller;
pub mod meter;
pub mod permission;
pub mod policy;
pub mod staff;

pub use action::Action;
pub use caller::{Caller, Peer, Standing};
pub use permission::{Authorized, Permission};
pub use policy::{Denied, Policy, Principals};

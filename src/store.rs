//! Records that survive: a small key-value trait, its backends, and the
//! authenticated records on top of it. The format and the argument why it
//! survives are in docs/store.md.
//!
//! ```text
//!  records   typed, MACed, covered by the digest      <- what ops use
//!  view      verified reads of one revision
//!  digest    hash tree over the covered records
//!  journal   every transaction once more, in a file
//!  kv        get, range, commit, snapshot, watch      <- what a backend implements
//! ```

pub mod check;
pub mod error;
pub mod kv;
pub mod mac;
pub mod records;
pub mod recovery;
pub mod repair;
pub mod sqlite;
pub mod tables;
pub mod transfer;

mod blocking;
mod commit;
mod compact;
#[cfg(test)]
pub mod conformance;
mod digest;
mod erasure;
pub(crate) mod files;
#[cfg(test)]
mod formats;
mod journal;
mod log;
mod mend;
mod meta;
mod migrate;
mod needs;
mod newest;
mod rebuild;
mod recover;
mod reseal;
mod scan;
mod scrub;
mod search;
#[cfg(test)]
mod testing;
mod timeline;
mod upkeep;
mod view;

pub use compact::Compacted;
pub use error::{Refusal, StoreError};
pub use log::{Cause, LogPoint, Witness, log_seen, newest_revision};
pub use mac::StoreKeys;
pub use mend::Restored;
pub use meta::{Intent, StoreChange};
pub use newest::Newest;
pub use records::{Changes, Records, Stats};
pub use recover::{ErasureList, OpenReport, bootstrap, erasure_keys, signing_keys};
pub use reseal::{Batch, Cursor};
pub use scrub::Scrubbed;
pub use search::{COMMAND as SEARCH_COMMAND, run_search_process};
pub use sqlite::SqliteKv;
pub use tables::{Path, Prefix, Record};
pub use view::{Complete, Listing, Pass, Stored, View};

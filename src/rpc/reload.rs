//! A reload, between the call that asks for it and the daemon, which alone reads configurations.

use tokio::sync::{mpsc, oneshot, watch};

use super::convert::timestamp;
use super::proto;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::Installation;
use crate::ops::Error;

/// Reloads that may wait: they are done one after the other.
const WAITING: usize = 16;

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The SHA-256 of its file.
    pub digest: [u8; 32],
    /// Since when.
    pub since: Date,
    /// Options that the file has otherwise than they were when the daemon started, which reads them then only.
    pub restart: Vec<String>,
    /// Why the newest reload was refused, if it was.
    pub refused: Option<String>,
}

/// What a reload has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// What is in force now.
    pub now: InForce,
    /// What it says otherwise than the one before.
    pub changes: Vec<String>,
    /// Who lost a right.
    pub narrowed: Vec<String>,
    /// What is no fault and still worth a word.
    pub warnings: Vec<String>,
}

/// Somebody who waits for a reload.
pub type Order = oneshot::Sender<Result<Reloaded, Error>>;

/// The gate's end: asks for reloads, and knows what is in force.
#[derive(Debug)]
pub struct Reloads {
    orders: mpsc::Sender<Order>,
    in_force: watch::Receiver<InForce>,
}

/// The daemon's end.
#[derive(Debug)]
pub struct Reloading {
    /// Who waits.
    pub orders: mpsc::Receiver<Order>,
    /// Told what is in force.
    pub in_force: watch::Sender<InForce>,
}

/// Both ends, for a daemon that starts with this configuration.
#[must_use]
pub fn ends(digest: [u8; 32]) -> (Reloads, Reloading) {
    let begin = InForce { digest, since: Date::now(), restart: Vec::new(), refused: None };
    let ((orders, waiting), (tell, in_force)) = (mpsc::channel(WAITING), watch::channel(begin));
    (Reloads { orders, in_force }, Reloading { orders: waiting, in_force: tell })
}

impl Reloads {
    /// Reads the configuration anew, and answers when it is in force.
    pub(super) async fn reload(&self, right: &Authorized<permission::Reload>) -> Result<Reloaded, Error> {
        let Installation = right.resource();
        let (order, done) = oneshot::channel();
        self.orders.send(order).await.map_err(|_| Error::ShuttingDown)?;
        done.await.map_err(|_| Error::ShuttingDown)?
    }

    /// What is in force.
    pub(super) fn in_force(&self) -> InForce {
        self.in_force.borrow().clone()
    }
}

impl InForce {
    /// The same, without the faults of a file unless somebody may know them.
    pub(super) fn for_whom(self, looks_after: bool) -> Self {
        let refused =
            self.refused.map(|faults| if looks_after { faults } else { "an operator sees why".to_owned() });
        Self { refused, ..self }
    }

    /// What somebody should do about it.
    pub fn warning(&self) -> Option<String> {
        match (&self.refused, &*self.restart) {
            (Some(refused), _) => Some(format!(
                "the configuration file was not taken up by the newest reload, and the one before is in force: {refused}"
            )),
            (None, []) => None,
            (None, options) => Some(format!(
                "read when the daemon starts, and changed in the file since: {}; restart the daemon to take it up",
                options.join(", ")
            )),
        }
    }
}

impl From<InForce> for proto::Configuration {
    fn from(now: InForce) -> Self {
        Self {
            sha256: hex::encode(now.digest),
            time: Some(timestamp(now.since)),
            restart_needed: now.restart,
            refused: now.refused.unwrap_or_default(),
        }
    }
}

impl From<Reloaded> for proto::ReloadResponse {
    fn from(done: Reloaded) -> Self {
        Self {
            configuration: Some(done.now.into()),
            changes: done.changes,
            narrowed: done.narrowed,
            warnings: done.warnings,
        }
    }
}

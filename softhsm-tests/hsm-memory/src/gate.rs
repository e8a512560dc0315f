//! A gate: work waits before it until the test opens it. Nothing sleeps.

use std::sync::Arc;

use keyward::hsm::HsmError;
use tokio::sync::watch;

/// A gate before one piece of work.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    door: watch::Sender<Door>,
    /// Whether the work stands there.
    reached: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Closed,
    Open,
    GivenUp,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { door: watch::Sender::new(Door::Closed), reached: watch::Sender::new(false) }))
    }

    /// Waits until the work stands at the gate.
    pub async fn reached(&self) {
        // The sender lives as long as this gate.
        self.0.reached.subscribe().wait_for(|reached| *reached).await.map(drop).ok();
    }

    /// Lets the work go on.
    pub fn open(&self) {
        self.0.door.send_replace(Door::Open);
    }

    /// Lets the deadline pass: the work is not done, and who waits for it hears
    /// [`HsmError::Unavailable`].
    pub fn give_up(&self) {
        self.0.door.send_replace(Door::GivenUp);
    }

    pub(crate) async fn pass(&self) -> Result<(), HsmError> {
        let mut door = self.0.door.subscribe();
        self.0.reached.send_replace(true);
        match door.wait_for(|door| *door != Door::Closed).await.as_deref() {
            Ok(Door::Open) => Ok(()),
            _ => Err(HsmError::Unavailable("no answer within the deadline".to_owned())),
        }
    }
}

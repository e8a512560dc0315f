//! One HSM process, as the daemon sees it.

use std::io;
use std::time::Duration;

use minicbor::Encode;
use tokio::net::UnixStream;
use tokio::process::Child;

use crate::child::{self, Program, frame};
use crate::hsm::confine::Confined;
use crate::hsm::pkcs11::ConnectError;
use crate::hsm::process::settings::Slot;
use crate::hsm::process::wire::{FromChild, Hello, Task};
use crate::secret::Pin;

/// A process and the socket to it. Dropping it kills the process.
pub(super) struct Link {
    pub(super) child: Child,
    pub(super) socket: UnixStream,
    /// What the process may not do.
    pub(super) confined: Confined,
}

impl Link {
    /// Starts a process, gives it a task, and waits until it is confined; what it answers to the task is
    /// yet to be read.
    ///
    /// # Errors
    /// Also why the process does not load the library.
    pub(super) async fn open(
        program: &Program,
        slot: &Slot,
        pin: Pin,
        patience: Duration,
        task: Task,
    ) -> Result<Self, ConnectError> {
        let away = |error: io::Error| ConnectError::Away(format!("cannot start the HSM process: {error}"));
        let (child, socket) = program.spawn(&format!("keyward-hsm: {}", slot.name())).map_err(away)?;
        let mut link = Self { child, socket, confined: Confined::default() };
        let hello = Hello { settings: slot.hsm.clone(), pin, patience, task };
        link.tell(&hello).await.map_err(away)?;
        match link.hear().await {
            Ok(FromChild::Confined(confined)) => Ok(Self { confined, ..link }),
            Ok(FromChild::Failed(error)) => Err(error),
            Ok(_) => Err(ConnectError::Away("the HSM process speaks another protocol".to_owned())),
            Err(reason) => Err(ConnectError::Away(reason)),
        }
    }

    pub(super) async fn tell(&mut self, message: &impl Encode<()>) -> io::Result<()> {
        frame::write_async(&mut self.socket, message).await
    }

    /// The next message.
    ///
    /// # Errors
    /// Why there is none: how the process ended.
    pub(super) async fn hear(&mut self) -> Result<FromChild, String> {
        match frame::read_async(&mut self.socket).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(last_words(&mut self.child).await),
            Err(error) => Err(format!("the socket to the HSM process: {error}")),
        }
    }
}

/// How a process that has closed its socket came to its end; it is ended if it has not.
pub(super) async fn last_words(child: &mut Child) -> String {
    child::last_words("the HSM process", child).await
}

/// Ends a process and waits until it has gone, so that its token is free for the next.
pub(super) async fn end(mut child: Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "cannot end an HSM process");
    }
}

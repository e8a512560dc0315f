//! What a use case is here, and how one is done that tries again and again.

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, Instant};

use keyward_hsm_memory::World;

use super::worlds::Scene;

/// How often it is looked whether work that waits out what it met has met it again: it waits 50 ms first, then 100.
const LOOK: Duration = Duration::from_millis(100);
/// How long any work may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a use case did not come to its end, in words.
pub(crate) struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A use case's answer, in words that are the same each time.
pub(crate) type Answer = Result<String, Failure>;
/// A use case under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;
pub(crate) type Work = for<'a> fn(&'a World, &'a Scene) -> Running<'a>;

/// Something that somebody does.
pub(crate) struct UseCase {
    pub(crate) name: &'static str,
    /// Whether the vault is opened under the lie, too.
    pub(crate) opens: bool,
    /// Whether it is refused without a lie, too.
    pub(crate) refused: bool,
    pub(crate) work: Work,
}

impl UseCase {
    /// Says that it is refused without a lie, too.
    pub(crate) fn refused(self) -> Self {
        Self { refused: true, ..self }
    }
}

/// A use case of an open vault.
pub(crate) fn on(name: &'static str, work: Work) -> UseCase {
    UseCase { name, opens: false, refused: false, work }
}

/// A use case that begins with a start of the daemon.
pub(crate) fn after_start(name: &'static str, work: Work) -> UseCase {
    UseCase { name, opens: true, refused: false, work }
}

/// The answer of something that has none.
pub(crate) fn said<E: Into<Failure>>(outcome: Result<(), E>) -> Answer {
    outcome.map(|()| "done".to_owned()).map_err(Into::into)
}

/// Says that a use case waits and does not go on.
pub(crate) fn waits() -> Failure {
    Failure("it waits".to_owned())
}

/// Does work that tries again and again, until its end, or until it meets the lie in one try after the other.
pub(crate) async fn patiently<T>(world: &World, work: impl Future<Output = T>) -> Result<T, Failure> {
    let (begun, before) = (Instant::now(), world.lies.told());
    let gives_up = async {
        loop {
            let met = world.lies.told();
            tokio::time::sleep(LOOK).await;
            if (met > before && world.lies.told() > met) || begun.elapsed() > PATIENCE {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = gives_up => Err(waits()),
    }
}

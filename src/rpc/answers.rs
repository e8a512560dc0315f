//! The answers of a stream: made by a task that a stop waits for, and that no reader can hold.
//!
//! How the work ended goes beside the queue of answers. So a stream whose queue is full still ends with
//! its error, and one whose task is gone never looks whole.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::admission::{Gone, transport_error};
use super::call::{Call, Ending, Gate};
use super::status::status;
use crate::ops::Error;

/// What tonic sends.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How long a client may leave an answer unread.
pub(super) const STALLED: Duration = Duration::from_secs(60);

/// Where a task puts its answers.
pub(super) struct Replies<T> {
    queue: mpsc::Sender<T>,
    ending: Ending,
}

/// Why a stream ends before its work is done.
pub(super) enum End {
    /// The caller went away.
    Gone(Status),
    /// The work was refused, or the daemon stops.
    Failed(Error),
}

/// Runs `work` in a task. Its answers, of which `room` may wait for a slow reader, are followed by its error.
pub(super) fn made_by<T, W>(
    gate: &Arc<Gate>,
    ending: Ending,
    room: usize,
    work: impl FnOnce(Replies<T>) -> W,
) -> Answers<T>
where
    T: Send + 'static,
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (queue, made) = mpsc::channel(room);
    let (tell, told) = oneshot::channel();
    let work = work(Replies { queue, ending });
    gate.spawn(async move {
        let end = work.await;
        // An error says that the caller is gone; the record tells how it ended.
        tell.send(end).ok();
    });
    let end = stream::once(told).filter_map(|end| ready(failure(end)));
    awaited(gate, Box::pin(ReceiverStream::new(made).map(Ok).chain(end)))
}

/// Answers that a stop waits for until the transport has taken them, or until it cuts.
fn awaited<T: Send + 'static>(gate: &Gate, answers: Answers<T>) -> Answers<T> {
    Box::pin(Unread { answers, _token: gate.token() })
}

/// What follows the last answer.
fn failure<T>(end: Result<Result<(), Status>, oneshot::error::RecvError>) -> Option<Result<T, Status>> {
    match end {
        Ok(Ok(())) => None,
        Ok(Err(failed)) => Some(Err(failed)),
        Err(_) => Some(Err(status(&Error::Internal("the work on this stream broke off".into())))),
    }
}

/// Answers that the transport has not taken yet.
struct Unread<T> {
    answers: Answers<T>,
    _token: TaskTrackerToken,
}

impl<T> Stream for Unread<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.as_mut().poll_next(context)
    }
}

impl<T> Replies<T> {
    /// Hands an answer over, as soon as there is room.
    ///
    /// # Errors
    /// [`End::Gone`] when nobody reads any more; [`End::Failed`] when the reader is too slow, or the daemon stops
    /// meanwhile.
    pub(super) async fn send(&mut self, reply: T) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = timeout(STALLED, self.queue.send(reply)) => match sent {
                Ok(sent) => sent.map_err(|_| End::Gone(Status::cancelled("the caller went away"))),
                Err(_) => Err(End::Failed(Error::Stalled(STALLED))),
            },
            ended = self.ending.came() => Err(End::Failed(ended)),
        }
    }

    /// Returns when nobody reads any more, or when it ends from outside, with what its caller is told.
    pub(super) async fn ended(&mut self) -> End {
        tokio::select! {
            () = self.queue.closed() => End::Gone(Status::cancelled("the caller went away")),
            ended = self.ending.came() => End::Failed(ended),
        }
    }
}

impl End {
    /// Why no message came.
    pub(super) fn of(refused: Status) -> Self {
        match transport_error(&refused) {
            Ok(error) => Self::Failed(error),
            Err(Gone) => Self::Gone(refused),
        }
    }

    /// Leaves the record of the end, as cancelled where the caller ended it, and says what is answered.
    pub(super) async fn tell(self, closing: Call) -> Result<(), Status> {
        match self {
            Self::Gone(gone) => {
                // A call that is dropped is recorded as cancelled.
                drop(closing);
                Err(gone)
            }
            Self::Failed(error) => closing.settle(Err(error)).await,
        }
    }

    /// The same for a stream that was not begun and of which no other record tells: who goes away before that
    /// may do it as often as he likes, so it is counted where it is too often.
    pub(super) async fn tell_unbegun(self, opening: Call) -> Result<(), Status> {
        match self {
            Self::Gone(gone) => {
                opening.gone();
                Err(gone)
            }
            Self::Failed(error) => opening.settle(Err(error)).await,
        }
    }

    /// What is answered where there is no record to leave.
    pub(super) fn status(self) -> Status {
        match self {
            Self::Gone(gone) => gone,
            Self::Failed(error) => status(&error),
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    async fn ended(end: Result<Result<(), Status>, ()>) -> Vec<Result<u8, tonic::Code>> {
        let (tell, told) = oneshot::channel();
        match end {
            Ok(end) => tell.send(end).unwrap(),
            Err(()) => drop(tell),
        }
        let end = stream::once(told).filter_map(|end| ready(failure(end)));
        let answers = stream::iter([Ok(7)]).chain(end);
        answers.map(|answer| answer.map_err(|status| status.code())).collect().await
    }

    #[tokio::test]
    async fn only_work_that_ended_well_looks_whole() {
        assert_eq!(ended(Ok(Ok(()))).await, [Ok(7)]);
        let cut = status(&Error::ShuttingDown);
        assert_eq!(ended(Ok(Err(cut))).await, [Ok(7), Err(tonic::Code::Unavailable)]);
        assert_eq!(ended(Err(())).await, [Ok(7), Err(tonic::Code::Internal)]);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_nobody_once_it_is_cut() {
        let (queue, _unread) = mpsc::channel(1);
        let (cutting, cut) = watch::channel(false);
        let mut replies = Replies { queue, ending: Ending::at(cut) };
        assert!(replies.send(1).await.is_ok());
        cutting.send_replace(true);
        assert!(matches!(replies.send(2).await, Err(End::Failed(Error::ShuttingDown))));
    }
}

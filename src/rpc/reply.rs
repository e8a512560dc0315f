//! The answers of a stream, and how it ended.

use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::oneshot;
use tonic::Status;

/// How long a client may leave the answers of a session or file unread.
pub(super) const STALLED: Duration = Duration::from_secs(60);

/// What a streaming method answers.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers, and after the last of them the error that the work ended with, if it did. That has no
/// place in their queue: whoever reads late must not take a cut stream for a whole one.
pub(super) fn ending<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    outcome: oneshot::Receiver<Result<(), Status>>,
) -> Replies<T> {
    let end = stream::once(outcome).filter_map(|outcome| {
        ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(Err(failure)),
            // The work broke off without a word.
            Err(_) => Some(Err(Status::internal("the stream was not finished"))),
        })
    });
    Box::pin(answers.chain(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn codes(outcome: Option<Result<(), Status>>) -> Vec<Option<tonic::Code>> {
        let (ended, end) = oneshot::channel();
        match outcome {
            Some(outcome) => ended.send(outcome).unwrap(),
            None => drop(ended),
        }
        let answers = ending(stream::iter([Ok(1), Ok(2)]), end);
        answers.map(|answer: Result<i32, Status>| answer.err().map(|status| status.code())).collect().await
    }

    #[tokio::test]
    async fn only_what_was_finished_ends_well() {
        assert_eq!(codes(Some(Ok(()))).await, [None, None]);
        let late = codes(Some(Err(Status::deadline_exceeded("")))).await;
        assert_eq!(late, [None, None, Some(tonic::Code::DeadlineExceeded)]);
        assert_eq!(codes(None).await, [None, None, Some(tonic::Code::Internal)]);
    }
}

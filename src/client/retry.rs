//! Trying again: only what is transient, with jittered back-off, up to a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::error::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Repeats `attempt` while it fails with a transient error and there is time.
///
/// Only for calls that are safe to repeat after an answer was lost.
pub(super) async fn repeat<T, F>(limit: Duration, attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let error = match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            // What went wrong before says more than that time is up.
            Err(_) => return Err(last.unwrap_or_else(|| Error::late(limit))),
        };
        let next = Instant::now() + jittered(pause) + error.retry_after.unwrap_or_default();
        if !error.is_transient() || next >= deadline {
            return Err(error);
        }
        last = Some(error);
        sleep(next - Instant::now()).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Runs a call that must not be repeated, up to a deadline.
pub(super) async fn once<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(Error::late(limit)))
}

/// Between half of `pause` and all of it, so that callers do not come back in step.
fn jittered(pause: Duration) -> Duration {
    // Without randomness callers keep step, which is no reason to fail.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::client::error::{Code, UNREACHABLE};

    fn failure(code: Code) -> Error {
        Error::local(code, UNREACHABLE, "no")
    }

    async fn attempts(
        limit: Duration,
        answer: impl Fn(u32) -> Result<(), Error>,
    ) -> (u32, Result<(), Error>) {
        let count = Cell::new(0);
        let result = repeat(limit, || {
            count.set(count.get() + 1);
            std::future::ready(answer(count.get()))
        })
        .await;
        (count.get(), result)
    }

    #[tokio::test]
    async fn transient_errors_are_tried_again() {
        let answer = |n| if n < 3 { Err(failure(Code::Unavailable)) } else { Ok(()) };
        assert_eq!(attempts(Duration::from_secs(60), answer).await, (3, Ok(())));
    }

    #[tokio::test]
    async fn other_errors_are_not() {
        let error = failure(Code::InvalidArgument);
        assert_eq!(attempts(Duration::from_secs(60), |_| Err(error.clone())).await, (1, Err(error)));
    }

    #[tokio::test]
    async fn a_hint_past_the_deadline_ends_at_once() {
        let error =
            Error { retry_after: Some(Duration::from_secs(3600)), ..failure(Code::ResourceExhausted) };
        assert_eq!(attempts(Duration::from_secs(60), |_| Err(error.clone())).await, (1, Err(error)));
    }

    #[tokio::test]
    async fn the_deadline_ends_silence() {
        let limit = Duration::from_millis(1);
        let silence = repeat::<(), _>(limit, std::future::pending).await;
        assert_eq!(silence, Err(Error::late(limit)));
        assert_eq!(once::<()>(limit, std::future::pending()).await, Err(Error::late(limit)));
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for _ in 0..1000 {
            let pause = jittered(Duration::from_millis(100)).as_micros();
            assert!((50_000..=100_000).contains(&pause), "{pause}");
        }
    }
}

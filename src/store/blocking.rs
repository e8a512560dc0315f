//! Work that blocks on a disk, off the threads that serve calls.

/// The runtime shut down before the work began.
#[derive(Debug)]
pub(super) struct Stopped;

/// Runs `work` on a thread that may block. It runs to its end even if the caller stops waiting.
pub(super) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Stopped> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Stopped.into()),
    }
}

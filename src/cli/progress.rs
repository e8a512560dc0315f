//! Progress on a terminal: a bar on stderr, and nothing where stderr is no terminal.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, ReadBuf};

const BYTES: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const BYTES_OPEN: &str = "{spinner} {bytes} {bytes_per_sec}";
const ITEMS: &str = "{bar:40} {pos}/{len} {msg}";

fn bar(length: Option<u64>, template: &'static str, quiet: bool) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    if let Some(length) = length {
        bar.set_length(length);
    }
    // The templates are constants of this file; a wrong one would show in every test.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Bytes of a file or pipe.
pub(crate) fn bytes(total: Option<u64>, quiet: bool) -> ProgressBar {
    bar(total, if total.is_some() { BYTES } else { BYTES_OPEN }, quiet)
}

/// Things that are counted.
pub(crate) fn items(quiet: bool) -> ProgressBar {
    bar(Some(0), ITEMS, quiet)
}

/// A reader that moves a bar.
pub(crate) struct Counted<R> {
    inner: R,
    bar: ProgressBar,
}

impl<R> Counted<R> {
    /// Moves `bar` with every byte read.
    pub(crate) fn new(inner: R, bar: ProgressBar) -> Self {
        Self { inner, bar }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.bar.inc((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [BYTES, BYTES_OPEN, ITEMS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}

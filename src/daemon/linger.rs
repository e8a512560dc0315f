//! Connections that are closed without losing what was answered.
//!
//! The end of an orderly stop is a race: the daemon has written its last answer
//! and closes, while the client still writes (an acknowledgement, a window
//! update). On a Unix socket that write then fails, and an HTTP/2 client drops
//! the whole connection with the answer unread. So the daemon closes its own
//! side first and reads on until the client has closed too: the lingering close
//! of RFC 9112, 9.6.
//!
//! A stop that waits no longer closes what is still open at once, whatever the
//! client does with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, UdsConnectInfo};

/// How long a client may take to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// A connection whose shutdown waits, for at most a second, until the client has closed it.
pub struct Lingering {
    stream: UnixStream,
    closing: Option<Pin<Box<Sleep>>>,
    cut: Cut,
}

/// Whether the connection is closed by force.
enum Cut {
    /// Not by anybody.
    Never,
    /// When this is ready.
    Awaited(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It was.
    Done,
}

impl Lingering {
    /// A connection as it was accepted.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, closing: None, cut: Cut::Never }
    }

    /// The same, until `cut` turns true: then it is as if the client had gone.
    #[must_use]
    pub fn until(self, mut cut: watch::Receiver<bool>) -> Self {
        let cut = async move {
            let nobody_can = cut.wait_for(|cut| *cut).await.is_err();
            if nobody_can {
                std::future::pending::<()>().await;
            }
        };
        // Whatever the task has done in its turn: a client that always sends uses that up.
        Self { cut: Cut::Awaited(Box::pin(tokio::task::unconstrained(cut))), ..self }
    }

    /// What to answer where the stream has nothing, or no room: that it is cut, once it is.
    fn poll_cut<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Cut::Awaited(cut) = &mut self.cut
            && cut.as_mut().poll(context).is_ready()
        {
            self.cut = Cut::Done;
        }
        match self.cut {
            Cut::Done => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Cut::Never | Cut::Awaited(_) => Poll::Pending,
        }
    }

    /// Ready when nothing more comes.
    fn poll_drained(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut unread = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut unread)) {
                Ok(()) if !unread.filled().is_empty() => {}
                // An error says that the client is gone, which is what was awaited.
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Connected for Lingering {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            // Also a client that always sends comes here: the runtime lets each task read so much at a time.
            Poll::Pending => self.poll_cut(context),
            read => read,
        }
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.poll_cut(context),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, parts) {
            Poll::Pending => self.poll_cut(context),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.closing = Some(Box::pin(sleep(LINGER)));
        }
        let waited = self.closing.as_mut().is_none_or(|closing| closing.as_mut().poll(context).is_ready());
        if waited {
            return Poll::Ready(Ok(()));
        }
        self.poll_drained(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_although_the_client_still_wrote() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let mut server = Lingering::new(server);
        server.write_all(b"answer").await.unwrap();
        let closed = tokio::spawn(async move { server.shutdown().await });
        let mut answer = [0; 6];
        client.read_exact(&mut answer[..1]).await.unwrap();
        for _ in 0..1000 {
            client.write_all(&[0; 100]).await.unwrap();
        }
        client.read_exact(&mut answer[1..]).await.unwrap();
        assert_eq!((&answer, client.read(&mut [0]).await.unwrap()), (b"answer", 0));
        assert!(!closed.is_finished());
        drop(client);
        closed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_cut_whatever_its_client_does() {
        let (cutting, cut) = watch::channel(false);
        for writes in [false, true] {
            let (server, client) = UnixStream::pair().unwrap();
            let mut server = Lingering::new(server).until(cut.clone());
            let held = tokio::spawn(async move {
                match writes {
                    // Until the client's buffer is full.
                    true => server.write_all(&[0; 8 << 20]).await,
                    false => server.read_exact(&mut [0]).await.map(drop),
                }
            });
            tokio::task::yield_now().await;
            assert!(!held.is_finished());
            cutting.send_replace(true);
            assert_eq!(held.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            cutting.send_replace(false);
            drop(client);
        }
    }

    #[tokio::test]
    async fn a_client_that_never_closes_is_left_behind() {
        let (server, client) = UnixStream::pair().unwrap();
        let began = tokio::time::Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert!(began.elapsed() >= LINGER);
        drop(client);
    }
}

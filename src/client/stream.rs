//! Files of any size, in constant memory.
//!
//! Reader and call run side by side: a chunk is read when the daemon has room for it. Nothing is
//! repeated, because a reader cannot be read twice.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, Context, Error};
use crate::rpc::proto::{
    DecryptStreamRequest, DecryptStreamResponse, EncryptStreamRequest, EncryptStreamResponse, StreamHeader,
    decrypt_stream_request, encrypt_stream_request,
};

/// Bytes read at a time: four segments of the format.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for the daemon.
const QUEUE: usize = 4;

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streamed {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// The key version.
    pub version: u32,
}

/// Why a file did not go through. What was written until then must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The daemon refused, or was lost.
    #[error(transparent)]
    Daemon(#[from] Error),
    /// The input cannot be read.
    #[error("cannot read the input: {0}")]
    Read(#[source] std::io::Error),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Write(#[source] std::io::Error),
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Daemon(status.into())
    }
}

impl Client {
    /// Encrypts everything `input` has into `output` (suite 2). The output is flushed, not closed.
    ///
    /// # Errors
    /// [`StreamError`]; what was written is then not a whole ciphertext.
    pub async fn encrypt_stream(
        &self,
        name: &str,
        context: &Context,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin,
    ) -> Result<Streamed, StreamError> {
        use encrypt_stream_request::Message;
        let header = StreamHeader { name: name.into(), context: context.clone() };
        let (chunks, queue) = mpsc::channel(QUEUE);
        let messages = tokio_stream::once(Message::Header(header))
            .chain(ReceiverStream::new(queue).map(Message::Chunk))
            .map(|message| EncryptStreamRequest { message: Some(message) });
        let mut crypto = self.crypto();
        let answers = async {
            let answers = crypto.encrypt_stream(messages).await?.into_inner();
            Ok(answers.map(|a| a.map(|EncryptStreamResponse { chunk, version }| (chunk, version))))
        };
        pump(input, chunks, answers, output).await
    }

    /// Decrypts everything `input` has into `output`. Each piece is verified before it is written,
    /// but the output is complete only when this answers `Ok`.
    ///
    /// # Errors
    /// [`StreamError`]; what was written must then not be used.
    pub async fn decrypt_stream(
        &self,
        name: &str,
        context: &Context,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin,
    ) -> Result<Streamed, StreamError> {
        use decrypt_stream_request::Message;
        let header = StreamHeader { name: name.into(), context: context.clone() };
        let (chunks, queue) = mpsc::channel(QUEUE);
        let messages = tokio_stream::once(Message::Header(header))
            .chain(ReceiverStream::new(queue).map(Message::Chunk))
            .map(|message| DecryptStreamRequest { message: Some(message) });
        let mut crypto = self.crypto();
        let answers = async {
            let answers = crypto.decrypt_stream(messages).await?.into_inner();
            Ok(answers.map(|a| a.map(|DecryptStreamResponse { chunk, version }| (chunk, version))))
        };
        pump(input, chunks, answers, output).await
    }
}

/// Feeds the call from `input` and drains it into `output`, side by side.
async fn pump<S>(
    input: impl AsyncRead + Unpin,
    chunks: mpsc::Sender<Bytes>,
    answers: impl Future<Output = Result<S, StreamError>>,
    output: impl AsyncWrite + Unpin,
) -> Result<Streamed, StreamError>
where
    S: Stream<Item = Result<(Bytes, u32), tonic::Status>> + Unpin,
{
    // Outlives `drain` when `feed` fails: the daemon sees a cancelled call, never a short file.
    let mut chunks = Some(chunks);
    let (bytes_in, streamed) = tokio::try_join!(feed(input, &mut chunks), drain(answers, output))?;
    Ok(Streamed { bytes_in, ..streamed })
}

/// Reads to the end, then ends the request.
async fn feed(
    mut input: impl AsyncRead + Unpin,
    chunks: &mut Option<mpsc::Sender<Bytes>>,
) -> Result<u64, StreamError> {
    let mut bytes_in = 0;
    while let Some(queue) = chunks {
        let chunk = read_chunk(&mut input).await.map_err(StreamError::Read)?;
        bytes_in += chunk.len() as u64;
        // A daemon that stopped listening says why in its answer.
        if chunk.is_empty() || queue.send(chunk).await.is_err() {
            *chunks = None;
        }
    }
    Ok(bytes_in)
}

/// A full chunk, or less at the end.
async fn read_chunk(input: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    // The chunk never grows: reading stops when its room is used up.
    while chunk.len() < chunk.capacity() && input.read_buf(&mut chunk).await? > 0 {}
    Ok(chunk.freeze())
}

async fn drain<S>(
    answers: impl Future<Output = Result<S, StreamError>>,
    mut output: impl AsyncWrite + Unpin,
) -> Result<Streamed, StreamError>
where
    S: Stream<Item = Result<(Bytes, u32), tonic::Status>> + Unpin,
{
    let mut answers = answers.await?;
    let mut streamed = Streamed::default();
    while let Some((chunk, version)) = answers.next().await.transpose()? {
        output.write_all(&chunk).await.map_err(StreamError::Write)?;
        streamed.bytes_out += chunk.len() as u64;
        streamed.version = streamed.version.max(version);
    }
    output.flush().await.map_err(StreamError::Write)?;
    Ok(streamed)
}

//! EncryptStream and DecryptStream: files in constant memory. One record says
//! that a file was begun, before its first segment; another how it ended.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::admission::transport_error;
use super::call::{Call, Gate};
use super::convert;
use super::proto::{
    DecryptStreamRequest, DecryptStreamResponse, EncryptStreamRequest, EncryptStreamResponse, StreamHeader,
    decrypt_stream_request, encrypt_stream_request,
};
use super::reply::{self, Replies, STALLED};
use super::status::status;
use crate::access::meter::Part;
use crate::access::{Caller, permission};
use crate::envelope::Header;
use crate::id::KeyName;
use crate::ops::Error;
use crate::ops::stream::Decrypting;
use crate::secret::SecretBytes;

/// Answers that may wait for a slow reader.
const QUEUE: usize = 4;

pub(super) fn encrypt(
    gate: Arc<Gate>,
    caller: Caller,
    held: Part,
    inbound: Streaming<EncryptStreamRequest>,
) -> Replies<EncryptStreamResponse> {
    let (mut outlet, outbound) = Outlet::new(held);
    let (ended, end) = oneshot::channel();
    gate.clone().spawn(async move {
        let outcome = encrypt_file(&gate, caller, inbound, &mut outlet).await;
        // Nobody is left to tell when this fails; the record tells.
        ended.send(outcome).ok();
    });
    reply::ending(outbound, end)
}

pub(super) fn decrypt(
    gate: Arc<Gate>,
    caller: Caller,
    held: Part,
    inbound: Streaming<DecryptStreamRequest>,
) -> Replies<DecryptStreamResponse> {
    let (mut outlet, outbound) = Outlet::new(held);
    let (ended, end) = oneshot::channel();
    gate.clone().spawn(async move {
        let outcome = decrypt_file(&gate, caller, inbound, &mut outlet).await;
        ended.send(outcome).ok();
    });
    reply::ending(outbound, end)
}

/// Where the pieces of a file go. Those that wait count against what the caller may have in flight.
struct Outlet<T> {
    replies: mpsc::Sender<(T, Part)>,
    held: Part,
}

/// Why a piece was not handed on.
enum Unsent {
    /// The caller went away.
    Gone,
    /// The caller does not read, or holds too much.
    Refused(Error),
}

impl<T: Send + 'static> Outlet<T> {
    fn new(held: Part) -> (Self, impl Stream<Item = Result<T, Status>> + Send + 'static) {
        let (replies, outbound) = mpsc::channel(QUEUE);
        (Self { replies, held }, ReceiverStream::new(outbound).map(|(reply, _held): (T, Part)| Ok(reply)))
    }

    async fn send(&mut self, reply: T, bytes: usize) -> Result<(), Unsent> {
        if !self.held.hold(bytes) {
            return Err(Unsent::Refused(Error::TooMuchInFlight));
        }
        let part = self.held.split(bytes);
        match timeout(STALLED, self.replies.send((reply, part))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unsent::Gone),
            Err(_) => Err(Unsent::Refused(Error::Stalled(STALLED))),
        }
    }

    /// Hands on a piece of a file that is not finished. One that cannot be ends it, and `closing` tells.
    async fn deliver(&mut self, closing: Call, reply: T, bytes: usize) -> Result<Call, Status> {
        match self.send(reply, bytes).await {
            Ok(()) => Ok(closing),
            // The record that is dropped here says that the file was cancelled.
            Err(Unsent::Gone) => Err(gone()),
            Err(Unsent::Refused(error)) => closing.settle::<Call>(Err(error)).await,
        }
    }

    /// Hands on the last piece, whose record is written.
    async fn finish(&mut self, reply: T, bytes: usize) -> Result<(), Status> {
        self.send(reply, bytes).await.map_err(|unsent| match unsent {
            Unsent::Gone => gone(),
            Unsent::Refused(error) => status(&error),
        })
    }
}

fn gone() -> Status {
    Status::cancelled("the caller went away")
}

async fn next<M>(inbound: &mut Streaming<M>) -> Result<Option<M>, Error> {
    inbound.message().await.map_err(|refused| transport_error(&refused))
}

/// Refuses a file that has no header, with a record of its own.
async fn without_header(
    gate: &Arc<Gate>,
    caller: Caller,
    operation: &'static str,
    why: Option<Error>,
) -> Result<(), Status> {
    let error = why.unwrap_or_else(|| Error::Argument("the first message must be the header".into()));
    gate.call_by(caller, operation, "").settle::<()>(Err(error)).await
}

async fn encrypt_file(
    gate: &Arc<Gate>,
    caller: Caller,
    mut inbound: Streaming<EncryptStreamRequest>,
    outlet: &mut Outlet<EncryptStreamResponse>,
) -> Result<(), Status> {
    use encrypt_stream_request::Message;
    let header = match next(&mut inbound).await {
        Ok(Some(EncryptStreamRequest { message: Some(Message::Header(header)) })) => header,
        Ok(_) => return without_header(gate, caller, "encrypt-stream", None).await,
        Err(error) => return without_header(gate, caller, "encrypt-stream", Some(error)).await,
    };
    let mut opening = gate.call_by(caller.clone(), "encrypt-stream", &header.name);
    let mut closing = gate.call_by(caller, "encrypt-stream-end", &header.name);
    let begun = async {
        let (vault, right) = opening.authorize::<permission::Encrypt>(KeyName::parse(&header.name)?)?;
        vault.begin_encrypt(right, &convert::context(&header.context)?).await
    };
    let begun = begun.await;
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    let version = file.version().get();
    let first = EncryptStreamResponse { chunk: file.header().into(), version };
    closing = outlet.deliver(closing, first, Header::LEN).await?;
    loop {
        let chunk = match next(&mut inbound).await {
            Ok(Some(EncryptStreamRequest { message: Some(Message::Chunk(chunk)) })) => chunk,
            Ok(Some(_)) => return settle_failure(closing, Error::Argument("expected a chunk".into())).await,
            Ok(None) => break,
            Err(error) => return settle_failure(closing, error).await,
        };
        match file.update(&chunk).await {
            Ok(out) if out.is_empty() => {}
            Ok(out) => {
                let bytes = out.len();
                let piece = EncryptStreamResponse { chunk: out.into(), version: 0 };
                closing = outlet.deliver(closing, piece, bytes).await?;
            }
            Err(error) => return settle_failure(closing, error).await,
        }
    }
    let last = closing.settle(file.finish().await).await?;
    let bytes = last.len();
    outlet.finish(EncryptStreamResponse { chunk: last.into(), version: 0 }, bytes).await
}

async fn decrypt_file(
    gate: &Arc<Gate>,
    caller: Caller,
    mut inbound: Streaming<DecryptStreamRequest>,
    outlet: &mut Outlet<DecryptStreamResponse>,
) -> Result<(), Status> {
    use decrypt_stream_request::Message;
    let header = match next(&mut inbound).await {
        Ok(Some(DecryptStreamRequest { message: Some(Message::Header(header)) })) => header,
        Ok(_) => return without_header(gate, caller, "decrypt-stream", None).await,
        Err(error) => return without_header(gate, caller, "decrypt-stream", Some(error)).await,
    };
    let mut opening = gate.call_by(caller.clone(), "decrypt-stream", &header.name);
    let mut closing = gate.call_by(caller, "decrypt-stream-end", &header.name);
    let (beginning, begun) = match first_bytes(&mut inbound).await {
        Ok(bytes) => {
            let begun = begin_decrypt(&mut opening, &header, &bytes).await;
            (bytes, begun)
        }
        Err(error) => (Bytes::new(), Err(error)),
    };
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    let version = file.version().get();
    let first = DecryptStreamResponse { chunk: Bytes::new(), version };
    closing = outlet.deliver(closing, first, 0).await?;
    let mut piece = Some(beginning.slice(Header::LEN..));
    while let Some(bytes) = piece {
        match file.update(&bytes).await {
            Ok(out) if out.is_empty() => {}
            Ok(out) => {
                let bytes = out.len();
                closing = outlet.deliver(closing, plaintext(out), bytes).await?;
            }
            Err(error) => return settle_failure(closing, error).await,
        }
        piece = match next(&mut inbound).await {
            Ok(Some(DecryptStreamRequest { message: Some(Message::Chunk(chunk)) })) => Some(chunk),
            Ok(Some(_)) => return settle_failure(closing, Error::Argument("expected a chunk".into())).await,
            Ok(None) => None,
            Err(error) => return settle_failure(closing, error).await,
        };
    }
    let last = closing.settle(file.finish().await).await?;
    let bytes = last.len();
    outlet.finish(plaintext(last), bytes).await
}

async fn begin_decrypt(
    opening: &mut Call,
    header: &StreamHeader,
    beginning: &[u8],
) -> Result<crate::ops::Done<Decrypting>, Error> {
    let (vault, right) = opening.authorize::<permission::Decrypt>(KeyName::parse(&header.name)?)?;
    vault.begin_decrypt(right, &convert::context(&header.context)?, beginning).await
}

/// At least the header of the ciphertext, or all there is.
async fn first_bytes(inbound: &mut Streaming<DecryptStreamRequest>) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while bytes.len() < Header::LEN {
        match next(inbound).await?.map(|message| message.message) {
            Some(Some(decrypt_stream_request::Message::Chunk(chunk))) => bytes.extend_from_slice(&chunk),
            Some(_) => return Err(Error::Argument("expected a chunk".into())),
            None => break,
        }
    }
    Ok(bytes.freeze())
}

fn plaintext(bytes: Vec<u8>) -> DecryptStreamResponse {
    DecryptStreamResponse { chunk: convert::secret_bytes(SecretBytes::new(bytes)), version: 0 }
}

async fn settle_failure(closing: Call, error: Error) -> Result<(), Status> {
    closing.settle::<()>(Err(error)).await
}

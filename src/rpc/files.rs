//! EncryptStream and DecryptStream: files in constant memory. One record says
//! that a file was begun, before its first segment; another how it ended.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::call::{Call, Gate};
use super::proto::{
    DecryptStreamRequest, DecryptStreamResponse, EncryptStreamRequest, EncryptStreamResponse, StreamHeader,
    decrypt_stream_request, encrypt_stream_request,
};
use super::{convert, status::status};
use crate::access::{Authorized, Caller, permission};
use crate::envelope::Header;
use crate::id::KeyName;
use crate::ops::stream::Decrypting;
use crate::ops::{Error, Vault};
use crate::secret::SecretBytes;

/// Answers that may wait for a slow reader.
const QUEUE: usize = 4;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

pub(super) fn encrypt(
    gate: Arc<Gate>,
    caller: Caller,
    inbound: Streaming<EncryptStreamRequest>,
) -> Replies<EncryptStreamResponse> {
    let (replies, outbound) = mpsc::channel(QUEUE);
    gate.clone().spawn(async move {
        if let Err(failure) = encrypt_file(&gate, caller, inbound, &replies).await {
            // Nobody is left to tell when this fails; the record tells.
            replies.send(Err(failure)).await.ok();
        }
    });
    Box::pin(ReceiverStream::new(outbound))
}

pub(super) fn decrypt(
    gate: Arc<Gate>,
    caller: Caller,
    inbound: Streaming<DecryptStreamRequest>,
) -> Replies<DecryptStreamResponse> {
    let (replies, outbound) = mpsc::channel(QUEUE);
    gate.clone().spawn(async move {
        if let Err(failure) = decrypt_file(&gate, caller, inbound, &replies).await {
            replies.send(Err(failure)).await.ok();
        }
    });
    Box::pin(ReceiverStream::new(outbound))
}

async fn encrypt_file(
    gate: &Arc<Gate>,
    caller: Caller,
    mut inbound: Streaming<EncryptStreamRequest>,
    replies: &Sender<EncryptStreamResponse>,
) -> Result<(), Status> {
    use encrypt_stream_request::Message;
    let Some(Message::Header(header)) = inbound.message().await?.and_then(|first| first.message) else {
        return Err(status(&Error::Argument("the first message must be the header".into())));
    };
    let mut opening = gate.call_by(caller.clone(), "encrypt-stream", &header.name);
    let closing = gate.call_by(caller, "encrypt-stream-end", &header.name);
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
    send(replies, EncryptStreamResponse { chunk: file.header().into(), version }).await?;
    while let Some(message) = inbound.message().await? {
        let Some(Message::Chunk(chunk)) = message.message else {
            return settle_failure(closing, Error::Argument("expected a chunk".into())).await;
        };
        match file.update(&chunk).await {
            Ok(out) if out.is_empty() => {}
            Ok(out) => send(replies, EncryptStreamResponse { chunk: out.into(), version: 0 }).await?,
            Err(error) => return settle_failure(closing, error).await,
        }
    }
    let last = closing.settle(file.finish().await).await?;
    send(replies, EncryptStreamResponse { chunk: last.into(), version: 0 }).await
}

async fn decrypt_file(
    gate: &Arc<Gate>,
    caller: Caller,
    mut inbound: Streaming<DecryptStreamRequest>,
    replies: &Sender<DecryptStreamResponse>,
) -> Result<(), Status> {
    use decrypt_stream_request::Message;
    let Some(Message::Header(header)) = inbound.message().await?.and_then(|first| first.message) else {
        return Err(status(&Error::Argument("the first message must be the header".into())));
    };
    let mut opening = gate.call_by(caller.clone(), "decrypt-stream", &header.name);
    // Whoever may not is refused before anything is waited for: who goes away while it waits leaves a record.
    let (vault, right) = match may_decrypt(&mut opening, &header) {
        Ok(allowed) => allowed,
        Err(denied) => return opening.settle(Err(denied)).await,
    };
    let closing = gate.call_by(caller, "decrypt-stream-end", &header.name);
    let beginning = match first_bytes(&mut inbound).await {
        Ok(bytes) => bytes,
        Err(gone) => return closing.not_begun(gone),
    };
    let begun = begin_decrypt(vault, right, &header, &beginning).await;
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    let version = file.version().get();
    send(replies, DecryptStreamResponse { chunk: Bytes::new(), version }).await?;
    let mut piece = Some(beginning.slice(Header::LEN..));
    while let Some(bytes) = piece {
        match file.update(&bytes).await {
            Ok(out) if out.is_empty() => {}
            Ok(out) => send(replies, plaintext(out)).await?,
            Err(error) => return settle_failure(closing, error).await,
        }
        piece = match inbound.message().await?.map(|message| message.message) {
            Some(Some(Message::Chunk(chunk))) => Some(chunk),
            Some(_) => return settle_failure(closing, Error::Argument("expected a chunk".into())).await,
            None => None,
        };
    }
    let last = closing.settle(file.finish().await).await?;
    send(replies, plaintext(last)).await
}

fn may_decrypt(
    opening: &mut Call,
    header: &StreamHeader,
) -> Result<(Arc<Vault>, Authorized<permission::Decrypt>), Error> {
    opening.authorize(KeyName::parse(&header.name)?)
}

async fn begin_decrypt(
    vault: Arc<Vault>,
    right: Authorized<permission::Decrypt>,
    header: &StreamHeader,
    beginning: &[u8],
) -> Result<crate::ops::Done<Decrypting>, Error> {
    vault.begin_decrypt(right, &convert::context(&header.context)?, beginning).await
}

/// At least the header of the ciphertext, or all there is.
async fn first_bytes(inbound: &mut Streaming<DecryptStreamRequest>) -> Result<Bytes, Status> {
    let mut bytes = BytesMut::new();
    while bytes.len() < Header::LEN {
        match inbound.message().await?.map(|message| message.message) {
            Some(Some(decrypt_stream_request::Message::Chunk(chunk))) => bytes.extend_from_slice(&chunk),
            Some(_) => return Err(status(&Error::Argument("expected a chunk".into()))),
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

/// A reader that is gone ends the file; its record says that it was cancelled.
async fn send<T>(replies: &Sender<T>, reply: T) -> Result<(), Status> {
    replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("the caller went away"))
}

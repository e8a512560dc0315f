//! EncryptStream and DecryptStream: files in constant memory. One record says
//! that a file was begun, before its first segment; another how it ended.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::answers::{self, Answers, End, Replies};
use super::call::{Call, Ending, Gate, stopped};
use super::convert;
use super::proto::{
    DecryptStreamRequest, DecryptStreamResponse, EncryptStreamRequest, EncryptStreamResponse, StreamHeader,
    decrypt_stream_request, encrypt_stream_request,
};
use crate::access::Action;
use crate::access::meter::Part;
use crate::access::{Authorized, Caller, permission};
use crate::envelope::Header;
use crate::id::KeyName;
use crate::ops::stream::{Decrypting, Encrypting};
use crate::ops::{Error, Vault};
use crate::secret::SecretBytes;

/// Answers that may wait for a slow reader.
const QUEUE: usize = 4;

pub(super) fn encrypt(
    gate: &Arc<Gate>,
    caller: Caller,
    held: Part,
    inbound: Streaming<EncryptStreamRequest>,
) -> Answers<EncryptStreamResponse> {
    let (pieces, ending) = (Pieces::new(gate, &caller, inbound), Ending::new(gate, &caller));
    let made = answers::made_by(gate, ending, QUEUE, |replies| {
        encrypt_file(gate.clone(), caller, pieces, Outlet { replies, held })
    });
    Box::pin(made.map(|piece| piece.map(|(reply, _held)| reply)))
}

pub(super) fn decrypt(
    gate: &Arc<Gate>,
    caller: Caller,
    held: Part,
    inbound: Streaming<DecryptStreamRequest>,
) -> Answers<DecryptStreamResponse> {
    let (pieces, ending) = (Pieces::new(gate, &caller, inbound), Ending::new(gate, &caller));
    let made = answers::made_by(gate, ending, QUEUE, |replies| {
        decrypt_file(gate.clone(), caller, pieces, Outlet { replies, held })
    });
    Box::pin(made.map(|piece| piece.map(|(reply, _held)| reply)))
}

/// Where the pieces of a file go. Those that wait to be read count against what the caller may have in flight.
struct Outlet<T> {
    replies: Replies<(T, Part)>,
    held: Part,
}

impl<T> Outlet<T> {
    async fn send(&mut self, reply: T, bytes: usize) -> Result<(), End> {
        if !self.held.hold(bytes) {
            return Err(End::Failed(Error::TooMuchInFlight));
        }
        let part = self.held.split(bytes);
        self.replies.send((reply, part)).await
    }
}

/// What the caller sends, until the daemon stops: a file that was not begun then is not begun any more, and
/// one that was has until the stop cuts.
struct Pieces<M> {
    inbound: Streaming<M>,
    stop: watch::Receiver<bool>,
    ending: Ending,
}

impl<M> Pieces<M> {
    fn new(gate: &Gate, caller: &Caller, inbound: Streaming<M>) -> Self {
        Self { inbound, stop: gate.shutdown(), ending: Ending::new(gate, caller) }
    }

    /// A message from before the file is begun.
    async fn first(&mut self) -> Result<Option<M>, End> {
        tokio::select! {
            // First, or a caller that always sends would never see it.
            biased;
            () = stopped(&mut self.stop) => Err(End::Failed(Error::ShuttingDown)),
            ended = self.ending.came() => Err(End::Failed(ended)),
            message = self.inbound.message() => message.map_err(End::of),
        }
    }

    /// A message of a file that was begun.
    async fn next(&mut self) -> Result<Option<M>, End> {
        tokio::select! {
            biased;
            ended = self.ending.came() => Err(End::Failed(ended)),
            message = self.inbound.message() => message.map_err(End::of),
        }
    }

    /// Work that the HSM may keep waiting.
    async fn unless_cut<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = work => done,
            ended = self.ending.came() => Err(ended),
        }
    }
}

async fn encrypt_file(
    gate: Arc<Gate>,
    caller: Caller,
    mut pieces: Pieces<EncryptStreamRequest>,
    mut outlet: Outlet<EncryptStreamResponse>,
) -> Result<(), Status> {
    use encrypt_stream_request::Message;
    let first = pieces.first().await.map(|first| first.and_then(|first| first.message));
    let Ok(Some(Message::Header(header))) = first else {
        // Its record says that there was somebody who began nothing.
        let opening = gate.call_by(caller, Action::EncryptStream, "");
        return first.err().unwrap_or_else(no_header).tell_unbegun(opening).await;
    };
    let mut opening = gate.call_by(caller.clone(), Action::EncryptStream, &header.name);
    let closing = gate.call_by(caller, Action::EncryptStreamEnd, &header.name);
    let begun = pieces.unless_cut(async {
        let (vault, right) = opening.authorize::<permission::Encrypt>(KeyName::parse(&header.name)?)?;
        vault.begin_encrypt(right, &convert::context(&header.context)?).await
    });
    let begun = begun.await;
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    if let Err(end) = encrypt_pieces(&mut file, &mut pieces, &mut outlet).await {
        return end.tell(closing).await;
    }
    let last = closing.settle(file.finish().await).await?;
    let bytes = last.len();
    outlet.send(EncryptStreamResponse { chunk: last.into(), version: 0 }, bytes).await.map_err(End::status)
}

async fn encrypt_pieces(
    file: &mut Encrypting,
    pieces: &mut Pieces<EncryptStreamRequest>,
    outlet: &mut Outlet<EncryptStreamResponse>,
) -> Result<(), End> {
    let version = file.version().get();
    outlet.send(EncryptStreamResponse { chunk: file.header().into(), version }, Header::LEN).await?;
    while let Some(message) = pieces.next().await? {
        let Some(encrypt_stream_request::Message::Chunk(chunk)) = message.message else {
            return Err(no_chunk());
        };
        let out = file.update(&chunk).await?;
        if !out.is_empty() {
            let bytes = out.len();
            outlet.send(EncryptStreamResponse { chunk: out.into(), version: 0 }, bytes).await?;
        }
    }
    Ok(())
}

async fn decrypt_file(
    gate: Arc<Gate>,
    caller: Caller,
    mut pieces: Pieces<DecryptStreamRequest>,
    mut outlet: Outlet<DecryptStreamResponse>,
) -> Result<(), Status> {
    use decrypt_stream_request::Message;
    let first = pieces.first().await.map(|first| first.and_then(|first| first.message));
    let Ok(Some(Message::Header(header))) = first else {
        let opening = gate.call_by(caller, Action::DecryptStream, "");
        return first.err().unwrap_or_else(no_header).tell_unbegun(opening).await;
    };
    let mut opening = gate.call_by(caller.clone(), Action::DecryptStream, &header.name);
    // Whoever may not is refused before anything is waited for: who goes away while it waits leaves a record.
    let (vault, right) = match may_decrypt(&mut opening, &header) {
        Ok(allowed) => allowed,
        Err(denied) => return opening.settle(Err(denied)).await,
    };
    let beginning = match first_bytes(&mut pieces).await {
        Ok(bytes) => bytes,
        // It was not begun, so no other record tells of it.
        Err(end) => return end.tell_unbegun(opening).await,
    };
    let closing = gate.call_by(caller, Action::DecryptStreamEnd, &header.name);
    let begun = pieces.unless_cut(begin_decrypt(vault, right, &header, &beginning)).await;
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    let ciphertext = beginning.slice(Header::LEN..);
    if let Err(end) = decrypt_pieces(&mut file, ciphertext, &mut pieces, &mut outlet).await {
        return end.tell(closing).await;
    }
    let last = closing.settle(file.finish().await).await?;
    let bytes = last.len();
    outlet.send(plaintext(last), bytes).await.map_err(End::status)
}

async fn decrypt_pieces(
    file: &mut Decrypting,
    beginning: Bytes,
    pieces: &mut Pieces<DecryptStreamRequest>,
    outlet: &mut Outlet<DecryptStreamResponse>,
) -> Result<(), End> {
    let version = file.version().get();
    outlet.send(DecryptStreamResponse { chunk: Bytes::new(), version }, 0).await?;
    let mut piece = Some(beginning);
    while let Some(bytes) = piece {
        let out = file.update(&bytes).await?;
        if !out.is_empty() {
            let bytes = out.len();
            outlet.send(plaintext(out), bytes).await?;
        }
        piece = match pieces.next().await?.map(|message| message.message) {
            Some(Some(decrypt_stream_request::Message::Chunk(chunk))) => Some(chunk),
            Some(_) => return Err(no_chunk()),
            None => None,
        };
    }
    Ok(())
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
async fn first_bytes(pieces: &mut Pieces<DecryptStreamRequest>) -> Result<Bytes, End> {
    let mut bytes = BytesMut::new();
    while bytes.len() < Header::LEN {
        match pieces.first().await?.map(|message| message.message) {
            Some(Some(decrypt_stream_request::Message::Chunk(chunk))) => bytes.extend_from_slice(&chunk),
            Some(_) => return Err(no_chunk()),
            None => break,
        }
    }
    Ok(bytes.freeze())
}

fn plaintext(bytes: Vec<u8>) -> DecryptStreamResponse {
    DecryptStreamResponse { chunk: convert::secret_bytes(SecretBytes::new(bytes)), version: 0 }
}

fn no_header() -> End {
    End::Failed(Error::Argument("the first message must be the header".into()))
}

fn no_chunk() -> End {
    End::Failed(Error::Argument("expected a chunk".into()))
}

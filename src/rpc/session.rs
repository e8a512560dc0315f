//! CryptSession: pipelined encrypts and decrypts on one stream.
//!
//! Requests are worked on as they arrive. What was done while the previous
//! audit record was being written becomes the next record (one for each key and
//! operation), and is answered when that is durable. Nothing waits for a record
//! to fill.
//!
//! A client that does not read its answers has the session stop reading, and
//! after a minute end: there are never more than four groups of answers, each of
//! at most [`GROUP`] bytes and one item, and all of them count against what the
//! connection and the principal may have in flight.

use std::collections::HashMap;
use std::iter::Flatten;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, poll};
use prost::Message;
use tonic::{Status, Streaming};

use super::admission::{Gone, transport_error};
use super::answers::{self, Answers, Replies};
use super::call::{Call, Ending, Gate, Rights, short, stopped};
use super::convert;
use super::proto::crypt_session_request::Request as Asked;
use super::proto::crypt_session_response::Response as Answer;
use super::proto::{
    CryptSessionRequest, CryptSessionResponse, DecryptRequest, DecryptResponse, EncryptRequest,
    EncryptResponse,
};
use super::status::item_status;
use crate::access::Action;
use crate::access::meter::Part;
use crate::access::{Authorized, Caller, permission};
use crate::envelope::{Context, Header};
use crate::id::KeyName;
use crate::ops::crypt::{Decrypted, Encrypted, Item, Ready};
use crate::ops::group::Group;
use crate::ops::{Done, Error, Vault};
use crate::secret::SecretBytes;

/// Items that may wait for their record; beyond, the session stops reading.
const MAX_OPEN: usize = 1024;
/// Bytes of the items that may wait for their record.
const GROUP: usize = 4 << 20;
/// Groups of answers that may wait for a slow reader, beside the one that is being read.
const QUEUE: usize = 1;

/// Serves one session in a task of its own, which records what it did even when the client is gone.
pub(super) fn serve(
    gate: Arc<Gate>,
    caller: Caller,
    held: Part,
    inbound: Streaming<CryptSessionRequest>,
) -> Answers<CryptSessionResponse> {
    let session = Session {
        gate: gate.clone(),
        caller,
        open: Groups::default(),
        cold: FuturesUnordered::new(),
        refused: FuturesUnordered::new(),
        waiting: 0,
        held,
        bytes: 0,
        worked: false,
        unread: false,
    };
    let ending = Ending::new(&gate, &session.caller);
    let made = answers::made_by(&gate, ending, QUEUE, |replies| session.run(inbound, replies));
    Box::pin(made.flat_map(|group| match group {
        Ok(items) => stream::iter(items).map(Ok).left_stream(),
        Err(end) => stream::iter([Err(end)]).right_stream(),
    }))
}

pub(super) fn encrypt_response(done: Encrypted) -> EncryptResponse {
    EncryptResponse { ciphertext: done.ciphertext.into(), version: done.version.get() }
}

pub(super) fn decrypt_response(done: Decrypted) -> DecryptResponse {
    DecryptResponse { plaintext: convert::secret_bytes(done.plaintext), version: done.version.get() }
}

/// The answers to the items of some records, and what they hold until the transport has taken the last of them.
struct Items {
    answers: Flatten<std::vec::IntoIter<Vec<CryptSessionResponse>>>,
    _held: Part,
}

impl Iterator for Items {
    type Item = CryptSessionResponse;

    fn next(&mut self) -> Option<Self::Item> {
        self.answers.next()
    }
}

/// What an item is worked on with.
struct Started {
    vault: Arc<Vault>,
    key: Ready,
    context: Context,
}

struct Session {
    gate: Arc<Gate>,
    caller: Caller,
    open: Groups,
    /// Items that wait for a key to be opened.
    cold: FuturesUnordered<BoxFuture<'static, (usize, Worked)>>,
    /// At most one record of which no item was done. One beyond the caller's budget is late: what was served does not
    /// wait for it.
    refused: FuturesUnordered<BoxFuture<'static, Items>>,
    /// How many items are in it.
    waiting: usize,
    /// What the items hold that are not being recorded yet, and how many bytes those are.
    held: Part,
    bytes: usize,
    /// Whether there was any item, so that a record tells of this session.
    worked: bool,
    /// Whether an answer could not be handed over.
    unread: bool,
}

/// Why a session ended.
enum End {
    /// The client has sent all, or is gone.
    Usual,
    /// With an error that the client is told: the daemon stops, for one, and did not take all that was sent.
    Failed(Error),
}

/// One item that was worked on.
enum Worked {
    Encrypted { id: u64, name: Arc<str>, outcome: Result<Item<Encrypted>, Error> },
    Decrypted { id: u64, name: Arc<str>, outcome: Result<Item<Decrypted>, Error> },
}

impl Worked {
    /// An item that is refused before any work on it.
    fn refused(id: u64, asked: Option<&Asked>, error: Error) -> Self {
        match asked {
            Some(Asked::Encrypt(message)) => {
                Self::Encrypted { id, name: short(&message.name).into(), outcome: Err(error) }
            }
            Some(Asked::Decrypt(message)) => {
                Self::Decrypted { id, name: short(&message.name).into(), outcome: Err(error) }
            }
            None => Self::Encrypted { id, name: "".into(), outcome: Err(error) },
        }
    }
}

/// What waits for its record, by the name of its key as the record will have it: no group holds more of a name.
#[derive(Default)]
struct Groups {
    encrypts: ByKey<Encrypted>,
    decrypts: ByKey<Decrypted>,
    count: usize,
}

type ByKey<T> = HashMap<Arc<str>, Open<T>>;

struct Open<T> {
    call: Call,
    ids: Vec<u64>,
    /// What the items hold.
    bytes: usize,
    group: Group<T>,
}

impl Session {
    /// Works until the caller has sent everything, or the daemon stops: then what was taken is answered, and
    /// the end says that the rest was not.
    async fn run(
        mut self,
        mut inbound: Streaming<CryptSessionRequest>,
        mut replies: Replies<Items>,
    ) -> Result<(), Status> {
        let (mut stop, mut cut) = (self.gate.shutdown(), self.gate.cutting());
        // One for the whole session: a new one each time would be entered and struck off at each message.
        let mut stop = pin!(stopped(&mut stop));
        let mut rights = Rights::of(&self.gate.policy, &self.caller);
        let mut lost = pin!(rights.lost());
        let mut recording: Option<BoxFuture<'static, Items>> = None;
        let mut end = None;
        while end.is_none() || recording.is_some() || !self.is_idle() {
            if recording.is_none() && self.open.count > 0 {
                recording = self.record();
            }
            tokio::select! {
                biased;
                answers = async { recording.as_mut().expect("guarded").await }, if recording.is_some() => {
                    recording = None;
                    let unread = self.hand_over(&mut replies, answers).await;
                    end = End::worse(end, unread);
                }
                Some(answers) = self.refused.next(), if !self.refused.is_empty() => {
                    self.waiting = 0;
                    let unread = self.hand_over(&mut replies, answers).await;
                    end = End::worse(end, unread);
                }
                Some((bytes, worked)) = self.cold.next(), if !self.cold.is_empty() => self.keep(bytes, worked),
                // Before the next message, or a client that always sends would never see it.
                () = &mut stop, if end.is_none() => end = Some(End::Failed(Error::ShuttingDown)),
                lost = &mut lost, if end.is_none() => end = Some(End::Failed(lost)),
                message = inbound.next(), if end.is_none() && self.has_room() => {
                    end = self.take(message, &mut inbound).await;
                }
                // Nothing was done yet for these; the end of the session says so.
                () = stopped(&mut cut), if !self.cold.is_empty() => {
                    self.cold.clear();
                    end = End::worse(end, Some(End::Failed(Error::ShuttingDown)));
                }
            }
        }
        self.end(end.unwrap_or(End::Usual)).await
    }

    /// Hands answers over. A client that is gone, or too slow, gets none from then on; its items are recorded.
    ///
    /// Items that wait for their key go on meanwhile: one that was opened holds a place that others wait for, and
    /// nobody's reading may decide how long.
    async fn hand_over(&mut self, replies: &mut Replies<Items>, answers: Items) -> Option<End> {
        if self.unread {
            return None;
        }
        let mut opened = Vec::new();
        let sent = meanwhile(replies.send(answers), &mut self.cold, &mut opened).await;
        opened.into_iter().for_each(|(bytes, worked)| self.keep(bytes, worked));
        let unread = sent.err()?;
        self.unread = true;
        Some(End::of(unread))
    }

    /// Leaves a record of a session that no other record tells of, or whose end is an error.
    async fn end(self, end: End) -> Result<(), Status> {
        let outcome = match end {
            End::Usual if self.worked => return Ok(()),
            End::Usual => Ok(Done::new(())),
            End::Failed(error) => Err(error),
        };
        self.gate.call_by(self.caller, Action::SessionEnd, "").settle(outcome).await
    }

    fn is_idle(&self) -> bool {
        self.open.count == 0 && self.cold.is_empty() && self.refused.is_empty()
    }

    /// Whether another item may be worked on before the next record.
    fn has_room(&self) -> bool {
        self.open.count + self.waiting + self.cold.len() < MAX_OPEN && self.bytes < GROUP
    }

    /// Works on a message and on those that are there already. Answers why the stream ended, if it did.
    async fn take(
        &mut self,
        mut message: Option<Result<CryptSessionRequest, Status>>,
        inbound: &mut Streaming<CryptSessionRequest>,
    ) -> Option<End> {
        loop {
            match message {
                Some(Ok(request)) => self.work_on(request).await,
                Some(Err(refused)) => {
                    return Some(match transport_error(&refused) {
                        Ok(error) => End::Failed(error),
                        Err(Gone) => End::Usual,
                    });
                }
                None => return Some(End::Usual),
            }
            if !self.has_room() {
                return None;
            }
            match inbound.next().now_or_never() {
                Some(next) => message = next,
                None => return None,
            }
        }
    }

    async fn work_on(&mut self, request: CryptSessionRequest) {
        let id = request.id;
        self.worked = true;
        let bytes = ITEM + payload(request.request.as_ref());
        if !self.held.hold(self.bytes + bytes) {
            return self.keep(0, Worked::refused(id, request.request.as_ref(), Error::TooMuchInFlight));
        }
        self.bytes += bytes;
        match request.request {
            Some(Asked::Encrypt(message)) => self.encrypt(id, bytes, message).await,
            Some(Asked::Decrypt(message)) => self.decrypt(id, bytes, message).await,
            None => {
                let error = Error::Argument("request is missing: expected encrypt or decrypt".into());
                self.keep(bytes, Worked::refused(id, None, error));
            }
        }
    }

    async fn encrypt(&mut self, id: u64, bytes: usize, message: EncryptRequest) {
        let EncryptRequest { name, plaintext, context } = message;
        let (allowed, size) = (self.authorize::<permission::Encrypt>(&name), plaintext.len());
        let name: Arc<str> = short(&name).into();
        let start = async move {
            let ((vault, right), context) = (allowed?, convert::context(&context)?);
            let key = vault.key_to_encrypt(&right, size).await?;
            Ok(Started { vault, key, context })
        };
        let work = |started: Started, plaintext: &[u8]| {
            started.vault.encrypt_with(&started.key, &started.context, plaintext)
        };
        let worked = move |outcome| Worked::Encrypted { id, name, outcome };
        self.begin(bytes, Box::pin(start), plaintext, work, worked).await;
    }

    async fn decrypt(&mut self, id: u64, bytes: usize, message: DecryptRequest) {
        let DecryptRequest { name, ciphertext, context } = message;
        let (allowed, size) = (self.authorize::<permission::Decrypt>(&name), ciphertext.len());
        let header = Header::parse(&ciphertext).map(|(header, _)| header);
        let name: Arc<str> = short(&name).into();
        let start = async move {
            let ((vault, right), context) = (allowed?, convert::context(&context)?);
            let key = vault.key_to_decrypt(&right, &header?, size).await?;
            Ok(Started { vault, key, context })
        };
        let work = |started: Started, ciphertext: &[u8]| {
            Vault::decrypt_with(&started.key, &started.context, ciphertext)
        };
        let worked = move |outcome| Worked::Decrypted { id, name, outcome };
        self.begin(bytes, Box::pin(start), ciphertext, work, worked).await;
    }

    /// Works on an item now if its key is open, and otherwise as soon as it is.
    async fn begin<T: 'static>(
        &mut self,
        bytes: usize,
        mut start: BoxFuture<'static, Result<Started, Error>>,
        payload: Bytes,
        work: fn(Started, &[u8]) -> Result<Item<T>, Error>,
        worked: impl FnOnce(Result<Item<T>, Error>) -> Worked + Send + 'static,
    ) {
        match poll!(&mut start) {
            Poll::Ready(started) => {
                let outcome = started.and_then(|started| work(started, &payload));
                self.keep(bytes, worked(outcome));
            }
            Poll::Pending => {
                // Alone while it waits: a part of the transport's buffer keeps all of it, and only this part is counted.
                let payload = SecretBytes::new(payload.to_vec());
                let later = async move {
                    let outcome = start.await.and_then(|started| work(started, payload.expose()));
                    (bytes, worked(outcome))
                };
                self.cold.push(Box::pin(later));
            }
        }
    }

    fn authorize<P>(&self, name: &str) -> Result<(Arc<Vault>, Authorized<P>), Error>
    where
        P: permission::Permission<Resource = KeyName>,
    {
        let right = self.gate.policy.authorize(&self.caller, KeyName::parse(name)?)?;
        Ok((self.gate.vault()?.clone(), right))
    }

    /// Puts an item into the open record of its key and operation.
    fn keep(&mut self, bytes: usize, worked: Worked) {
        self.open.count += 1;
        let (gate, caller) = (&self.gate, &self.caller);
        match worked {
            Worked::Encrypted { id, name, outcome } => {
                let call = || gate.call_by(caller.clone(), Action::SessionEncrypt, &name);
                add(&mut self.open.encrypts, name.clone(), call, (id, bytes), outcome);
            }
            Worked::Decrypted { id, name, outcome } => {
                let call = || gate.call_by(caller.clone(), Action::SessionDecrypt, &name);
                add(&mut self.open.decrypts, name.clone(), call, (id, bytes), outcome);
            }
        }
    }

    /// Closes the open records; the future answers the items of those in which something was done, once they are
    /// durable. `None` when there is none.
    fn record(&mut self) -> Option<BoxFuture<'static, Items>> {
        let list = self.gate.vault.get().is_some_and(|vault| vault.lists_decrypted_items());
        let Groups { encrypts, decrypts, .. } = std::mem::take(&mut self.open);
        let ((encrypts, refused_encrypts), (decrypts, refused_decrypts)) = (split(encrypts), split(decrypts));
        let refused = Groups::of(refused_encrypts, refused_decrypts);
        if self.refused.is_empty() && refused.count > 0 {
            self.waiting = refused.count;
            let answers = self.settle_all(refused, list);
            self.refused.push(answers);
        } else {
            // They stay open until those before them are answered: one record for each key, however many there are.
            self.open = refused;
        }
        let served = Groups::of(encrypts, decrypts);
        (served.count > 0).then(|| self.settle_all(served, list))
    }

    /// Records some groups, and takes along what their items hold. Items that wait for their key go on counting.
    fn settle_all(&mut self, groups: Groups, list: bool) -> BoxFuture<'static, Items> {
        let bytes = groups.bytes();
        let held = self.held.split(bytes);
        self.bytes -= bytes;
        let encrypts = groups
            .encrypts
            .into_values()
            .map(|open| settle(open, false, |done| Answer::Encrypt(encrypt_response(done))).boxed());
        let decrypts = groups
            .decrypts
            .into_values()
            .map(|open| settle(open, list, |done| Answer::Decrypt(decrypt_response(done))).boxed());
        let all = encrypts.chain(decrypts).collect::<Vec<_>>();
        Box::pin(async move { Items { answers: join_all(all).await.into_iter().flatten(), _held: held } })
    }
}

impl Groups {
    fn of(encrypts: ByKey<Encrypted>, decrypts: ByKey<Decrypted>) -> Self {
        let count = |ids: &Vec<u64>| ids.len();
        let of_encrypts: usize = encrypts.values().map(|open| count(&open.ids)).sum();
        let of_decrypts: usize = decrypts.values().map(|open| count(&open.ids)).sum();
        Self { encrypts, decrypts, count: of_encrypts + of_decrypts }
    }

    /// What the items hold.
    fn bytes(&self) -> usize {
        let encrypts: usize = self.encrypts.values().map(|open| open.bytes).sum();
        encrypts + self.decrypts.values().map(|open| open.bytes).sum::<usize>()
    }
}

/// Those in which something was done, and the others.
fn split<T>(groups: ByKey<T>) -> (ByKey<T>, ByKey<T>) {
    groups.into_iter().partition(|(_, open)| open.group.any_done())
}

/// What an item holds beside its message.
const ITEM: usize = 256;

/// What the message of an item holds: whatever is long in it, its payload, its context or its name.
fn payload(asked: Option<&Asked>) -> usize {
    match asked {
        Some(Asked::Encrypt(message)) => message.encoded_len(),
        Some(Asked::Decrypt(message)) => message.encoded_len(),
        None => 0,
    }
}

impl End {
    /// A client that has sent all still misses the answers that it did not get.
    fn worse(end: Option<Self>, then: Option<Self>) -> Option<Self> {
        match (end, then) {
            (None | Some(Self::Usual), Some(failed @ Self::Failed(_))) => Some(failed),
            (end, then) => end.or(then),
        }
    }

    fn of(unread: answers::End) -> Self {
        match unread {
            answers::End::Gone(_) => Self::Usual,
            answers::End::Failed(error) => Self::Failed(error),
        }
    }
}

/// Waits for `awaited`, and works on what is cold until then.
async fn meanwhile<S, T>(
    awaited: impl Future<Output = S>,
    cold: &mut FuturesUnordered<BoxFuture<'static, T>>,
    opened: &mut Vec<T>,
) -> S {
    let mut awaited = pin!(awaited);
    loop {
        tokio::select! {
            biased;
            done = &mut awaited => return done,
            Some(one) = cold.next(), if !cold.is_empty() => opened.push(one),
        }
    }
}

fn add<T>(
    groups: &mut ByKey<T>,
    name: Arc<str>,
    call: impl FnOnce() -> Call,
    (id, bytes): (u64, usize),
    outcome: Result<Item<T>, Error>,
) {
    let open = groups.entry(name).or_insert_with(|| Open {
        call: call(),
        ids: Vec::new(),
        bytes: 0,
        group: Group::default(),
    });
    open.ids.push(id);
    open.bytes += bytes;
    open.group.add(outcome);
}

/// Records a group and answers its items, or answers each that it could not be recorded.
async fn settle<T>(open: Open<T>, list: bool, answer: fn(T) -> Answer) -> Vec<CryptSessionResponse> {
    let Open { call, ids, group, .. } = open;
    let call = if group.any_done() { call.allowed_by_grant() } else { call };
    let settled = call.settle(Ok(group.done(list))).await;
    match settled {
        Ok(results) => ids
            .into_iter()
            .zip(results)
            .map(|(id, result)| {
                let response = result.map_or_else(|error| Answer::Error(item_status(&error)), answer);
                CryptSessionResponse { id, response: Some(response) }
            })
            .collect(),
        Err(status) => ids
            .into_iter()
            .map(|id| {
                let response = Some(Answer::Error(super::status::as_message(&status)));
                CryptSessionResponse { id, response }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::rpc::call::RESOURCE;

    #[tokio::test]
    async fn a_key_is_opened_while_nobody_reads() {
        let (open, opened) = oneshot::channel();
        let cold: BoxFuture<'static, u8> = Box::pin(async move {
            open.send(()).unwrap();
            7
        });
        let mut cold = FuturesUnordered::from_iter([cold]);
        let mut items = Vec::new();
        // The reader reads only once somebody else, who waits for the same key, was served.
        let sent = meanwhile(async { opened.await.is_ok() }, &mut cold, &mut items);
        let sent = tokio::time::timeout(std::time::Duration::from_secs(5), sent).await;
        assert_eq!((sent, items), (Ok(true), vec![7]));
    }

    #[test]
    fn what_is_long_in_an_item_counts_and_no_record_holds_a_long_name() {
        let name = "\u{e9}".repeat(100_000);
        let context = std::collections::BTreeMap::from([("key".to_owned(), "v".repeat(10_000))]);
        let asked = Asked::Decrypt(DecryptRequest { name: name.clone(), context, ..Default::default() });
        assert!(payload(Some(&asked)) > 210_000);
        assert_eq!(short(&name).chars().count(), RESOURCE);
        let whole = "\u{e9}".repeat(RESOURCE);
        assert_eq!(short(&whole), whole);
        assert_eq!(short("tenants/acme/keys/a"), "tenants/acme/keys/a");
    }
}

//! CryptSession: pipelined encrypts and decrypts on one stream.
//!
//! Requests are worked on as they arrive. What was done while the previous
//! audit record was being written becomes the next record (one for each key and
//! operation), and is answered when that is durable. Nothing waits for a record
//! to fill.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, Stream, StreamExt, poll};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::call::{Call, Gate, stopped};
use super::convert;
use super::proto::crypt_session_request::Request as Asked;
use super::proto::crypt_session_response::Response as Answer;
use super::proto::{
    CryptSessionRequest, CryptSessionResponse, DecryptRequest, DecryptResponse, EncryptRequest,
    EncryptResponse,
};
use super::status::item_status;
use crate::access::{Authorized, Caller, permission};
use crate::id::KeyName;
use crate::ops::crypt::{Decrypted, Encrypted, Item};
use crate::ops::group::Group;
use crate::ops::{Error, Vault};

/// Items that may wait for their record; beyond, the session stops reading.
const MAX_OPEN: usize = 1024;

/// Serves one session in a task of its own, which records what it did even when the client is gone.
pub(super) fn serve(
    gate: Arc<Gate>,
    caller: Caller,
    inbound: Streaming<CryptSessionRequest>,
) -> Pin<Box<dyn Stream<Item = Result<CryptSessionResponse, Status>> + Send>> {
    let (replies, outbound) = mpsc::channel(16);
    let session = Session {
        gate: gate.clone(),
        caller,
        open: Groups::default(),
        cold: FuturesUnordered::new(),
        refused: FuturesUnordered::new(),
        waiting: 0,
    };
    gate.spawn(session.run(inbound, replies));
    Box::pin(ReceiverStream::new(outbound).flat_map(stream::iter))
}

pub(super) fn encrypt_response(done: Encrypted) -> EncryptResponse {
    EncryptResponse { ciphertext: done.ciphertext.into(), version: done.version.get() }
}

pub(super) fn decrypt_response(done: Decrypted) -> DecryptResponse {
    DecryptResponse { plaintext: convert::secret_bytes(done.plaintext), version: done.version.get() }
}

type Replies = Vec<Result<CryptSessionResponse, Status>>;

struct Session {
    gate: Arc<Gate>,
    caller: Caller,
    open: Groups,
    /// Items that wait for a key to be opened.
    cold: FuturesUnordered<BoxFuture<'static, Worked>>,
    /// Records of which no item was done. One beyond the caller's budget is late: what was served does not wait for it.
    refused: FuturesUnordered<BoxFuture<'static, Replies>>,
    /// How many items are in them.
    waiting: usize,
}

/// One item that was worked on.
enum Worked {
    Encrypted { id: u64, name: Arc<str>, outcome: Result<Item<Encrypted>, Error> },
    Decrypted { id: u64, name: Arc<str>, outcome: Result<Item<Decrypted>, Error> },
}

/// What waits for its record, by key.
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
    group: Group<T>,
}

impl Session {
    async fn run(mut self, mut inbound: Streaming<CryptSessionRequest>, replies: mpsc::Sender<Replies>) {
        let mut shutdown = self.gate.shutdown();
        let mut recording: Option<BoxFuture<'static, Replies>> = None;
        let mut reading = true;
        while reading || recording.is_some() || !self.is_idle() {
            if recording.is_none() && self.open.count > 0 {
                recording = self.record();
            }
            tokio::select! {
                biased;
                answers = async { recording.as_mut().expect("guarded").await }, if recording.is_some() => {
                    recording = None;
                    // A client that is gone needs no answer; its items are recorded.
                    reading &= replies.send(answers).await.is_ok();
                }
                Some(answers) = self.refused.next(), if !self.refused.is_empty() => {
                    self.waiting -= answers.len();
                    reading &= replies.send(answers).await.is_ok();
                }
                Some(worked) = self.cold.next(), if !self.cold.is_empty() => self.keep(worked),
                message = inbound.next(), if reading && !self.is_full() => {
                    reading = self.take(message, &mut inbound).await;
                }
                () = stopped(&mut shutdown), if reading => reading = false,
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.open.count == 0 && self.cold.is_empty() && self.refused.is_empty()
    }

    fn is_full(&self) -> bool {
        self.open.count + self.waiting >= MAX_OPEN
    }

    /// Works on a message and on those that are there already. Answers whether the stream goes on.
    async fn take(
        &mut self,
        mut message: Option<Result<CryptSessionRequest, Status>>,
        inbound: &mut Streaming<CryptSessionRequest>,
    ) -> bool {
        loop {
            let Some(Ok(request)) = message else { return false };
            self.work_on(request).await;
            if self.is_full() {
                return true;
            }
            match inbound.next().now_or_never() {
                Some(next) => message = next,
                None => return true,
            }
        }
    }

    async fn work_on(&mut self, request: CryptSessionRequest) {
        let id = request.id;
        let mut work = match request.request {
            Some(Asked::Encrypt(message)) => self.encrypt(id, message),
            Some(Asked::Decrypt(message)) => self.decrypt(id, message),
            None => {
                let outcome = Err(Error::Argument("request is missing: expected encrypt or decrypt".into()));
                return self.keep(Worked::Encrypted { id, name: Arc::from(""), outcome });
            }
        };
        match poll!(&mut work) {
            Poll::Ready(worked) => self.keep(worked),
            Poll::Pending => self.cold.push(work),
        }
    }

    fn encrypt(&mut self, id: u64, message: EncryptRequest) -> BoxFuture<'static, Worked> {
        let name: Arc<str> = message.name.as_str().into();
        let allowed = self.authorize::<permission::Encrypt>(&message.name);
        Box::pin(async move {
            let work = async {
                let (vault, right) = allowed?;
                vault.encrypt_item(&right, &convert::context(&message.context)?, &message.plaintext).await
            };
            let outcome = work.await;
            Worked::Encrypted { id, name, outcome }
        })
    }

    fn decrypt(&mut self, id: u64, message: DecryptRequest) -> BoxFuture<'static, Worked> {
        let name: Arc<str> = message.name.as_str().into();
        let allowed = self.authorize::<permission::Decrypt>(&message.name);
        Box::pin(async move {
            let work = async {
                let (vault, right) = allowed?;
                vault.decrypt_item(&right, &convert::context(&message.context)?, &message.ciphertext).await
            };
            let outcome = work.await;
            Worked::Decrypted { id, name, outcome }
        })
    }

    fn authorize<P>(&self, name: &str) -> Result<(Arc<Vault>, Authorized<P>), Error>
    where
        P: permission::Permission<Resource = KeyName>,
    {
        let right = self.gate.policy.authorize(&self.caller, KeyName::parse(name)?)?;
        Ok((self.gate.vault()?.clone(), right))
    }

    /// Puts an item into the open record of its key and operation.
    fn keep(&mut self, worked: Worked) {
        self.open.count += 1;
        let (gate, caller) = (&self.gate, &self.caller);
        match worked {
            Worked::Encrypted { id, name, outcome } => {
                let call = || gate.call_by(caller.clone(), "session-encrypt", &name);
                add(&mut self.open.encrypts, name.clone(), call, id, outcome);
            }
            Worked::Decrypted { id, name, outcome } => {
                let call = || gate.call_by(caller.clone(), "session-decrypt", &name);
                add(&mut self.open.decrypts, name.clone(), call, id, outcome);
            }
        }
    }

    /// Closes the open records; the future answers the items of those in which something was done, once they are
    /// durable. `None` when there is none.
    fn record(&mut self) -> Option<BoxFuture<'static, Replies>> {
        let list = self.gate.vault.get().is_some_and(|vault| vault.lists_decrypted_items());
        let Groups { encrypts, decrypts, .. } = std::mem::take(&mut self.open);
        let ((encrypts, refused_encrypts), (decrypts, refused_decrypts)) = (split(encrypts), split(decrypts));
        let refused = items(&refused_encrypts) + items(&refused_decrypts);
        if self.refused.is_empty() {
            self.waiting = refused;
            self.refused.extend(settle_all(refused_encrypts, refused_decrypts, list));
        } else {
            // They stay open until those before them are answered: one record for each key, however many there are.
            self.open = Groups { encrypts: refused_encrypts, decrypts: refused_decrypts, count: refused };
        }
        let served: Vec<_> = settle_all(encrypts, decrypts, list).collect();
        (!served.is_empty())
            .then(|| async move { join_all(served).await.into_iter().flatten().collect::<Replies>() }.boxed())
    }
}

/// Those in which something was done, and the others.
fn split<T>(groups: ByKey<T>) -> (ByKey<T>, ByKey<T>) {
    groups.into_iter().partition(|(_, open)| open.group.any_done())
}

fn items<T>(groups: &ByKey<T>) -> usize {
    groups.values().map(|open| open.ids.len()).sum()
}

fn settle_all(
    encrypts: ByKey<Encrypted>,
    decrypts: ByKey<Decrypted>,
    list: bool,
) -> impl Iterator<Item = BoxFuture<'static, Replies>> {
    let encrypts = encrypts
        .into_values()
        .map(|open| settle(open, false, |done| Answer::Encrypt(encrypt_response(done))).boxed());
    let decrypts = decrypts
        .into_values()
        .map(move |open| settle(open, list, |done| Answer::Decrypt(decrypt_response(done))).boxed());
    encrypts.chain(decrypts)
}

fn add<T>(
    groups: &mut ByKey<T>,
    name: Arc<str>,
    call: impl FnOnce() -> Call,
    id: u64,
    outcome: Result<Item<T>, Error>,
) {
    let open =
        groups.entry(name).or_insert_with(|| Open { call: call(), ids: Vec::new(), group: Group::default() });
    open.ids.push(id);
    open.group.add(outcome);
}

/// Records a group and answers its items, or answers each that it could not be recorded.
async fn settle<T>(open: Open<T>, list: bool, answer: fn(T) -> Answer) -> Replies {
    let Open { call, ids, group } = open;
    let call = if group.any_done() { call.allowed_by_grant() } else { call };
    let settled = call.settle(Ok(group.done(list))).await;
    match settled {
        Ok(results) => ids
            .into_iter()
            .zip(results)
            .map(|(id, result)| {
                let response = result.map_or_else(|error| Answer::Error(item_status(&error)), answer);
                Ok(CryptSessionResponse { id, response: Some(response) })
            })
            .collect(),
        Err(status) => ids
            .into_iter()
            .map(|id| {
                let response = Some(Answer::Error(super::status::as_message(&status)));
                Ok(CryptSessionResponse { id, response })
            })
            .collect(),
    }
}

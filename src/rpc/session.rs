//! CryptSession: pipelined encrypts and decrypts on one stream.
//!
//! Requests are worked on as they arrive. What was done while the previous
//! audit record was being written becomes the next record (one for each key and
//! operation), and is answered when that is durable. Nothing waits for a record
//! to fill.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, poll};
use tonic::{Status, Streaming};

use super::answers::{self, Answers, Replies};
use super::call::{Call, Gate, stopped};
use super::convert;
use super::proto::crypt_session_request::Request as Asked;
use super::proto::crypt_session_response::Response as Answer;
use super::proto::{
    CryptSessionRequest, CryptSessionResponse, DecryptRequest, DecryptResponse, EncryptRequest,
    EncryptResponse,
};
use super::status::{item_status, status};
use crate::access::{Authorized, Caller, permission};
use crate::id::KeyName;
use crate::ops::crypt::{Decrypted, Encrypted, Item};
use crate::ops::group::Group;
use crate::ops::{Error, Vault};

/// Items that may wait for their record; beyond, the session stops reading.
const MAX_OPEN: usize = 1024;
/// Records whose answers may wait for a slow reader.
const QUEUE: usize = 16;

/// Serves one session in a task of its own, which records what it did even when the client is gone.
pub(super) fn serve(
    gate: Arc<Gate>,
    caller: Caller,
    inbound: Streaming<CryptSessionRequest>,
) -> Answers<CryptSessionResponse> {
    let session =
        Session { gate: gate.clone(), caller, open: Groups::default(), cold: FuturesUnordered::new() };
    let made = answers::made_by(&gate, QUEUE, |replies| session.run(inbound, replies));
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

/// The answers to the items of some records.
type Items = Vec<CryptSessionResponse>;

struct Session {
    gate: Arc<Gate>,
    caller: Caller,
    open: Groups,
    /// Items that wait for a key to be opened.
    cold: FuturesUnordered<BoxFuture<'static, Worked>>,
}

/// One item that was worked on.
enum Worked {
    Encrypted { id: u64, name: Arc<str>, outcome: Result<Item<Encrypted>, Error> },
    Decrypted { id: u64, name: Arc<str>, outcome: Result<Item<Decrypted>, Error> },
}

/// What waits for its record, by key.
#[derive(Default)]
struct Groups {
    encrypts: HashMap<Arc<str>, Open<Encrypted>>,
    decrypts: HashMap<Arc<str>, Open<Decrypted>>,
    count: usize,
}

struct Open<T> {
    call: Call,
    ids: Vec<u64>,
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
        let mut recording: Option<BoxFuture<'static, Items>> = None;
        let (mut reading, mut end) = (true, Ok(()));
        while reading || recording.is_some() || !self.cold.is_empty() || self.open.count > 0 {
            if recording.is_none() && self.open.count > 0 {
                recording = Some(self.record());
            }
            tokio::select! {
                biased;
                answers = async { recording.as_mut().expect("guarded").await }, if recording.is_some() => {
                    recording = None;
                    // A client that is gone, or too slow for a stop, gets no answer; its items are recorded.
                    if let Err(unread) = replies.send(answers).await {
                        (reading, end) = (false, Err(unread.status()));
                    }
                }
                Some(worked) = self.cold.next(), if !self.cold.is_empty() => self.keep(worked),
                // Before the next message, or a client that always sends would never see it.
                () = stopped(&mut stop), if reading => {
                    (reading, end) = (false, Err(status(&Error::ShuttingDown)));
                }
                message = inbound.next(), if reading && self.open.count < MAX_OPEN => {
                    reading = self.take(message, &mut inbound).await;
                }
                // Nothing was done yet for these; the end of the session says so.
                () = stopped(&mut cut), if !self.cold.is_empty() => self.cold.clear(),
            }
        }
        end
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
            if self.open.count >= MAX_OPEN {
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

    /// Closes the open records; the future answers their items when they are durable.
    fn record(&mut self) -> BoxFuture<'static, Items> {
        let list = self.gate.vault.get().is_some_and(|vault| vault.lists_decrypted_items());
        let groups = std::mem::take(&mut self.open);
        let encrypts = groups
            .encrypts
            .into_values()
            .map(|open| settle(open, false, |done| Answer::Encrypt(encrypt_response(done))).boxed());
        let decrypts = groups
            .decrypts
            .into_values()
            .map(|open| settle(open, list, |done| Answer::Decrypt(decrypt_response(done))).boxed());
        let all = encrypts.chain(decrypts).collect::<Vec<_>>();
        Box::pin(async move { join_all(all).await.into_iter().flatten().collect() })
    }
}

fn add<T>(
    groups: &mut HashMap<Arc<str>, Open<T>>,
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
async fn settle<T>(open: Open<T>, list: bool, answer: fn(T) -> Answer) -> Items {
    let Open { call, ids, group } = open;
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

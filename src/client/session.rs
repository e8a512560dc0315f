//! One long-lived CryptSession shared by all callers: pipelined, answered by id.
//!
//! A lane is one stream. Callers write to it and wait; its task hands out the answers. When it
//! breaks, every waiting caller gets the error and the next call opens a new lane.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Crypto;
use super::error::Error;
use crate::rpc::proto::crypt_session_request::Request;
use crate::rpc::proto::crypt_session_response::Response;
use crate::rpc::proto::{CryptSessionRequest, CryptSessionResponse};

type Answer = Result<Response, Error>;

/// All calls of one client.
pub(super) struct Session {
    crypto: Crypto,
    in_flight: usize,
    slots: Semaphore,
    lane: Mutex<Option<Lane>>,
}

impl Session {
    /// Opens nothing yet. At most `in_flight` calls are sent at a time; more wait.
    pub(super) fn new(crypto: Crypto, in_flight: usize) -> Self {
        Self { crypto, in_flight, slots: Semaphore::new(in_flight), lane: Mutex::new(None) }
    }

    /// Sends one request and waits for its answer.
    pub(super) async fn call(&self, request: Request) -> Answer {
        let _slot = self.slots.acquire().await.map_err(Error::lost)?;
        self.lane().call(request).await
    }

    /// The lane that is open, or a new one.
    fn lane(&self) -> Lane {
        let mut current = lock(&self.lane);
        match &*current {
            Some(lane) if lane.waiting.is_open() => lane.clone(),
            _ => current.insert(Lane::open(self.crypto.clone(), self.in_flight)).clone(),
        }
    }
}

#[derive(Clone)]
struct Lane {
    requests: mpsc::Sender<CryptSessionRequest>,
    waiting: Arc<Waiting>,
}

impl Lane {
    fn open(crypto: Crypto, capacity: usize) -> Self {
        let (requests, queue) = mpsc::channel(capacity);
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(serve(crypto, queue, Arc::clone(&waiting)));
        Self { requests, waiting }
    }

    async fn call(&self, request: Request) -> Answer {
        let ticket = self.waiting.register()?;
        let message = CryptSessionRequest { id: ticket.id, request: Some(request) };
        self.requests.send(message).await.map_err(|_| Error::lost("the session ended"))?;
        ticket.answer().await
    }
}

/// The life of a lane: it ends with the stream, or when the last sender is gone.
async fn serve(mut crypto: Crypto, queue: mpsc::Receiver<CryptSessionRequest>, waiting: Arc<Waiting>) {
    let end = match crypto.crypt_session(ReceiverStream::new(queue)).await {
        Ok(answers) => hand_out(answers.into_inner(), &waiting).await,
        Err(status) => status.into(),
    };
    waiting.close(&end);
}

async fn hand_out(mut answers: Streaming<CryptSessionResponse>, waiting: &Waiting) -> Error {
    loop {
        match answers.message().await {
            Ok(Some(CryptSessionResponse { id, response })) => {
                waiting.answer(id, response.ok_or_else(Error::protocol));
            }
            Ok(None) => return Error::lost("the daemon ended the session"),
            Err(status) => return status.into(),
        }
    }
}

/// Who waits for which answer; `None` once the lane is closed.
struct Waiting(Mutex<Option<Table>>);

#[derive(Default)]
struct Table {
    last_id: u64,
    callers: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new(Some(Table::default())))
    }
}

impl Waiting {
    fn is_open(&self) -> bool {
        lock(&self.0).is_some()
    }

    fn register(&self) -> Result<Ticket<'_>, Error> {
        let mut table = lock(&self.0);
        let table = table.as_mut().ok_or_else(|| Error::lost("the session ended"))?;
        let (caller, answer) = oneshot::channel();
        table.last_id += 1;
        table.callers.insert(table.last_id, caller);
        Ok(Ticket { waiting: self, id: table.last_id, answer })
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        lock(&self.0).as_mut()?.callers.remove(&id)
    }

    fn answer(&self, id: u64, answer: Answer) {
        let answer = match answer {
            Ok(Response::Error(status)) => Err(status.into()),
            other => other,
        };
        if let Some(caller) = self.take(id) {
            // A caller that went away in this moment needs no answer.
            drop(caller.send(answer));
        }
    }

    fn close(&self, error: &Error) {
        let table = lock(&self.0).take();
        for caller in table.into_iter().flat_map(|table| table.callers.into_values()) {
            drop(caller.send(Err(error.clone())));
        }
    }
}

/// The right to one answer; a caller that goes away gives it back.
struct Ticket<'a> {
    waiting: &'a Waiting,
    id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Ticket<'_> {
    async fn answer(mut self) -> Answer {
        (&mut self.answer).await.unwrap_or_else(|_| Err(Error::lost("the session ended")))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiting.take(self.id);
    }
}

/// A panic elsewhere leaves these tables whole, so poisoning says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decrypted(version: u32) -> Response {
        Response::Decrypt(crate::rpc::proto::DecryptResponse { plaintext: "x".into(), version })
    }

    #[tokio::test]
    async fn answers_find_their_callers_in_any_order() {
        let waiting = Waiting::default();
        let (first, second) = (waiting.register().unwrap(), waiting.register().unwrap());
        waiting.answer(second.id, Ok(decrypted(2)));
        waiting.answer(99, Ok(decrypted(99)));
        waiting.answer(first.id, Ok(decrypted(1)));
        assert_eq!(first.answer().await, Ok(decrypted(1)));
        assert_eq!(second.answer().await, Ok(decrypted(2)));
    }

    #[tokio::test]
    async fn closing_answers_everybody_and_later_callers() {
        let waiting = Waiting::default();
        let ticket = waiting.register().unwrap();
        let end = Error::lost("bang");
        waiting.close(&end);
        assert_eq!(ticket.answer().await, Err(end));
        assert!(!waiting.is_open() && waiting.register().is_err());
    }

    #[test]
    fn a_caller_that_goes_away_leaves_nothing() {
        let waiting = Waiting::default();
        drop(waiting.register().unwrap());
        assert!(lock(&waiting.0).as_ref().unwrap().callers.is_empty());
    }
}

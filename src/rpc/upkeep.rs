//! The two calls of SystemService on the store: a check, and a copy in pieces.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::call::{Call, Gate, settled, stopped};
use super::proto::export_store_response::Message;
use super::proto::{ExportStoreRequest, ExportStoreResponse, StoreExport, StoreReport};
use crate::access::permission::ManageStore;
use crate::ops::Error;
use crate::ops::upkeep::{Copied, StoreCopy};
use crate::store::check::CheckReport;

/// Pieces that may wait for a slow reader.
const QUEUE: usize = 2;

/// How long a caller may leave the next piece unread: as long as a copy lasts, what is destroyed meanwhile
/// stays in the database's log.
const STALLED: Duration = Duration::from_secs(30);

/// How long a failure waits to be read.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The pieces of a copy, as gRPC streams them.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<ExportStoreResponse, Status>> + Send>>;

type Replies = mpsc::Sender<Result<ExportStoreResponse, Status>>;

/// Verifies everything. It ends when the caller goes away.
pub(super) async fn check(mut call: Call) -> Result<StoreReport, Status> {
    let found = settled!(call, {
        let (vault, right) = call.authorize::<ManageStore>(())?;
        vault.check_store(&right).await
    })?;
    Ok(report(&found))
}

/// Begins a copy.
pub(super) fn export(gate: &Arc<Gate>, request: &Request<ExportStoreRequest>) -> Pieces {
    let opening = gate.call(request, "export-store", "");
    let closing = gate.call(request, "export-store-end", "");
    let (replies, outbound) = mpsc::channel(QUEUE);
    let shutdown = gate.shutdown();
    gate.spawn(async move {
        if let Err(failure) = copy(opening, closing, &replies, shutdown).await {
            // Whoever does not hear it misses the end, and knows that the file is not whole; the record tells.
            timeout(LAST_WORD, replies.send(Err(failure))).await.ok();
        }
    });
    Box::pin(ReceiverStream::new(outbound))
}

async fn copy(
    mut opening: Call,
    closing: Call,
    replies: &Replies,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Status> {
    let begun = opening.authorize::<ManageStore>(()).map(|(vault, right)| vault.begin_store_copy(&right));
    let file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    let outcome = send_all(file, replies, shutdown).await;
    // The end is told only when its record is durable.
    let copied = match outcome {
        Ok(done) => closing.settle(Ok(done)).await?,
        Err(Cut::Failed(error)) => return closing.settle::<()>(Err(error)).await,
        // The record says that it was cancelled.
        Err(Cut::Unread(status)) => return Err(status),
    };
    send(replies, Message::End(end(&copied))).await
}

/// Why a copy was not given out.
enum Cut {
    Failed(Error),
    Unread(Status),
}

async fn send_all(
    mut file: StoreCopy,
    replies: &Replies,
    mut shutdown: watch::Receiver<bool>,
) -> Result<crate::ops::Done<Copied>, Cut> {
    loop {
        let next = tokio::select! {
            next = file.next() => next.map_err(Cut::Failed)?,
            () = stopped(&mut shutdown) => return Err(Cut::Failed(Error::ShuttingDown)),
        };
        match next {
            // A caller that reads slowly does not hold a stop.
            Some(piece) => tokio::select! {
                sent = send(replies, Message::Piece(piece)) => sent.map_err(Cut::Unread)?,
                () = stopped(&mut shutdown) => return Err(Cut::Failed(Error::ShuttingDown)),
            },
            None => return file.finish().await.map_err(Cut::Failed),
        }
    }
}

async fn send(replies: &Replies, message: Message) -> Result<(), Status> {
    let reply = ExportStoreResponse { message: Some(message) };
    match timeout(STALLED, replies.send(Ok(reply))).await {
        Ok(sent) => sent.map_err(|_| Status::cancelled("the caller went away")),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the copy was not read for {} seconds: make it again",
            STALLED.as_secs()
        ))),
    }
}

fn end(copied: &Copied) -> StoreExport {
    let exported = &copied.exported;
    StoreExport {
        deployment: exported.deployment.to_string(),
        revision: exported.position.revision,
        digest: exported.position.digest.to_vec().into(),
        records: exported.records,
        bytes: copied.bytes,
    }
}

fn report(found: &CheckReport) -> StoreReport {
    StoreReport {
        whole: found.is_whole(),
        records: found.records,
        revision: found.revision,
        journal_entries: found.journal_entries,
        journal_revision: found.journal_revision,
        store_problems: found.store.told().to_vec(),
        journal_problems: found.journal.told().to_vec(),
        store_problem_count: found.store.count(),
        journal_problem_count: found.journal.count(),
    }
}

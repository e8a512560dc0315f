//! The store as SystemService shows it: the report of a check, and a copy in pieces.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Status};

use super::answers::{self, Answers, End, Replies};
use super::call::{Call, Gate, stopped};
use super::proto::export_store_response::Message;
use super::proto::{ExportStoreRequest, ExportStoreResponse, StoreExport, StoreReport};
use crate::access::Action;
use crate::access::permission::ManageStore;
use crate::id::Installation;
use crate::ops::Error;
use crate::ops::upkeep::{Copied, StoreCopy};
use crate::store::check::CheckReport;

/// Pieces that may wait for a slow reader.
const QUEUE: usize = 2;

/// The pieces of a copy, as gRPC streams them.
pub(super) type Pieces = Answers<ExportStoreResponse>;

/// Begins a copy.
pub(super) fn export(gate: &Arc<Gate>, request: &Request<ExportStoreRequest>) -> Pieces {
    let opening = gate.call(request, Action::ExportStore, "");
    let closing = gate.call(request, Action::ExportStoreEnd, "");
    let (stop, ending) = (gate.shutdown(), opening.ending());
    answers::made_by(gate, ending, QUEUE, |replies| copy(opening, closing, replies, stop))
}

async fn copy(
    mut opening: Call,
    closing: Call,
    mut replies: Replies<ExportStoreResponse>,
    stop: watch::Receiver<bool>,
) -> Result<(), Status> {
    let begun =
        opening.authorize::<ManageStore>(Installation).map(|(vault, right)| vault.begin_store_copy(&right));
    let file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    // The end is told only when its record is durable.
    let copied = match send_all(file, &mut replies, stop).await {
        Ok(done) => closing.settle(Ok(done)).await?,
        Err(end) => return end.tell(closing).await,
    };
    send(&mut replies, Message::End(end(&copied))).await.map_err(End::status)
}

async fn send_all(
    mut file: StoreCopy,
    replies: &mut Replies<ExportStoreResponse>,
    mut stop: watch::Receiver<bool>,
) -> Result<crate::ops::Done<Copied>, End> {
    loop {
        let next = tokio::select! {
            next = file.next() => next?,
            () = stopped(&mut stop) => return Err(End::Failed(Error::ShuttingDown)),
            ended = replies.ended() => return Err(ended),
        };
        match next {
            // A caller that reads slowly does not hold a stop.
            Some(piece) => tokio::select! {
                sent = send(replies, Message::Piece(piece)) => sent?,
                () = stopped(&mut stop) => return Err(End::Failed(Error::ShuttingDown)),
            },
            None => return Ok(file.finish().await?),
        }
    }
}

async fn send(replies: &mut Replies<ExportStoreResponse>, message: Message) -> Result<(), End> {
    replies.send(ExportStoreResponse { message: Some(message) }).await
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

pub(super) fn report(found: &CheckReport) -> StoreReport {
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
        decided_problems: found.decided.told().to_vec(),
        decided_problem_count: found.decided.count(),
    }
}

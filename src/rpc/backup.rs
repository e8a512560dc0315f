//! BackupService: the erasure key and the recovery exports.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::answers::{self, Answers, End};
use super::call::{Call, Gate};
use super::convert::{stray, timestamp};
use super::proto::backup_service_server::BackupService;
use super::proto::{
    self, CreateBackupRequest, CreateBackupResponse, ErasureKey, ForgetErasureRootRequest,
    GetErasureKeyRequest, ListBackupsRequest, ListBackupsResponse, RecordDrillRequest, RecordDrillResponse,
    ReplaceErasureKeyRequest, create_backup_response::Message,
};
use crate::access::permission::ManageBackups;
use crate::access::{Action, action};
use crate::id::Installation;
use crate::keyring::record::ExportKind;
use crate::ops::backup::{Backup, ExportInfo};
use crate::ops::erasure::ErasureStatus;
use crate::ops::strays::Looked;
use crate::ops::{Done, Error, Vault};

/// Pieces that may wait for a slow reader.
const QUEUE: usize = 4;

/// How long a caller may leave the next piece unread: as long as an export lasts, what is
/// destroyed meanwhile stays in the database's log.
const STALLED: Duration = Duration::from_secs(30);

type Replies = answers::Replies<CreateBackupResponse>;

/// The service.
pub(super) struct Backups(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl BackupService for Backups {
    type CreateBackupStream = Answers<CreateBackupResponse>;

    async fn get_erasure_key(
        &self,
        request: Request<GetErasureKeyRequest>,
    ) -> Result<Response<ErasureKey>, Status> {
        let work = |asked: GetErasureKeyRequest, vault: Arc<Vault>, right| async move {
            if asked.look_for_strays {
                vault.look_for_strays(&right).await;
            }
            let status = vault.erasure_status().await?;
            Ok(with_strays(&vault, Done::new(status)))
        };
        self.0.serve(action::GetErasureKey, request, work).await
    }

    async fn replace_erasure_key(
        &self,
        request: Request<ReplaceErasureKeyRequest>,
    ) -> Result<Response<ErasureKey>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(with_strays(&vault, vault.replace_erasure_key(&right).await?))
        };
        self.0.serve(action::ReplaceErasureKey, request, work).await
    }

    async fn forget_erasure_root(
        &self,
        request: Request<ForgetErasureRootRequest>,
    ) -> Result<Response<ErasureKey>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(with_strays(&vault, vault.forget_erasure_root(&right).await?))
        };
        self.0.serve(action::ForgetErasureRoot, request, work).await
    }

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let opening = self.0.call(&request, Action::CreateBackup, "");
        let closing = self.0.call(&request, Action::CreateBackupEnd, "");
        let (request, ending) = (request.into_inner(), opening.ending());
        let work = |replies| create(opening, closing, request, replies);
        Ok(Response::new(answers::made_by(&self.0, ending, QUEUE, work)))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(vault.list_backups(&right).await?.map(|found| ListBackupsResponse {
                backups: found.iter().map(|info| backup(info, 0)).collect(),
            }))
        };
        self.0.serve(action::ListBackups, request, work).await
    }

    async fn record_drill(
        &self,
        request: Request<RecordDrillRequest>,
    ) -> Result<Response<RecordDrillResponse>, Status> {
        let work = |asked: RecordDrillRequest, vault: Arc<Vault>, right| async move {
            Ok(vault.record_drill(&right, asked.passed, &asked.report)?.map(|()| RecordDrillResponse {}))
        };
        self.0.serve(action::BackupDrill, request, work).await
    }
}

async fn create(
    mut opening: Call,
    closing: Call,
    request: CreateBackupRequest,
    mut replies: Replies,
) -> Result<(), Status> {
    let begun = begin(&mut opening, request).await;
    let mut file = match opening.started(begun).await {
        Ok(file) => file,
        Err(refused) => return closing.not_begun(refused),
    };
    match send_all(&mut file, &mut replies).await {
        Ok(()) => closing.settle(Ok(file.finish())).await,
        Err(end) => end.tell(closing).await,
    }
}

async fn send_all(file: &mut Backup, replies: &mut Replies) -> Result<(), End> {
    send(replies, Message::Backup(backup(&file.info, file.records))).await?;
    loop {
        let piece = tokio::select! {
            biased;
            ended = replies.ended() => return Err(ended),
            piece = file.next() => piece?,
        };
        match piece {
            Some(piece) => send(replies, Message::Piece(piece.into())).await?,
            None => return Ok(()),
        }
    }
}

async fn begin(opening: &mut Call, request: CreateBackupRequest) -> Result<Done<Backup>, Error> {
    let (vault, right) = opening.authorize::<ManageBackups>(Installation)?;
    let keep_for = request.keep_for.unwrap_or_default();
    let keep_for = Duration::try_from(keep_for)
        .map_err(|_| Error::Argument("keep_for: it must be a length of time".into()))?;
    vault.begin_backup(&right, keep_for).await
}

async fn send(replies: &mut Replies, message: Message) -> Result<(), End> {
    let reply = CreateBackupResponse { message: Some(message) };
    timeout(STALLED, replies.send(reply)).await.unwrap_or_else(|_| {
        Err(End::Gone(Status::deadline_exceeded(format!(
            "the export was not read for {} seconds: make it again",
            STALLED.as_secs()
        ))))
    })
}

fn backup(info: &ExportInfo, records: u64) -> proto::Backup {
    let kind = match info.kind {
        ExportKind::Recovery => "recovery",
        ExportKind::Migration => "migration",
    };
    proto::Backup {
        name: format!("backups/{}", info.id),
        kind: kind.to_owned(),
        create_time: Some(timestamp(info.created)),
        delete_time: Some(timestamp(info.delete_by)),
        revision: info.revision,
        records,
        root: info.root.to_string(),
    }
}

/// The answer, with what was seen of strays last.
fn with_strays(vault: &Vault, status: Done<ErasureStatus>) -> Done<ErasureKey> {
    let looked = vault.strays();
    status.map(|status| erasure(&status, &looked))
}

fn erasure(status: &ErasureStatus, looked: &Looked) -> ErasureKey {
    let own = looked.found.iter().filter(|stray| stray.is_own());
    ErasureKey {
        generation: status.generation.get(),
        create_time: Some(timestamp(status.created)),
        replacing: status.replacing.as_str().to_owned(),
        destroyed_generation: status.destroyed.map_or(0, |(generation, _)| generation.get()),
        destroy_time: status.destroyed.map(|(_, date)| timestamp(date)),
        strays: own.map(stray).collect(),
        strays_time: looked.at.map(timestamp),
        strays_failure: looked.failure.clone().unwrap_or_default(),
    }
}

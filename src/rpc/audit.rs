//! AuditService: checkpoints, proofs and keys of the audit log.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Gate;
use super::convert::timestamp;
use super::proto::audit_service_server::AuditService;
use super::proto::{
    AttestRecordRequest, AttestedDocument, AuditKey, Checkpoint, ConsistencyProof, GetCheckpointRequest,
    GetConsistencyProofRequest, GetDestructionCertificateRequest, GetInclusionProofRequest,
    GetPublicKeysRequest, GetPublicKeysResponse, InclusionProof,
};
use crate::access::action;
use crate::audit::checkpoint::{NoteKey, SignedCheckpoint};
use crate::audit::merkle::Hash;
use crate::ops::Vault;
use crate::ops::attest::Document;
use crate::ops::checkpoint::{Consistent, Proved};
use crate::ops::system_key::Generation;

/// The service.
pub(super) struct Audit(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<Checkpoint>, Status> {
        let work = |asked: GetCheckpointRequest, vault: Arc<Vault>, right| async move {
            Ok(vault.show_checkpoint(&right, asked.fresh).await?.map(|note| checkpoint(&note)))
        };
        self.0.serve(action::GetCheckpoint, request, work).await
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<InclusionProof>, Status> {
        let work =
            |_, vault: Arc<Vault>, right| async move { Ok(vault.prove_record(&right).await?.map(inclusion)) };
        self.0.serve(action::GetInclusionProof, request, work).await
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<ConsistencyProof>, Status> {
        let work = |asked: GetConsistencyProofRequest, vault: Arc<Vault>, right| async move {
            Ok(vault.prove_consistency(&right, asked.old_size).await?.map(consistency))
        };
        self.0.serve(action::GetConsistencyProof, request, work).await
    }

    async fn attest_record(
        &self,
        request: Request<AttestRecordRequest>,
    ) -> Result<Response<AttestedDocument>, Status> {
        let work =
            |_, vault: Arc<Vault>, right| async move { Ok(vault.attest_record(&right).await?.map(attested)) };
        self.0.serve(action::AttestRecord, request, work).await
    }

    async fn get_destruction_certificate(
        &self,
        request: Request<GetDestructionCertificateRequest>,
    ) -> Result<Response<AttestedDocument>, Status> {
        let work =
            |_, vault: Arc<Vault>, right| async move { Ok(vault.certificate(&right).await?.map(attested)) };
        self.0.serve(action::GetDestructionCertificate, request, work).await
    }

    async fn get_public_keys(
        &self,
        request: Request<GetPublicKeysRequest>,
    ) -> Result<Response<GetPublicKeysResponse>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            let found = vault.show_audit_keys(&right).await?;
            Ok(found.map(|found| GetPublicKeysResponse { keys: found.into_iter().map(key).collect() }))
        };
        self.0.serve(action::GetAuditKeys, request, work).await
    }
}

fn inclusion(proved: Proved) -> InclusionProof {
    let Proved { record, index, path, checkpoint: note } = proved;
    InclusionProof {
        record: record.into(),
        leaf_index: index,
        hashes: hashes(&path),
        checkpoint: Some(checkpoint(&note)),
    }
}

fn consistency(proved: Consistent) -> ConsistencyProof {
    let Consistent { old, path, checkpoint: note } = proved;
    ConsistencyProof {
        old_size: old.size,
        old_root: old.root.to_vec().into(),
        hashes: hashes(&path),
        checkpoint: Some(checkpoint(&note)),
    }
}

fn attested(document: Document) -> AttestedDocument {
    AttestedDocument { json: document.to_text() }
}

fn checkpoint(note: &SignedCheckpoint) -> Checkpoint {
    let head = note.checkpoint.head;
    Checkpoint { note: note.to_string(), size: head.size, root: head.root.to_vec().into() }
}

fn hashes(path: &[Hash]) -> Vec<bytes::Bytes> {
    path.iter().map(|hash| hash.to_vec().into()).collect()
}

fn key(((generation, record), key): (Generation, NoteKey)) -> AuditKey {
    AuditKey {
        generation: generation.get(),
        verifier_key: key.to_string(),
        create_time: Some(timestamp(record.created)),
        handover: record.handover.map(|signature| signature.0.to_vec().into()).unwrap_or_default(),
    }
}

//! AuditService: checkpoints, proofs and keys of the audit log.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::{Gate, settled};
use super::convert::timestamp;
use super::proto::audit_service_server::AuditService;
use super::proto::{
    AttestRecordRequest, AttestedDocument, AuditKey, Checkpoint, ConsistencyProof, GetCheckpointRequest,
    GetConsistencyProofRequest, GetDestructionCertificateRequest, GetInclusionProofRequest,
    GetPublicKeysRequest, GetPublicKeysResponse, InclusionProof,
};
use crate::access::permission::{ViewAudit, ViewCheckpoints};
use crate::audit::checkpoint::{NoteKey, SignedCheckpoint};
use crate::audit::merkle::Hash;
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
        let mut call = self.0.call(&request, "get-checkpoint", "");
        let fresh = request.into_inner().fresh;
        let note = settled!(call, {
            let (vault, right) = call.authorize::<ViewCheckpoints>(())?;
            vault.show_checkpoint(&right, fresh).await
        })?;
        Ok(Response::new(checkpoint(&note)))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<InclusionProof>, Status> {
        let sequence = request.get_ref().sequence;
        let mut call = self.0.call(&request, "get-inclusion-proof", &sequence.to_string());
        let Proved { record, index, path, checkpoint: note } = settled!(call, {
            let (vault, right) = call.authorize::<ViewAudit>(())?;
            vault.prove_record(&right, sequence).await
        })?;
        let (leaf_index, checkpoint) = (index, Some(checkpoint(&note)));
        Ok(Response::new(InclusionProof {
            record: record.into(),
            leaf_index,
            hashes: hashes(&path),
            checkpoint,
        }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<ConsistencyProof>, Status> {
        let old_size = request.get_ref().old_size;
        let mut call = self.0.call(&request, "get-consistency-proof", &old_size.to_string());
        let Consistent { old, path, checkpoint: note } = settled!(call, {
            let (vault, right) = call.authorize::<ViewCheckpoints>(())?;
            vault.prove_consistency(&right, old_size).await
        })?;
        let (old_root, checkpoint) = (old.root.to_vec().into(), Some(checkpoint(&note)));
        Ok(Response::new(ConsistencyProof { old_size, old_root, hashes: hashes(&path), checkpoint }))
    }

    async fn attest_record(
        &self,
        request: Request<AttestRecordRequest>,
    ) -> Result<Response<AttestedDocument>, Status> {
        let sequence = request.get_ref().sequence;
        let mut call = self.0.call(&request, "attest-record", &sequence.to_string());
        let document = settled!(call, {
            let (vault, right) = call.authorize::<ViewAudit>(())?;
            vault.attest_record(&right, sequence).await
        })?;
        Ok(Response::new(AttestedDocument { json: document.to_text() }))
    }

    async fn get_destruction_certificate(
        &self,
        request: Request<GetDestructionCertificateRequest>,
    ) -> Result<Response<AttestedDocument>, Status> {
        let mut call = self.0.call(&request, "get-destruction-certificate", &request.get_ref().name);
        let name = request.into_inner().name;
        let document = settled!(call, {
            let (vault, right) = call.authorize::<ViewAudit>(())?;
            vault.certificate(&right, &name).await
        })?;
        Ok(Response::new(AttestedDocument { json: document.to_text() }))
    }

    async fn get_public_keys(
        &self,
        request: Request<GetPublicKeysRequest>,
    ) -> Result<Response<GetPublicKeysResponse>, Status> {
        let mut call = self.0.call(&request, "get-audit-keys", "");
        let found = settled!(call, {
            let (vault, right) = call.authorize::<ViewCheckpoints>(())?;
            vault.show_audit_keys(&right).await
        })?;
        Ok(Response::new(GetPublicKeysResponse { keys: found.into_iter().map(key).collect() }))
    }
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

//! AccessService: freeze and unfreeze.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Gate;
use super::proto::access_service_server::AccessService;
use super::proto::{FreezeRequest, FreezeResponse, UnfreezeRequest, UnfreezeResponse};
use crate::access::action;
use crate::ops::{Error, Vault};

/// Longest reason in bytes.
const MAX_REASON: usize = 500;

/// The service.
pub(super) struct Access(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl AccessService for Access {
    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<FreezeResponse>, Status> {
        let work = |asked: FreezeRequest, vault: Arc<Vault>, right| async move {
            Ok(vault.freeze(&right, true, &asked.reason).await?.map(|()| FreezeResponse {}))
        };
        self.0.serve(action::Freeze, request, work).await
    }

    async fn unfreeze(
        &self,
        request: Request<UnfreezeRequest>,
    ) -> Result<Response<UnfreezeResponse>, Status> {
        let work = |asked: UnfreezeRequest, vault: Arc<Vault>, right| async move {
            Ok(vault.freeze(&right, false, &asked.reason).await?.map(|()| UnfreezeResponse {}))
        };
        self.0.serve(action::Unfreeze, request, work).await
    }
}

/// That it says why, in few words.
pub(super) fn check_reason(reason: &str) -> Result<(), Error> {
    match reason.trim().is_empty() || reason.len() > MAX_REASON {
        true => Err(Error::Argument(format!("reason: say why, in 1 to {MAX_REASON} bytes"))),
        false => Ok(()),
    }
}

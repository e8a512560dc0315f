//! AccessService: freeze and unfreeze.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::{Call, Gate, settled};
use super::proto::access_service_server::AccessService;
use super::proto::{FreezeRequest, FreezeResponse, UnfreezeRequest, UnfreezeResponse};
use crate::access::permission;
use crate::id::{KeyName, PrincipalId, TenantName};
use crate::ops::{Done, Error};

/// Longest reason in bytes.
const MAX_REASON: usize = 500;

/// The service.
pub(super) struct Access(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl AccessService for Access {
    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<FreezeResponse>, Status> {
        let mut call = self.0.call(&request, "freeze", &request.get_ref().name);
        let FreezeRequest { name, reason } = request.into_inner();
        let work = async move { settled!(call, { set_frozen(&mut call, &name, true, &reason).await }) };
        self.0.detached(work).await?;
        Ok(Response::new(FreezeResponse {}))
    }

    async fn unfreeze(
        &self,
        request: Request<UnfreezeRequest>,
    ) -> Result<Response<UnfreezeResponse>, Status> {
        let mut call = self.0.call(&request, "unfreeze", &request.get_ref().name);
        let UnfreezeRequest { name, reason } = request.into_inner();
        let work = async move { settled!(call, { set_frozen(&mut call, &name, false, &reason).await }) };
        self.0.detached(work).await?;
        Ok(Response::new(UnfreezeResponse {}))
    }
}

/// That it says why, in few words.
pub(super) fn check_reason(reason: &str) -> Result<(), Error> {
    match reason.trim().is_empty() || reason.len() > MAX_REASON {
        true => Err(Error::Argument(format!("reason: say why, in 1 to {MAX_REASON} bytes"))),
        false => Ok(()),
    }
}

async fn set_frozen(call: &mut Call, name: &str, frozen: bool, reason: &str) -> Result<Done<()>, Error> {
    check_reason(reason)?;
    if let Some(principal) = name.strip_prefix("principals/") {
        let (vault, right) = call.authorize::<permission::ManagePrincipal>(PrincipalId::new(principal)?)?;
        return vault.freeze_principal(&right, frozen, reason).await;
    }
    if name.contains("/keys/") {
        let (vault, right) = call.authorize::<permission::ManageKey>(KeyName::parse(name)?)?;
        return vault.freeze_key(&right, frozen, reason).await;
    }
    let (vault, right) = call.authorize::<permission::ManageTenant>(TenantName::parse(name)?)?;
    vault.freeze_tenant(&right, frozen, reason).await
}

//! Destruction: planned and called off, for tenants, keys and versions alike.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::access::check_reason;
use super::call::{Call, Gate, settled};
use super::convert;
use super::proto::{CancelDestroyRequest, Destruction, ScheduleDestroyRequest};
use crate::access::permission;
use crate::id::{KeyName, TenantName, VersionName};
use crate::ops::destroy::Planned;
use crate::ops::{Done, Error};

pub(super) async fn schedule(
    gate: &Arc<Gate>,
    request: Request<ScheduleDestroyRequest>,
) -> Result<Response<Destruction>, Status> {
    let mut call = gate.call(&request, "schedule-destroy", &request.get_ref().name);
    let ScheduleDestroyRequest { name, delay, reason } = request.into_inner();
    let work = async move {
        settled!(call, {
            check_reason(&reason)?;
            let delay = delay.map(|delay| convert::parse_duration(delay, "delay")).transpose()?;
            let planned = plan(&mut call, &name, delay, &reason).await?;
            Ok(planned.map(|planned| convert::destruction(name, planned)))
        })
    };
    gate.detached(work).await.map(Response::new)
}

async fn plan(
    call: &mut Call,
    name: &str,
    delay: Option<Duration>,
    reason: &str,
) -> Result<Done<Planned>, Error> {
    match name {
        version if version.contains("/versions/") => {
            let VersionName { key, epoch } = VersionName::parse(version)?;
            let (vault, right) = call.authorize::<permission::ManageKey>(key)?;
            vault.plan_destroy_version(&right, epoch, delay, reason).await
        }
        key if key.contains("/keys/") => {
            let (vault, right) = call.authorize::<permission::ManageKey>(KeyName::parse(key)?)?;
            vault.plan_destroy_key(&right, delay, reason).await
        }
        tenant => {
            let (vault, right) = call.authorize::<permission::ManageTenant>(TenantName::parse(tenant)?)?;
            vault.plan_destroy_tenant(&right, delay, reason).await
        }
    }
}

pub(super) async fn cancel(
    gate: &Arc<Gate>,
    request: Request<CancelDestroyRequest>,
) -> Result<Response<Destruction>, Status> {
    let mut call = gate.call(&request, "cancel-destroy", &request.get_ref().name);
    let CancelDestroyRequest { name, reason } = request.into_inner();
    let work = async move {
        settled!(call, {
            check_reason(&reason)?;
            let kept = call_off(&mut call, &name, &reason).await?;
            Ok(kept.map(|kept| convert::destruction(name, kept)))
        })
    };
    gate.detached(work).await.map(Response::new)
}

async fn call_off(call: &mut Call, name: &str, reason: &str) -> Result<Done<Planned>, Error> {
    match name {
        version if version.contains("/versions/") => {
            let VersionName { key, epoch } = VersionName::parse(version)?;
            let (vault, right) = call.authorize::<permission::ManageKey>(key)?;
            vault.cancel_destroy_version(&right, epoch, reason).await
        }
        key if key.contains("/keys/") => {
            let (vault, right) = call.authorize::<permission::ManageKey>(KeyName::parse(key)?)?;
            vault.cancel_destroy_key(&right, reason).await
        }
        tenant => {
            let (vault, right) = call.authorize::<permission::ManageTenant>(TenantName::parse(tenant)?)?;
            vault.cancel_destroy_tenant(&right, reason).await
        }
    }
}

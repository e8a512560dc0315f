//! KeyService. Work that changes something outlives a caller who goes away.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Gate;
use super::convert::{
    self, mask, page_size, parse_class, parse_duration, parse_state, parse_timestamp, required,
};
use super::proto::key_service_server::KeyService;
use super::proto::{
    CancelDestroyRequest, CreateKeyRequest, CreateKeyVersionRequest, CreateTenantRequest, Destruction,
    GetKeyRequest, GetKeyVersionRequest, GetRotationRequest, GetTenantRequest, IndexKey, Key, KeyVersion,
    ListKekVersionsRequest, ListKekVersionsResponse, ListKeyVersionsRequest, ListKeyVersionsResponse,
    ListKeysRequest, ListKeysResponse, ListTenantsRequest, ListTenantsResponse, RotateIndexKeyRequest,
    RotateKeyRequest, RotateTenantRequest, Rotation, ScheduleDestroyRequest, Tenant, UpdateKeyRequest,
    UpdateKeyVersionRequest, UpdateTenantRequest,
};
use crate::access::permission::{ManageKey, ManageTenant, ViewKey, ViewTenant};
use crate::access::{Authorized, action};
use crate::id::{Epoch, FieldId, KeyId, RotationName, TenantId, TenantName, VersionName};
use crate::keyring::state::DataClass;
use crate::ops::rotate::RotationInfo;
use crate::ops::{Error, Vault};

/// The service.
pub(super) struct Keys(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let work = |asked: CreateTenantRequest, vault: Arc<Vault>, right: Authorized<ManageTenant>| async move {
            let made = vault.create_tenant(&right, optional(asked.display_name)).await?;
            Ok(made.map(|tenant| convert::tenant(right.resource(), tenant)))
        };
        self.0.serve(action::CreateTenant, request, work).await
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        let work = |_, vault: Arc<Vault>, right: Authorized<ViewTenant>| async move {
            let found = vault.show_tenant(&right).await?;
            Ok(found.map(|tenant| convert::tenant(right.resource(), tenant)))
        };
        self.0.serve(action::GetTenant, request, work).await
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let work = |asked: ListTenantsRequest, vault: Arc<Vault>, right| async move {
            let after = optional(asked.page_token).map(|token| TenantId::new(&token)).transpose()?;
            let size = page_size(asked.page_size)?;
            Ok(vault.list_tenants(&right, after, size).await?.map(|page| {
                let next_page_token = next_page(&page, size, |(id, _)| id.to_string());
                let tenants = page.into_iter().map(|(id, tenant)| convert::tenant(&TenantName(id), tenant));
                ListTenantsResponse { tenants: tenants.collect(), next_page_token }
            }))
        };
        self.0.serve(action::ListTenants, request, work).await
    }

    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let work = |asked: UpdateTenantRequest, vault: Arc<Vault>, right: Authorized<ManageTenant>| async move {
            let update =
                convert::tenant_update(asked.tenant.unwrap_or_default(), asked.update_mask.as_ref())?;
            let updated = vault.update_tenant(&right, update).await?;
            Ok(updated.map(|tenant| convert::tenant(right.resource(), tenant)))
        };
        self.0.serve(action::UpdateTenant, request, work).await
    }

    async fn rotate_tenant(
        &self,
        request: Request<RotateTenantRequest>,
    ) -> Result<Response<Rotation>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move { vault.begin_rotation(&right).await };
        let go_on = |gate: &Arc<Gate>, begun: RotationInfo| {
            super::services::go_on_rotating(gate, begun.name.tenant.clone());
            convert::rotation(begun)
        };
        self.0.serve_then(action::RotateTenant, request, work, go_on).await
    }

    async fn get_rotation(&self, request: Request<GetRotationRequest>) -> Result<Response<Rotation>, Status> {
        let work = |asked: GetRotationRequest, vault: Arc<Vault>, right| async move {
            let to = RotationName::parse(&asked.name)?.to;
            Ok(vault.show_rotation(&right, to).await?.map(convert::rotation))
        };
        self.0.serve(action::GetRotation, request, work).await
    }

    async fn list_kek_versions(
        &self,
        request: Request<ListKekVersionsRequest>,
    ) -> Result<Response<ListKekVersionsResponse>, Status> {
        let work = |_, vault: Arc<Vault>, right: Authorized<ViewTenant>| async move {
            let keks = vault.list_keks(&right).await?;
            Ok(keks.map(|keks| ListKekVersionsResponse {
                kek_versions: keks.iter().map(|kek| convert::kek(right.resource(), kek)).collect(),
            }))
        };
        self.0.serve(action::ListKekVersions, request, work).await
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<Key>, Status> {
        let work = |asked: CreateKeyRequest, vault: Arc<Vault>, right: Authorized<ManageKey>| async move {
            let class = match asked.data_class {
                0 => DataClass::Sensitive,
                class => parse_class(class)?,
            };
            Ok(vault.create_key(&right, class).await?.map(|key| convert::key(right.resource(), &key)))
        };
        self.0.serve(action::CreateKey, request, work).await
    }

    async fn get_key(&self, request: Request<GetKeyRequest>) -> Result<Response<Key>, Status> {
        let work = |_, vault: Arc<Vault>, right: Authorized<ViewKey>| async move {
            Ok(vault.show_key(&right).await?.map(|key| convert::key(right.resource(), &key)))
        };
        self.0.serve(action::GetKey, request, work).await
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let work = |asked: ListKeysRequest, vault: Arc<Vault>, right| async move {
            let after = optional(asked.page_token).map(|token| KeyId::new(&token)).transpose()?;
            let size = page_size(asked.page_size)?;
            Ok(vault.list_keys(&right, after, size).await?.map(|page| ListKeysResponse {
                next_page_token: next_page(&page, size, |(name, _)| name.key.to_string()),
                keys: page.iter().map(|(name, key)| convert::key(name, key)).collect(),
            }))
        };
        self.0.serve(action::ListKeys, request, work).await
    }

    async fn update_key(&self, request: Request<UpdateKeyRequest>) -> Result<Response<Key>, Status> {
        let work = |asked: UpdateKeyRequest, vault: Arc<Vault>, right: Authorized<ManageKey>| async move {
            let update = convert::key_update(&asked.key.unwrap_or_default(), asked.update_mask.as_ref())?;
            Ok(vault.update_key(&right, update).await?.map(|key| convert::key(right.resource(), &key)))
        };
        self.0.serve(action::UpdateKey, request, work).await
    }

    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Result<Response<Key>, Status> {
        let work = |_, vault: Arc<Vault>, right: Authorized<ManageKey>| async move {
            Ok(vault.rotate_key(&right).await?.map(|key| convert::key(right.resource(), &key)))
        };
        self.0.serve(action::RotateKey, request, work).await
    }

    async fn rotate_index_key(
        &self,
        request: Request<RotateIndexKeyRequest>,
    ) -> Result<Response<IndexKey>, Status> {
        let work = |asked: RotateIndexKeyRequest, vault: Arc<Vault>, right| async move {
            let rotated = vault.rotate_index_key(&right, &FieldId::new(&asked.field)?).await?;
            Ok(rotated.map(|version| IndexKey {
                name: format!("{}/indexKeys/{}", asked.name, asked.field),
                primary_version: version.get(),
            }))
        };
        self.0.serve(action::RotateIndexKey, request, work).await
    }

    async fn create_key_version(
        &self,
        request: Request<CreateKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let work = |asked: CreateKeyVersionRequest, vault: Arc<Vault>, right: Authorized<ManageKey>| async move {
            let date = parse_timestamp(required(asked.activate_time, "activate_time")?, "activate_time")?;
            let made = vault.create_version(&right, date).await?;
            Ok(made.map(|info| convert::version(right.resource(), &info)))
        };
        self.0.serve(action::CreateKeyVersion, request, work).await
    }

    async fn schedule_destroy(
        &self,
        request: Request<ScheduleDestroyRequest>,
    ) -> Result<Response<Destruction>, Status> {
        let work = |asked: ScheduleDestroyRequest, vault: Arc<Vault>, right| async move {
            let delay = asked.delay.map(|delay| parse_duration(delay, "delay")).transpose()?;
            let planned = vault.plan_destroy(&right, delay, &asked.reason).await?;
            Ok(planned.map(|planned| convert::destruction(asked.name, planned)))
        };
        self.0.serve(action::ScheduleDestroy, request, work).await
    }

    async fn cancel_destroy(
        &self,
        request: Request<CancelDestroyRequest>,
    ) -> Result<Response<Destruction>, Status> {
        let work = |asked: CancelDestroyRequest, vault: Arc<Vault>, right| async move {
            let kept = vault.cancel_destroy(&right, &asked.reason).await?;
            Ok(kept.map(|kept| convert::destruction(asked.name, kept)))
        };
        self.0.serve(action::CancelDestroy, request, work).await
    }

    async fn get_key_version(
        &self,
        request: Request<GetKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let work = |asked: GetKeyVersionRequest, vault: Arc<Vault>, right: Authorized<ViewKey>| async move {
            let found = vault.show_version(&right, VersionName::parse(&asked.name)?.epoch).await?;
            Ok(found.map(|info| convert::version(right.resource(), &info)))
        };
        self.0.serve(action::GetKeyVersion, request, work).await
    }

    async fn list_key_versions(
        &self,
        request: Request<ListKeyVersionsRequest>,
    ) -> Result<Response<ListKeyVersionsResponse>, Status> {
        let work = |asked: ListKeyVersionsRequest, vault: Arc<Vault>, right: Authorized<ViewKey>| async move {
            let before = optional(asked.page_token).map(|token| epoch_token(&token)).transpose()?;
            let size = page_size(asked.page_size)?;
            Ok(vault.list_versions(&right, before, size).await?.map(|page| {
                // The oldest version is 1: after it there is no page.
                let more = page.last().is_some_and(|info| info.epoch != Epoch::FIRST);
                let next = || next_page(&page, size, |info| info.epoch.to_string());
                ListKeyVersionsResponse {
                    next_page_token: if more { next() } else { String::new() },
                    key_versions: page.iter().map(|info| convert::version(right.resource(), info)).collect(),
                }
            }))
        };
        self.0.serve(action::ListKeyVersions, request, work).await
    }

    async fn update_key_version(
        &self,
        request: Request<UpdateKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let work = |asked: UpdateKeyVersionRequest, vault: Arc<Vault>, right: Authorized<ManageKey>| async move {
            let to = asked.key_version.unwrap_or_default();
            let epoch = VersionName::parse(&to.name)?.epoch;
            mask(asked.update_mask.as_ref(), &["state"])?;
            let changed = vault.update_version(&right, epoch, parse_state(to.state)?).await?;
            Ok(changed.map(|info| convert::version(right.resource(), &info)))
        };
        self.0.serve(action::UpdateKeyVersion, request, work).await
    }
}

pub(super) fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn epoch_token(token: &str) -> Result<Epoch, Error> {
    let epoch = token.parse().ok().and_then(Epoch::new);
    required(epoch, "a valid page_token")
}

fn next_page<T>(page: &[T], size: usize, token: impl Fn(&T) -> String) -> String {
    page.last().filter(|_| page.len() == size).map(token).unwrap_or_default()
}

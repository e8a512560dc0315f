//! KeyService. Work that changes something outlives a caller who goes away.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::{Gate, settled};
use super::convert::{self, mask, page_size, parse_class, parse_state, parse_timestamp, required};
use super::destroy;
use super::proto::key_service_server::KeyService;
use super::proto::{
    CancelDestroyRequest, CreateKeyRequest, CreateKeyVersionRequest, CreateTenantRequest, Destruction,
    GetKeyRequest, GetKeyVersionRequest, GetRotationRequest, GetTenantRequest, IndexKey, Key, KeyVersion,
    ListKekVersionsRequest, ListKekVersionsResponse, ListKeyVersionsRequest, ListKeyVersionsResponse,
    ListKeysRequest, ListKeysResponse, ListTenantsRequest, ListTenantsResponse, RotateIndexKeyRequest,
    RotateKeyRequest, RotateTenantRequest, Rotation, ScheduleDestroyRequest, Tenant, UpdateKeyRequest,
    UpdateKeyVersionRequest, UpdateTenantRequest,
};
use crate::access::permission;
use crate::id::{Epoch, FieldId, KeyId, KeyName, RotationName, TenantId, TenantName, VersionName};
use crate::keyring::state::DataClass;
use crate::ops::Error;

/// The service.
pub(super) struct Keys(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let mut call =
            self.0.call(&request, "create-tenant", &format!("tenants/{}", request.get_ref().tenant_id));
        let message = request.into_inner();
        let work = async move {
            settled!(call, {
                let name = TenantName(TenantId::new(&message.tenant_id)?);
                let (vault, right) = call.authorize::<permission::ManageTenant>(name.clone())?;
                let made = vault.create_tenant(&right, optional(message.display_name)).await?;
                Ok(made.map(|tenant| convert::tenant(&name, tenant)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        let mut call = self.0.call(&request, "get-tenant", &request.get_ref().name);
        let name = request.into_inner().name;
        let tenant = settled!(call, {
            let name = TenantName::parse(&name)?;
            let (vault, right) = call.authorize::<permission::ViewTenant>(name.clone())?;
            Ok(vault.show_tenant(&right).await?.map(|tenant| convert::tenant(&name, tenant)))
        })?;
        Ok(Response::new(tenant))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let mut call = self.0.call(&request, "list-tenants", "tenants");
        let message = request.into_inner();
        let (page, size) = settled!(call, {
            let (vault, right) = call.authorize::<permission::ListTenants>(())?;
            let after = optional(message.page_token).map(|token| TenantId::new(&token)).transpose()?;
            let size = page_size(message.page_size)?;
            Ok(vault.list_tenants(&right, after, size).await?.map(|page| (page, size)))
        })?;
        let next_page_token = next_page(&page, size, |(id, _)| id.to_string());
        let tenants = page.into_iter().map(|(id, tenant)| convert::tenant(&TenantName(id), tenant)).collect();
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let UpdateTenantRequest { tenant, update_mask } = request.get_ref().clone();
        let asked = tenant.unwrap_or_default();
        let mut call = self.0.call(&request, "update-tenant", &asked.name);
        let work = async move {
            settled!(call, {
                let name = TenantName::parse(&asked.name)?;
                let (vault, right) = call.authorize::<permission::ManageTenant>(name.clone())?;
                let update = convert::tenant_update(asked, update_mask.as_ref())?;
                let updated = vault.update_tenant(&right, update).await?;
                Ok(updated.map(|tenant| convert::tenant(&name, tenant)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn rotate_tenant(
        &self,
        request: Request<RotateTenantRequest>,
    ) -> Result<Response<Rotation>, Status> {
        let mut call = self.0.call(&request, "rotate-tenant", &request.get_ref().name);
        let (name, gate) = (request.into_inner().name, self.0.clone());
        let work = async move {
            let rotation = settled!(call, {
                let (vault, right) = call.authorize::<permission::ManageTenant>(TenantName::parse(&name)?)?;
                vault.begin_rotation(&right).await
            })?;
            super::services::go_on_rotating(&gate, rotation.name.tenant.clone());
            Ok(Response::new(convert::rotation(rotation)))
        };
        self.0.detached(work).await
    }

    async fn get_rotation(&self, request: Request<GetRotationRequest>) -> Result<Response<Rotation>, Status> {
        let mut call = self.0.call(&request, "get-rotation", &request.get_ref().name);
        let name = request.into_inner().name;
        let rotation = settled!(call, {
            let name = RotationName::parse(&name)?;
            let (vault, right) = call.authorize::<permission::ViewTenant>(TenantName(name.tenant))?;
            vault.show_rotation(&right, name.to).await
        })?;
        Ok(Response::new(convert::rotation(rotation)))
    }

    async fn list_kek_versions(
        &self,
        request: Request<ListKekVersionsRequest>,
    ) -> Result<Response<ListKekVersionsResponse>, Status> {
        let mut call = self.0.call(&request, "list-kek-versions", &request.get_ref().parent);
        let parent = request.into_inner().parent;
        let kek_versions = settled!(call, {
            let name = TenantName::parse(&parent)?;
            let (vault, right) = call.authorize::<permission::ViewTenant>(name.clone())?;
            let keks = vault.list_keks(&right).await?;
            Ok(keks.map(|keks| keks.iter().map(|kek| convert::kek(&name, kek)).collect()))
        })?;
        Ok(Response::new(ListKekVersionsResponse { kek_versions }))
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<Key>, Status> {
        let message = request.get_ref();
        let name = format!("{}/keys/{}", message.parent, message.key_id);
        let mut call = self.0.call(&request, "create-key", &name);
        let class = message.data_class;
        let work = async move {
            settled!(call, {
                let name = KeyName::parse(&name)?;
                let (vault, right) = call.authorize::<permission::ManageKey>(name.clone())?;
                let class = if class == 0 { DataClass::Sensitive } else { parse_class(class)? };
                Ok(vault.create_key(&right, class).await?.map(|key| convert::key(&name, &key)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn get_key(&self, request: Request<GetKeyRequest>) -> Result<Response<Key>, Status> {
        let mut call = self.0.call(&request, "get-key", &request.get_ref().name);
        let name = request.into_inner().name;
        let key = settled!(call, {
            let name = KeyName::parse(&name)?;
            let (vault, right) = call.authorize::<permission::ViewKey>(name.clone())?;
            Ok(vault.show_key(&right).await?.map(|key| convert::key(&name, &key)))
        })?;
        Ok(Response::new(key))
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let mut call = self.0.call(&request, "list-keys", &request.get_ref().parent);
        let message = request.into_inner();
        let (page, size) = settled!(call, {
            let (vault, right) =
                call.authorize::<permission::ViewTenant>(TenantName::parse(&message.parent)?)?;
            let after = optional(message.page_token).map(|token| KeyId::new(&token)).transpose()?;
            let size = page_size(message.page_size)?;
            Ok(vault.list_keys(&right, after, size).await?.map(|page| (page, size)))
        })?;
        let next_page_token = next_page(&page, size, |(name, _)| name.key.to_string());
        let keys = page.iter().map(|(name, key)| convert::key(name, key)).collect();
        Ok(Response::new(ListKeysResponse { keys, next_page_token }))
    }

    async fn update_key(&self, request: Request<UpdateKeyRequest>) -> Result<Response<Key>, Status> {
        let UpdateKeyRequest { key, update_mask } = request.get_ref().clone();
        let asked = key.unwrap_or_default();
        let mut call = self.0.call(&request, "update-key", &asked.name);
        let work = async move {
            settled!(call, {
                let name = KeyName::parse(&asked.name)?;
                let (vault, right) = call.authorize::<permission::ManageKey>(name.clone())?;
                let update = convert::key_update(&asked, update_mask.as_ref())?;
                Ok(vault.update_key(&right, update).await?.map(|key| convert::key(&name, &key)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Result<Response<Key>, Status> {
        let mut call = self.0.call(&request, "rotate-key", &request.get_ref().name);
        let name = request.into_inner().name;
        let work = async move {
            settled!(call, {
                let name = KeyName::parse(&name)?;
                let (vault, right) = call.authorize::<permission::ManageKey>(name.clone())?;
                Ok(vault.rotate_key(&right).await?.map(|key| convert::key(&name, &key)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn rotate_index_key(
        &self,
        request: Request<RotateIndexKeyRequest>,
    ) -> Result<Response<IndexKey>, Status> {
        let mut call = self.0.call(&request, "rotate-index-key", &request.get_ref().name);
        let RotateIndexKeyRequest { name, field } = request.into_inner();
        let work = async move {
            settled!(call, {
                let (vault, right) = call.authorize::<permission::ManageKey>(KeyName::parse(&name)?)?;
                let rotated = vault.rotate_index_key(&right, &FieldId::new(&field)?).await?;
                Ok(rotated.map(|version| IndexKey {
                    name: format!("{name}/indexKeys/{field}"),
                    primary_version: version.get(),
                }))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn create_key_version(
        &self,
        request: Request<CreateKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let mut call = self.0.call(&request, "create-key-version", &request.get_ref().parent);
        let CreateKeyVersionRequest { parent, activate_time } = request.into_inner();
        let work = async move {
            settled!(call, {
                let name = KeyName::parse(&parent)?;
                let (vault, right) = call.authorize::<permission::ManageKey>(name.clone())?;
                let date = parse_timestamp(required(activate_time, "activate_time")?, "activate_time")?;
                Ok(vault.create_version(&right, date).await?.map(|info| convert::version(&name, &info)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn schedule_destroy(
        &self,
        request: Request<ScheduleDestroyRequest>,
    ) -> Result<Response<Destruction>, Status> {
        destroy::schedule(&self.0, request).await
    }

    async fn cancel_destroy(
        &self,
        request: Request<CancelDestroyRequest>,
    ) -> Result<Response<Destruction>, Status> {
        destroy::cancel(&self.0, request).await
    }

    async fn get_key_version(
        &self,
        request: Request<GetKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let mut call = self.0.call(&request, "get-key-version", &request.get_ref().name);
        let name = request.into_inner().name;
        let version = settled!(call, {
            let VersionName { key, epoch } = VersionName::parse(&name)?;
            let (vault, right) = call.authorize::<permission::ViewKey>(key.clone())?;
            Ok(vault.show_version(&right, epoch).await?.map(|info| convert::version(&key, &info)))
        })?;
        Ok(Response::new(version))
    }

    async fn list_key_versions(
        &self,
        request: Request<ListKeyVersionsRequest>,
    ) -> Result<Response<ListKeyVersionsResponse>, Status> {
        let mut call = self.0.call(&request, "list-key-versions", &request.get_ref().parent);
        let message = request.into_inner();
        let (key_versions, next_page_token) = settled!(call, {
            let name = KeyName::parse(&message.parent)?;
            let (vault, right) = call.authorize::<permission::ViewKey>(name.clone())?;
            let before = optional(message.page_token).map(|token| epoch_token(&token)).transpose()?;
            let size = page_size(message.page_size)?;
            let page = vault.list_versions(&right, before, size).await?;
            Ok(page.map(|page| {
                // The oldest version is 1: after it there is no page.
                let more = page.last().is_some_and(|info| info.epoch != Epoch::FIRST);
                let next =
                    if more { next_page(&page, size, |info| info.epoch.to_string()) } else { String::new() };
                (page.iter().map(|info| convert::version(&name, info)).collect(), next)
            }))
        })?;
        Ok(Response::new(ListKeyVersionsResponse { key_versions, next_page_token }))
    }

    async fn update_key_version(
        &self,
        request: Request<UpdateKeyVersionRequest>,
    ) -> Result<Response<KeyVersion>, Status> {
        let UpdateKeyVersionRequest { key_version, update_mask } = request.get_ref().clone();
        let asked = key_version.unwrap_or_default();
        let mut call = self.0.call(&request, "update-key-version", &asked.name);
        let work = async move {
            settled!(call, {
                let VersionName { key, epoch } = VersionName::parse(&asked.name)?;
                let (vault, right) = call.authorize::<permission::ManageKey>(key.clone())?;
                mask(update_mask.as_ref(), &["state"])?;
                let changed = vault.update_version(&right, epoch, parse_state(asked.state)?).await?;
                Ok(changed.map(|info| convert::version(&key, &info)))
            })
        };
        self.0.detached(work).await.map(Response::new)
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

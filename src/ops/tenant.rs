//! Tenants and their KEK versions.

use std::time::Duration;

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::key::check_period;
use super::vault::{Vault, misfit};
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::hsm::{Operation, Reply};
use crate::id::{Installation, KekVersion, TenantId};
use crate::keyring::record::{KekRecord, Tenant};
use crate::keyring::schedule::Schedule;
use crate::keyring::state::KeyState;
use crate::store::{Changes, Prefix, StoreError, Stored, tables};

/// Longest display name in bytes.
const MAX_DISPLAY_NAME: usize = 200;

/// A KEK version and what it seals.
#[derive(Debug)]
pub struct KekInfo {
    /// Its number.
    pub version: KekVersion,
    /// Whether it is a token object of its own; not known of a destroyed one.
    pub resident: bool,
    /// Its state.
    pub state: KeyState,
    /// How many DEKs and index keys it seals now.
    pub sealed: u32,
    /// GCM encryptions reserved so far; nothing is known of those of a destroyed one.
    pub uses_reserved: u64,
    /// When it was made; not known of a destroyed one.
    pub created: Option<Date>,
    /// When it was destroyed, or is to be.
    pub destroyed: Option<Date>,
}

/// What to change in a tenant; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct TenantUpdate {
    /// A name for people, or none.
    pub display_name: Option<Option<String>>,
    /// How long a KEK version stays the primary one, or for ever.
    pub rotation_period: Option<Option<Duration>>,
}

impl Vault {
    /// Makes a tenant with its first KEK version.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    pub async fn create_tenant(
        &self,
        right: &Authorized<permission::ManageTenant>,
        display_name: Option<String>,
    ) -> Result<Done<Tenant>, Error> {
        check_display_name(display_name.as_deref())?;
        unhindered!(self.try_create_tenant(right, display_name.clone()))
    }

    async fn try_create_tenant(
        &self,
        right: &Authorized<permission::ManageTenant>,
        display_name: Option<String>,
    ) -> Result<Done<Tenant>, Error> {
        let id = &right.resource().0;
        if self.records.get(&tables::tenant(id)).await?.is_some() {
            return Err(Error::Exists(right.resource().to_string()));
        }
        let tenant = Tenant { since: self.nothing_before(), ..Tenant::new(Date::now(), display_name) };
        let mut changes = Changes::default();
        changes.create(&tables::tenant(id), &tenant);
        let kek = self.new_kek(&mut changes).await?;
        changes.create(&tables::kek(id, tenant.primary_kek), &kek);
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok(Done::with_change(tenant, change))
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when there is none of that name.
    pub async fn show_tenant(
        &self,
        right: &Authorized<permission::ViewTenant>,
    ) -> Result<Done<Tenant>, Error> {
        Ok(Done::new(self.tenant(&right.resource().0).await?.record))
    }

    /// Tenants in the order of their names, after `after` when given.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn list_tenants(
        &self,
        right: &Authorized<permission::ListTenants>,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Done<Vec<(TenantId, Tenant)>>, Error> {
        let Installation = right.resource();
        let after = after.as_ref().map(tables::tenant);
        let page = self.records.page(&Prefix::all(), after.as_ref(), limit).await?.into_rows();
        Ok(Done::new(page.into_iter().map(|(path, stored)| (path.id, stored.record)).collect()))
    }

    /// Changes the display name or the schedule.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when there is none of that name, [`Error::Argument`] for a period that is too short.
    pub async fn update_tenant(
        &self,
        right: &Authorized<permission::ManageTenant>,
        update: TenantUpdate,
    ) -> Result<Done<Tenant>, Error> {
        unhindered!(self.try_update_tenant(right, update.clone()))
    }

    async fn try_update_tenant(
        &self,
        right: &Authorized<permission::ManageTenant>,
        update: TenantUpdate,
    ) -> Result<Done<Tenant>, Error> {
        let id = &right.resource().0;
        let Stored { record, revision } = self.tenant(id).await?;
        let mut tenant = record.clone();
        if let Some(display_name) = update.display_name {
            check_display_name(display_name.as_deref())?;
            tenant.display_name = display_name;
        }
        if let Some(period) = update.rotation_period {
            check_period(period)?;
            if period.is_some() && self.is_resident(id).await? {
                return Err(Error::NotAllowed(format!(
                    "the KEK of tenants/{id} is in the HSM, so custodians rotate it: `keyward ceremony propose rotate-tenant tenants/{id} --reason WHY`"
                )));
            }
            let born = self.kek(id, record.primary_kek).await?.record.created;
            tenant.schedule = Schedule::new(period, None, born);
        }
        let mut changes = Changes::default();
        self.follow_tenant_schedule(&mut changes, id, &record, &tenant).await?;
        changes.replace(&tables::tenant(id), &tenant, revision);
        let change = self.commit(changes, Affects::Tenant(id)).await?;
        Ok(Done::with_change(tenant, change))
    }

    /// The KEK versions of a tenant, newest first, with what each seals.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when there is none of that name.
    pub async fn list_keks(
        &self,
        right: &Authorized<permission::ViewTenant>,
    ) -> Result<Done<Vec<KekInfo>>, Error> {
        unhindered!(self.try_list_keks(right))
    }

    async fn try_list_keks(
        &self,
        right: &Authorized<permission::ViewTenant>,
    ) -> Result<Done<Vec<KekInfo>>, Error> {
        let id = &right.resource().0;
        let tenant = self.tenant(id).await?.record;
        let sealed = self.sealed_by_version(id, &tenant).await?;
        let mut found = Vec::new();
        let mut version = Some(tenant.primary_kek);
        while let Some(number) = version {
            found.push(self.kek_info(id, number, sealed.get(&number).copied().unwrap_or(0)).await?);
            version = number.previous();
        }
        Ok(Done::new(found))
    }

    /// The record first: a destruction puts a tombstone in its place, so it has the one or the other.
    async fn kek_info(&self, id: &TenantId, version: KekVersion, sealed: u32) -> Result<KekInfo, Error> {
        let path = tables::kek(id, version);
        if let Some(stored) = self.records.get(&path).await? {
            let KekRecord { state, uses_reserved, created, destruction, resident, .. } = stored.record;
            let destroyed = destruction.map(|planned| planned.due);
            let (resident, created) = (resident.is_some(), Some(created));
            return Ok(KekInfo { version, resident, state, sealed, uses_reserved, created, destroyed });
        }
        let tombstone = self.records.get(&tables::tombstone(&path)).await?;
        let tombstone = tombstone.ok_or_else(|| StoreError::lost(&path))?;
        Ok(KekInfo {
            version,
            resident: false,
            state: KeyState::Destroyed,
            sealed,
            uses_reserved: 0,
            created: None,
            destroyed: Some(tombstone.record.destroyed),
        })
    }

    /// A new KEK, wrapped under the root in force; `changes` are made only while it is.
    pub(super) async fn new_kek(&self, changes: &mut Changes) -> Result<KekRecord, Error> {
        let root = self.root_in_force().await?;
        let Reply::Wrapped(wrapped) = self.hsm(Operation::GenerateKek { root: root.record.id }).await? else {
            return Err(misfit("KEK generation"));
        };
        changes.require(&tables::root(root.record.generation), root.revision);
        let (root, created) = (root.record.id, Date::now());
        let state = KeyState::Active;
        Ok(KekRecord { root, wrapped, state, uses_reserved: 0, created, destruction: None, resident: None })
    }
}

fn check_display_name(name: Option<&str>) -> Result<(), Error> {
    match name {
        Some(name) if name.len() > MAX_DISPLAY_NAME || name.chars().any(char::is_control) => {
            Err(Error::Argument(format!(
                "a display name has at most {MAX_DISPLAY_NAME} bytes and no control characters"
            )))
        }
        _ => Ok(()),
    }
}

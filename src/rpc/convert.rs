//! Between messages and domain types.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost_types::{FieldMask, Timestamp};

use super::proto;
use crate::clock::Date;
use crate::envelope::{Context, Normalization};
use crate::id::{Epoch, KekVersion, KeyName, RootId, TenantName, VersionName};
use crate::keyring::record;
use crate::keyring::schedule::{Destruction, Schedule};
use crate::keyring::state::{DataClass, KeyState};
use crate::ops::Error;
use crate::ops::destroy::Planned;
use crate::ops::key::KeyUpdate;
use crate::ops::rotate::RotationInfo;
use crate::ops::strays::Stray;
use crate::ops::tenant::{KekInfo, TenantUpdate};
use crate::ops::version::VersionInfo;
use crate::secret::{Key256, SecretBytes};

pub(super) fn context(map: &BTreeMap<String, String>) -> Result<Context, Error> {
    Ok(Context::new(map.iter().map(|(key, value)| (key.as_str(), value.as_str())))?)
}

/// A reply buffer that is wiped when the transport drops it. By then the transport has copied it into
/// buffers of its own, which stay in the heap until something else is written there (docs/threat-model.md,
/// "Root on the host").
pub(super) fn secret_bytes(secret: SecretBytes) -> Bytes {
    Bytes::from_owner(secret)
}

pub(super) fn key_bytes(key: &Key256) -> Bytes {
    secret_bytes(SecretBytes::new(key.expose().to_vec()))
}

/// The id of an erasure root.
pub(super) fn erasure_root(id: &str) -> Result<RootId, Error> {
    let refused = || Error::Argument("id: an erasure root has 32 hexadecimal digits".into());
    RootId::parse(id).ok_or_else(refused)
}

pub(super) fn stray(stray: &Stray) -> proto::StrayKey {
    proto::StrayKey {
        id: stray.id.to_string(),
        kind: stray.kind().to_owned(),
        label: stray.label(),
        tokens: stray.tokens.clone(),
    }
}

pub(super) fn timestamp(date: Date) -> Timestamp {
    let millis = date.millis();
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000;
    Timestamp { seconds, nanos }
}

fn duration(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: span.subsec_nanos().cast_signed() }
}

/// A length of time that is not negative.
pub(super) fn parse_duration(span: prost_types::Duration, name: &str) -> Result<Duration, Error> {
    Duration::try_from(span).map_err(|_| Error::Argument(format!("{name} is negative")))
}

pub(super) fn parse_timestamp(time: Timestamp, name: &str) -> Result<Date, Error> {
    let seconds =
        u64::try_from(time.seconds).map_err(|_| Error::Argument(format!("{name} is before 1970")))?;
    let millis = u64::from(time.nanos.unsigned_abs() / 1_000_000);
    Ok(Date(seconds.saturating_mul(1000).saturating_add(millis)))
}

/// The period of a rotation; 0 and none mean that there is none.
fn parse_period(span: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let period = span.map(|span| parse_duration(span, "rotation_period")).transpose()?;
    Ok(period.filter(|period| !period.is_zero()))
}

pub(super) fn tenant_update(asked: proto::Tenant, paths: Option<&FieldMask>) -> Result<TenantUpdate, Error> {
    let paths = mask(paths, &["display_name", "rotation_period"])?;
    let has = |path| paths.contains(&path);
    let period = has("rotation_period").then(|| parse_period(asked.rotation_period)).transpose()?;
    let display_name = has("display_name").then(|| super::keys::optional(asked.display_name));
    Ok(TenantUpdate { display_name, rotation_period: period })
}

pub(super) fn key_update(asked: &proto::Key, paths: Option<&FieldMask>) -> Result<KeyUpdate, Error> {
    let known = ["state", "data_class", "rotation_period", "rotation_uses", "min_version", "staff_required"];
    let paths = mask(paths, &known)?;
    let has = |path| paths.contains(&path);
    let uses = asked.rotation_uses;
    Ok(KeyUpdate {
        state: has("state").then(|| parse_state(asked.state)).transpose()?,
        data_class: has("data_class").then(|| parse_class(asked.data_class)).transpose()?,
        rotation_period: has("rotation_period").then(|| parse_period(asked.rotation_period)).transpose()?,
        rotation_uses: has("rotation_uses").then_some((uses > 0).then_some(uses)),
        min_version: has("min_version").then_some(Epoch::new(asked.min_version)),
        staff_required: has("staff_required").then_some(asked.staff_required),
    })
}

/// When it was destroyed, or is to be.
fn destroy_time(destruction: Option<&Destruction>) -> Option<Timestamp> {
    destruction.map(|planned| timestamp(planned.begun.unwrap_or(planned.due)))
}

/// When it was proved that nothing is left.
fn proof_time(destruction: Option<&Destruction>) -> Option<Timestamp> {
    destruction.and_then(|planned| planned.done).map(timestamp)
}

pub(super) fn destruction(name: String, planned: Planned) -> proto::Destruction {
    proto::Destruction { name, state: state(planned.state).into(), due_time: planned.due.map(timestamp) }
}

pub(super) fn tenant(name: &TenantName, tenant: record::Tenant) -> proto::Tenant {
    let rotation = tenant.rotating_to.map(|to| format!("{name}/rotations/{to}"));
    let state = state(tenant.state()).into();
    let schedule = tenant.schedule.as_ref();
    proto::Tenant {
        state,
        rotation_period: schedule.and_then(Schedule::period).map(duration),
        next_rotation_time: schedule.and_then(|schedule| schedule.next).map(timestamp),
        destroy_time: destroy_time(tenant.destruction.as_ref()),
        destroy_proof_time: proof_time(tenant.destruction.as_ref()),
        name: name.to_string(),
        frozen: tenant.frozen,
        primary_kek_version: tenant.primary_kek.get(),
        key_count: tenant.keys,
        create_time: Some(timestamp(tenant.created)),
        display_name: tenant.display_name.unwrap_or_default(),
        rotation: rotation.unwrap_or_default(),
        resident: tenant.resident.unwrap_or_default(),
    }
}

pub(super) fn key(name: &KeyName, key: &record::Key) -> proto::Key {
    let schedule = key.schedule.as_ref();
    proto::Key {
        rotation_period: schedule.and_then(Schedule::period).map(duration),
        rotation_uses: schedule.and_then(|schedule| schedule.uses).unwrap_or_default(),
        next_rotation_time: schedule.and_then(|schedule| schedule.next).map(timestamp),
        min_version: key.min_version.map(Epoch::get).unwrap_or_default(),
        destroy_time: destroy_time(key.destruction.as_ref()),
        destroy_proof_time: proof_time(key.destruction.as_ref()),
        name: name.to_string(),
        data_class: key.data_class.number(),
        state: state(key.state).into(),
        frozen: key.frozen,
        primary_version: key.primary.get(),
        create_time: Some(timestamp(key.created)),
        staff_required: key.staff_required(),
    }
}

pub(super) fn version(name: &KeyName, info: &VersionInfo) -> proto::KeyVersion {
    proto::KeyVersion {
        name: VersionName { key: name.clone(), epoch: info.epoch }.to_string(),
        state: state(info.record.state).into(),
        kek_version: info.kek.map(KekVersion::get).unwrap_or_default(),
        activate_time: info.record.activates.map(timestamp),
        destroy_time: destroy_time(info.record.destruction.as_ref()),
        destroy_proof_time: proof_time(info.record.destruction.as_ref()),
        dek_id: Bytes::copy_from_slice(&info.record.dek.0),
        create_time: Some(timestamp(info.record.created)),
    }
}

pub(super) fn kek(tenant: &TenantName, info: &KekInfo) -> proto::KekVersion {
    proto::KekVersion {
        name: format!("{tenant}/kekVersions/{}", info.version),
        state: state(info.state).into(),
        resident: info.resident,
        wrapped_count: info.sealed,
        uses_reserved: info.uses_reserved,
        create_time: info.created.map(timestamp),
        destroy_time: info.destroyed.map(timestamp),
    }
}

pub(super) fn rotation(info: RotationInfo) -> proto::Rotation {
    let record = info.record;
    let finished = record.finished.map(timestamp);
    let state =
        if finished.is_some() { proto::rotation::State::Done } else { proto::rotation::State::Running };
    proto::Rotation {
        name: info.name.to_string(),
        state: state.into(),
        done: record.done,
        total: record.total,
        from_kek_version: record.from.get(),
        to_kek_version: info.name.to.get(),
        create_time: Some(timestamp(record.created)),
        finish_time: finished,
        waiting_for: info.waiting_for.unwrap_or_default(),
    }
}

fn state(state: KeyState) -> proto::KeyState {
    match state {
        KeyState::Active => proto::KeyState::Active,
        KeyState::DecryptOnly => proto::KeyState::DecryptOnly,
        KeyState::Disabled => proto::KeyState::Disabled,
        KeyState::PreActive => proto::KeyState::PreActive,
        KeyState::Scheduled => proto::KeyState::ScheduledForDestruction,
        KeyState::Destroyed => proto::KeyState::Destroyed,
    }
}

pub(super) fn parse_state(state: i32) -> Result<KeyState, Error> {
    match proto::KeyState::try_from(state) {
        Ok(proto::KeyState::Active) => Ok(KeyState::Active),
        Ok(proto::KeyState::DecryptOnly) => Ok(KeyState::DecryptOnly),
        Ok(proto::KeyState::Disabled) => Ok(KeyState::Disabled),
        _ => Err(Error::Argument("state: expected ACTIVE, DECRYPT_ONLY or DISABLED".into())),
    }
}

pub(super) fn parse_class(number: u32) -> Result<DataClass, Error> {
    DataClass::new(number)
        .ok_or_else(|| Error::Argument(format!("data_class is {number}; expected 1, 2 or 3")))
}

pub(super) fn parse_rule(rule: i32) -> Result<Normalization, Error> {
    match proto::Normalization::try_from(rule) {
        Ok(proto::Normalization::Exact) => Ok(Normalization::Exact),
        Ok(proto::Normalization::Text) => Ok(Normalization::Text),
        Ok(proto::Normalization::Digits) => Ok(Normalization::Digits),
        _ => Err(Error::Argument("normalization: expected EXACT, TEXT or DIGITS".into())),
    }
}

/// The fields of an update mask; each must be one of `known`.
pub(super) fn mask<'a>(mask: Option<&'a FieldMask>, known: &[&str]) -> Result<Vec<&'a str>, Error> {
    let paths =
        mask.map(|mask| mask.paths.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default();
    if paths.is_empty() {
        return Err(Error::Argument(format!("update_mask is empty; expected some of {}", known.join(", "))));
    }
    match paths.iter().find(|path| !known.contains(path)) {
        Some(path) => {
            Err(Error::Argument(format!("update_mask has {path:?}; expected some of {}", known.join(", "))))
        }
        None => Ok(paths),
    }
}

/// The size of a page: 100 when 0, at most 1000.
pub(super) fn page_size(size: i32) -> Result<usize, Error> {
    match size {
        0 => Ok(100),
        1..=1000 => Ok(usize::try_from(size).unwrap_or(100)),
        _ => Err(Error::Argument(format!("page_size is {size}; expected 0 to 1000"))),
    }
}

/// What a request must carry.
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T, Error> {
    field.ok_or_else(|| Error::Argument(format!("{name} is missing")))
}

//! Between messages and domain types.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::{FieldMask, Timestamp};

use super::proto;
use crate::clock::Date;
use crate::envelope::{Context, Normalization};
use crate::id::{KeyName, TenantName, VersionName};
use crate::keyring::record;
use crate::keyring::state::{DataClass, KeyState};
use crate::ops::Error;
use crate::ops::rotate::RotationInfo;
use crate::ops::tenant::KekInfo;
use crate::ops::version::VersionInfo;
use crate::secret::{Key256, SecretBytes};

pub(super) fn context(map: &BTreeMap<String, String>) -> Result<Context, Error> {
    Ok(Context::new(map.iter().map(|(key, value)| (key.as_str(), value.as_str())))?)
}

/// A reply buffer that is wiped when the transport has dropped it.
pub(super) fn secret_bytes(secret: SecretBytes) -> Bytes {
    Bytes::from_owner(secret)
}

pub(super) fn key_bytes(key: &Key256) -> Bytes {
    secret_bytes(SecretBytes::new(key.expose().to_vec()))
}

pub(super) fn timestamp(date: Date) -> Timestamp {
    let millis = date.millis();
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000;
    Timestamp { seconds, nanos }
}

pub(super) fn tenant(name: &TenantName, tenant: record::Tenant) -> proto::Tenant {
    let rotation = tenant.rotating_to.map(|to| format!("{name}/rotations/{to}"));
    proto::Tenant {
        name: name.to_string(),
        frozen: tenant.frozen,
        primary_kek_version: tenant.primary_kek.get(),
        key_count: tenant.keys,
        create_time: Some(timestamp(tenant.created)),
        display_name: tenant.display_name.unwrap_or_default(),
        rotation: rotation.unwrap_or_default(),
    }
}

pub(super) fn key(name: &KeyName, key: &record::Key) -> proto::Key {
    proto::Key {
        name: name.to_string(),
        data_class: key.data_class.number(),
        state: state(key.state).into(),
        frozen: key.frozen,
        primary_version: key.primary.get(),
        create_time: Some(timestamp(key.created)),
    }
}

pub(super) fn version(name: &KeyName, info: &VersionInfo) -> proto::KeyVersion {
    proto::KeyVersion {
        name: VersionName { key: name.clone(), epoch: info.epoch }.to_string(),
        state: state(info.record.state).into(),
        kek_version: info.kek.get(),
        dek_id: Bytes::copy_from_slice(&info.record.dek.0),
        create_time: Some(timestamp(info.record.created)),
    }
}

pub(super) fn kek(tenant: &TenantName, info: &KekInfo) -> proto::KekVersion {
    proto::KekVersion {
        name: format!("{tenant}/kekVersions/{}", info.version),
        state: state(info.record.state).into(),
        wrapped_count: info.sealed,
        uses_reserved: info.record.uses_reserved,
        create_time: Some(timestamp(info.record.created)),
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

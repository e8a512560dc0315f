//! Resources as ordered fields: one description for tables, details and JSON.

use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::rpc::proto::{
    Configuration, IndexKey, KekVersion, Key, KeyState, KeyVersion, Rotation, Status, StrayKey, Tenant,
    rotation, status,
};

/// Fields in the order in which people read them.
pub(crate) type Fields = Vec<(&'static str, Value)>;

/// Something that can be shown.
pub(crate) trait View {
    /// What it consists of.
    fn fields(&self) -> Fields;

    /// What of it stands in a list for people: as much as fits into a line.
    fn row(&self) -> Fields {
        self.fields()
    }
}

/// The fields as a JSON object.
pub(crate) fn object(fields: Fields) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// A value as people read it; nothing in it can steer the terminal.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// The text with every character spelled out that steers a terminal or turns the order of others around.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.into() }).collect()
}

/// Controls, line and paragraph separators, and the marks, embeddings, overrides and isolates of the
/// bidirectional algorithm (UAX #9, section 2).
fn steers(c: char) -> bool {
    let bidirectional =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || bidirectional || matches!(c, '\u{2028}' | '\u{2029}')
}

/// RFC 3339, UTC, whole seconds.
pub(crate) fn time(time: Option<&Timestamp>) -> Value {
    let time = time.and_then(|time| jiff::Timestamp::from_second(time.seconds).ok());
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// RFC 3339, UTC, milliseconds.
pub(crate) fn date(date: crate::clock::Date) -> Value {
    let millis = i64::try_from(date.millis()).ok();
    let time = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// A length of time in words: `90days`.
fn span(span: Option<&prost_types::Duration>) -> Value {
    let span = span.and_then(|span| std::time::Duration::try_from(*span).ok());
    span.map_or(Value::Null, |span| humantime::format_duration(span).to_string().into())
}

/// A number that is 0 where there is none.
fn number(number: u64) -> Value {
    if number == 0 { Value::Null } else { json!(number) }
}

/// `KEY_STATE_DECRYPT_ONLY` as `decrypt-only`.
pub(crate) fn word(name: &str, prefix: &str) -> Value {
    name.trim_start_matches(prefix).to_lowercase().replace('_', "-").into()
}

pub(crate) fn state(state: KeyState) -> Value {
    word(state.as_str_name(), "KEY_STATE_")
}

impl View for Tenant {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("display_name", json!(self.display_name)),
            ("frozen", json!(self.frozen)),
            ("primary_kek_version", json!(self.primary_kek_version)),
            ("key_count", json!(self.key_count)),
            ("create_time", time(self.create_time.as_ref())),
            ("rotation", json!(self.rotation)),
            ("state", state(self.state())),
            ("rotation_period", span(self.rotation_period.as_ref())),
            ("next_rotation_time", time(self.next_rotation_time.as_ref())),
            ("destroy_time", time(self.destroy_time.as_ref())),
            ("destroy_proof_time", time(self.destroy_proof_time.as_ref())),
            ("kek", json!(place(self.resident))),
        ]
    }

    fn row(&self) -> Fields {
        self.fields().into_iter().take(8).collect()
    }
}

impl View for Key {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("data_class", json!(self.data_class)),
            ("state", state(self.state())),
            ("frozen", json!(self.frozen)),
            ("primary_version", json!(self.primary_version)),
            ("create_time", time(self.create_time.as_ref())),
            ("rotation_period", span(self.rotation_period.as_ref())),
            ("rotation_uses", number(self.rotation_uses)),
            ("next_rotation_time", time(self.next_rotation_time.as_ref())),
            ("min_version", number(self.min_version.into())),
            ("staff_required", json!(self.staff_required)),
            ("destroy_time", time(self.destroy_time.as_ref())),
            ("destroy_proof_time", time(self.destroy_proof_time.as_ref())),
        ]
    }

    fn row(&self) -> Fields {
        self.fields().into_iter().take(6).collect()
    }
}

impl View for KeyVersion {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("state", state(self.state())),
            ("kek_version", json!(self.kek_version)),
            ("dek_id", json!(hex::encode(&self.dek_id))),
            ("create_time", time(self.create_time.as_ref())),
            ("activate_time", time(self.activate_time.as_ref())),
            ("destroy_time", time(self.destroy_time.as_ref())),
            ("destroy_proof_time", time(self.destroy_proof_time.as_ref())),
        ]
    }

    fn row(&self) -> Fields {
        self.fields().into_iter().take(5).collect()
    }
}

impl View for KekVersion {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("state", state(self.state())),
            ("wrapped_count", json!(self.wrapped_count)),
            ("uses_reserved", json!(self.uses_reserved)),
            ("create_time", time(self.create_time.as_ref())),
            ("destroy_time", time(self.destroy_time.as_ref())),
            ("kek", json!(place(self.resident))),
        ]
    }
}

/// Where a KEK is: a token object of its own, or wrapped in the store.
fn place(resident: bool) -> &'static str {
    if resident { "resident" } else { "sealed" }
}

impl View for IndexKey {
    fn fields(&self) -> Fields {
        vec![("name", json!(self.name)), ("primary_version", json!(self.primary_version))]
    }
}

impl View for Rotation {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("state", word(rotation::State::as_str_name(&self.state()), "STATE_")),
            ("done", json!(self.done)),
            ("total", json!(self.total)),
            ("from_kek_version", json!(self.from_kek_version)),
            ("to_kek_version", json!(self.to_kek_version)),
            ("create_time", time(self.create_time.as_ref())),
            ("finish_time", time(self.finish_time.as_ref())),
            ("waiting_for", json!(self.waiting_for)),
        ]
    }
}

impl View for Status {
    fn fields(&self) -> Fields {
        vec![
            ("serving", word(status::Serving::as_str_name(&self.serving()), "SERVING_")),
            ("reason", json!(self.reason)),
            ("version", json!(self.version)),
            ("start_time", time(self.start_time.as_ref())),
            ("principal", json!(self.principal)),
            ("role", json!(self.role)),
            ("secret_memory", json!(self.secret_memory)),
            ("hsm", part(self.hsm.as_ref())),
            ("capacity_warning", json!(self.capacity_warning)),
            ("stray_warning", json!(self.stray_warning)),
            ("configuration_warning", json!(self.configuration_warning)),
            ("configuration", part(self.configuration.as_ref())),
            ("strays", part(self.strays.as_ref())),
            ("root", part(self.root.as_ref())),
            ("store", part(self.store.as_ref())),
            ("audit", part(self.audit.as_ref())),
            ("audit_checkpoint", json!(self.audit_checkpoint)),
            ("audit_checkpoint_failure", json!(self.audit_checkpoint_failure)),
            ("cache", part(self.cache.as_ref())),
            ("kek_cache", part(self.kek_cache.as_ref())),
            ("schedule", part(self.schedule.as_ref())),
            ("erasure", part(self.erasure.as_ref())),
        ]
    }
}

impl View for Configuration {
    fn fields(&self) -> Fields {
        vec![
            ("sha256", json!(self.sha256)),
            ("time", time(self.time.as_ref())),
            ("restart_needed", json!(self.restart_needed)),
            ("refused", json!(self.refused)),
        ]
    }
}

fn part(part: Option<&impl View>) -> Value {
    part.map_or(Value::Null, |part| object(part.fields()))
}

impl View for status::Hsm {
    fn fields(&self) -> Fields {
        vec![
            ("state", json!(self.state)),
            ("epoch", json!(self.epoch)),
            ("token_label", json!(self.token_label)),
            ("token_serial", json!(self.token_serial)),
            ("manufacturer", json!(self.manufacturer)),
            ("model", json!(self.model)),
            ("operations", json!(self.operations)),
            ("losses", json!(self.losses)),
            ("repeated", json!(self.repeated)),
            ("unanswered", json!(self.unanswered)),
            ("slots", Value::Object(self.slots.iter().map(slot).collect())),
            ("objects", Value::Object(self.slots.iter().map(objects).collect())),
            ("confinement", Value::Object(self.slots.iter().map(confinement).collect())),
        ]
    }
}

/// One token of the group by its name.
fn slot(slot: &status::Slot) -> (String, Value) {
    let state = match slot.reason.as_str() {
        "" => slot.state.clone(),
        reason => format!("{}: {reason}", slot.state),
    };
    (slot.name.clone(), json!(state))
}

/// How full one token is.
fn objects(slot: &status::Slot) -> (String, Value) {
    let status::Slot { objects, own_objects, max_objects, .. } = slot;
    let words = match max_objects {
        0 => "not counted yet".to_owned(),
        _ => format!("{own_objects} of {max_objects} keys of Keyward, {objects} objects in all"),
    };
    (slot.name.clone(), json!(words))
}

/// What the process of one token may not do.
fn confinement(slot: &status::Slot) -> (String, Value) {
    (slot.name.clone(), json!(slot.confinement))
}

impl View for status::Root {
    fn fields(&self) -> Fields {
        vec![
            ("generation", json!(self.generation)),
            ("custody", json!(self.custody)),
            ("create_time", time(self.create_time.as_ref())),
            ("deployment", json!(self.deployment)),
        ]
    }
}

impl View for status::Erasure {
    fn fields(&self) -> Fields {
        vec![
            ("generation", json!(self.generation)),
            ("create_time", time(self.create_time.as_ref())),
            ("age", json!(self.age)),
            ("replacing", json!(self.replacing)),
        ]
    }
}

impl View for status::Strays {
    fn fields(&self) -> Fields {
        vec![
            ("look_time", time(self.look_time.as_ref())),
            ("failure", json!(self.failure)),
            ("keys", json!(self.keys.iter().map(stray).collect::<Vec<_>>())),
        ]
    }
}

/// A key on the tokens that no record names.
pub(crate) fn stray(key: &StrayKey) -> Value {
    json!({ "id": key.id, "kind": key.kind, "label": key.label, "tokens": key.tokens })
}

impl View for status::Store {
    fn fields(&self) -> Fields {
        vec![
            ("backend", json!(self.backend)),
            ("revision", json!(self.revision)),
            ("records", json!(self.records)),
            ("journal_bytes", json!(self.journal_bytes)),
        ]
    }
}

impl View for status::Audit {
    fn fields(&self) -> Fields {
        vec![("sequence", json!(self.sequence)), ("writable", json!(self.writable))]
    }
}

impl View for status::Cache {
    fn fields(&self) -> Fields {
        vec![
            ("entries", json!(self.entries)),
            ("hits", json!(self.hits)),
            ("misses", json!(self.misses)),
            ("expired", json!(self.expired)),
            ("used_up", json!(self.used_up)),
            ("flushed", json!(self.flushed)),
            ("evicted", json!(self.evicted)),
        ]
    }
}

impl View for status::Schedule {
    fn fields(&self) -> Fields {
        vec![
            ("clock", json!(self.clock)),
            ("reason", json!(self.reason)),
            ("high_water_time", time(self.high_water_time.as_ref())),
            ("leading", json!(self.leading)),
            ("next_due_time", time(self.next_due_time.as_ref())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_states_are_words() {
        let created = Timestamp { seconds: 1_700_000_000, nanos: 5 };
        assert_eq!(time(Some(&created)), "2023-11-14T22:13:20Z");
        assert_eq!(state(KeyState::DecryptOnly), "decrypt-only");
        let status = Status { serving: status::Serving::NotServing.into(), ..Status::default() };
        assert_eq!(status.fields()[0].1, "not-serving");
        assert_eq!(text(&time(None)), "-");
    }

    #[test]
    fn nothing_turns_the_order_of_others_around() {
        for hidden in ['\u{202e}', '\u{2066}', '\u{200f}', '\u{2028}', '\u{9b}', '\u{7f}'] {
            let shown = text(&json!({ "name": format!("a{hidden}b") }));
            assert!(!shown.contains(hidden), "{shown:?}");
        }
        assert_eq!(plain("Zoë Ångström 王"), "Zoë Ångström 王");
    }

    #[test]
    fn names_for_people_cannot_steer_the_terminal() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
    }
}

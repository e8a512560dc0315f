//! Everything that is wrong with the text of a configuration, not the first of it alone.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::Config;

/// Faults that are looked for; whoever has more has another file.
const MOST: usize = 100;

/// Characters of a line that are shown.
const SHOWN: usize = 100;

/// Values in the place of those that are wrong or missing, so that reading goes on and finds the next fault. They are good in
/// form, and never leave this file.
const STAND_INS: [(&str, &str); 8] = [
    ("state_dir", r#""/x""#),
    ("hsm", r#"{ module = "/x", token = "x" }"#),
    ("module", r#""/x""#),
    ("token", r#""x""#),
    ("name", r#""x""#),
    ("role", r#""operator""#),
    ("keys", r#"["tenants/x/keys/x"]"#),
    ("operations", r#"["encrypt"]"#),
];

/// Reads a text; its line, key and expectation for each fault.
pub(super) fn parse(text: &str) -> Result<Config, Vec<String>> {
    // Of a text that is no TOML the first fault alone: what follows is mostly of its making, and each would keep a copy of the text.
    let mut document = DeTable::parse(text).map_err(|error| vec![shown(&error, text)])?;
    let mut faults = Vec::new();
    loop {
        let error = match Config::deserialize(Deserializer::from(document.clone())) {
            Ok(config) if faults.is_empty() => return Ok(config),
            Ok(_) => return Err(faults),
            Err(error) => error,
        };
        // A stand-in that is no good where it stands: what was to be found is found.
        if error.span().is_none_or(|at| at.end > text.len()) && !faults.is_empty() {
            return Err(faults);
        }
        let mended = mend(&mut document, &error);
        faults.push(shown(&error, text));
        if !mended || faults.len() == MOST {
            return Err(faults);
        }
    }
}

/// A fault in one line, as logs and statuses have it: where, what, and the line that it is in.
fn shown(error: &Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', ", ");
    let Some(before) = error.span().and_then(|at| text.get(..at.start)) else { return message };
    let (line, own) = (before.matches('\n').count(), before.rsplit('\n').next().unwrap_or_default());
    let source: String = text.lines().nth(line).unwrap_or_default().trim().chars().take(SHOWN).collect();
    let (line, column) = (line + 1, own.chars().count() + 1);
    format!("line {line}, column {column}: {message} ({source})")
}

/// Puts something good in the place of what is wrong; answers whether there was anything to put.
fn mend(document: &mut Spanned<DeTable<'_>>, error: &Error) -> bool {
    let Some(at) = error.span() else { return false };
    match error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        Some(field) => {
            let root = document.span() == at;
            let table = document.get_mut();
            let table = if root { Some(table) } else { table_at(table, &at) };
            table.is_some_and(|table| stand_in(table, field))
        }
        None => replace(document.get_mut(), &at, !error.message().starts_with("unknown field")),
    }
}

type Span = std::ops::Range<usize>;

/// Where a stand-in is: no fault lies there.
const NOWHERE: Span = usize::MAX..usize::MAX;

fn within(inner: &Span, outer: &Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Takes out the innermost entry that lies there, and puts the value in that its table must have, if it is one of its own.
fn replace(table: &mut DeTable<'_>, at: &Span, own: bool) -> bool {
    for (_, value) in table.iter_mut().filter(|(_, value)| value.span() != NOWHERE) {
        let deeper = match value.get_mut() {
            DeValue::Table(inner) => replace(inner, at, own),
            DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
                DeValue::Table(inner) => replace(inner, at, own),
                _ => false,
            }),
            _ => false,
        };
        if deeper {
            return true;
        }
    }
    let lies =
        |(key, value): &(&Spanned<_>, &Spanned<_>)| within(at, &key.span()) || within(at, &value.span());
    let Some(key) = table.iter().find(lies).map(|(key, _)| key.clone()) else { return false };
    table.remove(&key);
    if own {
        // Where there is none, the table can do without.
        stand_in(table, key.get_ref());
    }
    true
}

/// The table that begins there.
fn table_at<'t, 'i>(table: &'t mut DeTable<'i>, at: &Span) -> Option<&'t mut DeTable<'i>> {
    table.iter_mut().find_map(|(_, value)| in_value(value, at))
}

fn in_value<'t, 'i>(value: &'t mut Spanned<DeValue<'i>>, at: &Span) -> Option<&'t mut DeTable<'i>> {
    let here = value.span() == *at;
    match value.get_mut() {
        DeValue::Table(inner) => match here {
            true => Some(inner),
            false => table_at(inner, at),
        },
        DeValue::Array(items) => items.iter_mut().find_map(|item| in_value(item, at)),
        _ => None,
    }
}

fn stand_in(table: &mut DeTable<'_>, field: &str) -> bool {
    let Some((_, good)) = STAND_INS.iter().find(|(name, _)| *name == field) else { return false };
    let mut good = DeValue::parse(good).expect("it stands above").into_inner();
    good.make_owned();
    table.insert(Spanned::new(NOWHERE, field.to_owned().into()), Spanned::new(NOWHERE, good));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        parse(text).map(drop).unwrap_err()
    }

    #[test]
    fn each_fault_is_told_with_its_line() {
        let told = faults(
            r#"stat_dir = "/var/lib/keyward"
[server]
socket_mode = "0777"
max_connections = "many"
[hsm]
module = 7
token = "keyward"
pin_file = "/etc/keyward/pin"
deadline = "5 parsecs"
[[principal]]
name = "A b"
role = "king"
users = [0]
[[principal.allow]]
keys = ["tenants/*"]
operations = ["fly"]
[limits]
plaintext = "many"
"#,
        );
        let all = told.join("\n");
        for (line, word) in [
            (1, "stat_dir"),
            (3, "others"),
            (4, "many"),
            (6, "integer"),
            (9, "5s"),
            (11, "lower-case"),
            (12, "king"),
            (15, "tenants/acme/keys/*"),
            (16, "fly"),
            (18, "1MiB"),
        ] {
            let found =
                told.iter().any(|fault| fault.contains(&format!("line {line},")) && fault.contains(word));
            assert!(found, "no line {line} with {word:?}: {all}");
        }
        // The name that was meant is missing, too.
        assert!(all.contains("missing field `state_dir`"), "{all}");
        assert_eq!(told.len(), 11, "{all}");
    }

    #[test]
    fn a_good_name_in_a_wrong_table_is_told_once() {
        let good = "state_dir = \"/x\"\n[hsm]\nmodule = \"/m\"\ntoken = \"t\"\npin_file = \"/p\"\n";
        for name in ["state_dir", "hsm", "module", "token", "name", "role", "keys", "operations"] {
            for (table, value) in
                [("server", "\"x\""), ("limits", "7"), ("login", "[\"x\"]"), ("store", "{ name = 1 }")]
            {
                let told = faults(&format!("{good}[{table}]\n{name} = {value}\n"));
                assert!(told.len() == 1 && told[0].contains("line 7,"), "{table}.{name}: {told:?}");
            }
        }
        let told = faults(&format!(
            "{good}[[principal]]\nname = \"a\"\nrole = \"operator\"\nkeys = [\"tenants/a/keys/*\"]\n"
        ));
        assert!(told.len() == 1 && told[0].contains("line 9,"), "{told:?}");
    }

    #[test]
    fn what_is_missing_hides_nothing() {
        let told = faults("[hsm]\nsessions = \"two\"\n[[principal]]\nusers = [0]\n").join("\n");
        for missing in ["state_dir", "module", "token", "name", "role"] {
            assert!(told.contains(&format!("missing field `{missing}`")), "{missing}: {told}");
        }
        assert!(told.contains("line 2,"), "{told}");
    }

    #[test]
    fn a_text_that_is_no_toml_is_told_by_its_first_fault() {
        let told = faults("state_dir = \n[hsm\nmodule = \"x\n");
        assert!(told.len() == 1 && told[0].contains("line 2,"), "{told:?}");
        assert_eq!(faults(&"[".repeat(100_000)).len(), 1);
    }
}

//! The one spelling of a body: JSON after RFC 8785 (JCS), for what both agree
//! on without doubt: no fractions, no numbers beyond 2^53, ASCII names.

use serde_json::{Number, Value};

/// Why a body has no canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// A number with a fraction or an exponent, or one that a double cannot hold.
    #[error("the number {0} is no integer between -2^53 and 2^53")]
    Number(String),
    /// A name of a member that is not ASCII.
    #[error("the name {0:?} is not ASCII")]
    Name(String),
    /// Objects in objects in objects.
    #[error("it is nested deeper than {MOST_DEPTH}")]
    Depth,
}

/// Deepest nesting.
const MOST_DEPTH: usize = 64;
/// Largest integer that every reader of JSON holds exactly.
const MOST: u64 = 1 << 53;

/// Members in the order of their names, no spaces, integers in decimal, strings
/// with the shortest escapes and everything else as UTF-8.
///
/// # Errors
/// [`NotCanonical`] for what RFC 8785 spells in a way that readers differ in.
pub fn canonical(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = String::new();
    write(value, &mut out, 0)?;
    Ok(out.into_bytes())
}

fn write(value: &Value, out: &mut String, depth: usize) -> Result<(), NotCanonical> {
    if depth > MOST_DEPTH {
        return Err(NotCanonical::Depth);
    }
    match value {
        Value::Number(number) => out.push_str(&integer(number)?),
        Value::Array(items) => list(out, ['[', ']'], items, |item, out| write(item, out, depth + 1))?,
        Value::Object(members) => {
            // Sorted here, whatever the map does: a feature of serde_json changes its order.
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            list(out, ['{', '}'], &members, |(name, value), out| member(name, value, out, depth + 1))?;
        }
        // serde_json's escapes are those of RFC 8785, section 3.2.2.2.
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn member(name: &str, value: &Value, out: &mut String, depth: usize) -> Result<(), NotCanonical> {
    if !name.is_ascii() {
        return Err(NotCanonical::Name(name.to_owned()));
    }
    out.push_str(&Value::from(name).to_string());
    out.push(':');
    write(value, out, depth)
}

fn list<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: &[T],
    mut each: impl FnMut(&T, &mut String) -> Result<(), NotCanonical>,
) -> Result<(), NotCanonical> {
    out.push(open);
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        each(item, out)?;
    }
    out.push(close);
    Ok(())
}

fn integer(number: &Number) -> Result<String, NotCanonical> {
    let small = number.as_i64().is_some_and(|number| number.unsigned_abs() <= MOST);
    if small { Ok(number.to_string()) } else { Err(NotCanonical::Number(number.to_string())) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        let value =
            json!({"b": [1, -2, null, true], "a": {"z": "\u{20ac}$\u{f}\n\"\\/\u{7f}", "A": {}}, "": []});
        let expected =
            "{\"\":[],\"a\":{\"A\":{},\"z\":\"\u{20ac}$\\u000f\\n\\\"\\\\/\u{7f}\"},\"b\":[1,-2,null,true]}";
        assert_eq!(String::from_utf8(canonical(&value).unwrap()).unwrap(), expected);
        let again: Value = serde_json::from_str(" {\"b\":[1,-2,null,true],\"\":[],\"a\":{\"A\":{},\"z\":\"\\u20ac$\\u000F\\n\\\"\\\\\\/\\u007f\"}}").unwrap();
        assert_eq!(canonical(&again), canonical(&value));
    }

    #[test]
    fn what_readers_differ_in_is_refused() {
        for (wrong, error) in [
            (json!(1.5), NotCanonical::Number("1.5".into())),
            (json!([u64::MAX]), NotCanonical::Number(u64::MAX.to_string())),
            (json!({"\u{e9}": 1}), NotCanonical::Name("\u{e9}".into())),
        ] {
            assert_eq!(canonical(&wrong), Err(error));
        }
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(canonical(&deep), Err(NotCanonical::Depth));
        assert!(canonical(&json!([MOST, -9_007_199_254_740_992_i64])).is_ok());
    }
}

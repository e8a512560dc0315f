//! JSON in which no object names a member twice: readers differ in which of the two
//! they take, so what one person is shown another could read as something else.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a whole text.
///
/// # Errors
/// When it is no JSON, or an object names a member twice.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).map(|Strict(value)| value)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the member {name:?} stands in it twice")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_member_stands_twice() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":[{"c":0,"d":1,"c":2}]}}"#, r#"[{"\u0061":1,"a":2}]"#] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains("stands in it twice"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn everything_else_is_read_as_by_everybody(text in r#"[\[\]{}",:a0-9.e -]{0,40}"#) {
            match (parse(&text), serde_json::from_str::<Value>(&text)) {
                (Ok(strict), Ok(usual)) => prop_assert_eq!(strict, usual),
                (Err(strict), Ok(_)) => prop_assert!(strict.to_string().contains("twice"), "{strict}"),
                (strict, Err(_)) => prop_assert!(strict.is_err()),
            }
        }
    }
}

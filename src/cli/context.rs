//! The encryption context on the command line: `--context k=v`.

use super::failure::Failure;
use crate::client::Context;

/// One `--context` argument.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value, for example table=customers".into()),
    }
}

/// All `--context` arguments; the same key twice is refused.
pub(crate) fn context(pairs: &[(String, String)]) -> Result<Context, Failure> {
    let mut context = Context::new();
    for (key, value) in pairs {
        if context.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::Usage(format!("--context {key} is given twice")));
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn the_same_key_twice_is_refused() {
        let pairs = [pair("a=1").unwrap(), pair("a=2").unwrap()];
        assert!(matches!(context(&pairs), Err(Failure::Usage(_))));
        assert_eq!(context(&pairs[..1]).unwrap()["a"], "1");
    }
}

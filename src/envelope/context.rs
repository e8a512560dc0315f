//! The encryption context: a small map that must be the same to decrypt.

use std::fmt;

use super::put_lp32;

/// Why a context was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// More than [`Context::MAX_PAIRS`].
    #[error("the context has more than {} pairs", Context::MAX_PAIRS)]
    TooManyPairs,
    /// A key is empty or longer than [`Context::MAX_KEY`].
    #[error("a context key must have 1 to {} bytes", Context::MAX_KEY)]
    KeyLength,
    /// A value is longer than [`Context::MAX_VALUE`].
    #[error("the value of context key {0:?} is longer than {max} bytes", max = Context::MAX_VALUE)]
    ValueLength(String),
    /// The whole is longer than [`Context::MAX_ENCODED`].
    #[error("the context is longer than {} bytes in all", Context::MAX_ENCODED)]
    TooLong,
    /// The key begins with [`Context::RESERVED`].
    #[error("context key {0:?} is reserved: choose one that does not start with {reserved:?}", reserved = Context::RESERVED)]
    Reserved(String),
    /// Two pairs have the same key.
    #[error("context key {0:?} is given twice")]
    Duplicate(String),
}

/// An encryption context in its one encoding: sorted by key bytes, no duplicates.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Context {
    encoded: Box<[u8]>,
}

impl Context {
    /// Most pairs in a context.
    pub const MAX_PAIRS: usize = 64;
    /// Longest key in bytes.
    pub const MAX_KEY: usize = 256;
    /// Longest value in bytes.
    pub const MAX_VALUE: usize = 4096;
    /// Longest encoding in bytes.
    pub const MAX_ENCODED: usize = 16 * 1024;
    /// Keys that begin with this belong to the daemon.
    pub const RESERVED: &'static str = "keyward:";

    /// Encodes a map of strings, in whatever order its pairs come.
    ///
    /// # Errors
    /// [`ContextError`] when a limit is passed, a key comes twice or is reserved.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ContextError> {
        let mut pairs: Vec<_> = pairs.into_iter().take(Self::MAX_PAIRS + 1).collect();
        if pairs.len() > Self::MAX_PAIRS {
            return Err(ContextError::TooManyPairs);
        }
        // Strings order by their bytes.
        pairs.sort_unstable();
        pairs.iter().try_for_each(check_pair)?;
        if let Some(two) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(ContextError::Duplicate(two[0].0.into()));
        }
        Self::encode(&pairs)
    }

    /// The context of a caller that gives none.
    pub fn empty() -> Self {
        Self { encoded: [0; 4].into() }
    }

    /// `u32 count | (lp32 key | lp32 value)…`, at most [`Self::MAX_ENCODED`] bytes.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    fn encode(pairs: &[(&str, &str)]) -> Result<Self, ContextError> {
        let len = 4 + pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>();
        if len > Self::MAX_ENCODED {
            return Err(ContextError::TooLong);
        }
        let count = u32::try_from(pairs.len()).map_err(|_| ContextError::TooManyPairs)?;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&count.to_be_bytes());
        for (key, value) in pairs {
            put_lp32(&mut out, key.as_bytes());
            put_lp32(&mut out, value.as_bytes());
        }
        Ok(Self { encoded: out.into() })
    }
}

fn check_pair((key, value): &(&str, &str)) -> Result<(), ContextError> {
    if key.is_empty() || key.len() > Context::MAX_KEY {
        return Err(ContextError::KeyLength);
    }
    if key.starts_with(Context::RESERVED) {
        return Err(ContextError::Reserved((*key).into()));
    }
    if value.len() > Context::MAX_VALUE {
        return Err(ContextError::ValueLength((*key).into()));
    }
    Ok(())
}

/// Values may name customers, so only the size is shown.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({} bytes)", self.encoded.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> ContextError {
        Context::new(pairs.iter().copied()).unwrap_err()
    }

    #[test]
    fn the_encoding_is_sorted_and_length_prefixed() {
        let context = Context::new([("b", ""), ("a", "xy")]).unwrap();
        let expected = ["00000002", "0000000161", "000000027879", "0000000162", "00000000"].concat();
        assert_eq!(hex::encode(context.encoded()), expected);
        assert_eq!(Context::empty(), Context::new([]).unwrap());
    }

    #[test]
    fn keys_sort_by_bytes_not_by_letters() {
        let context = Context::new([("é", "1"), ("z", "2"), ("Z", "3"), ("zz", "4")]).unwrap();
        let keys = [&b"Z"[..], b"z", b"zz", "é".as_bytes()];
        let at = |key: &[u8]| {
            let mut pattern = Vec::new();
            put_lp32(&mut pattern, key);
            context.encoded().windows(pattern.len()).position(|window| window == pattern).unwrap()
        };
        assert!(keys.windows(2).all(|two| at(two[0]) < at(two[1])));
    }

    #[test]
    fn limits_hold_exactly() {
        let (key, value) = ("k".repeat(256), "v".repeat(4096));
        assert!(Context::new([(&*key, &*value)]).is_ok());
        assert_eq!(refused(&[("", "v")]), ContextError::KeyLength);
        assert_eq!(refused(&[(&"k".repeat(257), "v")]), ContextError::KeyLength);
        assert_eq!(refused(&[("k", &"v".repeat(4097))]), ContextError::ValueLength("k".into()));

        let keys: Vec<_> = (0..65).map(|n| format!("k{n:02}")).collect();
        let pairs: Vec<_> = keys.iter().map(|key| (&**key, "")).collect();
        assert!(Context::new(pairs[..64].iter().copied()).is_ok());
        assert_eq!(refused(&pairs), ContextError::TooManyPairs);

        let last = "v".repeat(16384 - 4 - 3 * (9 + 4096) - 9);
        let full = [("a", &*value), ("b", &*value), ("c", &*value), ("d", &*last)];
        assert_eq!(Context::new(full).unwrap().encoded().len(), 16384);
        let over = format!("{last}v");
        assert_eq!(refused(&[full[0], full[1], full[2], ("d", &over)]), ContextError::TooLong);
    }

    #[test]
    fn reserved_and_repeated_keys_are_refused() {
        assert_eq!(refused(&[("keyward:x", "1")]), ContextError::Reserved("keyward:x".into()));
        assert_eq!(refused(&[("keyward:", "1")]), ContextError::Reserved("keyward:".into()));
        assert!(Context::new([("keyward", "1"), ("Keyward:", "2")]).is_ok());
        assert_eq!(refused(&[("a", "1"), ("b", "2"), ("a", "1")]), ContextError::Duplicate("a".into()));
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", Context::new([("id", "4711")]).unwrap()), "Context(18 bytes)");
    }

    fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
        pairs.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Short strings over few letters, so that boundaries collide often.
    fn pairs() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
        btree_map("[ab\u{e9}]{1,3}", "[ab\u{e9}]{0,3}", 0..5)
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bytes(shuffled in pairs().prop_flat_map(|map| {
            Just(map.into_iter().collect::<Vec<_>>()).prop_shuffle()
        })) {
            let mut sorted = shuffled.clone();
            sorted.sort();
            prop_assert_eq!(Context::new(borrowed(&shuffled)), Context::new(borrowed(&sorted)));
        }

        #[test]
        fn different_maps_have_different_bytes(a in pairs(), b in pairs()) {
            let encode = |map: &std::collections::BTreeMap<String, String>| {
                Context::new(map.iter().map(|(key, value)| (&**key, &**value))).unwrap()
            };
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }

        #[test]
        fn what_is_accepted_keeps_the_limits(pairs in vec(("\\PC{0,12}", "\\PC{0,12}"), 0..80)) {
            if let Ok(context) = Context::new(borrowed(&pairs)) {
                prop_assert!(context.encoded().len() <= Context::MAX_ENCODED);
                prop_assert_eq!(context.encoded()[3] as usize, pairs.len());
            }
        }
    }
}

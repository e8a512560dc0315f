//! What callers send along with data: encryption contexts and values to index.

use keyward::envelope::{Context, IndexKey, Normalization};
use keyward::id::IndexVersion;
use keyward::secret::Key256;

/// Takes lines `key=value` as a context: any order gives the same bytes, within the limits.
pub fn context(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut pairs: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let forwards = Context::new(pairs.iter().copied());
    pairs.reverse();
    let backwards = Context::new(pairs.iter().copied());
    assert_eq!(forwards.is_ok(), backwards.is_ok());
    if let (Ok(forwards), Ok(backwards)) = (forwards, backwards) {
        assert_eq!(forwards, backwards);
        assert!(forwards.encoded().len() <= Context::MAX_ENCODED);
        let payload: usize = pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        assert_eq!(forwards.encoded().len(), 4 + payload);
    }
}

/// Indexes `data` by every rule; only the documented refusals may happen.
pub fn index(data: &[u8]) {
    let key = IndexKey::new(IndexVersion::FIRST, Key256::init_with(|key| key.fill(1)));
    let computes = |rule| key.compute(rule, data).is_ok();
    assert!(computes(Normalization::Exact));
    assert_eq!(computes(Normalization::Text), std::str::from_utf8(data).is_ok());
    assert_eq!(computes(Normalization::Digits), data.iter().any(u8::is_ascii_digit));
}

/// Contexts, and values of several scripts.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "table=customers\ncolumn=phone",
        "a=1\nb=\na=2",
        "keyward:x=1",
        "=v",
        "  MU\u{308}LLER\u{3000}",
        "\u{130}\u{327} ΟΔΟΣ \u{fb01}",
        "+86 138-0013-8000",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

//! The text form of ciphertexts.

use keyward::envelope::text;

/// Decodes `data`; what decodes has no other spelling.
pub fn text_form(data: &[u8]) {
    let Ok(given) = std::str::from_utf8(data) else { return };
    if let Ok(bytes) = text::decode(given) {
        assert_eq!(text::encode(&bytes), given);
    }
}

/// Good and bad text forms.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = ["kw1:", "kw1:S1cBAQ", "kw1:-__-AA", "kw1:-__-AAA", "kw1:+//+AA==", "kw2:S1cBAQ", "S1cBAQ"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

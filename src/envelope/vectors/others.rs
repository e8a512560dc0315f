//! Vectors of contexts, text forms and blind indexes.

use super::ciphertexts::{Setup, base_plaintext, pairs};
use super::{ContextCase, Expect, IndexCase, Suite, TextCase, context};
use crate::envelope::{IndexKey, Normalization, text};
use crate::id::IndexVersion;
use crate::secret::Key256;

pub(super) fn contexts() -> Vec<ContextCase> {
    let mut cases = accepted_contexts();
    cases.extend(refused_contexts());
    cases
}

fn accepted_contexts() -> Vec<ContextCase> {
    let case = |name: &str, given: &[(&str, &str)]| {
        let pairs = pairs(given);
        let encoded = Some(hex::encode(context(&pairs).encoded()));
        ContextCase { name: name.into(), expect: Expect::Accepted, pairs, encoded }
    };
    let (key, value) = ("k".repeat(256), "v".repeat(4096));
    vec![
        case("context_empty", &[]),
        case("context_sorted", &[("column", "phone"), ("table", "customers")]),
        case("context_unsorted", &[("table", "customers"), ("column", "phone")]),
        case(
            "context_sorted_by_bytes",
            &[("é", "1"), ("z", "2"), ("Z", "3"), ("zz", "4"), ("\u{ffff}", "5"), ("\u{10000}", "6")],
        ),
        case("context_empty_value", &[("a", "")]),
        case("context_longest_key_and_value", &[(&key, &value)]),
        case("context_almost_reserved", &[("keyward", "1"), ("Keyward:x", "2")]),
    ]
}

fn refused_contexts() -> Vec<ContextCase> {
    let case = |name: &str, given: &[(&str, &str)]| ContextCase {
        name: name.into(),
        expect: Expect::Refused,
        pairs: pairs(given),
        encoded: None,
    };
    let value = "v".repeat(4096);
    let keys: Vec<_> = (0..65).map(|n| format!("k{n:02}")).collect();
    let many: Vec<_> = keys.iter().map(|key| (&**key, "")).collect();
    let too_long = "v".repeat(16384 - 4 - 3 * (9 + 4096) - 9 + 1);
    vec![
        case("context_empty_key", &[("", "v")]),
        case("context_key_of_257_bytes", &[(&"k".repeat(257), "v")]),
        case("context_key_of_129_letters_of_2_bytes", &[(&"é".repeat(129), "v")]),
        case("context_value_of_4097_bytes", &[("k", &"v".repeat(4097))]),
        case("context_65_pairs", &many),
        case("context_encoded_16385_bytes", &[("a", &value), ("b", &value), ("c", &value), ("d", &too_long)]),
        case("context_key_twice", &[("a", "1"), ("a", "2")]),
        case("context_pair_twice", &[("a", "1"), ("b", "2"), ("a", "1")]),
        case("context_empty_key_among_others", &[("a", "1"), ("", "")]),
        case("context_reserved_key", &[("keyward:purpose", "x")]),
        case("context_reserved_prefix_alone", &[("keyward:", "")]),
        case("context_reserved_key_among_others", &[("a", "1"), ("keyward:x", "2"), ("z", "3")]),
    ]
}

pub(super) fn texts() -> Vec<TextCase> {
    let (sealed, _) = Setup::new(Suite::Field).seal(&base_plaintext(Suite::Field));
    let good = text::encode(&sealed);
    let read = |name: &str, bytes: &[u8]| TextCase {
        name: name.into(),
        expect: Expect::Accepted,
        text: text::encode(bytes),
        bytes: Some(hex::encode(bytes)),
    };
    let refused = |name: &str, text: &str| TextCase {
        name: name.into(),
        expect: Expect::Refused,
        text: text.into(),
        bytes: None,
    };
    vec![
        read("text_of_field", &sealed),
        read("text_with_minus_and_underscore", &[0xfb, 0xff, 0xfe, 0]),
        refused("text_empty", ""),
        refused("text_without_prefix", &good[4..]),
        refused("text_prefix_upper_case", &good.replace("kw1:", "KW1:")),
        refused("text_prefix_2", &good.replace("kw1:", "kw2:")),
        refused("text_prefix_without_colon", &good.replace("kw1:", "kw1")),
        refused("text_leading_space", &format!(" {good}")),
        refused("text_space_after_prefix", &good.replace("kw1:", "kw1: ")),
        refused("text_trailing_newline", &format!("{good}\n")),
        refused("text_newline_inside", &format!("{}\n{}", &good[..64], &good[64..])),
        refused("text_padded", "kw1:-__-AA=="),
        refused("text_padded_with_one_sign", "kw1:-__-AA="),
        refused("text_standard_alphabet", "kw1:+//+AA"),
        refused("text_unused_bits_set", "kw1:-__-AB"),
        refused("text_unused_bits_set_of_two", "kw1:-__-AAB"),
        refused("text_one_letter_alone", "kw1:-__-A"),
        refused("text_percent_encoded", "kw1:-__-%41A"),
        refused("text_non_ascii", "kw1:-__-\u{ff21}A"),
    ]
}

const KEY: [u8; 32] = *b"an index key of 32 bytes, public";

fn index_case(name: &str, version: u32, rule: Normalization, value: &[u8]) -> IndexCase {
    let key = IndexKey::new(IndexVersion::new(version).unwrap(), Key256::init_with(|out| *out = KEY));
    let index = key.compute(rule, value).ok().map(hex::encode);
    IndexCase {
        name: name.into(),
        expect: super::accepted(index.is_some()),
        key: hex::encode(KEY),
        version,
        rule: rule.name().into(),
        value: hex::encode(value),
        index,
    }
}

pub(super) fn indexes() -> Vec<IndexCase> {
    use Normalization::{Digits, Exact, Text};
    let case = |name: &str, rule, value: &str| index_case(name, 1, rule, value.as_bytes());
    vec![
        case("index_exact", Exact, "13800138000"),
        case("index_exact_empty", Exact, ""),
        index_case("index_exact_binary", 1, Exact, b"\xff\0"),
        index_case("index_version_258", 258, Exact, b"13800138000"),
        case("index_digits", Digits, "+86 138-0013-8000"),
        index_case("index_digits_of_any_bytes", 1, Digits, b"\xff1\xc32"),
        case("index_text_width_case_and_space", Text, "\u{3000}Ａcme\u{a0}LTD "),
        case("index_text_composed", Text, "MU\u{308}LLER"),
        case("index_text_final_sigma", Text, "ΟΔΟΣ"),
        case("index_text_marks_reordered", Text, "\u{130}\u{327}"),
        case("index_text_white_space_is_unicode", Text, "\u{85}x\u{1c}"),
        case("index_text_empty_after_trim", Text, " \u{2003} "),
        case("index_digits_none", Digits, "no number"),
        case("index_digits_empty", Digits, ""),
        case("index_digits_full_width", Digits, "１３８"),
        case("index_digits_arabic", Digits, "\u{661}\u{663}\u{668}"),
        index_case("index_text_not_utf8", 1, Text, b"M\xfcller"),
        index_case("index_text_cut_utf8", 1, Text, b"caf\xc3"),
        index_case("index_text_surrogate", 1, Text, b"\xed\xa0\x80"),
        index_case("index_text_overlong", 1, Text, b"\xc0\xa0"),
    ]
}

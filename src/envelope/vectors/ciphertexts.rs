//! Ciphertext vectors: sealed by the code under test, then changed, cut or
//! read with the wrong key, name or context.

use sha2::{Digest, Sha256};

use super::crafted;
use super::{Case, Expect, Piece, SealedAs, Suite, bytes, context, dek, name, seal_any};
use crate::envelope::{OVERHEAD, SEGMENT, Salt, text};

/// Who seals or reads, and under what.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) suite: Suite,
    pub(super) dek: String,
    pub(super) dek_id: String,
    pub(super) salt: String,
    pub(super) tenant: String,
    pub(super) key: String,
    pub(super) context: Vec<(String, String)>,
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

pub(super) fn hex_piece(bytes: &[u8]) -> Vec<Piece> {
    vec![Piece::Hex { hex: hex::encode(bytes) }]
}

pub(super) fn part(of: &str, from: usize, to: usize) -> Piece {
    Piece::Part { of: of.into(), from, to }
}

impl Setup {
    pub(super) fn new(suite: Suite) -> Self {
        let fill =
            |label: &str| hex::encode(Sha256::digest(format!("keyward vectors {label} {}", suite.byte())));
        Self {
            suite,
            dek: fill("dek"),
            dek_id: fill("dek id")[..32].into(),
            salt: fill("salt")[..48].into(),
            tenant: "acme".into(),
            key: "customer-pii".into(),
            context: pairs(&[("column", "phone"), ("table", "customers")]),
        }
    }

    pub(super) fn seal(&self, plaintext: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let salt = Salt(bytes(&self.salt));
        let name = name(&self.tenant, &self.key);
        seal_any(self.suite, &dek(&self.dek_id, &self.dek), &name, &context(&self.context), salt, plaintext)
    }

    fn accepted(&self, name: &str, about: &str, plaintext: &[u8]) -> Case {
        let (sealed, digest) = self.seal(plaintext);
        let mut case = self.fails(name, about, Expect::Accepted, hex_piece(&sealed));
        case.sealed = Some(SealedAs {
            salt: self.salt.clone(),
            plaintext: hex_piece(plaintext),
            digest: hex::encode(digest),
            sha256: hex::encode(Sha256::digest(&sealed)),
        });
        case
    }

    /// A long plaintext of one repeated byte, whose ciphertext is stored as asked.
    fn long(&self, name: &str, about: &str, len: usize, stored: bool) -> Case {
        let mut case = self.accepted(name, about, &vec![b'a'; len]);
        let repeated = vec![Piece::Repeat { repeat_hex: "61".into(), count: len }];
        case.sealed = case.sealed.map(|sealed| SealedAs { plaintext: repeated, ..sealed });
        case.ciphertext = case.ciphertext.filter(|_| stored);
        case
    }

    pub(super) fn fails(&self, name: &str, about: &str, expect: Expect, ciphertext: Vec<Piece>) -> Case {
        Case {
            name: name.into(),
            about: about.into(),
            expect,
            read_as: self.suite.byte(),
            dek: self.dek.clone(),
            dek_id: self.dek_id.clone(),
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            context: self.context.clone(),
            ciphertext: Some(ciphertext),
            sealed: None,
        }
    }

    pub(super) fn refused(&self, name: &str, about: &str, ciphertext: &[u8]) -> Case {
        self.fails(name, about, Expect::Refused, hex_piece(ciphertext))
    }

    /// The same ciphertext, read under something else.
    fn misread(&self, name: &str, about: &str, of: &Case, change: impl FnOnce(&mut Self)) -> Case {
        let mut reader = self.clone();
        change(&mut reader);
        let Some([Piece::Hex { hex }]) = of.ciphertext.as_deref() else {
            panic!("{} is not stored", of.name)
        };
        reader.fails(name, about, Expect::Refused, vec![part(&of.name, 0, hex.len() / 2)])
    }
}

/// Plaintext of the three short ciphertexts that most vectors are made from.
pub(super) fn base_plaintext(suite: Suite) -> Vec<u8> {
    match suite {
        Suite::DataKey => (0..32).collect(),
        Suite::Field | Suite::Stream => b"13800138000".to_vec(),
    }
}

pub(super) fn base_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Field => "field",
        Suite::Stream => "stream",
        Suite::DataKey => "data_key",
    }
}

pub(super) fn all() -> Vec<Case> {
    let mut cases = accepted();
    for suite in Suite::ALL {
        cases.extend(flipped(suite));
        cases.extend(cut(suite));
        cases.extend(lengthened(suite));
        cases.extend(misread(suite));
    }
    cases.extend(foreign());
    cases.extend(context_changed());
    cases.extend(crafted::all());
    cases
}

fn accepted() -> Vec<Case> {
    let [field, stream, data_key] = Suite::ALL.map(Setup::new);
    let with = |context: &[(&str, &str)]| Setup { context: pairs(context), ..field.clone() };
    let long_names = Setup { tenant: "t".repeat(63), key: "k".repeat(63), ..field.clone() };
    let unsorted = with(&[("table", "customers"), ("column", "phone")]);
    let unicode = with(&[("café", "\u{5ba2}\u{6237}"), ("b", ""), ("Z", "\u{0}"), ("a\u{1f600}", "x")]);
    vec![
        field.accepted("field", "a phone number in a column", b"13800138000"),
        data_key.accepted("data_key", "a wrapped data key", &base_plaintext(Suite::DataKey)),
        stream.accepted("stream", "a file of one short segment", b"13800138000"),
        field.accepted("field_empty_plaintext", "nothing but a tag", b""),
        field.accepted("field_one_byte", "the shortest value", b"\0"),
        field.long("field_one_mib", "long: seal it to get the ciphertext", 1 << 20, false),
        with(&[]).accepted("field_without_context", "an empty context", b"13800138000"),
        unsorted.accepted("field_context_given_unsorted", "the same bytes as field", b"13800138000"),
        unicode.accepted("field_context_unicode", "keys sort by bytes; values may be empty", b"x"),
        long_names.accepted("field_longest_names", "names of 63 bytes", b"x"),
        stream.accepted("stream_empty_plaintext", "one empty last segment", b""),
        stream.accepted("stream_one_byte", "one segment of one byte", b"\0"),
        stream.long("stream_one_full_segment", "the last segment is full", SEGMENT, true),
        stream.long("stream_one_byte_more", "long: seal it to get the ciphertext", SEGMENT + 1, false),
        stream.long("stream_two_full_segments", "long: seal it to get the ciphertext", 2 * SEGMENT, false),
        stream.long("stream_three_segments", "two full segments and 5 bytes", 2 * SEGMENT + 5, true),
    ]
}

/// One flipped bit in each field behind the suite byte, first and last.
fn flipped(suite: Suite) -> Vec<Case> {
    let (setup, base) = (Setup::new(suite), base_name(suite));
    let (sealed, _) = setup.seal(&base_plaintext(suite));
    let tag = sealed.len() - 16;
    let fields = [
        ("dek_id", 4..20),
        ("salt", 20..44),
        ("commitment", 44..76),
        ("body", 76..tag),
        ("tag", tag..tag + 16),
    ];
    let flip = |name: String, byte: usize, mask: u8| {
        let mut bad = sealed.clone();
        bad[byte] ^= mask;
        setup.refused(&name, "one bit of the field was flipped", &bad)
    };
    let both = |(field, range): (&str, std::ops::Range<usize>)| {
        [
            flip(format!("{base}_{field}_first_bit_flipped"), range.start, 0x80),
            flip(format!("{base}_{field}_last_bit_flipped"), range.end - 1, 1),
        ]
    };
    fields.into_iter().flat_map(both).collect()
}

/// Cut at and near every boundary.
fn cut(suite: Suite) -> Vec<Case> {
    let (setup, base) = (Setup::new(suite), base_name(suite));
    let (sealed, _) = setup.seal(&base_plaintext(suite));
    let cut_at = |len: usize| {
        let expect = if len < OVERHEAD { Expect::Truncated } else { Expect::Refused };
        let name = format!("{base}_cut_to_{len}_bytes");
        setup.fails(&name, "the end is missing", expect, vec![part(base, 0, len)])
    };
    [0, 1, 2, 3, 4, 20, 44, 75, 76, 91, 92, sealed.len() - 1].map(cut_at).into()
}

/// Something follows.
fn lengthened(suite: Suite) -> Vec<Case> {
    let (setup, base) = (Setup::new(suite), base_name(suite));
    let (sealed, _) = setup.seal(&base_plaintext(suite));
    let with = |what: &str, extra: &[u8]| {
        setup.refused(&format!("{base}_{what}"), "bytes follow the tag", &[&sealed, extra].concat())
    };
    vec![with("trailing_byte", &[0]), with("trailing_tag", &[0; 16]), with("twice", &sealed)]
}

/// Read under another key, name or suite.
fn misread(suite: Suite) -> Vec<Case> {
    let (setup, base) = (Setup::new(suite), base_name(suite));
    let case = setup.accepted(base, "", &base_plaintext(suite));
    let read = |what: &str, about: &str, change: &dyn Fn(&mut Setup)| {
        setup.misread(&format!("{base}_{what}"), about, &case, change)
    };
    let other = |name: &str| Setup::new(if name == "one" { Suite::Field } else { Suite::DataKey });
    let foreign = if suite == Suite::Field { other("three") } else { other("one") };
    let mut cases = vec![
        read("wrong_dek", "the DEK with this id has other bytes", &|by| by.dek = foreign.dek.clone()),
        read("wrong_dek_id", "the reader holds another DEK", &|by| by.dek_id = foreign.dek_id.clone()),
        read("wrong_tenant", "bound to acme, read as acne", &|by| by.tenant = "acne".into()),
        read("wrong_key", "bound to customer-pii", &|by| by.key = "customer-pij".into()),
        read("names_exchanged", "tenant and key exchanged", &|by| {
            (by.tenant, by.key) = (by.key.clone(), by.tenant.clone());
        }),
        read("name_boundary_moved", "acme + customer-pii, read as acmec + ustomer-pii", &|by| {
            (by.tenant, by.key) = ("acmec".into(), "ustomer-pii".into());
        }),
        read("context_missing", "read without the context", &|by| by.context.clear()),
    ];
    for given_to in Suite::ALL.into_iter().filter(|other| *other != suite) {
        let to = base_name(given_to);
        let about = "a reader of one suite refuses the others";
        cases.push(read(&format!("given_as_{to}"), about, &|by| by.suite = given_to));
        cases.push(relabelled(&setup, given_to));
    }
    cases
}

/// The suite byte was changed to what the reader expects.
fn relabelled(setup: &Setup, to: Suite) -> Case {
    let (mut sealed, _) = setup.seal(&base_plaintext(setup.suite));
    sealed[3] = to.byte();
    let name = format!("{}_relabelled_as_{}", base_name(setup.suite), base_name(to));
    let reader = Setup { suite: to, ..setup.clone() };
    reader.refused(&name, "the suite is part of what the commitment covers", &sealed)
}

/// What is not a ciphertext of format 1 at all.
fn foreign() -> Vec<Case> {
    let setup = Setup::new(Suite::Field);
    let (sealed, _) = setup.seal(&base_plaintext(Suite::Field));
    let with = |at: usize, byte: u8| {
        let mut bad = sealed.clone();
        bad[at] = byte;
        bad
    };
    let case = |name: &str, expect, bytes: &[u8]| {
        setup.fails(name, "follows from the bytes alone, without a key", expect, hex_piece(bytes))
    };
    use Expect::{NewerFormat, NotKeyward, UnknownSuite};
    vec![
        case("magic_lower_case", NotKeyward, &with(0, b'k')),
        case("magic_second_byte", NotKeyward, &with(1, b'V')),
        case("magic_first_byte_missing", NotKeyward, &sealed[1..]),
        case("leading_zero_byte", NotKeyward, &[&[0], &sealed[..]].concat()),
        case("text_form_given_as_bytes", NotKeyward, text::encode(&sealed).as_bytes()),
        case("hex_given_as_bytes", NotKeyward, hex::encode(&sealed).as_bytes()),
        case("one_foreign_byte", NotKeyward, b"X"),
        case("format_0", NotKeyward, &with(2, 0)),
        case("format_2", NewerFormat, &with(2, 2)),
        case("format_2_cut_to_3_bytes", NewerFormat, b"KW\x02"),
        case("format_255", NewerFormat, &with(2, 255)),
        case("suite_0", UnknownSuite, &with(3, 0)),
        case("suite_4", UnknownSuite, &with(3, 4)),
        case("suite_4_cut_to_4_bytes", UnknownSuite, b"KW\x01\x04"),
        case("suite_255", UnknownSuite, &with(3, 255)),
    ]
}

/// Read with a context that only looks the same.
fn context_changed() -> Vec<Case> {
    let setup = Setup::new(Suite::Field);
    let base = setup.accepted("field", "", b"13800138000");
    let read = |name: &str, about: &str, context: &[(&str, &str)]| {
        setup.misread(name, about, &base, |by| by.context = pairs(context))
    };
    let (column, table) = (("column", "phone"), ("table", "customers"));
    let mut cases = vec![
        read("context_pair_added", "one pair more", &[column, table, ("x", "")]),
        read("context_pair_removed", "one pair less", &[column]),
        read("context_value_changed", "phone, read as email", &[("column", "email"), table]),
        read("context_key_changed", "column, read as field", &[("field", "phone"), table]),
        read("context_key_and_value_exchanged", "phone = column", &[("phone", "column"), table]),
        read("context_values_exchanged", "values swapped", &[("column", "customers"), ("table", "phone")]),
        read("context_case_changed", "case counts", &[("Column", "phone"), table]),
        read("context_value_with_space", "spaces count", &[("column", "phone "), table]),
        read("context_boundary_moved", "columnp = hone", &[("columnp", "hone"), table]),
        read("context_value_emptied", "an empty value is a value", &[("column", ""), table]),
        read(
            "context_pairs_joined",
            "two pairs as one",
            &[("column", "phone\0\0\0\u{5}table\0\0\0\tcustomers")],
        ),
    ];
    cases.push(context_decomposed());
    cases
}

/// Unicode normalisation is the caller's business: other bytes are another context.
fn context_decomposed() -> Case {
    let setup = Setup { context: pairs(&[("caf\u{e9}", "x")]), ..Setup::new(Suite::Field) };
    let (sealed, _) = setup.seal(b"x");
    let reader = Setup { context: pairs(&[("cafe\u{301}", "x")]), ..setup };
    reader.refused("context_key_decomposed", "sealed with U+00E9, read with U+0065 U+0301", &sealed)
}

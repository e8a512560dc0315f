//! Vectors from a writer that holds the key but breaks the format: tags that
//! verify where a reader must still refuse, and streams put together wrongly.

use super::ciphertexts::{Setup, base_plaintext, part};
use super::{Case, Expect, Piece, Suite, bytes, context, dek, name};
use crate::envelope::aead::{AeadKey, NONCE, TAG};
use crate::envelope::derive::Message;
use crate::envelope::{Header, SEGMENT};

const LABEL: &[u8] = b"keyward/1/message";

pub(super) fn all() -> Vec<Case> {
    let mut cases = derived_wrongly();
    cases.extend(bound_wrongly());
    cases.extend(sealed_wrongly());
    cases.extend(data_key_lengths());
    cases.extend(short_streams());
    cases.extend(long_streams());
    cases.extend(spliced_streams());
    cases
}

fn message(setup: &Setup) -> Message {
    let (dek, name) = (dek(&setup.dek_id, &setup.dek), name(&setup.tenant, &setup.key));
    Message::seal(setup.suite, &dek, &name, &context(&setup.context), bytes(&setup.salt)).unwrap()
}

fn gcm(key: &AeadKey, nonce: [u8; NONCE], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plaintext.len() + TAG];
    key.seal(nonce, aad, plaintext, &mut out).unwrap();
    out
}

fn lp(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::envelope::put_lp32(&mut out, bytes);
    out
}

/// A field whose OKM comes from `info`, with the halves taken as `order` says.
fn field_with_info(name: &str, about: &str, info: &[u8], bind: &[u8], key_half: usize) -> Case {
    let setup = Setup::new(Suite::Field);
    let mut okm = [[0; 32]; 2];
    dek(&setup.dek_id, &setup.dek).expand(&[info], okm.as_flattened_mut()).unwrap();
    let header = Header { commitment: okm[1 - key_half], ..message(&setup).header };
    let body = gcm(&AeadKey::new(&okm[key_half]).unwrap(), [0; NONCE], bind, &base_plaintext(Suite::Field));
    setup.refused(name, about, &[&header.encode(), &body[..]].concat())
}

fn derived_wrongly() -> Vec<Case> {
    let Message { bind, digest, .. } = message(&Setup::new(Suite::Field));
    let info = [&lp(LABEL)[..], &digest].concat();
    let case = |name, about, info: &[u8], half| field_with_info(name, about, info, &bind, half);
    vec![
        case("okm_halves_exchanged", "the message key is the first half", &info, 1),
        case("info_without_label", "info = SHA-256(BIND)", &digest, 0),
        case("info_label_without_length", "the label is an lp32", &[LABEL, &digest[..]].concat(), 0),
        case("info_digest_with_length", "the digest is not an lp32", &[lp(LABEL), lp(&digest)].concat(), 0),
        case("info_bind_not_hashed", "BIND is hashed", &[&lp(LABEL)[..], &bind].concat(), 0),
        case("info_of_blind_index", "another label", &[&lp(b"keyward/1/index")[..], &digest].concat(), 0),
    ]
}

/// Everything right except that the writer built another BIND.
fn field_with_bind(name: &str, about: &str, bind: &[u8]) -> Case {
    use sha2::{Digest, Sha256};
    let info = [&lp(LABEL)[..], &Sha256::digest(bind)].concat();
    field_with_info(name, about, &info, bind, 0)
}

fn bound_wrongly() -> Vec<Case> {
    let bind = message(&Setup::new(Suite::Field)).bind;
    let start = &bind[..Header::BOUND];
    let context = &bind[Header::BOUND + 4 + 4 + 4 + 12..];
    let (tenant, key) = (lp(b"acme"), lp(b"customer-pii"));
    let build = |parts: &[&[u8]]| parts.concat();
    let pair = |key: &[u8], value: &[u8]| [lp(key), lp(value)].concat();
    let (column, table) = (pair(b"column", b"phone"), pair(b"table", b"customers"));
    assert_eq!(bind, build(&[start, &tenant, &key, &[0, 0, 0, 2], &column, &table]));
    let (little_tenant, little_key) = (b"\x04\0\0\0acme", b"\x0c\0\0\0customer-pii");
    let resource = lp(b"tenants/acme");
    vec![
        field_with_bind(
            "bind_context_unsorted",
            "table before column",
            &build(&[start, &tenant, &key, &[0, 0, 0, 2], &table, &column]),
        ),
        field_with_bind(
            "bind_without_count",
            "the number of pairs is missing",
            &build(&[start, &tenant, &key, &column, &table]),
        ),
        field_with_bind(
            "bind_little_endian",
            "lengths are big-endian",
            &build(&[start, little_tenant, little_key, context]),
        ),
        field_with_bind(
            "bind_key_before_tenant",
            "the tenant is first",
            &build(&[start, &key, &tenant, context]),
        ),
        field_with_bind(
            "bind_resource_name",
            "the tenant is acme, not tenants/acme",
            &build(&[start, &resource, &key, context]),
        ),
        field_with_bind("bind_without_names", "names are bound", &build(&[start, context])),
        field_with_bind("bind_without_header", "the header is bound", &build(&[&tenant, &key, context])),
        field_with_bind("bind_trailing_zero", "nothing follows the context", &build(&[&bind, &[0]])),
    ]
}

/// The right message key and commitment, used wrongly.
fn sealed_wrongly() -> Vec<Case> {
    let setup = Setup::new(Suite::Field);
    let Message { key, bind, digest, header } = message(&setup);
    let plaintext = base_plaintext(Suite::Field);
    let last = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let case = |name: &str, about: &str, commitment: [u8; 32], body: Vec<u8>| {
        let header = Header { commitment, ..header.clone() };
        setup.refused(name, about, &[&header.encode()[..], &body].concat())
    };
    let good = || gcm(&key, [0; NONCE], &bind, &plaintext);
    let right = header.commitment;
    let dek_as_key = AeadKey::new(&bytes(&setup.dek)).unwrap();
    vec![
        case("commitment_zero", "the tag verifies, the commitment does not", [0; 32], good()),
        case("commitment_is_digest", "the tag verifies, the commitment does not", digest, good()),
        case("aad_empty", "the AAD is BIND", right, gcm(&key, [0; NONCE], b"", &plaintext)),
        case("aad_is_header", "the AAD is BIND", right, gcm(&key, [0; NONCE], &bind[..44], &plaintext)),
        case(
            "aad_is_digest",
            "the AAD is BIND, not its hash",
            right,
            gcm(&key, [0; NONCE], &digest, &plaintext),
        ),
        case("nonce_of_a_stream", "the nonce is zero", right, gcm(&key, last, &bind, &plaintext)),
        case(
            "dek_is_message_key",
            "a DEK encrypts nothing",
            right,
            gcm(&dek_as_key, [0; NONCE], &bind, &plaintext),
        ),
        case("not_encrypted", "plaintext in place of the body", right, [&plaintext[..], &[0; TAG]].concat()),
    ]
}

/// Tags that verify over data keys of the wrong length.
fn data_key_lengths() -> Vec<Case> {
    let setup = Setup::new(Suite::DataKey);
    let Message { key, bind, header, .. } = message(&setup);
    let of_len = |len: usize| {
        let body = gcm(&key, [0; NONCE], &bind, &vec![7; len]);
        let name = format!("data_key_of_{len}_bytes");
        setup.refused(
            &name,
            "the tag verifies, but a data key has 32 bytes",
            &[&header.encode()[..], &body].concat(),
        )
    };
    [0, 16, 31, 33, 64].map(of_len).into()
}

fn nonce(number: [u8; 4], flag: u8) -> [u8; NONCE] {
    let [a, b, c, d] = number;
    [0, 0, 0, 0, 0, 0, 0, a, b, c, d, flag]
}

/// Streams of one or two short segments, each sealed under the nonce given.
fn stream_of(name: &str, about: &str, segments: &[(&[u8], [u8; NONCE])]) -> Case {
    let setup = Setup::new(Suite::Stream);
    let Message { key, bind, header, .. } = message(&setup);
    let mut out = header.encode().to_vec();
    segments.iter().for_each(|(plaintext, nonce)| out.extend(gcm(&key, *nonce, &bind, plaintext)));
    setup.refused(name, about, &out)
}

fn short_streams() -> Vec<Case> {
    let at = |number: u32, flag| nonce(number.to_be_bytes(), flag);
    let mut first = at(0, 1);
    first[0] = 1;
    vec![
        stream_of("stream_last_flag_missing", "the only segment is the last", &[(b"hello", at(0, 0))]),
        stream_of("stream_last_flag_2", "the flag is 0 or 1", &[(b"hello", at(0, 2))]),
        stream_of("stream_last_flag_255", "the flag is 0 or 1", &[(b"hello", at(0, 255))]),
        stream_of("stream_number_starts_at_1", "numbers start at 0", &[(b"hello", at(1, 1))]),
        stream_of("stream_nonce_first_byte", "the first 7 bytes are zero", &[(b"hello", first)]),
        stream_of("stream_empty_last_flag_missing", "an empty file has a last segment", &[(b"", at(0, 0))]),
        stream_of(
            "stream_short_segments",
            "only the last may be short",
            &[(b"he", at(0, 0)), (b"llo", at(1, 1))],
        ),
        stream_of("stream_two_empty_segments", "one at most", &[(b"", at(0, 0)), (b"", at(1, 1))]),
        stream_of(
            "stream_empty_first_segment",
            "never before data",
            &[(b"", at(0, 0)), (b"hello", at(1, 1))],
        ),
        stream_of(
            "stream_empty_second_segment",
            "never after data",
            &[(b"hello", at(0, 0)), (b"", at(1, 1))],
        ),
        stream_of(
            "stream_two_last_segments",
            "nothing follows it",
            &[(b"hello", at(0, 1)), (b"x", at(1, 1))],
        ),
        stream_of(
            "stream_oversized_segment",
            "a segment has 65536 bytes",
            &[(&[b'a'; SEGMENT + 1], at(0, 1))],
        ),
    ]
}

const LONG: &str = "stream_three_segments";
const FULL: &str = "stream_one_full_segment";
const SEALED: usize = SEGMENT + TAG;

/// Where segment `n` of a long stream begins.
const fn start(n: usize) -> usize {
    Header::LEN + n * SEALED
}

/// The first segment of the stored long stream, then one sealed anew.
fn long_streams() -> Vec<Case> {
    let setup = Setup::new(Suite::Stream);
    let Message { key, bind, .. } = message(&setup);
    let then = |name: &str, about: &str, plaintext: &[u8], number: [u8; 4], flag| {
        let body = gcm(&key, nonce(number, flag), &bind, plaintext);
        let pieces = vec![part(LONG, 0, start(1)), Piece::Hex { hex: hex::encode(body) }];
        setup.fails(name, about, Expect::Refused, pieces)
    };
    let next = 1u32.to_be_bytes();
    vec![
        then("stream_empty_last_segment", "its tag verifies, but only an empty file has one", b"", next, 1),
        then("stream_number_skipped", "the second segment is number 1", b"hello", 2u32.to_be_bytes(), 1),
        then("stream_number_repeated", "the second segment is number 1", b"hello", [0; 4], 1),
        then("stream_number_little_endian", "numbers are big-endian", b"hello", [1, 0, 0, 0], 1),
        then("stream_second_last_flag_missing", "the end is marked", b"hello", next, 0),
    ]
}

/// Parts of stored streams under one key, in an order in which they never were.
fn spliced_streams() -> Vec<Case> {
    let setup = Setup::new(Suite::Stream);
    let of = |name: &str, about: &str, pieces: &[(usize, usize)]| {
        let pieces = pieces.iter().map(|(from, to)| part(LONG, *from, *to)).collect();
        setup.fails(name, about, Expect::Refused, pieces)
    };
    let (head, end) = ((0, start(0)), start(2) + 5 + TAG);
    let (one, two, rest) = ((start(0), start(1)), (start(1), start(2)), (start(2), end));
    let zeros = |count| Piece::Repeat { repeat_hex: "00".into(), count };
    let spliced = |name: &str, about: &str, pieces| setup.fails(name, about, Expect::Refused, pieces);
    let other = Setup { salt: "5a".repeat(24), ..setup.clone() };
    let (foreign, _) = other.seal(b"hello");
    vec![
        of("stream_segments_swapped", "order counts", &[head, two, one, rest]),
        of("stream_first_segment_dropped", "a missing segment", &[head, two, rest]),
        of("stream_middle_segment_dropped", "a missing segment", &[head, one, rest]),
        of("stream_first_segment_repeated", "one segment twice", &[head, one, one, two, rest]),
        of("stream_last_segment_repeated", "one segment twice", &[head, one, two, rest, rest]),
        of("stream_last_segment_first", "order counts", &[head, rest, one, two]),
        of("stream_cut_after_first_segment", "the last segment is missing", &[head, one]),
        of("stream_cut_after_second_segment", "the last segment is missing", &[head, one, two]),
        of("stream_cut_inside_second_segment", "half a segment", &[(0, start(1) + 1000)]),
        of("stream_cut_after_one_byte", "one byte of the second segment", &[(0, start(1) + 1)]),
        of("stream_cut_inside_last_tag", "15 bytes of a tag", &[(0, end - 1)]),
        of("stream_cut_before_last_tag", "the last tag is missing", &[(0, end - TAG)]),
        spliced(
            "stream_long_trailing_byte",
            "bytes follow the last segment",
            vec![part(LONG, 0, end), zeros(1)],
        ),
        spliced(
            "stream_long_trailing_segment",
            "bytes follow the last",
            vec![part(LONG, 0, end), zeros(SEALED)],
        ),
        spliced(
            "stream_full_trailing_byte",
            "bytes follow a full last",
            vec![part(FULL, 0, start(1)), zeros(1)],
        ),
        spliced(
            "stream_full_trailing_tag",
            "bytes follow a full last",
            vec![part(FULL, 0, start(1)), zeros(TAG)],
        ),
        spliced(
            "stream_full_then_last",
            "two last segments",
            vec![part(FULL, 0, start(1)), part(LONG, start(2), end)],
        ),
        spliced(
            "stream_segment_of_another_stream",
            "the same DEK, another salt",
            vec![part(LONG, 0, start(2)), Piece::Hex { hex: hex::encode(&foreign[Header::LEN..]) }],
        ),
    ]
}

/// The vectors above fail for their defect only: without it, crafting gives what sealing gives.
#[test]
fn crafting_without_a_defect_is_sealing() {
    let spelled = |case: Case| match &case.ciphertext.unwrap()[..] {
        [Piece::Hex { hex }] => hex.clone(),
        _ => panic!("{} is not one piece", case.name),
    };
    let sealed = |suite, plaintext: &[u8]| hex::encode(Setup::new(suite).seal(plaintext).0);
    let bind = message(&Setup::new(Suite::Field)).bind;
    let field = field_with_bind("", "", &bind);
    assert_eq!(spelled(field), sealed(Suite::Field, &base_plaintext(Suite::Field)));
    let (first, last) = (nonce([0; 4], 0), nonce([0, 0, 0, 1], 1));
    let stream = stream_of("", "", &[(&[b'a'; SEGMENT], first), (b"a", last)]);
    assert_eq!(spelled(stream), sealed(Suite::Stream, &[b'a'; SEGMENT + 1]));
}

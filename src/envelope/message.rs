//! Messages that fit in memory: fields (suite 1) and data keys (suite 3).

use super::aead::{NONCE, TAG};
use super::context::Context;
use super::dek::Dek;
use super::derive::Message;
use super::header::{Header, OVERHEAD, ParseError};
use super::suite::Suite;
use crate::id::KeyName;
use crate::secret::SecretBytes;

/// Bytes in a data key.
pub const DATA_KEY_LEN: usize = 32;

/// The message key is used once, so the nonce says nothing.
const ZERO_NONCE: [u8; NONCE] = [0; NONCE];

/// 24 random bytes that make one message key. Never use one twice: it is
/// neither `Clone` nor `Copy`, and sealing consumes it.
#[derive(Debug)]
pub struct Salt(pub [u8; 24]);

/// A sealed message.
#[derive(Debug)]
pub struct Sealed {
    /// Header, AES-256-GCM ciphertext and tag: [`OVERHEAD`] bytes more than the plaintext.
    pub ciphertext: Vec<u8>,
    /// SHA-256 of BIND: names the ciphertext's header and context in the audit log.
    pub digest: [u8; 32],
}

/// An opened message.
#[derive(Debug)]
pub struct Opened {
    /// What was sealed.
    pub plaintext: SecretBytes,
    /// SHA-256 of BIND, as in [`Sealed`].
    pub digest: [u8; 32],
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The DEK has another suite family.
    #[error("the data key has algorithms other than the suite asks for")]
    Family,
    /// Suite 2 was asked of [`seal`].
    #[error("a stream cannot be sealed as one message: use the stream calls")]
    NotAMessage,
    /// Suite 3 holds exactly 32 bytes.
    #[error("a data key must have {DATA_KEY_LEN} bytes")]
    DataKeyLength,
    /// A stream has more than 2^32 segments.
    #[error("the stream is longer than 2^48 bytes: split the file")]
    TooLong,
    /// The stream failed before; its salt must not be used again.
    #[error("the stream failed before: start again from the beginning")]
    Failed,
    /// AES-256-GCM or HKDF answered with an error: a plaintext over 2^36 - 32 bytes, or no memory.
    #[error("the cryptographic library refused the plaintext: it is too long or memory ran out")]
    Primitive,
}

/// Why nothing was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not a ciphertext that this version can read.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// Wrong key, name, context or suite, or changed bytes: which one is never told.
    #[error("the ciphertext does not open under this key and context: give both as they were for encrypt")]
    Refused,
}

/// Encrypts `plaintext` as a message of `suite`, bound to key name and context.
///
/// # Errors
/// [`SealError`] for a suite or a length that does not fit; never for the content.
pub fn seal(
    suite: Suite,
    dek: &Dek,
    name: &KeyName,
    context: &Context,
    salt: Salt,
    plaintext: &[u8],
) -> Result<Sealed, SealError> {
    check_plaintext(suite, plaintext.len())?;
    let Message { key, bind, digest, header } = Message::seal(suite, dek, name, context, salt.0)?;
    let mut ciphertext = vec![0; OVERHEAD + plaintext.len()];
    let (head, body) = ciphertext.split_at_mut(Header::LEN);
    head.copy_from_slice(&header.encode());
    key.seal(ZERO_NONCE, &bind, plaintext, body).map_err(|_| SealError::Primitive)?;
    Ok(Sealed { ciphertext, digest })
}

/// Decrypts a message of `suite`: the commitment first, then AES-256-GCM.
///
/// # Errors
/// [`OpenError::Malformed`] when the bytes alone show that nothing can be
/// opened; [`OpenError::Refused`] for everything else.
pub fn open(
    suite: Suite,
    dek: &Dek,
    name: &KeyName,
    context: &Context,
    ciphertext: &[u8],
) -> Result<Opened, OpenError> {
    let (header, body) = Header::parse(ciphertext)?;
    let len = body.len().checked_sub(TAG).ok_or(ParseError::Truncated)?;
    check_plaintext(suite, len).map_err(|_| OpenError::Refused)?;
    let message = Message::open(suite, dek, name, context, &header)?;
    let mut plaintext = vec![0; len];
    let opened = message.key.open(ZERO_NONCE, &message.bind, body, &mut plaintext);
    let plaintext = SecretBytes::new(plaintext);
    opened.map_err(|_| OpenError::Refused)?;
    Ok(Opened { plaintext, digest: message.digest })
}

/// What a suite may hold; GCM's own limit is checked by the library.
fn check_plaintext(suite: Suite, len: usize) -> Result<(), SealError> {
    match suite {
        Suite::Field => Ok(()),
        Suite::Stream => Err(SealError::NotAMessage),
        Suite::DataKey if len == DATA_KEY_LEN => Ok(()),
        Suite::DataKey => Err(SealError::DataKeyLength),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::id::DekId;
    use crate::keyring::record::SuiteFamily;
    use crate::secret::Key256;

    fn dek(id: u8, key: u8) -> Dek {
        Dek::new(DekId([id; 16]), SuiteFamily::AesSha2, Key256::init_with(|bytes| bytes.fill(key)))
    }

    fn name() -> KeyName {
        KeyName::parse("tenants/acme/keys/customer-pii").unwrap()
    }

    fn sealed(suite: Suite, plaintext: &[u8]) -> Vec<u8> {
        seal(suite, &dek(1, 1), &name(), &Context::empty(), Salt([9; 24]), plaintext).unwrap().ciphertext
    }

    fn open_with(suite: Suite, dek: &Dek, ciphertext: &[u8]) -> Result<Opened, OpenError> {
        open(suite, dek, &name(), &Context::empty(), ciphertext)
    }

    #[test]
    fn a_message_opens_with_the_digest_it_was_sealed_with() {
        let sealed =
            seal(Suite::Field, &dek(1, 1), &name(), &Context::empty(), Salt([9; 24]), b"Li Wei").unwrap();
        let opened = open_with(Suite::Field, &dek(1, 1), &sealed.ciphertext).unwrap();
        assert_eq!(opened.plaintext.expose(), b"Li Wei");
        assert_eq!(opened.digest, sealed.digest);
        assert_eq!(sealed.ciphertext.len(), OVERHEAD + 6);
        assert_eq!(sealed.ciphertext.capacity(), OVERHEAD + 6);
    }

    #[test]
    fn wrong_suite_key_and_id_get_one_answer() {
        let field = sealed(Suite::Field, &[0; 32]);
        let data_key = sealed(Suite::DataKey, &[0; 32]);
        for (suite, dek, ciphertext) in [
            (Suite::DataKey, dek(1, 1), &field),
            (Suite::Stream, dek(1, 1), &field),
            (Suite::Field, dek(1, 1), &data_key),
            (Suite::Field, dek(2, 1), &field),
            (Suite::Field, dek(1, 2), &field),
        ] {
            assert_eq!(open_with(suite, &dek, ciphertext).unwrap_err(), OpenError::Refused);
        }
        assert!(open_with(Suite::DataKey, &dek(1, 1), &data_key).is_ok());
    }

    #[test]
    fn a_data_key_has_32_bytes_and_a_stream_is_no_message() {
        let try_seal = |suite, len| {
            seal(suite, &dek(1, 1), &name(), &Context::empty(), Salt([0; 24]), &vec![0; len])
                .map(|_| ())
                .err()
        };
        for len in [0, 16, 31, 33] {
            assert_eq!(try_seal(Suite::DataKey, len), Some(SealError::DataKeyLength));
        }
        assert_eq!(try_seal(Suite::DataKey, 32), None);
        assert_eq!(try_seal(Suite::Stream, 1), Some(SealError::NotAMessage));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let good = sealed(Suite::Field, b"13800138000");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let refused = open_with(Suite::Field, &dek(1, 1), &bad).unwrap_err();
            // From the DEK id on there is one answer only.
            assert!(bit < 32 || refused == OpenError::Refused, "bit {bit}: {refused}");
        }
        for len in 0..good.len() {
            let refused = open_with(Suite::Field, &dek(1, 1), &good[..len]).unwrap_err();
            let short = OpenError::Malformed(ParseError::Truncated);
            assert_eq!(refused, if len < OVERHEAD { short } else { OpenError::Refused }, "{len}");
        }
        for extra in [vec![0], vec![0; 16], good.clone()] {
            let longer = [&good[..], &extra].concat();
            assert_eq!(open_with(Suite::Field, &dek(1, 1), &longer).unwrap_err(), OpenError::Refused);
        }
    }

    #[test]
    fn errors_and_debug_show_no_plaintext() {
        let opened = open_with(Suite::Field, &dek(1, 1), &sealed(Suite::Field, b"SECRET")).unwrap();
        let shown = format!("{opened:?} {}", OpenError::Refused);
        assert!(!shown.contains("SECRET") && !shown.contains("83, 69, 67"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_message_round_trips_and_any_flipped_bit_is_refused(
            plaintext in vec(any::<u8>(), 0..600),
            pairs in btree_map("[a-z]{1,8}", "\\PC{0,8}", 0..4),
            salt in any::<[u8; 24]>(),
            key in any::<[u8; 32]>(),
            bit in any::<prop::sample::Index>(),
        ) {
            let dek = Dek::new(DekId([5; 16]), SuiteFamily::AesSha2, Key256::init_with(|bytes| *bytes = key));
            let context = Context::new(pairs.iter().map(|(key, value)| (&**key, &**value))).unwrap();
            let mut sealed = seal(Suite::Field, &dek, &name(), &context, Salt(salt), &plaintext).unwrap().ciphertext;
            let opened = open(Suite::Field, &dek, &name(), &context, &sealed).unwrap();
            prop_assert_eq!(opened.plaintext.expose(), &plaintext);
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(Suite::Field, &dek, &name(), &context, &sealed).is_err());
        }

        #[test]
        fn another_context_is_refused(
            one in btree_map("[ab]{1,2}", "[ab]{0,2}", 0..3),
            two in btree_map("[ab]{1,2}", "[ab]{0,2}", 0..3),
        ) {
            prop_assume!(one != two);
            let [one, two] = [one, two].map(|pairs| {
                Context::new(pairs.iter().map(|(key, value)| (&**key, &**value))).unwrap()
            });
            let sealed = seal(Suite::Field, &dek(1, 1), &name(), &one, Salt([0; 24]), b"x").unwrap().ciphertext;
            let refused = open(Suite::Field, &dek(1, 1), &name(), &two, &sealed).unwrap_err();
            prop_assert_eq!(refused, OpenError::Refused);
        }
    }
}

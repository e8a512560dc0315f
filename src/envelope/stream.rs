//! Streams (suite 2): files of any length, sealed and opened in 64 KiB segments
//! as the bytes come, in constant memory.

use zeroize::{Zeroize, Zeroizing};

use super::aead::{AeadKey, NONCE, TAG};
use super::context::Context;
use super::dek::Dek;
use super::derive::Message;
use super::header::{Header, ParseError};
use super::message::{OpenError, Salt, SealError};
use super::suite::Suite;
use crate::id::KeyName;

/// Plaintext bytes in every segment but the last.
pub const SEGMENT: usize = 64 * 1024;

/// Seals a stream. Write [`header`](Self::header) first, then what
/// [`update`](Self::update) and [`finish`](Self::finish) append.
pub struct StreamSealer {
    header: [u8; Header::LEN],
    digest: [u8; 32],
    splitter: Splitter,
    /// Gone after an error: a failed stream is never resumed under its salt.
    cipher: Option<SegmentCipher>,
}

impl StreamSealer {
    /// Begins a stream that is bound to key name and context.
    ///
    /// # Errors
    /// [`SealError::Family`] when the DEK has other algorithms.
    pub fn new(dek: &Dek, name: &KeyName, context: &Context, salt: Salt) -> Result<Self, SealError> {
        let message = Message::seal(Suite::Stream, dek, name, context, salt.0)?;
        Ok(Self {
            header: message.header.encode(),
            digest: message.digest,
            splitter: Splitter::new(SEGMENT),
            cipher: Some(SegmentCipher::new(message)),
        })
    }

    /// The first 76 bytes of the ciphertext.
    pub fn header(&self) -> &[u8; Header::LEN] {
        &self.header
    }

    /// SHA-256 of BIND, for the audit log.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Takes more plaintext and appends the segments that it completes.
    ///
    /// # Errors
    /// [`SealError::TooLong`] after 2^32 segments; after any error only [`SealError::Failed`].
    pub fn update(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let sealed = self.splitter.push(chunk, |segment| cipher.seal(segment, false, out));
        self.cipher.take_if(|_| sealed.is_err());
        sealed
    }

    /// Appends the last segment.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut cipher = self.cipher.take().ok_or(SealError::Failed)?;
        cipher.seal(&self.splitter.held, true, out)
    }
}

/// Opens a stream whose header was read before. What it appends is verified,
/// but the file is whole only when [`finish`](Self::finish) says so.
pub struct StreamOpener {
    digest: [u8; 32],
    splitter: Splitter,
    /// Gone after an error.
    cipher: Option<SegmentCipher>,
}

impl StreamOpener {
    /// Checks the header and its commitment.
    ///
    /// # Errors
    /// [`OpenError::Refused`] when the header does not belong to this key, name and context.
    pub fn new(dek: &Dek, name: &KeyName, context: &Context, header: &Header) -> Result<Self, OpenError> {
        let message = Message::open(Suite::Stream, dek, name, context, header)?;
        let splitter = Splitter::new(SEGMENT + TAG);
        Ok(Self { digest: message.digest, splitter, cipher: Some(SegmentCipher::new(message)) })
    }

    /// SHA-256 of BIND, for the audit log.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Takes more ciphertext (without the header) and appends the plaintext of
    /// the segments that it completes. The bytes in `out` are the caller's to wipe;
    /// room for the chunk and one segment keeps it from being moved.
    ///
    /// # Errors
    /// [`OpenError::Refused`] when a segment does not verify, and ever after.
    pub fn update(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let cipher = self.cipher.as_mut().ok_or(OpenError::Refused)?;
        let opened = self.splitter.push(chunk, |segment| cipher.open(segment, false, out));
        self.cipher.take_if(|_| opened.is_err());
        opened
    }

    /// Verifies the last segment and appends its plaintext.
    ///
    /// # Errors
    /// [`OpenError::Refused`] when it does not verify as the last one: the file
    /// was cut or changed. [`ParseError::Truncated`] when there is no segment at all.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let mut cipher = self.cipher.take().ok_or(OpenError::Refused)?;
        let last = &self.splitter.held;
        match (cipher.is_fresh(), last.len()) {
            (true, ..TAG) => Err(ParseError::Truncated.into()),
            // An empty last segment would give one plaintext two ciphertext lengths.
            (false, TAG) => Err(OpenError::Refused),
            _ => cipher.open(last, true, out),
        }
    }
}

/// Cuts what comes into pieces of one size. The last piece is held back,
/// because only the end of the input shows that it is the last.
struct Splitter {
    size: usize,
    held: Zeroizing<Vec<u8>>,
}

impl Splitter {
    fn new(size: usize) -> Self {
        Self { size, held: Zeroizing::new(Vec::with_capacity(size)) }
    }

    /// Hands over every whole piece that something follows.
    fn push<E>(&mut self, mut chunk: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while let Some((fill, rest)) = chunk.split_at_checked(self.size - self.held.len())
            && !rest.is_empty()
        {
            if self.held.is_empty() {
                each(fill)?;
            } else {
                self.held.extend_from_slice(fill);
                each(&self.held)?;
                self.held.clear();
            }
            chunk = rest;
        }
        self.held.extend_from_slice(chunk);
        Ok(())
    }
}

/// The message key of a stream and the number of the next segment.
struct SegmentCipher {
    key: AeadKey,
    bind: Vec<u8>,
    /// `None` when the numbers are used up.
    next: Option<u32>,
}

impl SegmentCipher {
    fn new(message: Message) -> Self {
        Self { key: message.key, bind: message.bind, next: Some(0) }
    }

    /// Whether no segment was processed yet.
    fn is_fresh(&self) -> bool {
        self.next == Some(0)
    }

    fn seal(&mut self, plaintext: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let nonce = self.nonce(last).ok_or(SealError::TooLong)?;
        let start = out.len();
        out.resize(start + plaintext.len() + TAG, 0);
        self.key.seal(nonce, &self.bind, plaintext, &mut out[start..]).map_err(|_| SealError::Primitive)
    }

    /// Appends nothing that does not verify.
    fn open(&mut self, sealed: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let nonce = self.nonce(last).ok_or(OpenError::Refused)?;
        let len = sealed.len().checked_sub(TAG).ok_or(OpenError::Refused)?;
        let start = out.len();
        out.resize(start + len, 0);
        self.key.open(nonce, &self.bind, sealed, &mut out[start..]).map_err(|_| {
            out[start..].zeroize();
            out.truncate(start);
            OpenError::Refused
        })
    }

    /// 7 zero bytes | u32 number | 1 when it is the last.
    fn nonce(&mut self, last: bool) -> Option<[u8; NONCE]> {
        let number = self.next?;
        self.next = number.checked_add(1);
        let mut nonce = [0; NONCE];
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = last.into();
        Some(nonce)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::DekId;
    use crate::keyring::record::SuiteFamily;
    use crate::secret::Key256;

    fn dek() -> Dek {
        Dek::new(DekId([1; 16]), SuiteFamily::AesSha2, Key256::init_with(|bytes| bytes.fill(7)))
    }

    fn name() -> KeyName {
        KeyName::parse("tenants/acme/keys/files").unwrap()
    }

    fn sealer() -> StreamSealer {
        StreamSealer::new(&dek(), &name(), &Context::empty(), Salt([3; 24])).unwrap()
    }

    fn opener(header: &[u8]) -> StreamOpener {
        let (header, _) = Header::parse(header).unwrap();
        StreamOpener::new(&dek(), &name(), &Context::empty(), &header).unwrap()
    }

    fn seal(plaintext: &[u8], chunk: usize) -> Vec<u8> {
        let mut sealer = sealer();
        let mut out = sealer.header().to_vec();
        plaintext.chunks(chunk).for_each(|chunk| sealer.update(chunk, &mut out).unwrap());
        sealer.finish(&mut out).unwrap();
        out
    }

    fn open(ciphertext: &[u8], chunk: usize) -> Result<Vec<u8>, OpenError> {
        let (header, body) = ciphertext.split_at(Header::LEN);
        let (mut opener, mut out) = (opener(header), Vec::new());
        body.chunks(chunk).try_for_each(|chunk| opener.update(chunk, &mut out))?;
        opener.finish(&mut out).map(|()| out)
    }

    /// Not periodic in the segment length, so that swapped segments differ.
    fn plaintext(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    fn expected_len(len: usize) -> usize {
        Header::LEN + len + TAG * len.div_ceil(SEGMENT).max(1)
    }

    #[test]
    fn lengths_around_the_segment_are_exact() {
        for len in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1] {
            let sealed = seal(&plaintext(len), 10_000);
            assert_eq!(sealed.len(), expected_len(len), "{len}");
            assert_eq!(open(&sealed, 10_000).unwrap(), plaintext(len), "{len}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let sealed = seal(&plaintext(SEGMENT + 20), SEGMENT);
        let boundary = Header::LEN + SEGMENT + TAG;
        let near = |at: usize| at.saturating_sub(18)..at + 18;
        let cuts = near(Header::LEN + 18).chain(near(boundary)).chain(boundary..sealed.len());
        for cut in cuts {
            let refused = open(&sealed[..cut], 4096).unwrap_err();
            let short = cut < Header::LEN + TAG;
            assert_eq!(refused == OpenError::Malformed(ParseError::Truncated), short, "{cut}");
        }
    }

    #[test]
    fn a_changed_segment_is_never_released() {
        let mut sealed = seal(&plaintext(2 * SEGMENT), SEGMENT);
        sealed[Header::LEN + SEGMENT + TAG] ^= 1;
        let mut opener = opener(&sealed);
        let mut out = Vec::new();
        assert_eq!(opener.update(&sealed[Header::LEN..], &mut out), Ok(()));
        assert_eq!(out, plaintext(SEGMENT));
        assert_eq!(opener.finish(&mut out), Err(OpenError::Refused));
        assert_eq!(out, plaintext(SEGMENT));
    }

    #[test]
    fn after_an_error_a_stream_stays_failed() {
        let good = seal(&plaintext(3 * SEGMENT), SEGMENT);
        let (first, second) = (Header::LEN, Header::LEN + SEGMENT + TAG);
        let mut bad = good.clone();
        bad[first] ^= 1;
        let mut opener = opener(&bad);
        let mut out = Vec::new();
        assert_eq!(opener.update(&bad[first..second + 1], &mut out), Err(OpenError::Refused));
        // What follows is genuine and in its place, and still not released.
        assert_eq!(opener.update(&good[second..], &mut out), Err(OpenError::Refused));
        assert_eq!(opener.finish(&mut out), Err(OpenError::Refused));
        assert!(out.is_empty());
    }

    #[test]
    fn segment_numbers_run_out_with_an_error() {
        let mut sealer = sealer();
        sealer.cipher.as_mut().unwrap().next = Some(u32::MAX);
        let mut out = Vec::new();
        sealer.update(&plaintext(SEGMENT + 1), &mut out).unwrap();
        assert_eq!(sealer.update(&plaintext(SEGMENT), &mut out), Err(SealError::TooLong));
        assert_eq!(sealer.update(b"", &mut out), Err(SealError::Failed));
        assert_eq!(sealer.finish(&mut out), Err(SealError::Failed));
        assert_eq!(out.len(), SEGMENT + TAG);
    }

    #[test]
    fn the_last_number_can_be_used() {
        let mut sealer = sealer();
        sealer.cipher.as_mut().unwrap().next = Some(u32::MAX);
        assert_eq!(sealer.finish(&mut Vec::new()), Ok(()));
    }

    #[test]
    fn a_header_of_another_suite_is_refused() {
        let sealed =
            super::super::seal(Suite::Field, &dek(), &name(), &Context::empty(), Salt([3; 24]), b"field");
        let (header, _) = Header::parse(&sealed.unwrap().ciphertext).map(|(h, r)| (h, r.len())).unwrap();
        let refused = StreamOpener::new(&dek(), &name(), &Context::empty(), &header);
        assert_eq!(refused.map(|_| ()).unwrap_err(), OpenError::Refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_chunking_does_not_matter(
            len in 0..3 * SEGMENT,
            sealing in prop_oneof![1..200usize, 1..3 * SEGMENT],
            opening in prop_oneof![1..200usize, 1..3 * SEGMENT],
        ) {
            let plaintext = plaintext(len);
            let sealed = seal(&plaintext, sealing);
            prop_assert!(sealed == seal(&plaintext, SEGMENT), "sealed differently");
            prop_assert!(open(&sealed, opening) == Ok(plaintext), "opened differently");
        }

        #[test]
        fn any_flipped_bit_or_cut_is_refused(
            len in 0..SEGMENT + 100,
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let good = seal(&plaintext(len), SEGMENT);
            let body = (good.len() - Header::LEN) * 8;
            let bit = Header::LEN * 8 + bit.index(body);
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&bad, SEGMENT).map(|_| ()), Err(OpenError::Refused));
            let cut = Header::LEN + cut.index(good.len() - Header::LEN);
            prop_assert!(open(&good[..cut], SEGMENT).is_err());
        }
    }
}

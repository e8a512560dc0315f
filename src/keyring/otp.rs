//! One-time passwords: HOTP (RFC 4226) and TOTP (RFC 6238), and when too many were wrong.
//!
//! A password is accepted once: the record keeps the first counter that still counts,
//! and it only grows (RFC 6238, section 5.2).

use std::time::Duration;

use aws_lc_rs::hmac;
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;

use crate::clock::Date;

/// The hash function under the HMAC. SHA-1 is what most authenticator programs know; its
/// collisions do not matter under an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum OtpHash {
    /// SHA-1.
    #[n(1)]
    Sha1,
    /// SHA-256.
    #[n(2)]
    Sha256,
    /// SHA-512.
    #[n(3)]
    Sha512,
}

impl OtpHash {
    /// Every hash function.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// The word for it, as in `otpauth` URIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    /// The hash function of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.as_str() == word)
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// What the counter of a password is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum OtpKind {
    /// The time: steps of so many seconds since 1970 (RFC 6238).
    #[n(1)]
    Totp(#[n(0)] u32),
    /// How many passwords were made (RFC 4226).
    #[n(2)]
    Hotp,
}

/// How passwords are made from a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OtpScheme {
    /// What is counted.
    #[n(1)]
    pub kind: OtpKind,
    /// The hash function.
    #[n(2)]
    pub hash: OtpHash,
    /// Decimal digits of a password: 6 to 8.
    #[n(3)]
    pub digits: u8,
}

/// What was given in place of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The password of this counter, for the first time.
    Right(u64),
    /// A password that was given before, or is older than one that was.
    Used,
    /// None of those that could be.
    Wrong,
}

impl OtpScheme {
    /// Steps before and after now that are taken, so that a clock may differ (RFC 6238, section 5.2).
    const WINDOW: u64 = 1;
    /// Passwords that may have been made and not used (RFC 4226, section 7.4).
    const LOOK_AHEAD: u64 = 10;
    /// How far a counter may be ahead where two passwords in a row are given.
    const RESYNC: u64 = 10_000;

    /// Checks and takes a scheme; `None` for other digits than 6 to 8 and steps other than of 15 to 120 seconds.
    pub fn new(kind: OtpKind, hash: OtpHash, digits: u8) -> Option<Self> {
        let step = match kind {
            OtpKind::Totp(step) => (15..=120).contains(&step),
            OtpKind::Hotp => true,
        };
        (step && (6..=8).contains(&digits)).then_some(Self { kind, hash, digits })
    }

    /// The password of a counter: HMAC over its 8 bytes, truncated (RFC 4226, section 5.3).
    pub fn password(&self, seed: &[u8], counter: u64) -> String {
        let key = hmac::Key::new(self.hash.algorithm(), seed);
        let tag = hmac::sign(&key, &counter.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag.last().copied().unwrap_or_default() & 0xf);
        let four = tag.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        let number = (u32::from_be_bytes(four) & 0x7fff_ffff) % 10u32.pow(u32::from(self.digits));
        format!("{number:0width$}", width = usize::from(self.digits))
    }

    /// Judges what was given, where `next` is the first counter that still counts. Takes as long for
    /// every answer.
    pub fn judge(&self, seed: &[u8], next: u64, now: Date, given: &str) -> Given {
        let given = without_gaps(given);
        let candidates = match self.kind {
            OtpKind::Totp(step) => {
                let current = now.millis() / 1000 / u64::from(step.max(1));
                current.saturating_sub(Self::WINDOW)..=current.saturating_add(Self::WINDOW)
            }
            OtpKind::Hotp => next.saturating_sub(1)..=next.saturating_add(Self::LOOK_AHEAD),
        };
        let mut found = None;
        for counter in candidates {
            let same = self.password(seed, counter).as_bytes().ct_eq(given.as_bytes());
            found = if bool::from(same) { Some(counter) } else { found };
        }
        match found {
            Some(counter) if counter >= next => Given::Right(counter),
            Some(_) => Given::Used,
            None => Given::Wrong,
        }
    }
}

impl OtpScheme {
    /// Finds the counter of a token that is far ahead, by two passwords in a row (RFC 4226, section 7.4). Answers the
    /// counter of the second one.
    pub fn resynchronise(&self, seed: &[u8], next: u64, passwords: [&str; 2]) -> Given {
        let passwords = passwords.map(without_gaps);
        let mut found = None;
        let mut first = false;
        for counter in next..=next.saturating_add(Self::RESYNC) {
            let password = self.password(seed, counter);
            let [begins, ends] =
                passwords.each_ref().map(|given| bool::from(password.as_bytes().ct_eq(given.as_bytes())));
            found = if first && ends && found.is_none() { Some(counter) } else { found };
            first = begins;
        }
        found.map_or(Given::Wrong, Given::Right)
    }
}

/// Authenticator programs show `123 456`.
fn without_gaps(given: &str) -> String {
    given.split_whitespace().collect()
}

/// Wrong passwords since the last right one. Only tries whose token signature was good are counted, so
/// nobody without the token can lock an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Failures {
    /// How many.
    #[n(1)]
    pub count: u32,
    /// The last one.
    #[n(2)]
    pub last: Option<Date>,
}

/// Whether another password may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It may.
    Open,
    /// Not before this date.
    Until(Date),
    /// Not before an operator has unlocked the account.
    Hard,
}

impl Failures {
    /// Wrong passwords without a pause.
    const FREE: u32 = 3;
    /// Wrong passwords after which only an operator unlocks.
    pub const HARD: u32 = 10;
    /// The first pause; each further one is twice as long.
    const PAUSE: Duration = Duration::from_secs(30);

    /// One more, now.
    pub fn and(self, now: Date) -> Self {
        Self { count: self.count.saturating_add(1), last: Some(now) }
    }

    /// Whether another password may be tried now.
    pub fn lock(self, now: Date) -> Lock {
        if self.count >= Self::HARD {
            return Lock::Hard;
        }
        let (Some(last), Some(further)) = (self.last, self.count.checked_sub(Self::FREE)) else {
            return Lock::Open;
        };
        let until = last.after(Self::PAUSE * 2u32.saturating_pow(further));
        if now < until { Lock::Until(until) } else { Lock::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(kind: OtpKind, hash: OtpHash, digits: u8) -> OtpScheme {
        OtpScheme::new(kind, hash, digits).unwrap()
    }

    #[test]
    fn a_password_is_taken_as_it_is_shown() {
        let scheme = OtpScheme::new(OtpKind::Hotp, OtpHash::Sha1, 6).unwrap();
        let password = scheme.password(b"12345678901234567890", 7);
        let (begin, end) = password.split_at(3);
        for given in [format!("{begin} {end}"), format!(" {password}\n")] {
            assert_eq!(scheme.judge(b"12345678901234567890", 7, Date(0), &given), Given::Right(7));
        }
    }

    #[test]
    fn the_vectors_of_rfc_4226() {
        let hotp = scheme(OtpKind::Hotp, OtpHash::Sha1, 6);
        let expected = [
            "755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871",
            "520489",
        ];
        for (counter, password) in (0..).zip(expected) {
            assert_eq!(hotp.password(b"12345678901234567890", counter), password);
        }
    }

    #[test]
    fn the_vectors_of_rfc_6238() {
        let table = [
            (59, "94287082", "46119246", "90693936"),
            (1_111_111_109, "07081804", "68084774", "25091201"),
            (1_111_111_111, "14050471", "67062674", "99943326"),
            (1_234_567_890, "89005924", "91819424", "93441116"),
            (2_000_000_000, "69279037", "90698825", "38618901"),
            (20_000_000_000, "65353130", "77737706", "47863826"),
        ];
        let digits = b"1234567890".repeat(7);
        for (time, sha1, sha256, sha512) in table {
            for (hash, length, password) in
                [(OtpHash::Sha1, 20, sha1), (OtpHash::Sha256, 32, sha256), (OtpHash::Sha512, 64, sha512)]
            {
                let totp = scheme(OtpKind::Totp(30), hash, 8);
                assert_eq!(totp.password(&digits[..length], time / 30), password, "{time} {hash:?}");
                let judged = totp.judge(&digits[..length], 0, Date(time * 1000), password);
                assert_eq!(judged, Given::Right(time / 30));
            }
        }
    }

    #[test]
    fn a_seed_may_be_filled_with_zeros() {
        let mut padded = [0; 32];
        padded[..20].copy_from_slice(b"12345678901234567890");
        for hash in OtpHash::ALL {
            let hotp = scheme(OtpKind::Hotp, hash, 6);
            assert_eq!(hotp.password(&padded, 7), hotp.password(b"12345678901234567890", 7));
        }
    }

    #[test]
    fn a_password_counts_once_and_near_its_time() {
        let (totp, seed) = (scheme(OtpKind::Totp(30), OtpHash::Sha1, 6), b"12345678901234567890");
        let now = Date(1_800_000_015_000);
        let step = now.millis() / 30_000;
        let judge = |next, step| totp.judge(seed, next, now, &totp.password(seed, step));
        assert_eq!(judge(0, step), Given::Right(step));
        assert_eq!(judge(0, step - 1), Given::Right(step - 1));
        assert_eq!(judge(0, step + 1), Given::Right(step + 1));
        assert_eq!(judge(0, step - 2), Given::Wrong);
        assert_eq!(judge(0, step + 2), Given::Wrong);
        assert_eq!(judge(step + 1, step), Given::Used);
        for other in ["", "1", "75522", "7552244", "abcdef", "٧٥٥٢٢٤"] {
            assert_eq!(totp.judge(seed, 0, now, other), Given::Wrong, "{other}");
        }
    }

    #[test]
    fn a_counter_may_run_ahead_and_not_back() {
        let (hotp, seed) = (scheme(OtpKind::Hotp, OtpHash::Sha1, 6), b"12345678901234567890");
        let judge = |next, counter| hotp.judge(seed, next, Date(0), &hotp.password(seed, counter));
        assert_eq!(judge(5, 5), Given::Right(5));
        assert_eq!(judge(5, 15), Given::Right(15));
        assert_eq!(judge(5, 16), Given::Wrong);
        assert_eq!(judge(5, 4), Given::Used);
        assert_eq!(judge(5, 3), Given::Wrong);
    }

    #[test]
    fn a_counter_that_is_far_ahead_takes_two_passwords() {
        let (hotp, seed) = (scheme(OtpKind::Hotp, OtpHash::Sha1, 6), b"12345678901234567890");
        let judge = |next, counters: [u64; 2]| {
            let [one, two] = counters.map(|counter| hotp.password(seed, counter));
            hotp.resynchronise(seed, next, [&one, &two])
        };
        assert_eq!(judge(5, [5, 6]), Given::Right(6));
        assert_eq!(judge(5, [4_711, 4_712]), Given::Right(4_712));
        for wrong in [[4, 5], [4_711, 4_713], [4_712, 4_711], [20_000, 20_001]] {
            assert_eq!(judge(5, wrong), Given::Wrong, "{wrong:?}");
        }
    }

    #[test]
    fn pauses_grow_until_an_operator_is_needed() {
        let mut failures = Failures::default();
        let now = Date(1_000_000);
        for pause in [0, 0, 30, 60, 120, 240, 480, 960, 1920] {
            failures = failures.and(now);
            let lock = match pause {
                0 => Lock::Open,
                seconds => Lock::Until(Date(now.millis() + seconds * 1000)),
            };
            assert_eq!(failures.lock(now), lock, "{failures:?}");
            assert_eq!(failures.lock(Date(now.millis() + pause * 1000)), Lock::Open);
        }
        assert_eq!(failures.and(now).lock(Date(u64::MAX)), Lock::Hard);
    }

    #[test]
    fn odd_schemes_are_refused() {
        for (kind, digits) in
            [(OtpKind::Hotp, 5), (OtpKind::Hotp, 9), (OtpKind::Totp(0), 6), (OtpKind::Totp(121), 6)]
        {
            assert_eq!(OtpScheme::new(kind, OtpHash::Sha1, digits), None);
        }
    }
}

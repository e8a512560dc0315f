//! Cards that misbehave: what answers a client must survive.

use std::path::Path;

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The version has one byte.
    ShortVersion,
    /// Attestation succeeds, with nothing.
    EmptyAttest,
    /// Metadata, objects, attestation and signatures are 3 KB of nonsense.
    Garbage,
    /// Objects never end.
    Endless,
    /// Nothing is answered.
    Silent,
    /// That the PIN was verified is forgotten before a key is used, as after a reset by another program.
    Forgetful,
    /// The same, once.
    ForgetfulOnce,
}

/// What happens instead of an answer.
pub enum Reaction {
    Silence,
    /// An answer, of several parts if it is long.
    Answer(Vec<u8>),
    /// One part, with its status.
    Part(Vec<u8>),
    /// The PIN was not verified.
    Forget,
    /// The same, and the trouble is over.
    ForgetOnce,
}

impl Trouble {
    /// The one whose word stands in the file, if there is one.
    pub fn now(file: &Path) -> Option<Self> {
        let word = std::fs::read_to_string(file).ok()?;
        match word.trim() {
            "short-version" => Some(Self::ShortVersion),
            "empty-attest" => Some(Self::EmptyAttest),
            "garbage" => Some(Self::Garbage),
            "endless" => Some(Self::Endless),
            "silent" => Some(Self::Silent),
            "forgetful" => Some(Self::Forgetful),
            "forgetful-once" => Some(Self::ForgetfulOnce),
            other => panic!("no such trouble: {other}"),
        }
    }

    /// What happens at an instruction.
    pub fn reaction(self, instruction: u8) -> Option<Reaction> {
        match (self, instruction) {
            (Self::ShortVersion, 0xfd) => Some(Reaction::Answer(vec![5])),
            (Self::EmptyAttest, 0xf9) => Some(Reaction::Answer(Vec::new())),
            (Self::Garbage, 0x47 | 0x87 | 0xcb | 0xf7 | 0xf9) => Some(Reaction::Answer(garbage())),
            (Self::Endless, 0xc0 | 0xcb | 0xf7) => {
                Some(Reaction::Part([&[0; 256][..], &[0x61, 0xff]].concat()))
            }
            (Self::Silent, _) => Some(Reaction::Silence),
            (Self::Forgetful, 0x87) => Some(Reaction::Forget),
            (Self::ForgetfulOnce, 0x87) => Some(Reaction::ForgetOnce),
            _ => None,
        }
    }
}

/// Bytes that look like data objects for a while.
fn garbage() -> Vec<u8> {
    (0..3072u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

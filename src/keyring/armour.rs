//! Records that people carry as text files: PEM (RFC 7468) around CBOR, in one spelling only.

use minicbor::{Decode, Encode};
use x509_cert::der::pem::{self, LineEnding};

/// Why a text is not the record that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmourError {
    /// Too much for what it is.
    #[error("it is too long")]
    TooLong,
    /// Not the armour, another label, or another spelling.
    #[error("it does not begin with `-----BEGIN {0}-----`, or was changed or cut")]
    Armour(&'static str),
    /// What stands in the armour is something else.
    #[error("what stands in it is damaged: {0}")]
    Contents(String),
}

/// A record with a text form.
pub trait Armoured: Encode<()> + for<'b> Decode<'b, ()> {
    /// The label of the armour.
    const LABEL: &'static str;
    /// Most bytes of a text.
    const LONGEST: usize;

    /// The text form: ASCII, lines of at most 64 characters, with a line end behind the last.
    fn to_text(&self) -> String {
        armour(Self::LABEL, &minicbor::to_vec(self).expect("encoding into memory cannot fail"))
    }

    /// Reads a text form. Line ends may be those of Windows, and white space around the whole does not matter.
    ///
    /// # Errors
    /// [`ArmourError`]
    fn parse(text: &str) -> Result<Self, ArmourError> {
        let bytes = dearmour(Self::LABEL, Self::LONGEST, text)?;
        let record: Self =
            minicbor::decode(&bytes).map_err(|error| ArmourError::Contents(error.to_string()))?;
        match minicbor::to_vec(&record) {
            Ok(again) if again == bytes => Ok(record),
            _ => Err(ArmourError::Contents("there is something in it that does not belong there".into())),
        }
    }
}

/// The text form of bytes.
pub fn armour(label: &str, bytes: &[u8]) -> String {
    // The labels are constants of ours, and a string takes everything.
    pem::encode_string(label, LineEnding::LF, bytes).unwrap_or_else(|_| unreachable!())
}

/// The bytes of a text form; there is one spelling of each.
///
/// # Errors
/// [`ArmourError`]
pub fn dearmour(label: &'static str, longest: usize, text: &str) -> Result<Vec<u8>, ArmourError> {
    if text.len() > longest {
        return Err(ArmourError::TooLong);
    }
    let text = text.replace("\r\n", "\n");
    let text = text.trim_ascii();
    let wrong = ArmourError::Armour(label);
    let (found, bytes) = pem::decode_vec(text.as_bytes()).map_err(|_| wrong.clone())?;
    match found == label && armour(label, &bytes).trim_ascii_end() == text {
        true => Ok(bytes),
        false => Err(wrong),
    }
}

//! What a token says of itself.
//!
//! Not through `cryptoki`, which takes a token without a readable clock for no token.

use cryptoki_sys::{
    CK_EFFECTIVELY_INFINITE, CK_FLAGS, CK_TOKEN_INFO, CK_ULONG, CK_UNAVAILABLE_INFORMATION,
    CKF_SO_PIN_COUNT_LOW, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_TOKEN_INITIALIZED,
    CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_INITIALIZED, CKF_USER_PIN_LOCKED,
};

use crate::hsm::TokenInfo;

/// `CK_TOKEN_INFO` (PKCS#11 2.40, section 3.2), as far as it is of use.
pub(crate) struct Token {
    pub(crate) name: TokenInfo,
    pub(super) firmware: String,
    /// Most sessions at a time; `None`: no limit, or none that the token tells.
    pub(super) max_sessions: Option<u64>,
    pub(super) max_rw_sessions: Option<u64>,
    pub(super) free_private_memory: Option<u64>,
    /// Bytes of the shortest and the longest PIN.
    pub(super) pin_length: (u64, u64),
    flags: CK_FLAGS,
}

impl Token {
    pub(crate) fn initialized(&self) -> bool {
        self.shows(CKF_TOKEN_INITIALIZED)
    }

    pub(crate) fn user_pin_initialized(&self) -> bool {
        self.shows(CKF_USER_PIN_INITIALIZED)
    }

    pub(crate) fn user_pin_locked(&self) -> bool {
        self.shows(CKF_USER_PIN_LOCKED)
    }

    pub(crate) fn user_pin_final_try(&self) -> bool {
        self.shows(CKF_USER_PIN_FINAL_TRY)
    }

    /// Whether the token counts a failed try.
    pub(crate) fn user_pin_try_failed(&self) -> bool {
        self.shows(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED)
    }

    /// The same of the security officer's PIN.
    pub(crate) fn so_pin_try_failed(&self) -> bool {
        self.shows(CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_FINAL_TRY | CKF_SO_PIN_LOCKED)
    }

    pub(crate) fn so_pin_final_try(&self) -> bool {
        self.shows(CKF_SO_PIN_FINAL_TRY)
    }

    pub(crate) fn so_pin_locked(&self) -> bool {
        self.shows(CKF_SO_PIN_LOCKED)
    }

    fn shows(&self, any: CK_FLAGS) -> bool {
        self.flags & any != 0
    }
}

impl From<&CK_TOKEN_INFO> for Token {
    fn from(info: &CK_TOKEN_INFO) -> Self {
        Self {
            name: TokenInfo {
                label: text(&info.label),
                serial: text(&info.serialNumber),
                manufacturer: text(&info.manufacturerID),
                model: text(&info.model),
            },
            firmware: format!("{}.{}", info.firmwareVersion.major, info.firmwareVersion.minor),
            max_sessions: limit(info.ulMaxSessionCount).filter(|most| *most != CK_EFFECTIVELY_INFINITE),
            max_rw_sessions: limit(info.ulMaxRwSessionCount).filter(|most| *most != CK_EFFECTIVELY_INFINITE),
            free_private_memory: limit(info.ulFreePrivateMemory),
            pin_length: (info.ulMinPinLen, info.ulMaxPinLen),
            flags: info.flags,
        }
    }
}

/// Text is filled up with spaces, by some tokens with zeros.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_end_matches(' ').to_owned()
}

/// Some tokens tell one less than "unavailable"; nothing has as many sessions either.
fn limit(count: CK_ULONG) -> Option<u64> {
    (count < CK_UNAVAILABLE_INFORMATION - 1).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<const N: usize>(text: &str) -> [u8; N] {
        let mut field = [b' '; N];
        field[..text.len()].copy_from_slice(text.as_bytes());
        field
    }

    #[test]
    fn text_loses_its_filling_and_limits_their_codes() {
        let mut info = CK_TOKEN_INFO {
            label: field("a b"),
            serialNumber: [0; 16],
            ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
            ulMaxRwSessionCount: 10,
            ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
            ulMinPinLen: 4,
            ulMaxPinLen: 8,
            utcTime: *b"no time at all! ",
            ..CK_TOKEN_INFO::default()
        };
        let token = Token::from(&info);
        assert_eq!((token.name.label.as_str(), token.name.serial.as_str()), ("a b", ""));
        assert_eq!(
            (token.max_sessions, token.max_rw_sessions, token.free_private_memory),
            (None, Some(10), None)
        );
        assert_eq!(token.pin_length, (4, 8));
        assert!(!token.user_pin_try_failed());
        info.flags = CKF_USER_PIN_FINAL_TRY;
        let token = Token::from(&info);
        assert!(token.user_pin_try_failed() && token.user_pin_final_try() && !token.user_pin_locked());
    }
}

//! What known modules get wrong, and what is lost by it: one table.

use serde::Serialize;

use crate::hsm::TokenInfo;

/// One thing that a module does differently from what Keyward asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quirk {
    /// Whose tokens: the beginning of the manufacturer's name.
    pub manufacturer: &'static str,
    /// Which model: the beginning of its name; empty for all.
    pub model: &'static str,
    /// What the module does.
    pub behaviour: &'static str,
    /// What that costs.
    pub lost: &'static str,
}

/// The table. Everything here was measured; nothing depends on it at run time,
/// because the self-test and the probes find out by themselves.
pub const TABLE: &[Quirk] = &[
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "keys lie in files, encrypted under the PIN, and are used in the HSM process's memory",
        lost: "protection by hardware: whoever reads the token folder and knows the PIN has every key",
    },
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "takes Copyable=0 in C_UnwrapKey only and Modifiable=0 in C_CopyObject only, so never both",
        lost: "Copyable=0: a PIN holder can make equal copies of a root key, but not change or weaken one",
    },
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "a bad tag and a damaged wrapped key answer CKR_GENERAL_ERROR, as a dead token does",
        lost: "nothing: damage is told from failure by probing",
    },
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "never calls fsync",
        lost: "a root key made seconds before a power cut may be gone: run `sync` after the root was made",
    },
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "never locks the PIN",
        lost: "guessing is not limited by the token",
    },
    Quirk {
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        behaviour: "goes on answering from memory after its token folder has gone",
        lost: "nothing: the health probe asks for the token itself",
    },
    Quirk {
        manufacturer: "Kryoptic",
        model: "",
        behaviour: "an attribute search without an index slows every use of a token key as objects grow",
        lost: "speed with many token objects; sealed tenants are not affected",
    },
    Quirk {
        manufacturer: "Kryoptic",
        model: "",
        behaviour: "a session key without an unwrap template may be unwrapped as extractable",
        lost: "nothing for keys under a root made by Keyward, which carries the template",
    },
    Quirk {
        manufacturer: "Mozilla Foundation",
        model: "NSS",
        behaviour: "wraps keys that are not extractable",
        lost: "everything: whoever knows the PIN can take every key out; the module is refused",
    },
    Quirk {
        manufacturer: "Mozilla Foundation",
        model: "NSS",
        behaviour: "C_WrapKey reports 48 bytes for a wrapped key of 40, C_Encrypt asks for a longer buffer than it fills",
        lost: "AES key wrap and AES-GCM as Keyward uses them; the module is refused",
    },
    Quirk {
        manufacturer: "IBM Corp.",
        model: "IBM SoftTok",
        behaviour: "offers neither AES key wrap nor AES-GCM, and ignores Sensitive and Extractable when it unwraps",
        lost: "everything: the module is refused",
    },
    Quirk {
        manufacturer: "IBM",
        model: "SW   TPM",
        behaviour: "tpm2-pkcs11 makes no AES keys, has no session keys and neither AES key wrap nor AES-GCM",
        lost: "everything: the module is refused",
    },
];

/// The rows that speak of this token.
pub fn of(token: &TokenInfo) -> Vec<&'static Quirk> {
    let speaks =
        |row: &&Quirk| token.manufacturer.starts_with(row.manufacturer) && token.model.starts_with(row.model);
    TABLE.iter().filter(speaks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_manufacturer_and_model() {
        let softhsm = TokenInfo {
            manufacturer: "SoftHSM project".into(),
            model: "SoftHSM v2".into(),
            ..TokenInfo::default()
        };
        let rows = of(&softhsm);
        assert!(rows.len() >= 5 && rows.iter().all(|row| row.manufacturer == "SoftHSM project"));
        assert!(of(&TokenInfo { model: "SoftHSM v3".into(), ..softhsm }).is_empty());
        assert!(of(&TokenInfo::default()).is_empty());
    }

    #[test]
    fn every_row_says_what_is_lost() {
        for row in TABLE {
            assert!(
                !row.manufacturer.is_empty() && !row.behaviour.is_empty() && !row.lost.is_empty(),
                "{row:?}"
            );
        }
    }
}

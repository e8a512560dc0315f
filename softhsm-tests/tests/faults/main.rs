//! Calls into the PKCS#11 module × faults: whatever strikes, no answer is wrong, nothing that was
//! acknowledged is lost, and the daemon serves again by itself.

use keyward_softhsm_tests::rounds;

use crate::bench::Bench;
use crate::codes::{CODES, PIN_CODES};

mod bench;
mod codes;
mod special;

/// Without room for a second KEK and without open DEKs each use unwraps one and opens the other.
const NO_CACHE: &str = "kek_cache = 1\nprobe_interval = \"1h\"";

/// The calls of ordinary work.
const WORK: [&str; 9] = [
    "C_GenerateRandom",
    "C_GenerateKey",
    "C_WrapKey",
    "C_UnwrapKey",
    "C_EncryptInit",
    "C_Encrypt",
    "C_DecryptInit",
    "C_Decrypt",
    "C_DestroyObject",
];

/// The calls that make a connection.
const CONNECTION: [&str; 10] = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_Login",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_CreateObject",
];

/// What most often comes back from a module that is unwell: CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED,
/// CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY, CKR_DEVICE_REMOVED, CKR_SESSION_HANDLE_INVALID,
/// CKR_USER_NOT_LOGGED_IN, CKR_CRYPTOKI_NOT_INITIALIZED.
const USUAL: [&str; 8] = ["0x5", "0x6", "0x30", "0x31", "0x32", "0xb3", "0x101", "0x190"];

#[tokio::test]
async fn work_survives_what_a_module_does_when_it_is_unwell() {
    let mut bench = Bench::new(NO_CACHE).await;
    for function in WORK {
        for action in ["delay 30", "crash", "exit", "close-sessions", "logout"] {
            bench.survive(function, action).await;
        }
        for code in USUAL {
            bench.survive(function, &format!("answer {code}")).await;
        }
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn a_connection_is_made_in_spite_of_faults() {
    let mut bench = Bench::new(NO_CACHE).await;
    for function in CONNECTION {
        bench.survive(function, "crash").await;
        for code in ["0x5", "0x30", "0xb3", "0xe0"] {
            bench.survive(function, &format!("answer {code}")).await;
        }
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn no_code_makes_an_answer_wrong() {
    let mut bench = Bench::new(NO_CACHE).await;
    let codes = CODES.iter().chain(PIN_CODES.iter().map(|(code, _)| code)).enumerate();
    for (number, code) in codes.step_by(rounds(4, 1)) {
        bench.survive(WORK[number % WORK.len()], &format!("after {code:#x}")).await;
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn a_call_that_hangs_costs_its_process() {
    let mut bench = Bench::new(NO_CACHE).await;
    for function in ["C_UnwrapKey", "C_Decrypt", "C_Initialize", "C_Login"] {
        bench.survive(function, "hang").await;
    }
    bench.nothing_is_lost().await;
}

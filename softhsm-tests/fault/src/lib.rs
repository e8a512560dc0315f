//! A PKCS#11 module that forwards to another one and fails on command.
//!
//! `KEYWARD_FAULT_MODULE` names the module that does the work, `KEYWARD_FAULTS`
//! a folder of [faults](faults) that tests fill while a daemon runs.
//!
//! ```text
//! lib      the function list
//! forward  one function for each call that Keyward makes: fault first, then the real call
//! faults   what is armed                handles  object handles that point elsewhere
//! attack   what a library that is out for harm would try
//! ```

// PKCS#11 is a C interface.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK};

mod attack;
mod faults;
mod forward;
mod handles;

/// The module that does the work.
struct Real {
    functions: CK_FUNCTION_LIST,
}

/// The real module, loaded at the first use and for good.
fn real() -> Option<&'static Real> {
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    REAL.get_or_init(load).as_ref()
}

fn load() -> Option<Real> {
    let path = std::env::var_os("KEYWARD_FAULT_MODULE")?;
    // SAFETY: a PKCS#11 module that the test has named; it is never unloaded.
    let library = Box::leak(Box::new(unsafe { cryptoki_sys::Pkcs11::new(path) }.ok()?));
    let mut list = ptr::null_mut();
    // SAFETY: the symbol was resolved from the module, and `list` outlives the call.
    let answer = unsafe { library.C_GetFunctionList.as_ref().ok()?(&mut list) };
    // SAFETY: after CKR_OK the list is static in the module (PKCS#11 2.40, section 5.4).
    (answer == CKR_OK && !list.is_null()).then(|| Real { functions: unsafe { list.read_unaligned() } })
}

/// The one symbol that a PKCS#11 2.40 module must export.
///
/// # Safety
/// `list` is null or valid for a pointer to be written (PKCS#11 2.40, section 5.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    static OURS: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    let Some(real) = real() else { return CKR_GENERAL_ERROR };
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let ours = OURS.get_or_init(|| forward::over(real.functions));
    // SAFETY: not null, and valid by the caller's promise. Nobody writes through it.
    unsafe { list.write(ptr::from_ref(ours).cast_mut()) };
    CKR_OK
}

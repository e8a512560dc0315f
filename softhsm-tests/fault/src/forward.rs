//! One function for each call that Keyward makes: the fault first, then the real call.

use std::ffi::c_void;
use std::time::Duration;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM, CK_MECHANISM_TYPE, CK_NOTIFY,
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE,
    CK_UTF8CHAR, CKR_FUNCTION_NOT_SUPPORTED, CKR_OK,
};

use crate::faults::{self, Action, Writes};
use crate::{handles, real};

/// Where a call writes: nothing, bytes of a fixed length, or bytes and their length.
#[derive(Clone, Copy)]
enum Output {
    None,
    Fixed(*mut CK_BYTE, CK_ULONG),
    Sized(*mut CK_BYTE, *mut CK_ULONG),
}

impl Output {
    fn writes(self) -> Writes {
        match self {
            Self::None => Writes::Nothing,
            Self::Sized(bytes, _) if bytes.is_null() => Writes::Length,
            Self::Fixed(..) | Self::Sized(..) => Writes::Output,
        }
    }

    /// Makes one bit of what was written wrong.
    fn flip(self) {
        let (bytes, length) = match self {
            Self::None => return,
            Self::Fixed(bytes, length) => (bytes, length),
            // SAFETY: the module has just written the length there.
            Self::Sized(bytes, length) => (bytes, unsafe { length.read() }),
        };
        let middle = usize::try_from(length / 2).unwrap_or(0);
        if length > 0 {
            // SAFETY: the module has just written `length` bytes there.
            unsafe { *bytes.add(middle) ^= 1 };
        }
    }

    fn shorten(self) {
        if let Self::Sized(_, length) = self {
            // SAFETY: the module has just written the length there.
            unsafe { *length = (*length).saturating_sub(1) };
        }
    }
}

/// Makes a call, with the fault that is due for it.
fn faulty(name: &str, session: CK_SESSION_HANDLE, output: Output, call: impl FnOnce() -> CK_RV) -> CK_RV {
    let Some(action) = faults::due(name, output.writes()) else { return call() };
    match action {
        Action::Answer(code) => return code,
        Action::After(code) => {
            call();
            return code;
        }
        Action::Delay(millis) => std::thread::sleep(Duration::from_millis(millis)),
        Action::Hang => loop {
            std::thread::park();
        },
        Action::Crash => std::process::abort(),
        #[allow(clippy::exit)] // what is being tested
        Action::Exit => std::process::exit(0),
        Action::CloseSessions => close_sessions(session),
        Action::Logout => logout(session),
        Action::SwapKeys => handles::swap(),
        // A plan that cannot be carried out leaves no outcome, which the test waits for.
        Action::Attack => {
            faults::carry_out();
        }
        Action::Grow(mebibytes) => std::mem::forget(vec![1_u8; mebibytes << 20]),
        Action::Flip | Action::Shorten => {
            let answer = call();
            if answer == CKR_OK && action == Action::Flip {
                output.flip();
            } else if answer == CKR_OK {
                output.shorten();
            }
            return answer;
        }
    }
    call()
}

fn close_sessions(session: CK_SESSION_HANDLE) {
    let Some(real) = real() else { return };
    let (Some(info), Some(close)) = (real.functions.C_GetSessionInfo, real.functions.C_CloseAllSessions)
    else {
        return;
    };
    let mut about = cryptoki_sys::CK_SESSION_INFO::default();
    // SAFETY: functions of the loaded module; `about` outlives the call.
    unsafe {
        if info(session, &mut about) == CKR_OK {
            close(about.slotID);
        }
    }
}

fn logout(session: CK_SESSION_HANDLE) {
    if let Some(logout) = real().and_then(|real| real.functions.C_Logout) {
        // SAFETY: a function of the loaded module.
        unsafe { logout(session) };
    }
}

/// The first argument, where it is a session.
trait Session {
    fn session(&self) -> CK_SESSION_HANDLE;
}

impl Session for CK_ULONG {
    fn session(&self) -> CK_SESSION_HANDLE {
        *self
    }
}

impl<T> Session for *mut T {
    fn session(&self) -> CK_SESSION_HANDLE {
        0
    }
}

impl Session for CK_BYTE {
    fn session(&self) -> CK_SESSION_HANDLE {
        0
    }
}

macro_rules! forward {
    ($($name:ident($first:ident: $type:ty $(, $argument:ident: $further:ty $(=> $object:ident)?)*)
        $(, writes $output:expr)? $(, then $then:expr)?;)*) => {
        $(
            #[allow(non_snake_case)]
            unsafe extern "C" fn $name($first: $type $(, $argument: $further)*) -> CK_RV {
                let output = forward!(@output $($output)?);
                faulty(stringify!($name), $first.session(), output, || {
                    let Some(call) = real().and_then(|real| real.functions.$name) else {
                        return CKR_FUNCTION_NOT_SUPPORTED;
                    };
                    // SAFETY: the caller's arguments go to the function of the same name unchanged,
                    // but for handles, which are not pointers.
                    let answer = unsafe { call($first $(, forward!(@pass $argument $($object)?))*) };
                    $(if answer == CKR_OK {
                        $then;
                    })?
                    answer
                })
            }
        )*

        /// The list of the real module with our functions in it.
        pub(crate) fn over(mut list: CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
            list.C_GetFunctionList = Some(crate::C_GetFunctionList);
            $(list.$name = Some($name);)*
            list
        }
    };
    (@pass $argument:ident) => { $argument };
    (@pass $argument:ident object) => { handles::reached($argument) };
    (@output) => { Output::None };
    (@output $output:expr) => { $output };
}

forward! {
    C_Initialize(arguments: *mut c_void);
    C_Finalize(reserved: *mut c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotList(present: CK_BYTE, list: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO), then {
        // SAFETY: after CKR_OK the module has filled the structure.
        unsafe { (*info).flags |= faults::token_flags() };
    };
    C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_OpenSession(
        slot: CK_SLOT_ID,
        flags: CK_FLAGS,
        application: *mut c_void,
        notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE
    );
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG);
    C_CreateObject(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE
    );
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE => object),
        then handles::destroyed(object);
    C_GetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE => object,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG
    );
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(
        session: CK_SESSION_HANDLE,
        objects: *mut CK_OBJECT_HANDLE,
        most: CK_ULONG,
        count: *mut CK_ULONG
    );
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_GenerateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    );
    C_WrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        wrapping: CK_OBJECT_HANDLE => object,
        key: CK_OBJECT_HANDLE => object,
        wrapped: *mut CK_BYTE,
        length: *mut CK_ULONG
    ), writes Output::Sized(wrapped, length);
    C_UnwrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        unwrapping: CK_OBJECT_HANDLE => object,
        wrapped: *mut CK_BYTE,
        length: CK_ULONG,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    ), then {
        // SAFETY: after CKR_OK the module has written the new key's handle there.
        handles::unwrapped(unsafe { key.read() });
    };
    C_EncryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE => object
    );
    C_Encrypt(
        session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE,
        length: CK_ULONG,
        encrypted: *mut CK_BYTE,
        encrypted_length: *mut CK_ULONG
    ), writes Output::Sized(encrypted, encrypted_length);
    C_DecryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE => object
    );
    C_Decrypt(
        session: CK_SESSION_HANDLE,
        encrypted: *mut CK_BYTE,
        encrypted_length: CK_ULONG,
        data: *mut CK_BYTE,
        length: *mut CK_ULONG
    ), writes Output::Sized(data, length);
    C_GenerateRandom(session: CK_SESSION_HANDLE, bytes: *mut CK_BYTE, length: CK_ULONG),
        writes Output::Fixed(bytes, length);
    C_Sign(
        session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE,
        length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: *mut CK_ULONG
    ), writes Output::Sized(signature, signature_length);
    C_DeriveKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        base: CK_OBJECT_HANDLE => object,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    );
    C_GenerateKeyPair(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        public_template: *mut CK_ATTRIBUTE,
        public_count: CK_ULONG,
        private_template: *mut CK_ATTRIBUTE,
        private_count: CK_ULONG,
        public: *mut CK_OBJECT_HANDLE,
        private: *mut CK_OBJECT_HANDLE
    );
}

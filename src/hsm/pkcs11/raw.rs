//! The calls that `cryptoki` does not wrap; the only unsafe code of the library.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::ptr::{self, NonNull};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function};
use cryptoki::error::{Error, Rv};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE,
    CK_TOKEN_INFO, CK_ULONG, CKA_UNWRAP_TEMPLATE, CKM_AES_KEY_WRAP, CKR_OK,
};

use crate::hsm::pkcs11::token::Token;

/// Room for a wrapped key in bytes: PKCS#8 of a P-256 key has less than 200.
const MOST_WRAPPED: usize = 1024;

/// A mechanism without a parameter.
fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

/// A second handle on the same loaded library.
pub(crate) struct Raw {
    library: cryptoki_sys::Pkcs11,
}

impl Raw {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers. It is the operator's trusted HSM
        // library, and `Pkcs11::new` has loaded the same file before: this adds a reference.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(|error| error.to_string())?;
        let raw = Self { library };
        raw.functions().map(|_| raw).ok_or_else(|| "it has no function list".to_owned())
    }

    /// `C_Initialize` arguments with a text for `pReserved`, which some software tokens want.
    ///
    /// The text is never freed: libraries read it at times of their own choice.
    pub(super) fn initialize_with(text: &str) -> Result<CInitializeArgs, Error> {
        let text = CString::new(text).map_err(|_| Error::InvalidValue)?;
        let text = NonNull::new(text.into_raw()).ok_or(Error::InvalidValue)?;
        // SAFETY: the text ends with zero and lives for ever.
        Ok(unsafe { CInitializeArgs::new_with_reserved(CInitializeFlags::OS_LOCKING_OK, text.cast()) })
    }

    /// What the token in a slot says of itself.
    pub(crate) fn token(&self, slot: Slot) -> Result<Token, Error> {
        let call = self.functions().and_then(|list| list.C_GetTokenInfo).ok_or(Error::NullFunctionPointer)?;
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: `info` outlives the call, and every value of its bytes is one.
        let answer = unsafe { call(slot.id(), &mut info) };
        Rv::from(answer).into_result(Function::GetTokenInfo)?;
        Ok(Token::from(&info))
    }

    /// Every mechanism of a slot; `cryptoki` leaves out those that it does not know.
    pub(super) fn mechanisms(&self, slot: Slot) -> Result<Vec<CK_MECHANISM_TYPE>, Error> {
        let call =
            self.functions().and_then(|list| list.C_GetMechanismList).ok_or(Error::NullFunctionPointer)?;
        let slot = slot.id();
        let mut count: CK_ULONG = 0;
        // SAFETY: a null list asks for the number of mechanisms; `count` outlives the call.
        let answer = unsafe { call(slot, ptr::null_mut(), &mut count) };
        Rv::from(answer).into_result(Function::GetMechanismList)?;
        let mut list = vec![0; usize::try_from(count)?];
        // SAFETY: the list has room for `count` mechanisms.
        let answer = unsafe { call(slot, list.as_mut_ptr(), &mut count) };
        Rv::from(answer).into_result(Function::GetMechanismList)?;
        list.truncate(usize::try_from(count)?);
        Ok(list)
    }

    fn functions(&self) -> Option<CK_FUNCTION_LIST> {
        let get = self.library.C_GetFunctionList.as_ref().ok()?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: `get` was resolved from the loaded library, and `list` outlives the call.
        let answer = unsafe { get(&mut list) };
        // SAFETY: after CKR_OK the pointer is null or points to the library's static list
        // (PKCS#11 2.40, section 5.4), which lives as long as the library, held by `self`.
        // The structure is packed on some platforms, so it is copied out unaligned.
        (answer == CKR_OK && !list.is_null()).then(|| unsafe { list.read_unaligned() })
    }

    /// `C_WrapKey` with a mechanism that takes no parameter and that `cryptoki` may not know.
    pub(super) fn wrap(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM_TYPE,
        wrapping: ObjectHandle,
        key: ObjectHandle,
    ) -> Result<Vec<u8>, Error> {
        let call = self.functions().and_then(|list| list.C_WrapKey).ok_or(Error::NullFunctionPointer)?;
        let mut mechanism = plain(mechanism);
        let mut wrapped = vec![0; MOST_WRAPPED];
        let mut length = CK_ULONG::try_from(wrapped.len())?;
        // SAFETY: every pointer is to a local value that outlives the call; the buffer has the
        // length that `length` says. The session is live and only this thread uses it.
        let answer = unsafe {
            call(
                session.handle(),
                &mut mechanism,
                wrapping.handle(),
                key.handle(),
                wrapped.as_mut_ptr(),
                &mut length,
            )
        };
        Rv::from(answer).into_result(Function::WrapKey)?;
        wrapped.truncate(usize::try_from(length)?);
        Ok(wrapped)
    }

    /// `C_UnwrapKey` with a mechanism that takes no parameter.
    pub(super) fn unwrap(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM_TYPE,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let template = template.iter().map(CK_ATTRIBUTE::from).collect();
        self.unwrap_as(session, mechanism, unwrapping, wrapped, template)
    }

    /// `C_UnwrapKey` with `CKM_AES_KEY_WRAP` whose template also holds
    /// `CKA_UNWRAP_TEMPLATE`: what every key unwrapped by the new key must agree with.
    pub(super) fn unwrap_with_template(
        &self,
        session: &Session,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
        unwrap_template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let mut inner: Vec<CK_ATTRIBUTE> = unwrap_template.iter().map(CK_ATTRIBUTE::from).collect();
        let mut outer: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        outer.push(CK_ATTRIBUTE {
            type_: CKA_UNWRAP_TEMPLATE,
            pValue: inner.as_mut_ptr().cast(),
            ulValueLen: CK_ULONG::try_from(size_of_val(inner.as_slice()))?,
        });
        // The inner template lives until the call returns.
        self.unwrap_as(session, CKM_AES_KEY_WRAP, unwrapping, wrapped, outer)
    }

    /// `template` may point only to what outlives this call.
    fn unwrap_as(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM_TYPE,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        mut template: Vec<CK_ATTRIBUTE>,
    ) -> Result<ObjectHandle, Error> {
        let call = self.functions().and_then(|list| list.C_UnwrapKey).ok_or(Error::NullFunctionPointer)?;
        let mut mechanism = plain(mechanism);
        let mut handle: CK_OBJECT_HANDLE = 0;
        // SAFETY: every pointer is to a local or borrowed value that outlives the call, with its
        // true length beside it; the module only reads through them, except for `handle`. The
        // session handle is live, because `session` is borrowed, and only this thread uses it,
        // because `Session` is not `Sync`.
        let answer = unsafe {
            call(
                session.handle(),
                &mut mechanism,
                unwrapping.handle(),
                wrapped.as_ptr().cast_mut().cast::<CK_BYTE>(),
                CK_ULONG::try_from(wrapped.len())?,
                template.as_mut_ptr(),
                CK_ULONG::try_from(template.len())?,
                &mut handle,
            )
        };
        Rv::from(answer).into_result(Function::UnwrapKey)?;
        // SAFETY: the handle was just made by the module for this application.
        Ok(unsafe { ObjectHandle::new_from_raw(handle) })
    }
}

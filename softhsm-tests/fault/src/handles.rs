//! Object handles that point elsewhere, as after a reconnection behind the
//! application's back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::CK_OBJECT_HANDLE;

struct Handles {
    /// Keys that were unwrapped and live, the newest last.
    unwrapped: Vec<CK_OBJECT_HANDLE>,
    swapped: Option<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)>,
}

static HANDLES: Mutex<Handles> = Mutex::new(Handles { unwrapped: Vec::new(), swapped: None });

fn lock() -> MutexGuard<'static, Handles> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key was unwrapped.
pub(crate) fn unwrapped(handle: CK_OBJECT_HANDLE) {
    lock().unwrapped.push(handle);
}

/// An object was destroyed.
pub(crate) fn destroyed(handle: CK_OBJECT_HANDLE) {
    lock().unwrapped.retain(|known| *known != handle);
}

/// From now on each of the two keys unwrapped last is reached by the handle of the other.
pub(crate) fn swap() {
    let mut handles = lock();
    if let [.., one, other] = *handles.unwrapped {
        handles.swapped = Some((one, other));
    }
}

/// The object that a handle reaches now.
pub(crate) fn reached(handle: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
    match lock().swapped {
        Some((one, other)) if handle == one => other,
        Some((one, other)) if handle == other => one,
        _ => handle,
    }
}

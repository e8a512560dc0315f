//! What a library says while it is tested on purpose with what it must refuse.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};

use rustix::stdio::{dup2_stderr, stderr};

/// Does work of which the library's words, on stderr and by syslog(3), are kept from everybody: a self-test asks for what must fail,
/// and a journal full of such errors hides the one that counts. Whoever wants to hear them does the work again without this.
///
/// Other threads of this process are not heard either meanwhile; while a module is tested there is nothing for them to say.
pub(super) fn hushed<T>(work: impl FnOnce() -> T) -> T {
    let _quiet = Quiet::begin();
    work()
}

/// Until it is dropped nothing is heard.
struct Quiet {
    /// Where stderr went; nothing where it could not be turned away, and then it is heard.
    stderr: Option<OwnedFd>,
    mask: i32,
}

impl Quiet {
    fn begin() -> Self {
        let nowhere = OpenOptions::new().write(true).open("/dev/null").ok();
        let before = stderr().as_fd().try_clone_to_owned().ok();
        let stderr = nowhere.zip(before).and_then(|(nowhere, before)| {
            dup2_stderr(&nowhere).ok()?;
            Some(before)
        });
        Self { stderr, mask: set_syslog_mask(1 << libc::LOG_EMERG) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        set_syslog_mask(self.mask);
        if let Some(before) = &self.stderr {
            // It was there a moment ago; without it this process would be silent, which harms nobody's keys.
            dup2_stderr(before).ok();
        }
    }
}

/// Which priorities syslog(3) of this process takes; answers which it took before.
#[allow(unsafe_code)]
fn set_syslog_mask(mask: i32) -> i32 {
    // SAFETY: it takes and answers numbers.
    unsafe { libc::setlogmask(mask) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_as_before_afterwards() {
        let before = set_syslog_mask(0);
        let within = hushed(|| set_syslog_mask(0));
        assert_eq!((within, set_syslog_mask(0)), (1 << libc::LOG_EMERG, before));
    }
}

//! What is armed.
//!
//! A fault is a file `ACTION` in the folder `$KEYWARD_FAULTS/armed`: its
//! content is a function (`C_Decrypt`, or `*` for any) and an action. The
//! call that it hits moves the file to `$KEYWARD_FAULTS/fired` first, so each
//! fault strikes once, also when it ends the process; a file whose name begins
//! with `always` stays.

use std::fs;
use std::path::{Path, PathBuf};

use cryptoki_sys::{CK_FLAGS, CK_RV};

use crate::attack;

/// What a call writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// No bytes.
    Nothing,
    /// How long its output will be.
    Length,
    /// Its output.
    Output,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `answer CODE`: the call is not made and answers this.
    Answer(CK_RV),
    /// `after CODE`: the call is made and answers this nevertheless.
    After(CK_RV),
    /// `delay MILLISECONDS`: the call is made later.
    Delay(u64),
    /// `hang`: the call never returns.
    Hang,
    /// `crash`: the process ends by a signal.
    Crash,
    /// `exit`: the library ends the process in order.
    Exit,
    /// `close-sessions`: every session of the application is closed, then the call is made.
    CloseSessions,
    /// `logout`: the application is logged out, then the call is made.
    Logout,
    /// `swap-keys`: the handles of the two keys unwrapped last change places for good.
    SwapKeys,
    /// `grow MEBIBYTES`: so much memory is lost, then the call is made.
    Grow(usize),
    /// `flip`: the call is made; one bit of its output is wrong.
    Flip,
    /// `shorten`: the call is made; its output lacks the last byte.
    Shorten,
    /// `attack`: what a library must not do is tried first, see [`attack`](crate::attack).
    Attack,
}

impl Action {
    /// Whether it can strike a call that writes so.
    fn strikes(self, writes: Writes) -> bool {
        match self {
            Self::Flip | Self::Shorten => writes == Writes::Output,
            // An operation that is asked for its length goes on: it would hang in the session.
            Self::After(_) => writes != Writes::Length,
            _ => true,
        }
    }

    fn parse(words: &[&str]) -> Option<Self> {
        let code = |text: &str| CK_RV::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        Some(match words {
            ["answer", text] => Self::Answer(code(text)?),
            ["after", text] => Self::After(code(text)?),
            ["delay", millis] => Self::Delay(millis.parse().ok()?),
            ["hang"] => Self::Hang,
            ["crash"] => Self::Crash,
            ["exit"] => Self::Exit,
            ["close-sessions"] => Self::CloseSessions,
            ["logout"] => Self::Logout,
            ["swap-keys"] => Self::SwapKeys,
            ["grow", mebibytes] => Self::Grow(mebibytes.parse().ok()?),
            ["flip"] => Self::Flip,
            ["shorten"] => Self::Shorten,
            ["attack"] => Self::Attack,
            _ => return None,
        })
    }
}

/// Flags that the token shows in addition: hexadecimal, in the file `$KEYWARD_FAULTS/token-flags`.
pub(crate) fn token_flags() -> CK_FLAGS {
    let folder = std::env::var_os("KEYWARD_FAULTS").map(PathBuf::from);
    let text = folder.and_then(|folder| fs::read_to_string(folder.join("token-flags")).ok());
    text.and_then(|text| CK_FLAGS::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// Tries what the file `$KEYWARD_FAULTS/plan` names: a file of the daemon's state, and its configuration, a
/// line each. The outcomes are in the file `outcome` once that is there.
pub(crate) fn carry_out() -> Option<()> {
    let folder = PathBuf::from(std::env::var_os("KEYWARD_FAULTS")?);
    let plan = fs::read_to_string(folder.join("plan")).ok()?;
    let (victim, configuration) = plan.trim_end().split_once('\n')?;
    let said =
        attack::attempts(Path::new(victim), Path::new(configuration), std::os::unix::process::parent_id());
    fs::write(folder.join("draft"), said).ok()?;
    fs::rename(folder.join("draft"), folder.join("outcome")).ok()
}

/// Takes the first fault that is armed for a call.
pub(crate) fn due(function: &str, writes: Writes) -> Option<Action> {
    let folder = PathBuf::from(std::env::var_os("KEYWARD_FAULTS")?);
    let mut armed: Vec<PathBuf> =
        fs::read_dir(folder.join("armed")).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    armed.sort();
    armed.iter().find_map(|file| {
        let action = read(file, function).filter(|action| action.strikes(writes))?;
        strike(&folder, file).then_some(action)
    })
}

fn read(file: &Path, function: &str) -> Option<Action> {
    let text = fs::read_to_string(file).ok()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let (whom, action) = words.split_first()?;
    if *whom != "*" && *whom != function {
        return None;
    }
    // A fault that means nothing must not pass for one that was survived.
    Some(Action::parse(action).unwrap_or(Action::Crash))
}

/// Notes that a fault strikes; whoever moves the file away first has it.
fn strike(folder: &Path, file: &Path) -> bool {
    let Some(name) = file.file_name() else { return false };
    let fired = folder.join("fired").join(name);
    if name.to_string_lossy().starts_with("always") {
        return fs::write(fired, "").is_ok();
    }
    fs::rename(file, fired).is_ok()
}

//! Where the PIN comes from, and the record of PINs that a token has refused.
//!
//! Tokens lock after a few wrong PINs, and a daemon that a service manager
//! restarts would spend them all within seconds. So a refusal is written down
//! before anything else happens, and the same PIN is never again presented to
//! the same token, until the PIN changes or an operator clears the record.
//!
//! The record is trusted: whoever can change it can make the daemon spend the
//! remaining tries, or refuse a right PIN; it shows no PIN, only a slow digest.
//! It has a folder of its own, the one of the state that the HSM process reaches:
//! the library in there has the PIN anyway.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Date;
use crate::modes;
use crate::secret::{NoPin, Pin};

/// Where the user PIN comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// A file that has the PIN alone, and that others cannot read.
    File(PathBuf),
    /// A file that has the PIN alone, and that nobody but the user that runs this can read.
    Own(PathBuf),
    /// A credential of the service manager: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// The terminal.
    Prompt,
}

/// Why there is no PIN to present.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file is missing or unreadable.
    #[error("cannot read the PIN file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Every user of the machine can read the file.
    #[error(
        "the PIN file {0} can be read by every user of this machine: run `chmod 600` on it and change the PIN"
    )]
    Exposed(PathBuf),
    /// Others than its owner can read the file, or another user owns it.
    #[error("the PIN file {0} is not yours alone: run `chmod 600` on it, as the user that owns it")]
    NotAlone(PathBuf),
    /// It is no regular file of a sane size.
    #[error("the PIN file {0} is not a regular file of 1 to {MAX_PIN_FILE} bytes")]
    NotAPinFile(PathBuf),
    /// There is no credentials directory, or the name is a path.
    #[error("no credential {0:?}: add LoadCredential={0}:PATH to the service unit")]
    NoCredential(String),
    /// The terminal did not answer.
    #[error("cannot ask for the PIN: {0}")]
    Prompt(io::Error),
    /// There is no PIN in it.
    #[error("the PIN is empty")]
    Empty,
    /// What is in the file is no PIN.
    #[error("there is no PIN in {0}, so none is presented: {1}")]
    NotAPin(PathBuf, NoPin),
    /// What was typed is no PIN.
    #[error("what was typed is no PIN, so none is presented: {0}")]
    NotTyped(NoPin),
    /// The token has refused this PIN before.
    #[error(
        "the token with serial {serial} has refused this PIN before ({reason}) and it was not presented again; {WHAT_TO_DO}"
    )]
    Refused {
        /// The token.
        serial: String,
        /// What the token said then.
        reason: String,
    },
    /// The record cannot be read, so no PIN is presented at all.
    #[error(
        "the record of refused PINs {path} cannot be used, so no PIN is presented: {reason}; after making sure that the PIN is right, run `as_keyward hsm clear-refused-pin`"
    )]
    BadRecord {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A refusal could not be written down.
    #[error(
        "cannot write the record of refused PINs {path}: {source}; make room or mend the permissions of its folder"
    )]
    NotRecorded {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The remedy for a refused PIN.
pub(crate) const WHAT_TO_DO: &str = "put the right PIN where the configuration takes it from, \
    or, when the token now accepts this one, run `as_keyward hsm clear-refused-pin`";

const MAX_PIN_FILE: u64 = 4096;

impl PinSource {
    /// Reads the PIN now.
    ///
    /// # Errors
    /// [`PinError`], also when every user of the machine can read the file.
    pub fn read(&self) -> Result<Pin, PinError> {
        let pin = match self {
            Self::File(path) => read_file(path)?,
            Self::Own(path) => {
                let (file, meta) = open_file(path)?;
                if modes::open_to(&meta, modes::ANY).anybody()
                    || meta.uid() != rustix::process::geteuid().as_raw()
                {
                    return Err(PinError::NotAlone(path.clone()));
                }
                read_pin(path, file)?
            }
            Self::Credential(name) => {
                read_file(&credential(name).ok_or_else(|| PinError::NoCredential(name.clone()))?)?
            }
            Self::Prompt => {
                let typed =
                    Zeroizing::new(rpassword::prompt_password("Token PIN: ").map_err(PinError::Prompt)?);
                Pin::from_bytes(typed.as_bytes()).map_err(PinError::NotTyped)?
            }
        };
        if pin.expose().is_empty() { Err(PinError::Empty) } else { Ok(pin) }
    }

    /// Changes whenever somebody writes or replaces the file, or changes its mode.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::File(path) | Self::Own(path) => stamp(path),
            Self::Credential(name) => credential(name).and_then(|path| stamp(&path)),
            Self::Prompt => None,
        }
    }
}

/// Time of the last change of content, mode or owner, and identity of a file.
pub(crate) type Stamp = (i64, i64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|meta| (meta.ctime(), meta.ctime_nsec(), meta.ino()))
}

fn credential(name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|_| plain)?;
    Some(Path::new(&folder).join(name))
}

/// Opens a regular file of a sane size. A pipe is not waited for.
fn open_file(path: &Path) -> Result<(File, fs::Metadata), PinError> {
    let failed = |source| PinError::File { path: path.to_owned(), source };
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(without_waiting).open(path);
    let file = opened.map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    match meta.is_file() && meta.len() <= MAX_PIN_FILE {
        true => Ok((file, meta)),
        false => Err(PinError::NotAPinFile(path.to_owned())),
    }
}

fn read_pin(path: &Path, file: File) -> Result<Pin, PinError> {
    let failed = |source| PinError::File { path: path.to_owned(), source };
    Pin::read(file).map_err(failed)?.map_err(|why| PinError::NotAPin(path.to_owned(), why))
}

fn read_file(path: &Path) -> Result<Pin, PinError> {
    let (file, meta) = open_file(path)?;
    let open = modes::open_to(&meta, modes::ANY);
    if open.others {
        return Err(PinError::Exposed(path.to_owned()));
    }
    if open.group {
        warn_of_group(path);
    }
    read_pin(path, file)
}

/// Warns once of each state of the file, however often it is read.
fn warn_of_group(path: &Path) {
    static TOLD: Mutex<Option<(PathBuf, Option<Stamp>)>> = Mutex::new(None);
    let now = Some((path.to_owned(), stamp(path)));
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if *told != now {
        tracing::warn!("the PIN file {} is open to its group; mode 0600 is enough", path.display());
        *told = now;
    }
}

/// The record of refused PINs: the file `pins/refused` in the state folder.
pub struct RefusedPins {
    path: PathBuf,
    write: fn(&Path, &[u8]) -> io::Result<()>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    refused: Vec<Refusal>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    token_serial: String,
    salt: String,
    iterations: NonZeroU32,
    digest: String,
    date_ms: u64,
    reason: String,
}

const FORMAT: u32 = 1;
/// Where the record was before it had a folder.
const OLD_RECORD: &str = "pin-refused";
/// OWASP's figure for PBKDF2-HMAC-SHA256 (2023).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
const DIGEST_LEN: usize = 32;

impl Refusal {
    fn new(serial: &str, pin: &Pin, reason: &str) -> io::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let mut digest = [0; DIGEST_LEN];
        let salted = salted(&salt, serial);
        pbkdf2::derive(ALGORITHM, ITERATIONS, &salted, pin.expose().as_bytes(), &mut digest);
        Ok(Self {
            token_serial: serial.to_owned(),
            salt: BASE64_STANDARD.encode(salt),
            iterations: ITERATIONS,
            digest: BASE64_STANDARD.encode(digest),
            date_ms: Date::now().millis(),
            reason: reason.to_owned(),
        })
    }

    /// Whether it is this PIN that was refused; an error when the record is damaged.
    fn is_of(&self, pin: &Pin) -> Result<bool, String> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| error.to_string());
        let (salt, digest) = (decode(&self.salt)?, decode(&self.digest)?);
        if digest.len() != DIGEST_LEN || self.iterations > ITERATIONS {
            return Err("a digest in it is malformed".to_owned());
        }
        let salted = salted(&salt, &self.token_serial);
        Ok(pbkdf2::verify(ALGORITHM, self.iterations, &salted, pin.expose().as_bytes(), &digest).is_ok())
    }
}

const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA256;

fn salted(salt: &[u8], serial: &str) -> Vec<u8> {
    [salt, serial.as_bytes()].concat()
}

impl RefusedPins {
    /// The record in this state folder.
    pub fn in_dir(state_dir: &Path) -> Self {
        Self { path: Self::folder(state_dir).join("refused"), write: write_durably }
    }

    /// The folder of the record.
    pub fn folder(state_dir: &Path) -> PathBuf {
        state_dir.join("pins")
    }

    /// Makes the folder, and takes over the record of an older Keyward, which lay in the state folder
    /// itself. Where there are both, a refusal in either counts, and of one token the later.
    ///
    /// # Errors
    /// [`PinError`] when one of them cannot be used: then no PIN is presented.
    pub fn take_over(state_dir: &Path) -> Result<(), PinError> {
        let (own, old) =
            (Self::in_dir(state_dir), Self { path: state_dir.join(OLD_RECORD), write: write_durably });
        let _lock = own.lock()?;
        let found = old.load()?.refused;
        if found.is_empty() {
            return Ok(());
        }
        let mut record = own.load()?;
        for refusal in found {
            let same = record.refused.iter().position(|known| known.token_serial == refusal.token_serial);
            match same {
                Some(index) if record.refused[index].date_ms >= refusal.date_ms => {}
                Some(index) => record.refused[index] = refusal,
                None => record.refused.push(refusal),
            }
        }
        own.store(&record)?;
        // Only once the other is durable.
        fs::remove_file(&old.path).map_err(|source| old.not_recorded(source))
    }

    /// Whether `pin` may be presented to the token.
    ///
    /// # Errors
    /// [`PinError::Refused`] when the token has refused it before,
    /// [`PinError::BadRecord`] when that cannot be known.
    pub fn check(&self, serial: &str, pin: &Pin) -> Result<(), PinError> {
        let record = self.load()?;
        let Some(refusal) = record.refused.iter().find(|refusal| refusal.token_serial == serial) else {
            return Ok(());
        };
        match refusal.is_of(pin) {
            Ok(false) => Ok(()),
            Ok(true) => Err(PinError::Refused { serial: serial.to_owned(), reason: refusal.reason.clone() }),
            Err(reason) => Err(self.bad(reason)),
        }
    }

    /// Makes sure that a refusal could be written down: writes the record as it stands.
    ///
    /// # Errors
    /// [`PinError::NotRecorded`] when the folder takes no file now.
    pub fn reserve(&self) -> Result<Reserved<'_>, PinError> {
        let _lock = self.lock()?;
        let trial = self.path.with_extension("trial");
        let removed = (self.write)(&trial, &[b' '; 4096]).and_then(|()| fs::remove_file(&trial));
        removed.map_err(|source| self.not_recorded(source))?;
        Ok(Reserved(self))
    }

    /// Forgets the refusal of a token that has now accepted another PIN.
    ///
    /// # Errors
    /// [`PinError`] when the record cannot be changed.
    pub fn forget(&self, serial: &str) -> Result<(), PinError> {
        let _lock = self.lock()?;
        let mut record = self.load()?;
        let before = record.refused.len();
        record.refused.retain(|refusal| refusal.token_serial != serial);
        if record.refused.len() == before { Ok(()) } else { self.store(&record) }
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        stamp(&self.path)
    }

    /// The processes of a group's tokens share the record: one at a time changes
    /// it. The lock is the folder's own and goes with the answer.
    fn lock(&self) -> Result<File, PinError> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let made = match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let opened = made.and_then(|()| File::open(folder));
        let locked = opened.and_then(|folder| folder.lock().map(|()| folder));
        locked.map_err(|source| self.not_recorded(source))
    }

    fn load(&self) -> Result<Record, PinError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Record { format: FORMAT, refused: Vec::new() });
            }
            Err(error) => return Err(self.bad(error.to_string())),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| self.bad(error.to_string()))?;
        if record.format == FORMAT {
            Ok(record)
        } else {
            Err(self.bad(format!("it has format {}, this program knows {FORMAT}", record.format)))
        }
    }

    fn store(&self, record: &Record) -> Result<(), PinError> {
        let text = serde_json::to_vec_pretty(record).map_err(|error| self.not_recorded(error.into()))?;
        (self.write)(&self.path, &text).map_err(|source| self.not_recorded(source))
    }

    fn bad(&self, reason: String) -> PinError {
        PinError::BadRecord { path: self.path.clone(), reason }
    }

    fn not_recorded(&self, source: io::Error) -> PinError {
        PinError::NotRecorded { path: self.path.clone(), source }
    }
}

/// Proof that a refusal could be recorded a moment ago.
pub struct Reserved<'a>(&'a RefusedPins);

impl Reserved<'_> {
    /// Writes down that the token refused the PIN; replaces an older refusal by the same token.
    ///
    /// # Errors
    /// [`PinError`] when the record cannot be written; it may nevertheless have been.
    pub fn record(self, serial: &str, pin: &Pin, reason: &str) -> Result<(), PinError> {
        let _lock = self.0.lock()?;
        let mut record = self.0.load()?;
        let refusal = Refusal::new(serial, pin, reason).map_err(|source| self.0.not_recorded(source))?;
        record.refused.retain(|refusal| refusal.token_serial != serial);
        record.refused.push(refusal);
        self.0.store(&record)
    }
}

/// Forgets every refusal: the operator has made sure that the PIN is right.
/// Says whether there was a record.
///
/// # Errors
/// When the record cannot be removed.
pub fn clear_refused_pin(state_dir: &Path) -> io::Result<bool> {
    let old = remove_durably(&state_dir.join(OLD_RECORD))?;
    Ok(remove_durably(&RefusedPins::in_dir(state_dir).path)? || old)
}

/// Says whether there was one.
fn remove_durably(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a file (mode 0600) so that after a power cut the old or the new content stands, and after
/// success the new.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // The library may have put a link there, to what this process still reaches before it is confined.
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_link);
    let mut file = options.open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::from_bytes(text.as_bytes()).unwrap()
    }

    fn record(refused: &RefusedPins, serial: &str, text: &str) -> Result<(), PinError> {
        refused.reserve()?.record(serial, &pin(text), "CKR_PIN_INCORRECT")
    }

    fn refused(folder: &TempDir) -> RefusedPins {
        RefusedPins::in_dir(folder.path())
    }

    #[test]
    fn a_refused_pin_stays_refused_for_its_token_only() {
        let folder = TempDir::new().unwrap();
        record(&refused(&folder), "A", "1111").unwrap();
        let after_restart = refused(&folder);
        let error = after_restart.check("A", &pin("1111")).unwrap_err();
        assert!(
            matches!(&error, PinError::Refused { reason, .. } if reason == "CKR_PIN_INCORRECT"),
            "{error}"
        );
        assert!(error.to_string().contains("keyward hsm clear-refused-pin"), "{error}");
        assert!(!error.to_string().contains("1111"));
        after_restart.check("A", &pin("2222")).unwrap();
        after_restart.check("B", &pin("1111")).unwrap();
    }

    #[test]
    fn a_second_refusal_replaces_the_first_and_other_tokens_keep_theirs() {
        let folder = TempDir::new().unwrap();
        let refused = refused(&folder);
        record(&refused, "A", "1111").unwrap();
        record(&refused, "B", "1111").unwrap();
        record(&refused, "A", "2222").unwrap();
        assert!(refused.check("A", &pin("2222")).is_err());
        assert!(refused.check("A", &pin("1111")).is_ok());
        assert!(refused.check("B", &pin("1111")).is_err());
        refused.forget("A").unwrap();
        assert!(refused.check("A", &pin("2222")).is_ok());
        assert!(refused.check("B", &pin("1111")).is_err());
    }

    #[test]
    fn the_record_is_private_and_shows_no_pin() {
        let folder = TempDir::new().unwrap();
        record(&refused(&folder), "A", "84215097").unwrap();
        let path = folder.path().join("pins/refused");
        assert_eq!(fs::metadata(folder.path().join("pins")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("84215097"));
        let pins = fs::read_dir(folder.path().join("pins")).unwrap();
        let names: Vec<_> = pins.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["refused"]);
    }

    #[test]
    fn the_tokens_of_a_group_share_the_record() {
        let folder = TempDir::new().unwrap();
        let serials = ["A", "B", "C", "D"];
        std::thread::scope(|scope| {
            for serial in serials {
                let refused = refused(&folder);
                scope.spawn(move || record(&refused, serial, "1111").unwrap());
            }
        });
        for serial in serials {
            assert!(refused(&folder).check(serial, &pin("1111")).is_err(), "{serial}");
        }
    }

    #[test]
    fn clearing_allows_the_pin_again() {
        let folder = TempDir::new().unwrap();
        record(&refused(&folder), "A", "1111").unwrap();
        assert!(clear_refused_pin(folder.path()).unwrap());
        assert!(!clear_refused_pin(folder.path()).unwrap());
        refused(&folder).check("A", &pin("1111")).unwrap();
    }

    #[test]
    fn the_record_of_an_older_version_counts_on() {
        let folder = TempDir::new().unwrap();
        let old = folder.path().join(OLD_RECORD);
        record(&refused(&folder), "A", "1111").unwrap();
        fs::rename(folder.path().join("pins/refused"), &old).unwrap();
        record(&refused(&folder), "B", "2222").unwrap();
        RefusedPins::take_over(folder.path()).unwrap();
        assert!(!old.exists());
        assert!(refused(&folder).check("A", &pin("1111")).is_err());
        assert!(refused(&folder).check("B", &pin("2222")).is_err());
        // A link that the library has left is not followed.
        let (link, precious) = (folder.path().join("pins/refused.tmp"), folder.path().join("precious"));
        fs::write(&precious, "whole").unwrap();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        record(&refused(&folder), "C", "3333").unwrap_err();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "whole");
        fs::remove_file(&link).unwrap();
        // Nothing is left to take over, and one that cannot be read refuses.
        RefusedPins::take_over(folder.path()).unwrap();
        fs::write(&old, "{}").unwrap();
        assert!(matches!(RefusedPins::take_over(folder.path()), Err(PinError::BadRecord { .. })));
        assert!(clear_refused_pin(folder.path()).unwrap() && !old.exists());
    }

    #[test]
    fn a_record_that_cannot_be_trusted_refuses_every_pin() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("pins/refused");
        record(&refused(&folder), "A", "1111").unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let damaged = [
            String::new(),
            "{}".to_owned(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"format\": 1", "\"format\": 2"),
            whole.replace("600000", "0"),
            whole.replace("600000", "600001"),
            whole.replace("\"digest\": \"", "\"digest\": \"*"),
            whole.replace("\"reason\"", "\"raison\""),
        ];
        for text in damaged {
            assert_ne!(text, whole);
            fs::write(&path, &text).unwrap();
            let error = refused(&folder).check("A", &pin("2222")).unwrap_err();
            assert!(matches!(error, PinError::BadRecord { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn no_try_is_spent_when_its_refusal_could_not_be_recorded() {
        let folder = TempDir::new().unwrap();
        let refused = RefusedPins::in_dir(&folder.path().join("missing"));
        assert!(matches!(refused.reserve(), Err(PinError::NotRecorded { .. })));
    }

    #[test]
    fn a_write_that_fails_is_an_error_whether_or_not_it_was_made() {
        let folder = TempDir::new().unwrap();
        fn full() -> io::Result<()> {
            Err(ErrorKind::StorageFull.into())
        }
        let not_written = RefusedPins { write: |_, _| full(), ..refused(&folder) };
        let written = RefusedPins {
            write: |path, text| write_durably(path, text).and_then(|()| full()),
            ..refused(&folder)
        };
        for (record, stands) in [(not_written, false), (written, true)] {
            let error = Reserved(&record).record("A", &pin("1111"), "x").unwrap_err();
            assert!(matches!(error, PinError::NotRecorded { .. }), "{error}");
            assert_eq!(record.check("A", &pin("1111")).is_err(), stands);
        }
    }

    #[test]
    fn a_pin_file_is_read_only_when_it_is_private() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("pin");
        let source = PinSource::File(path.clone());
        assert!(matches!(source.read(), Err(PinError::File { .. })));
        fs::write(&path, "1234\n").unwrap();
        for (mode, readable) in [(0o600, true), (0o400, true), (0o440, true), (0o644, false), (0o604, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(source.read().is_ok(), readable, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(source.read().unwrap().expose(), "1234");
        fs::write(&path, "\n").unwrap();
        assert!(matches!(source.read(), Err(PinError::Empty)));
        fs::write(&path, "1".repeat(5000)).unwrap();
        assert!(matches!(source.read(), Err(PinError::NotAPinFile(_))));
        assert!(matches!(PinSource::File(folder.path().into()).read(), Err(PinError::NotAPinFile(_))));
    }

    #[test]
    fn a_credential_name_is_no_path() {
        for name in ["", ".", "..", "../pin", "a/b"] {
            assert_eq!(credential(name), None, "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn only_the_same_pin_is_refused(first in "[ -~密码éß]{1,12}", second in "[ -~密码éß]{1,12}") {
            let folder = TempDir::new().unwrap();
            let refused = refused(&folder);
            record(&refused, "A", &first).unwrap();
            prop_assert!(refused.check("A", &pin(&first)).is_err());
            prop_assert_eq!(refused.check("A", &pin(&second)).is_err(), first == second);
        }
    }
}

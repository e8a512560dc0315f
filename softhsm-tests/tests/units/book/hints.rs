//! The commands of messages and hints, run as they are printed. Those that a message fills in are taken from a message that this
//! installation prints; of the others a reader fills in the capital words. None of the sources may be left out.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE32_NOPAD;
use keyward::keyring::otp::{OtpHash, OtpKind, OtpScheme};

use keyward_softhsm_tests::rig::SERVICE;

use super::{APPLICATION, Book, OPERATOR, Outcome, SECOND};
use crate::service::{CONFIG, configure};

/// A person who has an account and a token, a custodian of this installation.
const STAFF: &str = "alice";
/// What a refusal must say where this installation has no cause for the command.
const IN_USE: &str = "is in use by another keywardd";
const NO_CARD: &str = "PIV";

/// Who types which command, and what it must be refused with; nothing where it must succeed.
const TYPED: &[(&str, &str, &str)] = &[
    ("root", "as_keyward init --backup-key /run/keyward-init/again", "custody = \"operator\""),
    ("root", "as_keyward store accept-rollback", IN_USE),
    ("root", "as_keyward store check --repair", IN_USE),
    ("root", "as_keyward backup restore --in /run/keyward-init/keyward.kwb", IN_USE),
    ("root", "as_keyward backup drill --in /run/keyward-init/keyward.kwb --token keyward-3", ""),
    ("root", "as_keyward audit verify", ""),
    ("root", "as_keyward audit show", ""),
    ("root", "as_keyward hsm clear-refused-pin", ""),
    (OPERATOR, "keyward status", ""),
    (OPERATOR, "keyward store check", ""),
    (OPERATOR, "keyward clock accept --reason 'case 17'", ""),
    (OPERATOR, "keyward ceremony propose --help", ""),
    (OPERATOR, "keyward ceremony list", ""),
    (OPERATOR, "keyward ceremony show {ceremony}", ""),
    (OPERATOR, "keyward ceremony show {ceremony} --json", ""),
    (OPERATOR, "keyward ceremony transcript 3f2a --out ceremony.json", ""),
    (OPERATOR, "keyward admin show 91f3a2b4", "no act"),
    (OPERATOR, "keyward admin list", ""),
    (OPERATOR, "keyward account list", ""),
    (OPERATOR, "keyward account show alice", ""),
    (OPERATOR, "keyward account show alice --json", ""),
    (OPERATOR, "keyward tenant list", ""),
    (OPERATOR, "keyward key list acme", ""),
    (OPERATOR, "keyward key show acme/customer-pii", ""),
    (OPERATOR, "keyward key enable acme/customer-pii", ""),
    (OPERATOR, "keyward key versions acme/customer-pii", ""),
    (OPERATOR, "keyward version enable acme/customer-pii/1", ""),
    (OPERATOR, "keyward key update acme/customer-pii --min-version 1", "custodians decide"),
    (OPERATOR, "keyward backup list", ""),
    (OPERATOR, "keyward backup create --out hints.kwb", ""),
    (OPERATOR, "keyward root escrow --out hints.escrow", ""),
    (OPERATOR, "keyward erasure replace", ""),
    (OPERATOR, "keyward erasure status", ""),
    (OPERATOR, "keyward erasure forget 3f0c9a1200112233445566778899aabb", "custodians decide"),
    (
        OPERATOR,
        "keyward ceremony propose forget-erasure-root 3f0c9a1200112233445566778899aabb --reason 'case 17'",
        "no token has",
    ),
    (OPERATOR, "keyward ceremony propose rotate-tenant tenants/acme --reason 'case 17'", ""),
    (OPERATOR, "keyward account otp-confirm alice --resync", "only passwords by counter"),
    (STAFF, "keyward token list", ""),
    (STAFF, "keyward token unblock", ""),
    (STAFF, "keyward token list --piv --json", NO_CARD),
    (STAFF, "keyward token change-pin --piv", NO_CARD),
    (STAFF, "keyward token change-puk --piv", NO_CARD),
];

/// A command as it stands in a source.
struct Template {
    place: String,
    text: String,
}

pub(super) struct Hints<'b, 'r> {
    book: &'b Book<'r>,
    templates: Vec<Template>,
}

impl<'b, 'r> Hints<'b, 'r> {
    pub(super) fn new(book: &'b Book<'r>) -> Self {
        let mut templates = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut templates);
        Self { book, templates }
    }

    /// In a founded installation with three custodians, the tenant acme and its key.
    pub(super) fn run(self) -> Outcome {
        self.account()?;
        self.administrators()?;
        self.ceremonies()?;
        let wrong = TYPED.iter().filter_map(|(user, line, refused)| self.typed(user, line, refused).err());
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        let run = self.book.hinted.borrow();
        let left = self.templates.iter().filter(|one| !run.iter().any(|line| one.fits(line)));
        let left: Vec<String> = left.map(|one| format!("{}: {}", one.place, one.text)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("these are printed, and not run:\n{}", left.join("\n")))
        }
    }
}

impl Hints<'_, '_> {
    /// Runs a line; it succeeds, or is refused with the words. Answers what was shown.
    fn typed(&self, user: &str, line: &str, refused: &str) -> Result<String, String> {
        if !self.templates.iter().any(|one| one.fits(line)) {
            return Err(format!("no source prints {line:?}"));
        }
        self.book.hinted.borrow_mut().push(line.to_owned());
        match (self.book.shell(user, &self.book.filled_in(line)), refused) {
            (Ok(shown), "") => Ok(shown),
            (Ok(shown), _) => Err(format!("{line:?} succeeds: {shown}")),
            (Err(shown), "") => Err(format!("{line:?}: {shown}")),
            (Err(shown), refused) if shown.contains(refused) => Ok(shown),
            (Err(shown), _) => Err(format!("{line:?} is not refused with {refused:?}: {shown}")),
        }
    }

    /// Runs what is no hint; answers what was shown, whether it succeeded or not.
    fn shown(&self, user: &str, line: &str) -> String {
        self.book.shell(user, line).unwrap_or_else(|shown| shown)
    }

    /// The commands that a message names, which must be as many.
    fn named<const COUNT: usize>(shown: &str) -> Result<[String; COUNT], String> {
        let text = shown.replace("\r\n", "\n");
        let quoted = text.split('`').skip(1).step_by(2);
        let commands: Vec<String> = quoted.filter(|one| begins(one)).map(str::to_owned).collect();
        commands.try_into().map_err(|found| format!("not {COUNT} commands, {found:?}, in: {shown}"))
    }

    /// An account from its first line to its token, along the hints.
    fn account(&self) -> Outcome {
        let made = self.shown(OPERATOR, "keyward account create alice --display-name Alice");
        let [otp, enroll] = Self::named(&made)?;
        let seed = self.typed(OPERATOR, &otp, "")?;
        let [confirm] = Self::named(&seed)?;
        let scheme = OtpScheme::new(OtpKind::Totp(30), OtpHash::Sha1, 6).ok_or("no scheme")?;
        let seed = seed.split("secret=").nth(1).and_then(|rest| rest.split(['&', '\r', '\n']).next());
        let seed =
            BASE32_NOPAD.decode(seed.ok_or("no seed")?.as_bytes()).map_err(|error| error.to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        *self.book.password.borrow_mut() = scheme.password(&seed, now.as_secs() / 30);
        self.typed(OPERATOR, &confirm, "")?;
        self.typed(OPERATOR, &enroll, "")?;
        self.book.shell(OPERATOR, "cp alice.ticket /tmp/ && chmod a+r /tmp/alice.ticket")?;
        self.book.shell(STAFF, "cp /tmp/alice.ticket .")?;
        let made = self.shown(STAFF, "keyward token generate --name alice --login --token alice-token");
        let [enrol] = Self::named(&made)?;
        self.typed(STAFF, &enrol.replace("NAME", "blue-key"), "")?;
        // Keys that sign in ceremonies, on a token of somebody who has none yet.
        self.book.custodian(OPERATOR)?;
        let module = "export KEYWARD_TOKEN_MODULE=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so; ";
        let module = self.book.filled_in(module);
        self.book.exported.borrow_mut().entry(OPERATOR.to_owned()).or_default().push_str(&module);
        let made = self.typed(OPERATOR, "keyward token generate --name olga", "")?;
        let [card] = Self::named(&made)?;
        self.typed(OPERATOR, &card, "").map(drop)
    }

    /// What administrators decide: the token is on record, and nobody is an administrator yet.
    fn administrators(&self) -> Outcome {
        // A token in software has no maker that attests to it.
        let assurance = "assurance = [\"attested\", \"certified\"";
        self.book.edit(&[(&format!("# {assurance}]"), &format!("{assurance}, \"witnessed\"]"))])?;
        let text = self.book.rig.root(&["cat", CONFIG])?;
        let second =
            format!("\n[[principal]]\nname = \"ops-2\"\nrole = \"operator\"\nusers = [\"{SECOND}\"]\n");
        configure(self.book.rig, &(text + &second))?;
        self.book.rig.root(&["systemctl", "reload", SERVICE])?;
        self.book.shell(STAFF, "cp -p alice.enrolment /tmp/")?;
        let on_record = self.book.shell(OPERATOR, "keyward account submit /tmp/alice.enrolment --json")?;
        let credential = on_record
            .split('"')
            .find(|one| one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let credential = credential.ok_or_else(|| on_record.clone())?;
        self.book.shell(SECOND, &format!("keyward account approve alice {credential}"))?;
        let make =
            format!("keyward ceremony propose make-administrator alice {credential} --reason 'case 17'");
        self.typed(OPERATOR, &make, "")?;
        let proposed =
            self.typed(OPERATOR, "keyward admin propose set-level alice 3 --reason 'case 17'", "")?;
        let [approve] = Self::named(&proposed)?;
        self.typed(STAFF, &approve.replace("NAME", STAFF), "ask another administrator").map(drop)
    }

    /// What custodians decide, from the refusal to the first approval.
    fn ceremonies(&self) -> Outcome {
        let refused = self.shown(OPERATOR, "keyward tenant destroy acme --reason 'case 17'");
        let [destroy, help] = Self::named(&refused)?;
        self.typed(OPERATOR, &help, "")?;
        let destroy = destroy.replace("WHY", "'case 17'");
        let proposed = self.typed(OPERATOR, &destroy, "")?;
        let [approve] = Self::named(&proposed)?;
        self.typed(STAFF, &approve, "")?;
        let id = approve.rsplit(' ').next().ok_or("no id")?.to_owned();
        self.book.shell(OPERATOR, &format!("keyward ceremony cancel {id} --reason 'no more'"))?;
        self.book.value("{ceremony}", id);
        // The application was frozen before; its name is none of a tenant or a key.
        let refused =
            self.shown(OPERATOR, &format!("keyward principal unfreeze {APPLICATION} --reason 'case 17'"));
        let [unfreeze, _] = Self::named(&refused)?;
        self.typed(OPERATOR, &unfreeze.replace("WHY", "'case 17'"), "")?;
        let rotated = self.typed(OPERATOR, "keyward tenant rotate acme", "")?;
        let [show] = Self::named(&rotated)?;
        self.typed(OPERATOR, &show, "").map(drop)
    }
}

impl Template {
    /// Whether the line is this command, with something in the place of what a message or a reader fills in.
    fn fits(&self, line: &str) -> bool {
        let pieces = self.pieces();
        let [begin, between @ .., end] = &pieces[..] else { return line == pieces[0] };
        let rest = line.strip_prefix(begin.as_str()).and_then(|rest| rest.strip_suffix(end.as_str()));
        let found = between
            .iter()
            .try_fold(rest, |rest, piece| Some(rest?.split_once(piece.as_str()).map(|(_, rest)| rest)));
        found.flatten().is_some()
    }

    /// What is printed letter for letter, between what is filled in.
    fn pieces(&self) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for (nth, word) in self.text.split(' ').enumerate() {
            let mut last = pieces.pop().expect("the first");
            last.push_str(if nth == 0 { "" } else { " " });
            // A word in capitals, or such a stem of a file's name.
            let stem = word.split('.').next().unwrap_or_default();
            if !stem.is_empty() && stem.bytes().all(|one| one.is_ascii_uppercase()) {
                pieces.extend([last, word[stem.len()..].to_owned()]);
                continue;
            }
            let mut parts = word.split('{');
            last.push_str(parts.next().unwrap_or_default());
            pieces.push(last);
            pieces.extend(parts.map(|part| part.split_once('}').map_or("", |(_, rest)| rest).to_owned()));
        }
        pieces
    }
}

fn begins(command: &str) -> bool {
    command.starts_with("keyward ") || command.starts_with("as_keyward ")
}

/// Adds what stands in backticks in literals.
fn sources(folder: &Path, found: &mut Vec<Template>) {
    for entry in std::fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("the sources").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|one| one == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let lines = text.lines().take_while(|line| *line != "mod tests {");
            for line in lines.filter(|line| !line.trim_start().starts_with("//")) {
                let commands = line.split('`').skip(1).step_by(2).filter(|one| begins(one));
                found.extend(
                    commands
                        .map(|text| Template { place: path.display().to_string(), text: text.to_owned() }),
                );
            }
        }
    }
}

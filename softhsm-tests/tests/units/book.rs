//! The operator's pages, run as they are printed: each command by the user whom the page names, in a home of their own that nobody
//! else may enter. What the pages leave to the reader (an editor, another token, a file that is handed over) is done between.

mod hints;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use keyward_softhsm_tests::pages::{Command, Page};
use keyward_softhsm_tests::rig::{Rig, SERVICE, SOCKET};

use crate::service::{
    APPLICATION, CIPHERTEXT, CONFIG, KEY, Outcome, PROGRAMS, TOKENS, changed, configure, decrypts, equal,
    module, module_line, ready, records, until,
};

const PIN: &str = "8521-book";
const OPERATOR: &str = "olga";
/// An operator who approves what the other one has begun.
const SECOND: &str = "oskar";
const CUSTODIANS: [&str; 3] = ["alice", "bob", "carol"];

/// Commands that cannot run here as printed, and why.
const NOT_HERE: [(&str, &str); 2] = [
    ("make ", "`Rig::install` runs the same Makefile, with the binaries of this build"),
    ("apt-get ", "there is no network; setup.sh has installed the same packages"),
];

/// What a page prints for something that differs from one installation to the next.
struct Value {
    printed: &'static str,
    here: String,
    used: bool,
}

struct Book<'r> {
    rig: &'r Rig,
    values: RefCell<Vec<Value>>,
    /// What each person has exported in their shell.
    exported: RefCell<BTreeMap<String, String>>,
    /// The one-time password that is typed when it is asked for.
    password: RefCell<String>,
    /// The commands of messages that were run, as they were printed.
    hinted: RefCell<Vec<String>>,
}

/// Installation, callers, export, drill, a lost machine, founding, and a lost HSM.
pub(super) fn runs(rig: &Rig) -> Outcome {
    // Without it there are no terminals.
    if !Path::new("/usr/bin/script").is_file() {
        return Err("script(1) is missing: apt-get install bsdutils".to_owned());
    }
    let book = Book {
        rig,
        values: RefCell::default(),
        exported: RefCell::default(),
        password: RefCell::default(),
        hinted: RefCell::default(),
    };
    let runbook = Page::read("docs/runbook.md");
    let ceremonies = Page::read("docs/ceremonies.md");
    book.installation(&runbook)?;
    book.callers(&runbook, &ceremonies)?;
    book.drill(&runbook)?;
    book.lost_machine(&runbook)?;
    book.founding(&ceremonies)?;
    book.lost_hsm(&runbook, &ceremonies)?;
    book.encrypted_pin(&runbook)?;
    book.upkeep(&runbook)?;
    hints::Hints::new(&book).run()?;
    let values = book.values.borrow();
    let unused: Vec<_> = values.iter().filter(|value| !value.used).map(|value| value.printed).collect();
    if unused.is_empty() { Ok(()) } else { Err(format!("no page prints {unused:?} any more")) }
}

impl Book<'_> {
    fn value(&self, printed: &'static str, here: impl Into<String>) {
        self.values.borrow_mut().push(Value { printed, here: here.into(), used: false });
    }

    fn filled_in(&self, script: &str) -> String {
        self.values.borrow_mut().iter_mut().fold(script.to_owned(), |script, value| {
            value.used |= script.contains(value.printed);
            script.replace(value.printed, &value.here)
        })
    }

    fn all(&self, block: &[Command]) -> Outcome {
        block.iter().try_for_each(|command| self.run(command))
    }

    fn run(&self, command: &Command) -> Outcome {
        if NOT_HERE.iter().any(|(begin, _)| command.script.starts_with(begin)) {
            return Ok(());
        }
        let user = if command.user == "operator" { OPERATOR } else { &command.user };
        let script = self.filled_in(&command.script);
        if script.starts_with("export ") {
            let mut exported = self.exported.borrow_mut();
            exported.entry(user.to_owned()).or_default().push_str(&format!("{script}; "));
            return Ok(());
        }
        self.shell(user, &script).map(drop).map_err(|error| format!("{}: {error}", command.place))
    }

    /// As somebody else than the page names, with their name and token in the place of hers.
    fn run_as(&self, name: &str, command: &Command) -> Outcome {
        let script = command.script.replace("alice", name);
        self.run(&Command { user: name.to_owned(), script, ..command.clone() })
    }

    /// Runs a line in somebody's shell, on a terminal, at home. Whoever is asked for a PIN types it.
    fn shell(&self, user: &str, line: &str) -> Result<String, String> {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let exported = self.exported.borrow().get(user).cloned().unwrap_or_default();
        let home = if user == "root" { "/root".to_owned() } else { format!("/home/{user}") };
        let home = if user == "keyward" { "/".to_owned() } else { home };
        self.rig.write("/run/book/line", "0644", &format!("set -e; cd; {exported}\n{line}\n"))?;
        let who = format!("setpriv --reuid={user} --regid={user} --init-groups");
        let environment = format!("env -i HOME={home} PATH={PATH} EDITOR={PROGRAMS}/editor");
        let command = format!("{who} {environment} sh /run/book/line");
        let password = self.password.borrow();
        let officer = format!("so-{PIN}");
        let asked = [
            ("officer's PIN of", &*officer),
            ("PIN:", PIN),
            ("PIN of ", PIN),
            ("eenter", PIN),
            (" again", PIN),
            ("once more", PIN),
            ("password", &**password),
            ("full name", "tenants/acme"),
        ];
        self.rig.terminal(&command, &asked)
    }

    fn edit(&self, changes: &[(&str, &str)]) -> Outcome {
        let text = self.rig.root(&["cat", CONFIG])?;
        configure(self.rig, &changed(&text, changes)?)
    }

    /// People of this machine, before ours is installed.
    fn people(&self) -> Outcome {
        let names = [&[OPERATOR, SECOND, APPLICATION][..], &CUSTODIANS].concat();
        let users: String =
            names.iter().map(|name| format!("u {name} - \"{name}\" /home/{name}\n")).collect();
        let clients =
            [OPERATOR, SECOND, APPLICATION].map(|name| format!("m {name} keyward-clients\n")).concat();
        self.rig.write("/etc/sysusers.d/people.conf", "0644", &(users + &clients))?;
        self.rig.root(&["systemd-sysusers"])?;
        names.iter().try_for_each(|name| {
            let home = format!("/home/{name}");
            self.rig.root(&["install", "-d", "-m", "0700", "-o", name, "-g", name, &home]).map(drop)
        })
    }

    /// What an operator does now and then.
    fn upkeep(&self, runbook: &Page) -> Outcome {
        self.all(&runbook.blocks("## Rotation")[0])?;
        // The principal of the page is that of the application here.
        let freeze = &runbook.blocks("## Rotation")[1][0];
        self.shell(OPERATOR, &freeze.script.replace(" crm ", &format!(" {APPLICATION} ")))?;
        let refused = decrypts(self.rig).err().ok_or("who is frozen was served")?;
        if !refused.contains("frozen") {
            return Err(refused);
        }
        self.all(&runbook.blocks("## Keys on the tokens that no record names")[0][..1])?;
        self.all(&runbook.blocks("## Reading the audit log")[0])?;
        // A start from the newest change makes the copy whole.
        self.all(&runbook.blocks("## Damaged store or journal")[0])?;
        ready(self.rig)?;
        // What backup.md prints of restore and drill stands in the runbook, too, where it was run.
        let backup = Page::read("docs/backup.md");
        let run = runbook.blocks("## Backup and restore").concat();
        for command in [backup.blocks("## Restore"), backup.blocks("## Drill")].concat().concat() {
            if !run.iter().any(|other| (&other.user, &other.script) == (&command.user, &command.script)) {
                return Err(format!("{} prints another command than the runbook", command.place));
            }
        }
        self.five_minutes()?;
        // What README prints of the installation stands in the runbook, too, letter for letter but for the remarks.
        let bare =
            |command: &Command| command.script.split("  #").next().unwrap_or_default().trim().to_owned();
        let installation: Vec<_> =
            runbook.blocks("## First installation").concat().iter().map(bare).collect();
        let readme = Page::read("README.md").blocks("## Operations")[0].clone();
        match readme.iter().map(bare).find(|command| !installation.contains(command)) {
            Some(other) => Err(format!("README prints {other:?}, which the runbook does not")),
            None => Ok(()),
        }
    }

    /// README's first steps, by somebody who is operator and application in one, as with `make run`.
    fn five_minutes(&self) -> Outcome {
        let people = format!("users = [\"root\", \"{OPERATOR}\"]");
        let allow = "\n[[principal.allow]]\nkeys = [\"tenants/demo-a/keys/*\"]\noperations = [\"encrypt\", \"decrypt\"]";
        self.edit(&[(&people, &format!("{people}{allow}"))])?;
        self.rig.root(&["systemctl", "reload", SERVICE])?;
        self.shell(OPERATOR, "keyward tenant create demo-a; keyward key create demo-a/customer-pii")?;
        let steps = Page::read("README.md").blocks("## Five minutes");
        let steps = steps.last().ok_or("README has no first steps")?;
        let sealed = self.shell(OPERATOR, &steps[0].script)?;
        self.value("kw1:S1cBAZLIjukbBRQa…", sealed.trim());
        self.all(steps)?;
        self.shell(OPERATOR, "cmp customers.csv customers.again.csv").map(drop)
    }

    /// A token in software, as a second or another HSM would be.
    fn another_token(&self, label: &str) -> Outcome {
        let words = format!("--init-token --free --label {label} --so-pin so-{PIN} --pin {PIN}");
        let line = format!("SOFTHSM2_CONF=/etc/keyward/softhsm2.conf softhsm2-util {words}");
        self.shell("keyward", &line).map(drop)
    }

    fn installation(&self, runbook: &Page) -> Outcome {
        let rig = self.rig;
        rig.install()?;
        // `make install` without DESTDIR writes it there itself.
        rig.root(&["cp", "-r", "/mnt/etc/keyward", "/etc/"])?;
        // What of /usr can be written in there.
        self.value("/usr/share/doc/keyward", "/usr/local/share/doc/keyward");
        let blocks = runbook.blocks("## First installation");
        let [install, token, pin, _, check, init, start, tenant] = &blocks[..] else {
            return Err("the installation has other blocks than before".to_owned());
        };
        self.all(install)?;
        self.people()?;
        self.all(token)?;
        self.another_token("keyward-2")?;
        // The editor types what somebody would.
        let editor = format!("#!/bin/sh\nprintf %s {PIN} >\"$1\"\n");
        rig.write(&format!("{PROGRAMS}/editor"), "0755", &editor)?;
        self.all(pin)?;
        self.edited(&module(rig)?)?;
        self.all(check)?;
        self.all(init)?;
        self.all(start)?;
        ready(rig)?;
        self.all(tenant)?;
        let sealed = self.shell(APPLICATION, &format!("printf hello | keyward encrypt {KEY}"))?;
        rig.write(CIPHERTEXT, "0600", sealed.trim())?;
        decrypts(rig)
    }

    /// Step 4 of the installation: library, tokens and principals.
    fn edited(&self, module: &str) -> Outcome {
        self.value("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so", module);
        let folder = format!("allow_paths = [\"{TOKENS}\"]");
        let people = format!(
            "users = [\"root\", \"{OPERATOR}\"]\n\n\
             [[principal]]\nname = \"{APPLICATION}\"\nrole = \"application\"\nusers = [\"{APPLICATION}\"]\n\
             [[principal.allow]]\nkeys = [\"tenants/*/keys/*\"]\noperations = [\"encrypt\", \"decrypt\"]\n\n\
             [[hsm.standby]]\ntoken = \"keyward-2\"\n"
        );
        self.edit(&[
            ("module = \"/usr/lib/softhsm/libsofthsm2.so\"", &module_line(module)),
            ("# allow_paths = []", &folder),
            ("users = [\"root\"]", &people),
        ])
    }

    fn callers(&self, runbook: &Page, ceremonies: &Page) -> Outcome {
        self.edit(&[("# level = \"info\"", "level = \"debug\"")])?;
        self.all(&runbook.blocks("## Another configuration")[0])?;
        let before = &ceremonies.blocks("### Before: who may call")[0];
        self.all(before)?;
        let usermod = before.iter().find(|command| command.script.contains("usermod"));
        let usermod = usermod.ok_or("nobody becomes a member")?;
        for name in ["bob", "carol"] {
            self.shell("root", &usermod.script.replace("alice", name))?;
        }
        let status = self.shell("alice", "keyward status")?;
        if status.contains("member") { Ok(()) } else { Err(status) }
    }

    /// An operator makes an export, and hands it to root.
    fn export(&self) -> Outcome {
        self.shell(OPERATOR, "rm -f keyward.kwb")?;
        self.all(&Page::read("docs/backup.md").blocks("## Recovery export")[0])?;
        self.shell("root", &format!("cp /home/{OPERATOR}/keyward.kwb .")).map(drop)
    }

    fn drill(&self, runbook: &Page) -> Outcome {
        self.export()?;
        self.all(&runbook.blocks("## Backup and restore")[0])?;
        equal("drills on record", &records(self.rig, "backup-drill")?.to_string(), "1")
    }

    fn stop(&self) -> Outcome {
        self.rig.root(&["systemctl", "stop", SOCKET, SERVICE]).map(drop)
    }

    fn start(&self) -> Outcome {
        self.rig.root(&["systemctl", "start", SOCKET, SERVICE])?;
        ready(self.rig)
    }

    /// All is lost but the HSM, the configuration and the log.
    fn lost_machine(&self, runbook: &Page) -> Outcome {
        self.stop()?;
        let lost = "rm /var/lib/keyward/store.db* /var/lib/keyward/journal.kwj; rm -r /run/keyward-init";
        self.shell("root", lost)?;
        self.all(&runbook.blocks("## Backup and restore")[1])?;
        // The log is newer than the export: the page says so behind the block.
        self.shell("root", "as_keyward store accept-rollback")?;
        self.start()?;
        decrypts(self.rig)
    }

    /// A custodian's token, and the shell in which it is used.
    fn custodian(&self, name: &str) -> Outcome {
        let (conf, tokens) = (format!("/home/{name}/softhsm2.conf"), format!("/home/{name}/tokens"));
        self.rig.root(&["install", "-d", "-m", "0700", "-o", name, "-g", name, &tokens])?;
        self.rig.write(&conf, "0644", &format!("directories.tokendir = {tokens}\n"))?;
        self.exported.borrow_mut().insert(name.to_owned(), format!("export SOFTHSM2_CONF={conf}; "));
        let words = format!("--init-token --free --label {name}-token --so-pin so-{PIN} --pin {PIN}");
        self.shell(name, &format!("softhsm2-util {words}")).map(drop)
    }

    fn founding(&self, ceremonies: &Page) -> Outcome {
        let status = self.rig.root(&["keyward", "status", "--json"])?;
        let deployment = status.split("\"deployment\": \"").nth(1).and_then(|rest| rest.split('"').next());
        self.value("6ad0a6c1b1f24c0d9e2f8f7f5d1a2b3c", deployment.ok_or("no deployment")?);
        let blocks = ceremonies.blocks("### Founding");
        let [cards, propose, keep] = &blocks[..] else {
            return Err("the founding has other blocks than before".to_owned());
        };
        for name in CUSTODIANS {
            self.custodian(name)?;
            cards.iter().try_for_each(|command| self.run_as(name, command))?;
            // By a folder that both may enter: she can read what was made for her.
            self.shell(name, &format!("cp -p {name}.card /tmp/"))?;
            self.shell(OPERATOR, &format!("cp /tmp/{name}.card ."))?;
        }
        self.all(propose)?;
        let listed = self.shell(OPERATOR, "keyward ceremony list --json")?;
        let id = listed.split("ceremonies/").nth(1).and_then(|rest| rest.split('"').next());
        let id = id.ok_or("no ceremony")?;
        self.value("91f3", id);
        self.value("3f2a", id);
        let approve = &ceremonies.blocks("## For custodians")[0][0];
        CUSTODIANS.iter().try_for_each(|name| self.run_as(name, approve))?;
        until("the founded root", || {
            let status = self.rig.root(&["keyward", "status", "--json"]).ok()?;
            status.contains("\"custody\": \"founded\"").then_some(())
        })?;
        self.edit(&[("custody = \"operator\"", "custody = \"custodians\"")])?;
        self.rig.root(&["systemctl", "reload", SERVICE])?;
        self.all(keep)?;
        self.shell("root", &format!("cp /home/{OPERATOR}/root-2.escrow ."))?;
        self.export()
    }

    /// Root waits for shares, and two custodians bring theirs.
    fn lost_hsm(&self, runbook: &Page, ceremonies: &Page) -> Outcome {
        self.stop()?;
        let lost = format!("rm -r {TOKENS}/* /run/keyward-init");
        self.shell("root", &lost)?;
        self.another_token("keyward-3")?;
        self.edit(&[
            ("token = \"keyward\"", "token = \"keyward-3\""),
            ("[[hsm.standby]]\ntoken = \"keyward-2\"\n", ""),
        ])?;
        let block = &runbook.blocks("## Backup and restore")[2];
        let restore = block.iter().position(|command| command.script.contains("root restore"));
        let restore = restore.ok_or("the page restores no root")?;
        self.all(&block[..restore])?;
        // Beside what follows, as on a terminal of its own.
        let waiting = format!("cd; {} >restored 2>&1", self.filled_in(&block[restore].script));
        let unit = ["systemd-run", "--quiet", "--unit=restore", "--property=RemainAfterExit=yes"];
        let shell = ["--setenv=HOME=/root", "sh", "-ec", waiting.as_str()];
        self.rig.root(&[&unit[..], &shell].concat())?;
        let request = || self.rig.root(&["test", "-s", "/media/restore/restore.request"]).ok();
        until("the request", request)?;
        self.printed_share()?;
        let shares = &ceremonies.blocks("### Restoring a lost root")[0];
        let others = shares.iter().filter(|command| command.user != "alice");
        others.filter(|command| command.user != "root").try_for_each(|command| self.run(command))?;
        until("the end of the restore", || {
            let state = self.rig.property("restore.service", "SubState").ok()?;
            (state != "running").then_some(())
        })?;
        let said = self.rig.root(&["cat", "/root/restored"])?;
        if !said.contains("is on token keyward-3") {
            return Err(said);
        }
        self.all(&block[restore + 1..])?;
        self.start()?;
        decrypts(self.rig)
    }

    /// The share of the first custodian, by the command that the restore itself prints.
    fn printed_share(&self) -> Outcome {
        let said = self.rig.root(&["cat", "/root/restored"])?;
        let share = said.split('`').find(|part| part.starts_with("keyward ceremony share "));
        let share = share.ok_or_else(|| said.clone())?.replace("NAME", "alice");
        self.shell("alice", &format!("cd /media/restore; {share}"))?;
        self.hinted.borrow_mut().push(share);
        Ok(())
    }

    /// The PIN encrypted, by the page and the drop-in of the unit.
    fn encrypted_pin(&self, runbook: &Page) -> Outcome {
        // The rig has no TPM, and its disk is memory, for which a key of the machine must be asked for by name.
        self.value("systemd-creds encrypt", "systemd-creds encrypt --with-key=host");
        self.all(&runbook.blocks("## First installation")[3])?;
        let drop_in =
            "[Service]\nLoadCredential=\nLoadCredentialEncrypted=hsm-pin:/etc/keyward/hsm-pin.cred\n";
        self.rig.write("/etc/systemd/system/keywardd.service.d/pin.conf", "0644", drop_in)?;
        self.rig.root(&["systemctl", "daemon-reload"])?;
        self.rig.root(&["systemctl", "restart", SERVICE])?;
        ready(self.rig)?;
        decrypts(self.rig)?;
        self.shell("root", "as_keyward hsm check --config /etc/keyward/keywardd.toml")?;
        let said = self.shell("root", "as_keyward --run sh -c 'id -un; umask; pwd'")?;
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        if said != ["keyward", "0077", "/"] {
            return Err(format!("{said:?}"));
        }
        // What is piped in arrives, and an argument is what was given: no variable of the service manager.
        let line = "printf piped | as_keyward --run sh -c 'cat; printf %s \" $0\"' 'for $HOME and ${USER}'";
        equal("what as_keyward hands over", self.shell("root", line)?.trim(), "piped for $HOME and ${USER}")
    }
}

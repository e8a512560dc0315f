//! The shipped units under a real systemd, their filters on: installed by `make install-files` and set up
//! as the runbook says, then restarted, stopped and killed. One boot serves all scenarios, in their order.
//!
//! A scenario is a function in [`SCENARIOS`]; it leaves the service running and ready.
//!
//! ```text
//! book     the operator's pages as they are printed, in a boot of their own
//! endings  stops while somebody holds something, kills amid changes
//! hostile  a library that is out for harm, a user whom nobody knows
//! service  what all of them need
//! ```

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use keyward_softhsm_tests::rig::{Rig, SERVICE, SOCKET};
use keyward_softhsm_tests::text;

use crate::service::{
    APPLICATION, CIPHERTEXT, CONFIG, KEY, Outcome, SOCKET_FILE, TOKENS, UNKNOWN, changed, configure,
    decrypts, equal, hsm_process, inode, kill, main_process, module, module_line, ready, until,
    with_configuration, with_drop_in,
};

/// What is done and looked at in the boot; it leaves the service ready.
type Scenario = fn(&Rig) -> Outcome;

mod book;
mod endings;
mod hostile;
mod service;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("make install, users and folders by systemd's tools", installed),
    ("a token of the service's user, the PIN as a credential", token_and_pin),
    ("configuration, hsm check, init", initialised),
    ("enable --now: it serves, confined", started),
    ("the limits of the unit are in force", limited),
    ("systemd finds it little exposed", little_exposed),
    ("the journal says who and why in the message, and nothing of a module that is in order", journal_speaks),
    ("an application encrypts through the socket, an outsider does not reach it", first_encrypt),
    ("restart keeps systemd's socket", restarted),
    ("stop in time; a caller at the socket starts it again", stopped_and_activated),
    ("kill -9 of the HSM process: the daemon goes on", hsm_process_killed),
    ("kill -9 of the daemon: it is started again, and callers wait", daemon_killed),
    ("no call is lost by restart, start by socket, upgrade and reload", endings::no_call_is_lost),
    ("kill -9: a call fails with UNAVAILABLE or not at all", endings::killed_amid_calls),
    ("a reload with faults fails, names them, and changes nothing", endings::faulty_reload),
    ("who only holds a connection does not hold a stop", endings::held_connections),
    ("a stop that takes longer than TimeoutStopSec is not killed, and on record", endings::held_file),
    ("kill -9 amid freezes: log and store are whole", endings::killed_amid_freezes),
    ("an unknown user's flood takes nothing from an application", hostile::flooded),
    ("the vendor's library reaches nothing", hostile::attacked),
    ("a plain process of the same user does all of that", hostile::unconfined),
    ("a library that cannot be confined is not loaded", hostile::not_confinable),
    ("no call is made that the filter refuses", no_call_is_refused),
    ("a filter that lacks a call is noticed", a_lacking_call_is_noticed),
];

const PIN: &str = "8521-rig";
/// The exposure that `systemd-analyze security` may find at most, of 10.0.
const MOST_EXPOSURE: f64 = 2.0;

#[test]
fn the_shipped_units_work_under_systemd() {
    let rig = Rig::boot();
    let mut failed = String::new();
    for (name, scenario) in SCENARIOS {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&rig)));
        println!("{:6.2} s  {name}", begun.elapsed().as_secs_f64());
        let journal = rig.journal();
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => writeln!(failed, "\n== {name}\n{error}\n-- journal\n{journal}").unwrap(),
            Err(_) => writeln!(failed, "\n== {name}\nit panicked, see above\n-- journal\n{journal}").unwrap(),
        }
    }
    assert!(failed.is_empty(), "the boot ended: {}{failed}", rig.state());
}

#[test]
fn the_pages_run_as_they_are_printed() {
    let rig = Rig::boot();
    let outcome = book::runs(&rig);
    assert!(outcome.is_ok(), "{}\n-- journal\n{}", outcome.unwrap_err(), rig.journal());
}

fn installed(rig: &Rig) -> Outcome {
    rig.install()?;
    // `make install` without DESTDIR writes it there itself.
    rig.root(&["cp", "-r", "/mnt/etc/keyward", "/etc/"])?;
    let users = [APPLICATION, UNKNOWN].map(|user| format!("u {user} -\nm {user} keyward-clients\n"));
    rig.write("/etc/sysusers.d/app.conf", "0644", &users.concat())?;
    rig.root(&["systemd-sysusers"])?;
    // Other packages' lines may name users that are not in here.
    rig.root(&["systemd-tmpfiles", "--create", "keyward.conf"])?;
    rig.root(&["systemctl", "daemon-reload"])?;
    for (path, wanted) in [
        ("/etc/keyward", "750 root keyward"),
        (CONFIG, "640 root keyward"),
        ("/var/lib/keyward", "700 keyward keyward"),
        ("/run/keyward", "755 keyward keyward"),
    ] {
        equal(path, &rig.root(&["stat", "--format=%a %U %G", path])?, wanted)?;
    }
    Ok(())
}

fn token_and_pin(rig: &Rig) -> Outcome {
    let shipped = "/usr/local/share/doc/keyward/hsm-config/softhsm2.conf";
    rig.root(&["install", "-m", "0644", shipped, "/etc/keyward/softhsm2.conf"])?;
    let module = "SOFTHSM2_CONF=/etc/keyward/softhsm2.conf";
    rig.write("/etc/keyward/environment", "0644", module)?;
    rig.root(&["install", "-d", "-o", "keyward", "-g", "keyward", "-m", "0700", TOKENS])?;
    let tool = ["env", module, "softhsm2-util", "--init-token", "--free", "--label", "keyward"];
    rig.user("keyward", &[&tool[..], &["--so-pin", "so-pin-rig", "--pin", PIN][..]].concat(), "")?;
    rig.write("/etc/keyward/hsm-pin", "0600", PIN)
}

fn initialised(rig: &Rig) -> Outcome {
    let module = module_line(&module(rig)?);
    let folder = format!("allow_paths = [\"{TOKENS}\"]");
    let changes = [
        ("module = \"/usr/lib/softhsm/libsofthsm2.so\"", module.as_str()),
        ("# allow_paths = []", folder.as_str()),
    ];
    let own = changed(&rig.root(&["cat", CONFIG])?, &changes)?;
    let application = format!(
        "\n\n[[principal]]\nname = \"{APPLICATION}\"\nrole = \"application\"\nusers = [\"{APPLICATION}\"]\n\
         [[principal.allow]]\nkeys = [\"tenants/*/keys/*\"]\noperations = [\"encrypt\", \"decrypt\"]\n"
    );
    configure(rig, &(own + &application))?;
    rig.root(&["keywardd", "--check-config", "--config", CONFIG])?;
    rig.as_keyward(&["hsm", "check", "--config", CONFIG])?;
    rig.root(&["install", "-d", "-o", "keyward", "-m", "0700", "/run/keyward-init"])?;
    rig.as_keyward(&["init", "--config", CONFIG, "--backup-key", "/run/keyward-init/root-1.key"]).map(drop)
}

fn started(rig: &Rig) -> Outcome {
    rig.root(&["systemctl", "enable", "--now", SOCKET, SERVICE])?;
    ready(rig)?;
    let socket = rig.root(&["stat", "--format=%a %U %G", SOCKET_FILE])?;
    equal("the socket", &socket, "660 keyward keyward-clients")?;
    let daemon = main_process(rig)?;
    for process in [&hsm_process(rig, &daemon)?, &daemon] {
        let status = rig.root(&["cat", &format!("/proc/{process}/status")])?;
        for wanted in
            ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
        {
            if !status.lines().any(|line| line == wanted) {
                return Err(format!("process {process} is not {wanted:?}: {status}"));
            }
        }
    }
    Ok(())
}

fn limited(rig: &Rig) -> Outcome {
    const MOST_MEMORY: &str = "4294967296";
    for (name, wanted) in [
        ("OOMPolicy", "continue"),
        ("MemoryMax", MOST_MEMORY),
        ("MemoryHigh", "3221225472"),
        ("MemorySwapMax", "0"),
        ("LimitNOFILE", "65536"),
        ("TimeoutStopUSec", "1min 10s"),
    ] {
        equal(name, &rig.property(SERVICE, name)?, wanted)?;
    }
    // With cgroup version 1 nobody gives the rig memory groups of its own: the property is all then.
    let look = r#"for file in /sys/fs/cgroup"$1"/memory.max /sys/fs/cgroup/memory"$1"/memory.limit_in_bytes; do
        [ ! -e "$file" ] || cat "$file"
    done"#;
    let group = rig.property(SERVICE, "ControlGroup")?;
    let limit = rig.root(&["sh", "-c", look, "sh", &group])?;
    if limit.is_empty() { Ok(()) } else { equal("the group's memory", &limit, MOST_MEMORY) }
}

fn little_exposed(rig: &Rig) -> Outcome {
    let said = rig.root(&["systemd-analyze", "security", "--no-pager", SERVICE])?;
    let exposure = said
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for keywardd.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok())
        .ok_or_else(|| format!("no exposure level in: {said}"))?;
    if exposure <= MOST_EXPOSURE { Ok(()) } else { Err(said) }
}

/// The messages of the journal, without the fields beside them, at the priority that they have.
fn messages(rig: &Rig, priority: &str) -> Result<String, String> {
    rig.run(&["journalctl", "--sync"], b"");
    // Everything that any process of the service's user has said, by stderr or syslog.
    let of = format!("_UID={}", rig.root(&["id", "-u", "keyward"])?);
    rig.root(&["journalctl", "--quiet", "--no-pager", "--output=cat", "--priority", priority, &of])
}

fn journal_speaks(rig: &Rig) -> Outcome {
    // `hsm check` and the start have each tested the module, with much that it must refuse; here with sockets, so that what
    // the library says by syslog(3) would come through.
    let network = [("# allow_network = false", "allow_network = true")];
    with_configuration(rig, &network, || rig.as_keyward(&["hsm", "check", "--config", CONFIG]).map(drop))?;
    equal("messages of priority err", &messages(rig, "err")?, "")?;
    let refused = rig.run(
        &["setpriv", "--reuid=app", "--regid=app", "--init-groups", "keyward", "tenant", "create", "x"],
        b"",
    );
    if refused.status.success() {
        return Err("an application made a tenant".to_owned());
    }
    let uid = rig.root(&["id", "-u", APPLICATION])?;
    let wanted =
        format!("refused: create-tenant by app (uid {uid}): PERMISSION_DENIED: app is not an operator");
    let said = messages(rig, "info")?;
    for wanted in [&wanted, "HSM ready", "token=\"keyward\""] {
        if !said.contains(wanted) {
            return Err(format!("no {wanted:?} in: {said}"));
        }
    }
    // And not at the priority of what is wrong.
    if messages(rig, "warning")?.contains(&wanted) { Err(said) } else { Ok(()) }
}

fn first_encrypt(rig: &Rig) -> Outcome {
    rig.root(&["keyward", "tenant", "create", "acme"])?;
    rig.root(&["keyward", "key", "create", KEY, "--class", "2"])?;
    let ciphertext = rig.user(APPLICATION, &["keyward", "encrypt", KEY], "hello")?;
    rig.write(CIPHERTEXT, "0600", &ciphertext)?;
    decrypts(rig)?;
    let outsider = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "keyward", "status"];
    let outsider = rig.run(&outsider, b"");
    if outsider.status.code() == Some(3) { Ok(()) } else { Err(format!("an outsider: {}", text(&outsider))) }
}

fn restarted(rig: &Rig) -> Outcome {
    let before = (main_process(rig)?, inode(rig)?);
    rig.root(&["systemctl", "restart", SERVICE])?;
    equal("the inode of the socket", &inode(rig)?, &before.1)?;
    decrypts(rig)?;
    ready(rig)?;
    if main_process(rig)? == before.0 { Err("the same process as before".to_owned()) } else { Ok(()) }
}

fn stopped_and_activated(rig: &Rig) -> Outcome {
    let socket = inode(rig)?;
    let begun = Instant::now();
    rig.root(&["systemctl", "stop", SERVICE])?;
    if begun.elapsed() >= Duration::from_secs(40) {
        return Err(format!("the stop took {:?}: systemd ended it", begun.elapsed()));
    }
    equal("the result of the stop", &rig.property(SERVICE, "Result")?, "success")?;
    equal("the service", &rig.property(SERVICE, "ActiveState")?, "inactive")?;
    equal("the socket", &rig.property(SOCKET, "ActiveState")?, "active")?;
    decrypts(rig)?;
    equal("the service", &rig.property(SERVICE, "ActiveState")?, "active")?;
    equal("the inode of the socket", &inode(rig)?, &socket)?;
    ready(rig)
}

fn hsm_process_killed(rig: &Rig) -> Outcome {
    let daemon = main_process(rig)?;
    let killed = hsm_process(rig, &daemon)?;
    kill(rig, &killed)?;
    // Its data key is open: the HSM is not needed for this.
    decrypts(rig)?;
    until("another HSM process", || hsm_process(rig, &daemon).ok().filter(|other| *other != killed))?;
    ready(rig)?;
    rig.root(&["keyward", "tenant", "rotate", "acme", "--wait"])?;
    equal("the daemon's process", &main_process(rig)?, &daemon)
}

fn daemon_killed(rig: &Rig) -> Outcome {
    let (daemon, socket) = (main_process(rig)?, inode(rig)?);
    let hsm = hsm_process(rig, &daemon)?;
    let before = rig.property(SERVICE, "NRestarts")?;
    rig.root(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE])?;
    // The socket is systemd's: the call waits in it for the next daemon.
    decrypts(rig)?;
    ready(rig)?;
    if rig.property(SERVICE, "NRestarts")? == before || main_process(rig)? == daemon {
        return Err("it was not started again".to_owned());
    }
    equal("the inode of the socket", &inode(rig)?, &socket)?;
    rig.root(&["test", "!", "-e", &format!("/proc/{hsm}")]).map(drop)
}

/// With the shipped filter, whose refusals (EPERM) the daemon might not notice, made deadly.
fn no_call_is_refused(rig: &Rig) -> Outcome {
    with_drop_in(rig, "SystemCallErrorNumber=kill", || {
        rig.root(&["systemctl", "restart", SERVICE])?;
        ready(rig)?;
        let daemon = main_process(rig)?;
        decrypts(rig)?;
        rig.user(APPLICATION, &["keyward", "encrypt", KEY], "hello")?;
        rig.root(&["keyward", "tenant", "rotate", "acme", "--wait"])?;
        rig.root(&["keyward", "erasure", "replace"])?;
        rig.root(&["keyward", "backup", "create", "--out", "/root/backup.kwb", "--keep-for", "35d"])?;
        rig.root(&["keyward", "audit", "checkpoint", "--fresh"])?;
        kill(rig, &hsm_process(rig, &daemon)?)?;
        until("an HSM process", || hsm_process(rig, &daemon).ok())?;
        ready(rig)?;
        equal("the daemon's process", &main_process(rig)?, &daemon)?;
        rig.root(&["systemctl", "stop", SERVICE])?;
        equal("the result", &rig.property(SERVICE, "Result")?, "success")?;
        // The daemon's processes end by SIGSYS (31); an HSM process would be started again.
        let journal = rig.root(&["journalctl", "--no-pager", "--quiet", "--unit", SERVICE])?;
        let refused = journal.lines().find(|line| line.contains("31/SYS") || line.contains("signal 31"));
        refused.map_or(Ok(()), |line| Err(line.to_owned()))
    })
}

fn a_lacking_call_is_noticed(rig: &Rig) -> Outcome {
    let lacking = "SystemCallErrorNumber=kill\nSystemCallFilter=~fdatasync fsync pwrite64";
    with_drop_in(rig, lacking, || {
        let outcome = rig.run(&["systemctl", "restart", SERVICE], b"");
        if outcome.status.success() {
            return Err("it runs without fsync".to_owned());
        }
        // Else it is started again for ever.
        rig.root(&["systemctl", "stop", SERVICE])?;
        let journal = rig.root(&["journalctl", "--no-pager", "--quiet", "--unit", SERVICE])?;
        if journal.contains("31/SYS") { Ok(()) } else { Err("nothing tells of it".to_owned()) }
    })
}

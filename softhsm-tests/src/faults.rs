//! Faults in the PKCS#11 module: the daemon's HSM process loads `keyward-fault`,
//! which forwards to SoftHSM and fails on command.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{World, binary, softhsm_module};

/// The faults of one world.
pub struct Faults {
    folder: PathBuf,
    armed: u32,
}

impl Faults {
    /// Puts the failing module in the place of SoftHSM, for everything that is started from now on.
    pub fn under(world: &mut World) -> Self {
        let folder = world.path("faults");
        for sub in ["armed", "fired"] {
            fs::create_dir_all(folder.join(sub)).expect("a folder for faults");
        }
        let module = world.own_copy(&binary("libkeyward_fault.so"));
        world.allow("faults");
        world.reconfigure(&softhsm_module(), &module);
        world.environment.push(("KEYWARD_FAULT_MODULE", softhsm_module().into()));
        world.environment.push(("KEYWARD_FAULTS", folder.clone()));
        Self { folder, armed: 0 }
    }

    /// Arms a fault that strikes once: a function such as `C_Decrypt`, or `*`, and an action
    /// (`keyward-fault` lists them). Answers its name.
    pub fn arm(&mut self, function: &str, action: &str) -> String {
        self.write("once", function, action)
    }

    /// Arms a fault that strikes until it is [disarmed](Self::disarm).
    pub fn keep(&mut self, function: &str, action: &str) -> String {
        self.write("always", function, action)
    }

    fn write(&mut self, kind: &str, function: &str, action: &str) -> String {
        self.armed += 1;
        let name = format!("{kind}-{:05}", self.armed);
        // Under its name it is there at once and whole.
        let draft = self.folder.join(&name);
        fs::write(&draft, format!("{function} {action}\n")).expect("a fault");
        fs::rename(draft, self.folder.join("armed").join(&name)).expect("a fault");
        name
    }

    /// Flags (`CKF_`) that the token shows in addition from now on.
    pub fn token_flags(&self, flags: u64) {
        fs::write(self.folder.join("token-flags"), format!("{flags:x}\n")).expect("the token's flags");
    }

    /// Whether a fault has struck.
    pub fn fired(&self, name: &str) -> bool {
        self.folder.join("fired").join(name).exists()
    }

    /// Has the module try what it must not, at its next call: on a file of the daemon, on the
    /// configuration, and on the daemon itself. Answers each attempt and its outcome.
    pub fn attack(&mut self, victim: &Path, configuration: &Path) -> Vec<(String, String)> {
        let plan = format!("{}\n{}\n", victim.display(), configuration.display());
        fs::write(self.folder.join("plan"), plan).expect("a plan");
        let name = self.arm("*", "attack");
        let outcome = self.folder.join("outcome");
        let said = crate::eventually_now("the attack", || fs::read_to_string(&outcome).ok());
        assert!(self.fired(&name));
        outcomes(&said)
    }

    /// Takes a fault away. One that strikes once may have gone by itself.
    pub fn disarm(&self, name: &str) {
        fs::remove_file(self.folder.join("armed").join(name)).ok();
    }
}

/// Each attempt and its outcome, from lines of two words.
pub fn outcomes(said: &str) -> Vec<(String, String)> {
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(attempt, outcome)| (attempt.to_owned(), outcome.to_owned())).collect()
}

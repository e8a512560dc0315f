//! The PKCS#11 modules of the tests, each with a token of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::world::PIN;
use crate::{PATIENCE, World, binary, softhsm_module};

/// A PKCS#11 module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// SoftHSM 2.
    SoftHsm,
    /// Kryoptic, which softhsm-tests/scripts/kryoptic.sh builds.
    Kryoptic,
    /// The software token of Mozilla's NSS.
    Nss,
    /// The software token of openCryptoki, whose daemon runs in namespaces of its own.
    OpenCryptoki,
    /// tpm2-pkcs11 on a TPM in software (swtpm).
    Tpm2,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::SoftHsm, Self::Kryoptic, Self::Nss, Self::OpenCryptoki, Self::Tpm2];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::SoftHsm => "SoftHSM",
            Self::Kryoptic => "Kryoptic",
            Self::Nss => "NSS softokn",
            Self::OpenCryptoki => "openCryptoki",
            Self::Tpm2 => "tpm2-pkcs11",
        }
    }

    /// The library.
    pub fn library(self) -> PathBuf {
        match self {
            Self::SoftHsm => softhsm_module().into(),
            Self::Kryoptic => binary("libkryoptic_pkcs11.so"),
            Self::Nss => installed("libsoftokn3.so"),
            Self::OpenCryptoki => installed("pkcs11/libopencryptoki.so"),
            Self::Tpm2 => installed("libtpm2_pkcs11.so.1"),
        }
    }
}

/// A library where Linux distributions put it.
pub fn installed(library: &str) -> PathBuf {
    let known = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let mut files = known.into_iter().map(|folder| Path::new(folder).join(library));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{library}: run softhsm-tests/scripts/setup.sh"))
}

impl World {
    /// A fresh token of a module, and its configuration.
    pub fn on(module: Module) -> Self {
        if module == Module::SoftHsm {
            return Self::new();
        }
        // openCryptoki gets a /dev/shm of its own.
        let memory = Path::new("/dev/shm");
        let in_memory = module != Module::OpenCryptoki && memory.is_dir();
        let parent = if in_memory { memory } else { Path::new("/tmp") };
        let library = module.library().display().to_string();
        let mut world = Self::bare(parent, &library);
        if module == Module::Kryoptic {
            let copy = world.own_copy(&module.library());
            world.reconfigure(&library, &copy);
        }
        match module {
            Module::SoftHsm => {}
            Module::Kryoptic => world.make_kryoptic_token(),
            Module::Nss => world.make_nss_token(),
            Module::OpenCryptoki => world.launch_opencryptoki(),
            Module::Tpm2 => world.make_tpm_token(),
        }
        world
    }

    fn make_kryoptic_token(&mut self) {
        // Its database makes files beside itself.
        std::fs::create_dir(self.path("kryoptic")).expect("a folder");
        self.allow("kryoptic");
        let (conf, token) = (self.path("kryoptic.conf"), self.path("kryoptic/token.sql"));
        let slot = format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", token.display());
        std::fs::write(&conf, slot).expect("kryoptic.conf");
        self.environment.push(("KRYOPTIC_CONF", conf));
        self.initialise_token(Module::Kryoptic);
    }

    fn make_tpm_token(&mut self) {
        // The library expects the control socket under this name.
        let (state, server, control) = (self.path("tpm"), self.path("tpm.s"), self.path("tpm.s.ctrl"));
        std::fs::create_dir(&state).expect("a folder");
        self.allow("tpm");
        self.allow_network();
        let path = |kind: &str, path: &Path| format!("{kind}{}", path.display());
        let swtpm = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &path("dir=", &state), "--server", &path("type=unixio,path=", &server)])
            .args(["--ctrl", &path("type=unixio,path=", &control)])
            .spawn()
            .expect("swtpm: run softhsm-tests/scripts/setup.sh");
        self.helper = Some(Helper(swtpm));
        let deadline = Instant::now() + PATIENCE;
        while !(server.exists() && control.exists()) {
            assert!(Instant::now() < deadline, "swtpm does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.environment.extend([
            ("TPM2_PKCS11_STORE", state),
            ("TPM2_PKCS11_TCTI", path("swtpm:path=", &server).into()),
            ("TPM2_PKCS11_LOG_LEVEL", "0".into()),
        ]);
        self.initialise_token(Module::Tpm2);
    }

    /// For tokens behind a daemon or server of their own.
    fn allow_network(&mut self) {
        self.reconfigure("allow_paths = [", "allow_network = true\nallow_paths = [");
    }

    fn initialise_token(&self, module: Module) {
        let so = ["--so-pin", "so-pin-test"];
        let init = ["--slot-index", "0", "--init-token", "--label", "token"];
        self.pkcs11_tool(module, &[&init[..], &so[..]].concat());
        let login = ["--login", "--login-type", "so", "--init-pin", "--new-pin", PIN];
        self.pkcs11_tool(module, &[&login[..], &so[..]].concat());
    }

    /// NSS is told where its database lies when it is initialised, not by its environment.
    fn make_nss_token(&mut self) {
        let database = format!("sql:{}", self.path("nss").display());
        std::fs::create_dir(self.path("nss")).expect("a folder");
        self.allow("nss");
        let pin = self.path("pin");
        done(Command::new("certutil").args(["-N", "-d", &database, "-f"]).arg(pin));
        let told = format!("configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= ");
        let config = format!("init_args = \"{told}\"\ntoken = \"NSS Certificate DB\"");
        self.reconfigure("token = \"token\"", &config);
    }

    /// Every program of this world gets an openCryptoki daemon and a fresh token.
    fn launch_opencryptoki(&mut self) {
        self.allow_network();
        // Its PINs have eight characters at most.
        self.write_secret("pin", "8521-tst");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/opencryptoki.sh");
        let mut launcher = vec!["unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child"];
        if !rustix::process::getuid().is_root() {
            launcher.extend(["--user", "--map-root-user"]);
        }
        self.launcher = launcher.into_iter().chain(["bash", script]).map(str::to_owned).collect();
        self.launcher.extend([self.path("").display().to_string(), "8521-tst".to_owned()]);
    }

    fn pkcs11_tool(&self, module: Module, arguments: &[&str]) {
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module").arg(module.library()).args(arguments);
        done(tool.envs(self.environment.iter().map(|(name, value)| (name, value))));
    }
}

/// A process that a token needs; ended with its world.
pub(crate) struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

//! The PKCS#11 modules of the tests, each with a token of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{PIN, World, binary, softhsm_module};

/// A PKCS#11 module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// SoftHSM 2.
    SoftHsm,
    /// Kryoptic, which softhsm-tests/scripts/kryoptic.sh builds.
    Kryoptic,
    /// The software token of Mozilla's NSS.
    Nss,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SoftHsm, Self::Kryoptic, Self::Nss];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::SoftHsm => "SoftHSM",
            Self::Kryoptic => "Kryoptic",
            Self::Nss => "NSS softokn",
        }
    }

    /// The library.
    pub fn library(self) -> PathBuf {
        match self {
            Self::SoftHsm => softhsm_module().into(),
            Self::Kryoptic => binary("libkryoptic_pkcs11.so"),
            Self::Nss => {
                let known = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
                let files = known.into_iter().map(|folder| Path::new(folder).join("libsoftokn3.so"));
                files
                    .into_iter()
                    .find(|file| file.is_file())
                    .expect("NSS: run softhsm-tests/scripts/setup.sh")
            }
        }
    }
}

impl World {
    /// A fresh token of a module, and its configuration.
    pub fn on(module: Module) -> Self {
        if module == Module::SoftHsm {
            return Self::new();
        }
        let mut world = Self::bare(&module.library().display().to_string());
        match module {
            Module::SoftHsm => {}
            Module::Kryoptic => world.make_kryoptic_token(),
            Module::Nss => world.make_nss_token(),
        }
        world
    }

    fn make_kryoptic_token(&mut self) {
        let (conf, token) = (self.path("kryoptic.conf"), self.path("token.sql"));
        let slot = format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", token.display());
        std::fs::write(&conf, slot).expect("kryoptic.conf");
        self.environment.push(("KRYOPTIC_CONF", conf));
        let (so, init) = (["--so-pin", "so-pin-test"], ["--init-token", "--label", "token"]);
        self.pkcs11_tool(&[&init[..], &so[..]].concat());
        let login = ["--login", "--login-type", "so", "--init-pin", "--new-pin", PIN];
        self.pkcs11_tool(&[&login[..], &so[..]].concat());
    }

    /// NSS is told where its database lies when it is initialised, not by its environment.
    fn make_nss_token(&mut self) {
        let database = format!("sql:{}", self.path("nss").display());
        std::fs::create_dir(self.path("nss")).expect("a folder");
        let pin = self.path("pin");
        done(Command::new("certutil").args(["-N", "-d", &database, "-f"]).arg(pin));
        let told = format!("configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= ");
        let config = format!("init_args = \"{told}\"\ntoken = \"NSS Certificate DB\"");
        self.reconfigure("token = \"token\"", &config);
    }

    fn pkcs11_tool(&self, arguments: &[&str]) {
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module").arg(Module::Kryoptic.library()).args(arguments);
        done(tool.envs(self.environment.iter().map(|(name, value)| (name, value))));
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

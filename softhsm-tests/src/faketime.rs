//! A wall clock that a test can set, by libfaketime. The boot-time clock of the daemon,
//! which it reads without the C library, stays true.

use std::path::{Path, PathBuf};

use crate::World;

/// Where distributions keep the library.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The library, to be loaded before others.
pub fn library() -> &'static str {
    let library = LIBRARIES.into_iter().find(|path| Path::new(path).is_file());
    library.expect("libfaketime is not installed: run softhsm-tests/scripts/setup.sh")
}

/// The clock of a world.
pub struct FakeClock(PathBuf);

impl FakeClock {
    /// Gives every program of the world a clock that can be set.
    pub fn new(world: &mut World) -> Self {
        let library = library();
        let clock = Self(world.path("clock"));
        clock.set("+0d");
        world.launcher = [
            "env",
            &format!("LD_PRELOAD={library}"),
            &format!("FAKETIME_TIMESTAMP_FILE={}", clock.0.display()),
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]
        .map(str::to_owned)
        .to_vec();
        clock
    }

    /// Sets it, relative to the true time: `+40d`, `-10m`. It runs on from there.
    pub fn set(&self, offset: &str) {
        // Written elsewhere and renamed: programs read it at any moment.
        let draft = self.0.with_extension("new");
        std::fs::write(&draft, format!("{offset}\n")).expect("the clock");
        std::fs::rename(&draft, &self.0).expect("the clock");
    }
}

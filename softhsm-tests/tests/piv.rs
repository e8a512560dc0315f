//! `keyward token` with PIV cards, through PC/SC.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use keyward_softhsm_tests::modules::installed;
use keyward_softhsm_tests::piv::Readers;
use keyward_softhsm_tests::{World, text};

/// Cards, their readers, and the command line.
struct Bed {
    world: World,
    readers: Readers,
}

impl Bed {
    fn new() -> Self {
        let mut world = World::new();
        let readers = Readers::start(&mut world);
        Self { world, readers }
    }
}

#[test]
fn a_card_is_seen_through_its_vendors_library_too() {
    let bed = Bed::new();
    let _card = bed.readers.insert(0, "alice", 10_000_001);
    let library = installed("opensc-pkcs11.so").display().to_string();
    let listed = bed.world.cli(["token", "list", "--module", &library]);
    assert!(text(&listed).contains("PIV_II"), "{}\n{}", text(&listed), bed.readers.log());
}

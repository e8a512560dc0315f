//! Use cases that are deliberately wrong: the test must catch them.

use keyward::hsm::Hsm;
use keyward::hsm::birth::Purpose;
use keyward::keyring::account::{Account, Level};
use keyward::keyring::record::{Erasure, ErasureState};
use keyward::store::Prefix;

use super::harness::{UseCase, on};

/// Takes a page for the whole list: whether there is an administrator. Deliberately wrong.
pub(crate) fn naive() -> UseCase {
    on("naive", |world, _| {
        Box::pin(async move {
            let rows = world.records().page(&Prefix::<Account>::all(), None, 100).await?.into_rows();
            let administrators = rows.iter().filter(|(_, stored)| stored.record.level == Level::Three);
            Ok(format!("{} of {} are administrators", administrators.count(), rows.len()))
        })
    })
}

/// Destroys every erasure root that it finds no record of, in a page. Deliberately wrong.
pub(crate) fn careless() -> UseCase {
    on("careless", |world, _| {
        Box::pin(async move {
            let rows = world.records().page(&Prefix::<Erasure>::all(), None, 100).await?.into_rows();
            let deployment = world.vault.root().deployment;
            let roots = world.hsm.roots(Purpose::Erasure(deployment)).await?;
            for root in roots {
                let names = rows.iter().any(|(_, stored)| {
                    stored.record.root == root && stored.record.state != ErasureState::Destroyed
                });
                if !names {
                    world.hsm.destroy_root(root).await?;
                }
            }
            Ok("clean".to_owned())
        })
    })
}

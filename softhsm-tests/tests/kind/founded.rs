//! What custodians do together, and what nobody does alone any more.

use keyward::access::Action;
use keyward::access::permission::{
    CancelCeremony, ListCeremonies, ManageAccount, ManageTenant, ViewCeremony, ViewEscrow,
};
use keyward::id::Installation;
use keyward::keyring::account::Level;
use keyward::keyring::ceremony::CeremonyAction;
use keyward::ops::ceremony::Proposal;
use keyward::ops::login::accounts::AccountChange;
use keyward_hsm_memory::World;

use super::deeds::{self, account, key, tenant};
use super::harness::{Answer, UseCase, after_start, on, said};
use super::worlds::{FROZEN, Scene};

/// All of them.
pub(crate) fn use_cases() -> Vec<UseCase> {
    let mut all = together();
    all.extend(alone());
    all
}

fn together() -> Vec<UseCase> {
    vec![
        on("rotate the root", |world, scene| Box::pin(rotate_root(world, scene))),
        after_start("rotate the root after a start", |world, scene| Box::pin(rotate_root(world, scene))),
        on("change the roster", |world, scene| Box::pin(change_roster(world, scene))),
        on("rotate a resident tenant", |world, scene| {
            Box::pin(hold(world, scene, CeremonyAction::RotateTenant(tenant("safe").0)))
        }),
        on("move a tenant into the HSM", |world, scene| {
            let action = CeremonyAction::MoveTenant { tenant: tenant("acme").0, resident: true };
            Box::pin(hold(world, scene, action))
        }),
        on("move a tenant out of the HSM", |world, scene| {
            let action = CeremonyAction::MoveTenant { tenant: tenant("safe").0, resident: false };
            Box::pin(hold(world, scene, action))
        }),
        on("destroy a resident tenant", |world, scene| {
            Box::pin(hold(world, scene, CeremonyAction::Destroy("tenants/safe".to_owned())))
        }),
        on("end a freeze", |world, scene| {
            Box::pin(hold(world, scene, CeremonyAction::Unfreeze(key("acme", "pii").to_string())))
        }),
        on("make an administrator", |world, scene| {
            let (account, credential) = (scene.alice.account.0.clone(), scene.alice.token.credential());
            Box::pin(hold(world, scene, CeremonyAction::MakeAdministrator { account, credential }))
        }),
        on("cancel a ceremony", |world, scene| Box::pin(cancel(world, scene))),
        on("show ceremonies", |world, scene| Box::pin(show(world, scene))),
        on("back up", |world, _| Box::pin(async move { Ok(deeds::back_up(world).await?.to_string()) })),
    ]
}

fn alone() -> Vec<UseCase> {
    vec![
        on("approve as one who has approved", |world, scene| {
            Box::pin(async move {
                let id = scene.ceremony.expect("a ceremony");
                let info = deeds::approve(world, id, &scene.custodians[0]).await?;
                Ok(info.record.state.to_string())
            })
        })
        .refused(),
        on("found again", |world, scene| {
            Box::pin(async move {
                let cards = scene.custodians.iter().map(|one| one.card(scene.deployment)).collect();
                let info = deeds::propose(world, Proposal::Found { quorum: 2, cards }).await?;
                Ok(info.record.state.to_string())
            })
        })
        .refused(),
        on("unfreeze alone", |world, _| {
            Box::pin(async move { said(deeds::freeze_key(world, &key("acme", "pii"), false).await) })
        })
        .refused(),
        after_start("unfreeze a principal alone", |world, _| {
            Box::pin(async move { said(deeds::freeze_principal(world, FROZEN, false).await) })
        })
        .refused(),
        after_start("destroy alone", |world, _| {
            Box::pin(async move { said(deeds::doom_tenant(world, "acme").await) })
        })
        .refused(),
        after_start("make an administrator alone", |world, _| Box::pin(promote(world))).refused(),
        on("rotate a resident tenant alone", |world, _| Box::pin(rotate_alone(world))).refused(),
        on("create a tenant", |world, _| {
            Box::pin(async move { said(deeds::create_tenant(world, "new").await) })
        }),
        after_start("decrypt with a resident KEK", |world, scene| Box::pin(decrypt(world, scene))),
    ]
}

/// The second of two approvals, and what follows.
async fn rotate_root(world: &World, scene: &Scene) -> Answer {
    deeds::hold(world, scene.ceremony.expect("a ceremony"), &scene.custodians[1..2]).await
}

async fn hold(world: &World, scene: &Scene, action: CeremonyAction) -> Answer {
    let proposed = deeds::propose(world, Proposal::Other(action)).await?;
    deeds::hold(world, proposed.id, &scene.custodians[..2]).await
}

async fn change_roster(world: &World, scene: &Scene) -> Answer {
    let id = scene.ceremony.expect("a ceremony");
    let right = world.right::<CancelCeremony>(id);
    world.settle(Action::CeremonyCancel, world.vault.cancel_ceremony(&right, "a test").await).await?;
    let remove = vec![keyward::id::CustodianId::new(&scene.custodians[3].name)?];
    let change = Proposal::ChangeRoster { quorum: None, add: Vec::new(), remove };
    let proposed = deeds::propose(world, change).await?;
    let ended = deeds::hold(world, proposed.id, &scene.custodians[..2]).await?;
    Ok(format!("{ended}, {} members", members(world).await?))
}

async fn members(world: &World) -> Result<usize, super::harness::Failure> {
    let right = world.right::<ListCeremonies>(Installation);
    let roster = world.settle(Action::GetRoster, world.vault.show_roster(&right).await).await?;
    Ok(roster.map_or(0, |(_, roster)| roster.members.custodians().len()))
}

async fn cancel(world: &World, scene: &Scene) -> Answer {
    let right = world.right::<CancelCeremony>(scene.ceremony.expect("a ceremony"));
    let done = world.vault.cancel_ceremony(&right, "a test").await;
    Ok(world.settle(Action::CeremonyCancel, done).await?.record.state.to_string())
}

async fn show(world: &World, scene: &Scene) -> Answer {
    let right = world.right::<ListCeremonies>(Installation);
    let all = world.settle(Action::ListCeremonies, world.vault.list_ceremonies(&right).await).await?;
    let states: Vec<_> = all.iter().map(|info| info.record.state.to_string()).collect();
    let done = all.iter().find(|info| info.record.action.as_str() == "change-roster");
    let id = done.map(|info| info.id).or(scene.ceremony).expect("a ceremony");
    let right = world.right::<ViewCeremony>(id);
    world.settle(Action::GetTranscript, world.vault.transcript(&right).await).await?;
    let right = world.right::<ViewEscrow>(Installation);
    world.settle(Action::GetEscrow, world.vault.escrow_file(&right).await).await?;
    Ok(format!("{}, {} members", states.join(" "), members(world).await?))
}

async fn promote(world: &World) -> Answer {
    let right = world.right::<ManageAccount>(account("alice"));
    let change = AccountChange { level: Some(Level::Three), ..AccountChange::default() };
    let done = world.vault.update_account(&right, change).await;
    Ok(world.settle(Action::UpdateAccount, done).await?.record.level.get().to_string())
}

async fn rotate_alone(world: &World) -> Answer {
    let right = world.right::<ManageTenant>(tenant("safe"));
    let begun = world.vault.begin_rotation(&right).await;
    world.settle(Action::RotateTenant, begun).await?;
    Ok("begun".to_owned())
}

async fn decrypt(world: &World, scene: &Scene) -> Answer {
    let safe = key("safe", "pii");
    let mut good = true;
    for (name, ciphertext) in scene.ciphertexts.iter().filter(|(name, _)| *name == safe) {
        good &= deeds::decrypt(world, name, ciphertext).await?;
    }
    Ok(good.to_string())
}

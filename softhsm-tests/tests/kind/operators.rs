//! What operators, and the daemon by itself, do while the root is unfounded.

use std::time::Duration;

use keyward::access::Action;
use keyward::access::permission::{
    Destroy, ListTenants, ManageAccount, ManageBackups, ManageDaemon, ManageKey, ManageStore, ManageTenant,
    ViewCertificate, ViewCheckpoints, ViewKey, ViewTenant,
};
use keyward::audit::AuditLog;
use keyward::id::{DestroyTarget, Destroyable, Epoch, Installation};
use keyward::keyring::account::Level;
use keyward::keyring::state::KeyState;
use keyward::ops::key::KeyUpdate;
use keyward::ops::login::accounts::AccountChange;
use keyward::ops::tenant::TenantUpdate;
use keyward_hsm_memory::World;

use super::deeds::{self, account, key, tenant};
use super::harness::{Answer, UseCase, after_start, on, said, waits};
use super::worlds::{FROZEN, Scene};

/// All of them.
pub(crate) fn use_cases() -> Vec<UseCase> {
    let mut all = keys();
    all.extend(ends());
    all.extend(upkeep());
    all.extend(people());
    all
}

fn keys() -> Vec<UseCase> {
    vec![
        on("create a tenant", |world, _| {
            Box::pin(async move { said(deeds::create_tenant(world, "new").await) })
        }),
        on("create a tenant that was destroyed", |world, _| {
            Box::pin(async move { said(deeds::create_tenant(world, "gone").await) })
        })
        .refused(),
        on("create a key", |world, _| {
            Box::pin(async move { said(deeds::create_key(world, &key("acme", "new")).await) })
        }),
        on("create a key that is there", |world, _| {
            Box::pin(async move { said(deeds::create_key(world, &key("acme", "pii")).await) })
        })
        .refused(),
        on("rotate a key", |world, _| {
            Box::pin(async move { Ok(deeds::rotate_key(world, &key("acme", "pii")).await?.to_string()) })
        }),
        on("rotate an index key", |world, _| {
            Box::pin(async move {
                Ok(deeds::rotate_index(world, &key("acme", "pii"), "phone").await?.to_string())
            })
        }),
        on("change a schedule", |world, _| Box::pin(change_schedule(world))),
        on("rotate a tenant", |world, _| {
            Box::pin(async move {
                deeds::rotate_tenant(world, "acme").await?;
                keks_of(world, "acme").await
            })
        }),
        after_start("go on with a rotation", |world, _| Box::pin(go_on(world))),
        on("update a tenant", |world, _| Box::pin(update_tenant(world))),
        on("freeze a key", |world, _| {
            Box::pin(async move { said(deeds::freeze_key(world, &key("acme", "pii"), true).await) })
        }),
        on("unfreeze a tenant", |world, _| {
            Box::pin(async move { said(deeds::freeze_tenant(world, "beta", false).await) })
        }),
        on("unfreeze a principal", |world, _| {
            Box::pin(async move { said(deeds::freeze_principal(world, FROZEN, false).await) })
        }),
        after_start("a principal stays frozen", |world, _| Box::pin(frozen(world))),
        on("show keys and versions", |world, _| Box::pin(show(world))),
    ]
}

fn ends() -> Vec<UseCase> {
    vec![
        on("do what is due", |world, _| Box::pin(due(world))),
        after_start("do what is due after a start", |world, _| Box::pin(due(world))),
        on("destroy a version", |world, _| Box::pin(destroy_version(world))),
        on("destroy a key", |world, _| Box::pin(destroy_key(world))),
        on("destroy a tenant", |world, _| Box::pin(destroy_tenant(world))),
        on("certify a destroyed tenant", |world, _| Box::pin(certify(world, "tenants/gone"))),
        on("certify a destroyed key", |world, _| Box::pin(certify(world, "tenants/acme/keys/old"))),
        on("certify a destroyed version", |world, _| {
            Box::pin(certify(world, "tenants/acme/keys/pii/versions/2"))
        }),
        on("call a destruction off", |world, _| Box::pin(call_off(world))),
    ]
}

fn upkeep() -> Vec<UseCase> {
    vec![
        on("replace the erasure key", |world, _| {
            Box::pin(async move { Ok(deeds::replace_erasure_key(world).await?.to_string()) })
        }),
        after_start("replace the erasure key after a start", |world, _| {
            Box::pin(async move { Ok(deeds::replace_erasure_key(world).await?.to_string()) })
        }),
        on("look for stray erasure roots", |world, _| {
            Box::pin(async move {
                let status = world.vault.erasure_status().await?;
                world
                    .vault
                    .look_for_strays(&world.right::<keyward::access::permission::ManageErasure>(Installation))
                    .await;
                let looked = world.vault.strays();
                // It says why nothing was seen instead of failing.
                if let Some(why) = looked.failure {
                    return Err(keyward::ops::Error::Internal(why).into());
                }
                Ok(format!("{} {:?} {:?}", status.generation, status.replacing, looked.found))
            })
        }),
        on("back up", |world, _| Box::pin(async move { Ok(deeds::back_up(world).await?.to_string()) })),
        on("list backups", |world, _| Box::pin(list_backups(world))),
        on("compact the journal", |world, _| {
            Box::pin(async move { Ok(world.records().compact().await.map(|_| "done".to_owned())?) })
        }),
        on("copy the store", |world, _| Box::pin(copy_store(world))),
        on("sign a checkpoint", |world, _| Box::pin(checkpoint(world))),
        after_start("show the keys of the log", |world, _| Box::pin(audit_keys(world))),
        after_start("accept the clock", |world, _| Box::pin(accept_clock(world))),
    ]
}

fn people() -> Vec<UseCase> {
    vec![
        on("make an administrator", |world, _| Box::pin(set_level(world, "alice", Level::Three))).refused(),
        on("depose the administrator", |world, _| Box::pin(set_level(world, "dora", Level::One))).refused(),
        on("suspend an account", |world, _| Box::pin(suspend(world))),
        on("approve a token", |world, scene| {
            Box::pin(async move { said(deeds::approve_token(world, "carol", &scene.pending).await) })
        })
        .refused(),
        on("replace a password", |world, _| {
            Box::pin(async move { said(deeds::give_passwords(world, "alice").await) })
        })
        .refused(),
        on("create an account", |world, _| {
            Box::pin(async move { said(deeds::create_account(world, "erna", Level::One).await) })
        }),
        on("open an enrolment", |world, _| {
            Box::pin(async move { Ok(deeds::open_enrolment(world, "bob").await?.record.account.to_string()) })
        }),
        on("revoke a token", |world, scene| Box::pin(revoke(world, scene))),
    ]
}

async fn keks_of(world: &World, name: &str) -> Answer {
    let right = world.right::<ViewTenant>(tenant(name));
    let keks = world.settle(Action::ListKekVersions, world.vault.list_keks(&right).await).await?;
    // How many keys each seals is shown from rows that the digest does not cover, and decides nothing.
    let said = keks.iter().map(|kek| format!("{} {:?}", kek.version, kek.state));
    Ok(said.collect::<Vec<_>>().join(", "))
}

/// As the daemon does at its start.
async fn go_on(world: &World) -> Answer {
    for tenant in world.vault.unfinished_rotations().await? {
        deeds::resume(world, tenant.as_str()).await?;
    }
    keks_of(world, "mill").await
}

async fn change_schedule(world: &World) -> Answer {
    let rotation_period = Some(Some(Duration::from_secs(30 * 24 * 3600)));
    let right = world.right::<ManageKey>(key("acme", "cards"));
    let update = KeyUpdate { rotation_period, ..KeyUpdate::default() };
    let key = world.settle(Action::UpdateKey, world.vault.update_key(&right, update).await).await?;
    Ok(format!("{:?}", key.schedule.and_then(|schedule| schedule.period)))
}

async fn update_tenant(world: &World) -> Answer {
    let right = world.right::<ManageTenant>(tenant("acme"));
    let period = Duration::from_secs(30 * 24 * 3600);
    let update = TenantUpdate { rotation_period: Some(Some(period)), ..TenantUpdate::default() };
    let tenant = world.settle(Action::UpdateTenant, world.vault.update_tenant(&right, update).await).await?;
    Ok(format!("{:?} {}", tenant.schedule.and_then(|schedule| schedule.period), tenant.keys))
}

/// The gate of the API asks for each call whether its principal is frozen.
async fn frozen(world: &World) -> Answer {
    Ok(world.is_frozen(1002).to_string())
}

async fn show(world: &World) -> Answer {
    let right = world.right::<ListTenants>(Installation);
    let tenants = world.vault.list_tenants(&right, None, 100).await;
    // It is shown, and nothing is decided from it: it may be less.
    world.settle(Action::ListTenants, tenants).await?;
    let right = world.right::<ViewTenant>(tenant("acme"));
    world.settle(Action::ListKeys, world.vault.list_keys(&right, None, 100).await).await?;
    let right = world.right::<ViewKey>(key("acme", "pii"));
    let versions = world.vault.list_versions(&right, None, 100).await;
    let versions = world.settle(Action::ListKeyVersions, versions).await?;
    let said = versions.iter().map(|version| format!("{} {:?}", version.epoch, version.record.state));
    Ok(said.collect::<Vec<_>>().join(", "))
}

/// What failed is logged and stays on the agenda: it waits.
async fn due(world: &World) -> Answer {
    deeds::run_due(world).await?;
    match deeds::state_of(world, &key("acme", "doomed")).await? {
        KeyState::Destroyed => {}
        _ => return Err(waits()),
    }
    let keks = keks_of(world, "acme").await?;
    // A KEK whose destruction failed is there still, and so is its line.
    if keks.contains("DecryptOnly") || keks.contains("Scheduled") { Err(waits()) } else { Ok(keks) }
}

async fn destroy_version(world: &World) -> Answer {
    let name = key("acme", "pii");
    deeds::doom_version(world, &name, 1).await?;
    deeds::run_due(world).await?;
    let right = world.right::<ViewKey>(name);
    let shown = world.vault.show_version(&right, Epoch::FIRST).await;
    match world.settle(Action::GetKeyVersion, shown).await?.record.state {
        KeyState::Destroyed => certify(world, "tenants/acme/keys/pii/versions/1").await,
        _ => Err(waits()),
    }
}

async fn destroy_key(world: &World) -> Answer {
    let name = key("acme", "pii");
    deeds::doom_key(world, &name).await?;
    deeds::run_due(world).await?;
    match deeds::state_of(world, &name).await? {
        KeyState::Destroyed => certify(world, "tenants/acme/keys/pii").await,
        _ => Err(waits()),
    }
}

async fn destroy_tenant(world: &World) -> Answer {
    deeds::doom_tenant(world, "acme").await?;
    deeds::run_due(world).await?;
    let right = world.right::<ViewTenant>(tenant("acme"));
    let shown = world.settle(Action::GetTenant, world.vault.show_tenant(&right).await).await?;
    match shown.state() {
        KeyState::Destroyed => certify(world, "tenants/acme").await,
        _ => Err(waits()),
    }
}

/// What a certificate says, without dates and random names.
async fn certify(world: &World, name: &str) -> Answer {
    let right = world.right::<ViewCertificate>(DestroyTarget::parse(name)?);
    let made = world.vault.certificate(&right).await;
    let text = world.settle(Action::GetDestructionCertificate, made).await?.to_text();
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let body = &document["body"];
    let count = |name: &str| body[name].as_array().map_or(0, Vec::len);
    let checks = body["checks"].as_array().cloned().unwrap_or_default();
    let passed = checks.iter().filter(|check| check["passed"] == true).count();
    Ok(format!(
        "{} data keys, {} index keys, {} KEKs, {passed} of {} checks, {} could bring back, known: {}",
        count("data_keys"),
        count("index_keys"),
        count("keks"),
        checks.len(),
        count("could_bring_back"),
        body["gone_from_backups"].is_string()
    ))
}

async fn call_off(world: &World) -> Answer {
    let right = world.right::<Destroy>(Destroyable::Key(key("acme", "doomed")));
    let done = world.vault.cancel_destroy(&right, "a test").await;
    let planned = world.settle(Action::CancelDestroy, done).await?;
    deeds::run_due(world).await?;
    Ok(format!("{:?} {:?}", planned.state, deeds::state_of(world, &key("acme", "doomed")).await?))
}

async fn list_backups(world: &World) -> Answer {
    let right = world.right::<ManageBackups>(Installation);
    let backups = world.settle(Action::ListBackups, world.vault.list_backups(&right).await).await?;
    Ok(backups.len().to_string())
}

async fn copy_store(world: &World) -> Answer {
    let right = world.right::<ManageStore>(Installation);
    let begun = world.vault.begin_store_copy(&right);
    let mut copy = world.settle(Action::ExportStore, Ok(begun)).await?;
    while copy.next().await?.is_some() {}
    let copied = world.settle(Action::ExportStore, copy.finish().await).await?;
    Ok(format!("{} records, {} bytes", copied.exported.records, copied.bytes))
}

async fn checkpoint(world: &World) -> Answer {
    let note = world.vault.checkpoint(world.audit().durable()).await?;
    Ok((note.checkpoint.head.size > 0).to_string())
}

async fn audit_keys(world: &World) -> Answer {
    let right = world.right::<ViewCheckpoints>(Installation);
    let keys = world.settle(Action::GetAuditKeys, world.vault.show_audit_keys(&right).await).await?;
    world.vault.verify_newest_checkpoint().await?;
    Ok(keys.len().to_string())
}

async fn accept_clock(world: &World) -> Answer {
    let right = world.right::<ManageDaemon>(Installation);
    world.settle(Action::ClockAccept, world.vault.accept_clock(&right, "a test").await).await?;
    Ok("accepted".to_owned())
}

async fn set_level(world: &World, name: &str, level: Level) -> Answer {
    let right = world.right::<ManageAccount>(account(name));
    let change = AccountChange { level: Some(level), ..AccountChange::default() };
    let info = world.settle(Action::UpdateAccount, world.vault.update_account(&right, change).await).await?;
    Ok(info.record.level.get().to_string())
}

async fn suspend(world: &World) -> Answer {
    let right = world.right::<ManageAccount>(account("alice"));
    let change = AccountChange { suspended: Some(true), ..AccountChange::default() };
    let info = world.settle(Action::UpdateAccount, world.vault.update_account(&right, change).await).await?;
    Ok(format!("{} {}", info.record.suspended, info.credentials.len()))
}

async fn revoke(world: &World, scene: &Scene) -> Answer {
    let right = world.right::<ManageAccount>(account("alice"));
    let done = world.vault.revoke_credential(&right, scene.alice.token.credential(), "a test").await;
    Ok(world.settle(Action::RevokeCredential, done).await?.credentials.len().to_string())
}

//! Three use cases, each with every change of the store failed and not written, failed but written, and
//! every step in the HSM failed undone and done; gone on with at once, and after a new start.

use keyward::access::Action;
use keyward::access::permission::{Decrypt, Encrypt, ManageErasure, ManageKey, ManageTenant, ViewTenant};
use keyward::envelope::Context;
use keyward::hsm::HsmError;
use keyward::hsm::birth::Purpose;
use keyward::id::{Installation, KeyName, TenantName};
use keyward::keyring::record::{Key, Tenant};
use keyward::keyring::state::DataClass;
use keyward::ops::Error;
use keyward::ops::erasure::{ErasureStatus, Replacing};
use keyward::store::{StoreError, tables};
use keyward_hsm_memory::{Fault, Kind, World};

/// What is encrypted everywhere here.
pub(crate) const PLAINTEXT: &[u8] = b"4111 1111 1111 1111";

pub(crate) fn tenant() -> TenantName {
    TenantName::parse("tenants/acme").unwrap()
}

fn key() -> KeyName {
    KeyName::parse("tenants/acme/keys/customer-pii").unwrap()
}

fn context() -> Context {
    Context::new([("column", "card")]).unwrap()
}

pub(crate) async fn create_tenant(world: &World) -> Result<Tenant, Error> {
    let right = world.right::<ManageTenant>(tenant());
    world.settle(Action::CreateTenant, world.vault.create_tenant(&right, None).await).await
}

pub(crate) async fn create_key(world: &World) -> Result<Key, Error> {
    let right = world.right::<ManageKey>(key());
    world.settle(Action::CreateKey, world.vault.create_key(&right, DataClass::Sensitive).await).await
}

pub(crate) async fn encrypt(world: &World) -> Result<Vec<u8>, Error> {
    let right = world.right::<Encrypt>(key());
    let done = world.vault.encrypt(&right, &context(), PLAINTEXT).await;
    Ok(world.settle(Action::Encrypt, done).await?.ciphertext)
}

pub(crate) async fn decrypt(world: &World, ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
    let right = world.right::<Decrypt>(key());
    let done = world.vault.decrypt(&right, &context(), ciphertext).await;
    Ok(world.settle(Action::Decrypt, done).await?.plaintext.expose().to_vec())
}

/// How a commit fails, and whether the same vault goes on then, or the next one.
fn cases() -> impl Iterator<Item = (Fault, bool)> {
    Fault::BOTH.into_iter().flat_map(|fault| [(fault, false), (fault, true)])
}

async fn go_on(world: World, restarted: bool) -> World {
    if restarted { world.restart().await } else { world }
}

/// A world with a ciphertext.
async fn with_ciphertext() -> (World, Vec<u8>) {
    let world = World::new().await;
    create_tenant(&world).await.unwrap();
    create_key(&world).await.unwrap();
    let ciphertext = encrypt(&world).await.unwrap();
    (world, ciphertext)
}

fn away() -> HsmError {
    HsmError::Unavailable("the cable".to_owned())
}

fn is_unsettled<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Store(StoreError::Unsettled(_))))
}

/// Made now, or made by the try before.
fn made<T>(outcome: Result<T, Error>) {
    match outcome {
        Ok(_) | Err(Error::Exists(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Everything at once, up to the first failure.
async fn first_ciphertext(world: &World) -> Result<Vec<u8>, Error> {
    create_tenant(world).await?;
    create_key(world).await?;
    encrypt(world).await
}

#[tokio::test]
async fn a_tenant_and_a_key_are_made_once_whatever_the_store_does() {
    for (fault, restarted) in cases() {
        for nth in 1.. {
            let world = World::new().await;
            world.store.fail(nth, fault);
            let outcome = first_ciphertext(&world).await;
            if !world.store.is_struck() {
                assert!(nth > 3, "only {nth} commits");
                outcome.unwrap();
                break;
            }
            assert!(is_unsettled(&outcome), "{fault:?} {nth}: {outcome:?}");
            let world = go_on(world, restarted).await;
            made(create_tenant(&world).await);
            made(create_key(&world).await);
            let ciphertext = encrypt(&world).await.unwrap();
            assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT, "{fault:?} {nth}");
            // Made, and made once: the next start agrees.
            let world = world.restart().await;
            assert!(matches!(create_key(&world).await, Err(Error::Exists(_))));
            assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT, "{fault:?} {nth}");
        }
    }
}

#[tokio::test]
async fn a_tenant_and_a_key_are_not_made_when_the_hsm_fails() {
    for kind in [Kind::GenerateKek, Kind::GenerateKey, Kind::OpenKey] {
        for done in [false, true] {
            let world = World::new().await;
            match done {
                false => world.controls.fail(kind, 1, away()),
                true => world.controls.fail_after(kind, 1, away()),
            }
            let outcome = first_ciphertext(&world).await;
            assert!(matches!(outcome, Err(Error::Hsm(HsmError::Unavailable(_)))), "{kind:?}: {outcome:?}");
            assert!(world.controls.is_spent());
            // What the HSM made and nobody has is no key: it is made anew.
            if kind == Kind::GenerateKek {
                create_tenant(&world).await.unwrap();
            }
            if kind != Kind::OpenKey {
                create_key(&world).await.unwrap();
            }
            let ciphertext = encrypt(&world).await.unwrap();
            assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT);
        }
    }
}

async fn rotate(world: &World) -> Result<(), Error> {
    let right = world.right::<ManageTenant>(tenant());
    world.settle(Action::RotateTenant, world.vault.begin_rotation(&right).await).await?;
    world.vault.clone().resume_rotation(tenant().0).await;
    Ok(())
}

/// That the rotation is finished and nothing is lost or left behind.
async fn assert_rotated(world: &World, before: &[u8]) {
    let right = world.right::<ViewTenant>(tenant());
    let shown = world.settle(Action::GetTenant, world.vault.show_tenant(&right).await).await.unwrap();
    assert_eq!((shown.primary_kek.get(), shown.rotating_to), (2, None));
    assert_eq!(world.vault.unfinished_rotations().await.unwrap(), []);
    let rotation = world.vault.show_rotation(&right, shown.primary_kek).await;
    let rotation = world.settle(Action::GetRotation, rotation).await.unwrap();
    assert!(rotation.record.finished.is_some(), "{rotation:?}");
    let keks = world.settle(Action::ListKekVersions, world.vault.list_keks(&right).await).await.unwrap();
    let sealed: Vec<u32> = keks.iter().map(|kek| kek.sealed).collect();
    // The data key of before, and the new one.
    assert_eq!(sealed, [2, 0]);
    assert_eq!(decrypt(world, before).await.unwrap(), PLAINTEXT);
    let after = encrypt(world).await.unwrap();
    assert_eq!(decrypt(world, &after).await.unwrap(), PLAINTEXT);
}

#[tokio::test]
async fn a_rotation_comes_to_its_end_whatever_the_store_does() {
    for (fault, restarted) in cases() {
        for nth in 1.. {
            let (world, ciphertext) = with_ciphertext().await;
            world.store.fail(nth, fault);
            if restarted {
                // Dropped in the middle, as by a crash.
                tokio::select! {
                    biased;
                    () = world.store.struck() => {}
                    outcome = rotate(&world) => outcome.unwrap(),
                }
            } else if let Err(error) = rotate(&world).await {
                // Of the beginning; what follows goes on by itself.
                assert!(is_unsettled::<()>(&Err(error)));
                rotate(&world).await.unwrap();
            }
            let struck = world.store.is_struck();
            let world = go_on(world, restarted).await;
            for tenant in world.vault.unfinished_rotations().await.unwrap() {
                world.vault.clone().resume_rotation(tenant).await;
            }
            assert_rotated(&world, &ciphertext).await;
            assert_rotated(&world.restart().await, &ciphertext).await;
            if !struck {
                assert!(nth > 4, "only {nth} commits");
                break;
            }
        }
    }
}

async fn replace(world: &World) -> Result<ErasureStatus, Error> {
    let right = world.right::<ManageErasure>(Installation);
    world.settle(Action::ReplaceErasureKey, world.vault.replace_erasure_key(&right).await).await
}

/// That the newest generation is on the token and opens everything.
async fn assert_replaced(world: &World, ciphertext: &[u8]) {
    let status = world.vault.erasure_status().await.unwrap();
    assert_eq!(status.replacing, Replacing::No);
    let record = world.records().get(&tables::erasure(status.generation)).await.unwrap().unwrap().record;
    assert!(erasure_roots(world).contains(&record.root));
    assert_eq!(decrypt(world, ciphertext).await.unwrap(), PLAINTEXT);
}

fn erasure_roots(world: &World) -> Vec<keyward::id::RootId> {
    world.token().roots(Purpose::Erasure(world.vault.root().deployment))
}

#[tokio::test]
async fn the_erasure_key_is_replaced_whatever_the_store_does() {
    for (fault, restarted) in cases() {
        for nth in 1.. {
            let (world, ciphertext) = with_ciphertext().await;
            let first = erasure_roots(&world);
            world.store.fail(nth, fault);
            let outcome = replace(&world).await;
            let struck = world.store.is_struck();
            assert!(outcome.is_ok() || struck, "{fault:?} {nth}: {outcome:?}");
            let world = go_on(world, restarted).await;
            if outcome.is_err() {
                replace(&world).await.unwrap();
            }
            assert_replaced(&world, &ciphertext).await;
            // Each generation but the newest is gone from the token, and nothing else is.
            let alive = erasure_roots(&world);
            assert_eq!((alive.len(), alive.contains(&first[0])), (1, false), "{fault:?} {nth}");
            let erasure = Purpose::Erasure(world.vault.root().deployment);
            assert!(world.token().destroyed().iter().all(|(_, purpose)| *purpose == erasure));
            assert_replaced(&world.restart().await, &ciphertext).await;
            if !struck {
                assert!(nth > 3, "only {nth} commits");
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_erasure_key_is_replaced_whatever_the_hsm_does() {
    let kinds = [
        Kind::CreateRoot,
        Kind::SettleRoot,
        Kind::AnswerRoot,
        Kind::GenerateKek,
        Kind::GenerateKey,
        Kind::OpenKey,
        Kind::DestroyRoot,
    ];
    for (kind, done) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let (world, ciphertext) = with_ciphertext().await;
        let first = erasure_roots(&world);
        match done {
            false => world.controls.fail(kind, 1, away()),
            true => world.controls.fail_after(kind, 1, away()),
        }
        let outcome = replace(&world).await;
        assert!(outcome.is_err() && world.controls.is_spent(), "{kind:?}: {outcome:?}");
        // While a generation is needed it is on the token: its rows can be read after any failure.
        let world = world.restart().await;
        assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT, "{kind:?} {done}");
        replace(&world).await.unwrap();
        assert_replaced(&world, &ciphertext).await;
        assert!(!erasure_roots(&world).contains(&first[0]), "{kind:?} {done}");
        assert_replaced(&world.restart().await, &ciphertext).await;
    }
}

//! What applications and staff do.

use keyward::access::Action;
use keyward::access::permission::{
    ApproveAct, DecryptDataKey, GenerateDataKey, ListAccounts, ListActs, ReEncrypt, ViewLoginKeys,
};
use keyward::id::Installation;
use keyward::ops::login::admin::ActApproval;
use keyward::token::envelope::StepUp;
use keyward::token::printable::Statement;
use keyward_hsm_memory::World;
use keyward_softhsm_tests::staff::MemoryKey;

use super::deeds::{self, context, key};
use super::harness::{Answer, UseCase, after_start, on, said, waits};
use super::worlds::Scene;

/// All of them.
pub(crate) fn use_cases() -> Vec<UseCase> {
    let mut all = data();
    all.extend(logins());
    all
}

fn data() -> Vec<UseCase> {
    vec![
        on("encrypt", |world, _| Box::pin(encrypt(world, "pii"))),
        on("encrypt with a key that is rotated by use", |world, _| Box::pin(encrypt(world, "cards"))),
        on("encrypt with a key that is to be destroyed", |world, _| Box::pin(encrypt(world, "doomed")))
            .refused(),
        on("decrypt", |world, scene| Box::pin(decrypt(world, scene))),
        after_start("decrypt after a start", |world, scene| Box::pin(decrypt(world, scene))),
        on("decrypt what is destroyed or frozen", |world, scene| Box::pin(decrypt_none(world, scene)))
            .refused(),
        after_start("decrypt what is destroyed or frozen after a start", |world, scene| {
            Box::pin(decrypt_none(world, scene))
        })
        .refused(),
        on("re-encrypt", |world, scene| Box::pin(re_encrypt(world, scene))),
        on("make and open a data key", |world, _| Box::pin(data_key(world))),
        on("compute an index", |world, _| {
            Box::pin(async move { Ok(deeds::index(world, &key("acme", "pii"), "phone").await?.to_string()) })
        }),
        on("compute the first index of a field", |world, _| {
            Box::pin(async move { Ok(deeds::index(world, &key("acme", "pii"), "city").await?.to_string()) })
        }),
    ]
}

fn logins() -> Vec<UseCase> {
    vec![
        on("log in", |world, scene| {
            Box::pin(async move {
                let assertion = deeds::log_in(world, &scene.alice).await?;
                Ok(deeds::is_good(world, &assertion).await?.to_string())
            })
        }),
        on("log out", |world, scene| {
            Box::pin(async move {
                deeds::log_out(world, &scene.assertion).await?;
                Ok(deeds::is_good(world, &scene.assertion).await?.to_string())
            })
        }),
        on("show an assertion", |world, scene| Box::pin(assertions(world, scene))),
        after_start("show an assertion after a start", |world, scene| Box::pin(assertions(world, scene))),
        on("show the keys of assertions", |world, _| Box::pin(login_keys(world))),
        on("enrol a token", |world, scene| {
            Box::pin(async move {
                let token = MemoryKey::default();
                said(deeds::submit(world, &scene.ticket, &token).await)
            })
        }),
        on("enrol a token that is on record", |world, scene| {
            Box::pin(async move { said(deeds::submit(world, &scene.ticket, &scene.pending).await) })
        })
        .refused(),
        on("list accounts and acts", |world, _| Box::pin(lists(world))),
        on("approve an act without being an administrator", |world, scene| {
            Box::pin(approve_act(world, scene))
        })
        .refused(),
    ]
}

async fn encrypt(world: &World, name: &str) -> Answer {
    let name = key("acme", name);
    let ciphertext = deeds::encrypt(world, &name).await?;
    Ok(deeds::decrypt(world, &name, &ciphertext).await?.to_string())
}

/// Every ciphertext whose key works.
async fn decrypt(world: &World, scene: &Scene) -> Answer {
    let good = [key("acme", "pii"), key("acme", "cards"), key("mill", "pii")];
    let mut opened = 0;
    for (name, ciphertext) in scene.ciphertexts.iter().filter(|(name, _)| good.contains(name)) {
        opened += usize::from(deeds::decrypt(world, name, ciphertext).await?);
    }
    Ok(opened.to_string())
}

/// Every ciphertext whose key is destroyed, frozen, or to be destroyed.
async fn decrypt_none(world: &World, scene: &Scene) -> Answer {
    let bad = [key("acme", "old"), key("acme", "doomed"), key("gone", "pii"), key("beta", "pii")];
    for (name, ciphertext) in scene.ciphertexts.iter().filter(|(name, _)| bad.contains(name)) {
        if deeds::decrypt(world, name, ciphertext).await.is_ok() {
            return Ok(format!("{name} decrypts"));
        }
    }
    Err(waits())
}

async fn re_encrypt(world: &World, scene: &Scene) -> Answer {
    let (name, ciphertext) = &scene.ciphertexts[0];
    let right = world.right::<ReEncrypt>(name.clone());
    let done = world.vault.re_encrypt(&right, &context(), ciphertext).await;
    let done = world.settle(Action::ReEncrypt, done).await?;
    Ok(format!("{} {}", done.previous, done.encrypted.version))
}

async fn data_key(world: &World) -> Answer {
    let right = world.right::<GenerateDataKey>(key("acme", "pii"));
    let made = world
        .settle(Action::GenerateDataKey, world.vault.generate_data_key(&right, &context()).await)
        .await?;
    let right = world.right::<DecryptDataKey>(key("acme", "pii"));
    let opened = world.vault.decrypt_data_key(&right, &context(), &made.encrypted.ciphertext).await;
    let opened = world.settle(Action::DecryptDataKey, opened).await?;
    Ok((opened.plaintext.expose() == made.plaintext.expose().as_slice()).to_string())
}

async fn assertions(world: &World, scene: &Scene) -> Answer {
    let good = deeds::is_good(world, &scene.assertion).await?;
    let ended = deeds::is_good(world, &scene.ended).await?;
    Ok(format!("{good} {ended}"))
}

async fn login_keys(world: &World) -> Answer {
    let right = world.right::<ViewLoginKeys>(Installation);
    let keys = world.settle(Action::GetJwks, world.vault.jwks(&right).await).await?;
    let keys: serde_json::Value = serde_json::from_str(&keys)?;
    Ok(keys["keys"].as_array().map_or(0, Vec::len).to_string())
}

async fn lists(world: &World) -> Answer {
    let right = world.right::<ListAccounts>(Installation);
    let accounts = world.settle(Action::ListAccounts, world.vault.list_accounts(&right).await).await?;
    let right = world.right::<ListActs>(Installation);
    let acts = world.settle(Action::ListActs, world.vault.list_acts(&right).await).await?;
    let tokens: usize = accounts.iter().map(|account| account.credentials.len()).sum();
    let passwords = accounts.iter().filter(|account| account.otp.is_some()).count();
    Ok(format!("{} accounts, {tokens} tokens, {passwords} passwords, {} acts", accounts.len(), acts.len()))
}

/// Alice has a token and signs; but she is no administrator.
async fn approve_act(world: &World, scene: &Scene) -> Answer {
    let id = scene.act.expect("an act");
    let acts = world.vault.list_acts(&world.right::<ListActs>(Installation)).await;
    let acts = world.settle(Action::ListActs, acts).await?;
    let Some(act) = acts.into_iter().find(|act| act.id == id) else {
        return Err(waits());
    };
    let signed = StepUp {
        proposal: id,
        account: scene.alice.account.0.clone(),
        created: act.record.created,
        expires: act.record.expires,
        statement: Statement::new(&act.record.statement)?,
    };
    let token = &scene.alice.token;
    let approval = ActApproval {
        administrator: scene.alice.account.0.clone(),
        credential: token.credential(),
        signature: token.sign(signed.envelope(scene.deployment, token.credential()).as_bytes()),
    };
    let done = world.vault.approve_act(&world.right::<ApproveAct>(id), &approval).await;
    Ok(world.settle(Action::ApproveAct, done).await?.record.level.get().to_string())
}

//! The installation in one process: it is one.

use keyward::audit::AuditLog;
use keyward::hsm::HsmError;
use keyward::hsm::birth::Purpose;
use keyward::ops::Error;
use keyward_hsm_memory::World;

use super::use_cases::{PLAINTEXT, create_key, create_tenant, decrypt, encrypt, tenant};

#[tokio::test]
async fn it_keeps_what_it_had() {
    let world = World::new().await;
    let root = world.vault.root();
    assert_eq!(world.token().roots(Purpose::Root), [root.id]);
    assert_eq!(world.token().roots(Purpose::Erasure(root.deployment)).len(), 1);
    create_tenant(&world).await.unwrap();
    create_key(&world).await.unwrap();
    let ciphertext = encrypt(&world).await.unwrap();
    let (position, records) = (world.records().position(), world.audit().durable());
    let world = world.restart().await;
    assert_eq!(world.records().position(), position);
    // A start says where the store stands.
    assert_eq!(world.audit().durable(), records + 1);
    assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT);
    assert!(matches!(create_tenant(&world).await, Err(Error::Exists(_))));
    assert_eq!(world.token().destroyed(), []);
    // Two worlds have nothing in common.
    let other = World::new().await;
    create_tenant(&other).await.unwrap();
    assert_ne!(other.vault.root().id, root.id);
}

#[tokio::test]
async fn without_the_hsm_open_keys_serve_as_configured() {
    let world = World::configured("[class.2]\nserve_without_hsm = \"1h\"\n").await;
    create_tenant(&world).await.unwrap();
    create_key(&world).await.unwrap();
    let ciphertext = encrypt(&world).await.unwrap();
    world.controls.lose_connection("the cable");
    assert_eq!(decrypt(&world, &ciphertext).await.unwrap(), PLAINTEXT);
    let rotated = world.vault.begin_rotation(&world.right(tenant())).await;
    assert!(matches!(rotated, Err(Error::Hsm(HsmError::Unavailable(_)))), "{rotated:?}");
    world.controls.reconnect();
    world.vault.begin_rotation(&world.right(tenant())).await.unwrap();
}

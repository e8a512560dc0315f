//! Encrypting and decrypting fields through a real daemon.

use keyward::client::{Code, context};
use keyward_softhsm_tests::{KEY, World, create_key};

#[tokio::test]
async fn a_field_comes_back_and_only_with_its_key_and_context() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "zeta", "customer-pii").await;
    let about = context([("column", "phone"), ("id", "42")]);
    let sealed = client.encrypt(KEY, "13812345678", &about).await.unwrap();
    assert_eq!(sealed.version, 1);
    let opened = client.decrypt(KEY, sealed.ciphertext.clone(), &about).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"13812345678");

    let mut flipped = sealed.ciphertext.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let other = context([("column", "phone"), ("id", "43")]);
    let answers = [
        client.decrypt("tenants/zeta/keys/customer-pii", sealed.ciphertext.clone(), &about).await,
        client.decrypt(KEY, sealed.ciphertext.clone(), &other).await,
        client.decrypt(KEY, flipped, &about).await,
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!((error.code, error.reason()), (Code::InvalidArgument, "CIPHERTEXT_REFUSED"));
        assert_eq!(error.message, "the ciphertext cannot be decrypted under this key and context");
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
}

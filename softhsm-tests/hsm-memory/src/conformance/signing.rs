//! Signing keys.

use keyward::hsm::birth::NewRoot;
use keyward::hsm::{HsmError, Operation, Reply};
use keyward::id::RootId;
use keyward::keyring::signing::{Signature, SigningKey};
use keyward::secret::Key256;

use super::Suite;
use crate::crypto;

impl Suite {
    async fn sign(&self, key: &SigningKey, digest: [u8; 32]) -> Result<Signature, HsmError> {
        match self.one(Operation::Sign { key: key.clone(), digest }).await? {
            Reply::Signature(signature) => Ok(signature),
            other => panic!("a signature: {other:?}"),
        }
    }

    pub(super) async fn signatures_verify(&self, root: &NewRoot, root_key: &Key256) {
        let key = match self.one(Operation::GenerateSigningKey { root: root.id }).await {
            Ok(Reply::NewSigningKey(key)) => key,
            other => panic!("a signing key: {other:?}"),
        };
        assert_eq!((key.root, key.kek.bytes.len()), (root.id, 40));
        // By hand: root, KEK, PKCS#8, which begins with a DER sequence.
        let kek = crypto::unwrap(root_key, &key.kek.bytes).expect("the KEK");
        let private = crypto::unwrap_private(&kek, &key.wrapped).expect("the private key");
        assert_eq!(private.expose()[0], 0x30);
        let digest = crypto::sha256(b"message");
        let first = self.sign(&key, digest).await.expect("a signature");
        let second = self.sign(&key, digest).await.expect("a signature");
        assert!(key.public.verifies(&digest, &first) && key.public.verifies(&digest, &second));
        assert!(!key.public.verifies(&crypto::sha256(b"another"), &first));
        assert_ne!(first, second, "two signatures differ");
        let mut damaged = key.clone();
        damaged.wrapped[3] ^= 1;
        let mut long = key.clone();
        long.wrapped.resize(513, 0);
        let mut foreign = key.clone();
        foreign.kek.bytes[3] ^= 1;
        for wrong in [damaged, long, foreign, SigningKey { wrapped: Vec::new(), ..key.clone() }] {
            assert_eq!(self.sign(&wrong, digest).await.expect_err("damage"), HsmError::Integrity);
        }
        let nobodys = SigningKey { root: RootId([9; 16]), ..key };
        let unknown = self.sign(&nobodys, digest).await.expect_err("no root");
        assert_eq!(unknown, HsmError::UnknownRoot(RootId([9; 16])));
    }
}

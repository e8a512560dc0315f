//! The head of a recovery export.

use keyward::clock::Date;
use keyward::id::{DeploymentId, ErasureGeneration, ExportId, KeyId, RootId, TenantId};
use keyward::keyring::record::SystemSecret;
use keyward::keyring::wrapped::{self, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use keyward::store::recovery::{Canary, Head, Header};

/// Reads `data`; what is read is written again as it was, and more bytes are never asked for in vain.
pub fn head(data: &[u8]) {
    match Head::parse(data) {
        Ok(Ok((head, end))) => {
            assert!(end <= data.len());
            // The same head, whatever stands behind it, and never with less.
            assert_eq!(Head::parse(&data[..end]).ok(), Some(Ok((head, end))));
            assert!(matches!(Head::parse(&data[..end - 1]), Ok(Err(1))));
        }
        Ok(Err(more)) => assert!(more > 0),
        Err(_) => {}
    }
}

fn sealed(byte: u8) -> SealedKey {
    SealedKey { mechanism: SealMechanism::AesGcm, iv: [byte; 12], ciphertext: [byte; 48], check: None }
}

/// Good heads, with and without a ciphertext.
pub fn seeds() -> Vec<Vec<u8>> {
    let (root, kek) =
        (RootId([1; 16]), WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![2; 40] });
    let canary = Canary {
        tenant: TenantId::new("acme").expect("a name"),
        key: KeyId::new("pii").expect("a name"),
        ciphertext: vec![4; 115],
    };
    let header = |ciphertext| Header {
        id: ExportId([3; 16]),
        deployment: DeploymentId([9; 16]),
        root,
        canary: wrapped::Canary { root, kek: Some(kek.clone()), sealed: sealed(5), fingerprint: [6; 32] },
        kek: kek.clone(),
        secret: SystemSecret { root, kek: kek.clone(), sealed: sealed(7) },
        created: Date(1),
        delete_by: Date(2),
        revision: 7,
        digest: [8; 32],
        records: 9,
        erasure: ErasureGeneration::FIRST,
        ciphertext,
    };
    [None, Some(canary)].map(|ciphertext| Head::encode(&header(ciphertext), &sealed(5))).to_vec()
}

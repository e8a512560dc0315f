//! KEKs and the keys that they seal.

use keyward::hsm::birth::NewRoot;
use keyward::hsm::{HsmError, Kek, Operation, Reply};
use keyward::id::RootId;
use keyward::keyring::wrapped::{KeyCheck, SealedKey, WrappedKek};
use keyward::secret::Key256;

use super::{Suite, wrapped};
use crate::crypto;

/// A name that no root has.
const NOBODY: RootId = RootId([9; 16]);

impl Suite {
    pub(super) async fn random_bytes_have_the_length_asked_for(&self) {
        let lens: [usize; 6] = [0, 16, 16, 4096, 4097, 1];
        let draws = lens.into_iter().map(|len| Operation::Random { len }).collect();
        let answers = self.hsm.run(draws).await;
        let mut drawn = Vec::new();
        for (len, answer) in lens.into_iter().zip(answers) {
            match answer {
                Ok(Reply::Random(bytes)) if len <= 4096 => {
                    assert_eq!(bytes.len(), len);
                    drawn.push(bytes.expose().to_vec());
                }
                Err(HsmError::Unavailable(_)) if len > 4096 => {}
                other => panic!("{len} bytes: {other:?}"),
            }
        }
        assert_eq!(drawn.len(), 5, "an answer for each");
        assert_ne!(drawn[1], drawn[2], "the same bytes twice");
    }

    pub(super) async fn keys_are_made_opened_and_moved(
        &self,
        root: &NewRoot,
        second: &NewRoot,
        key: &Key256,
    ) {
        let (kek, other) = (self.new_kek(root.id).await, self.new_kek(second.id).await);
        assert_eq!(wrapped(&kek).bytes.len(), 40);
        let (data, sealed) = self.new_key(&kek, b"aad").await;
        assert_eq!(sealed.check, Some(KeyCheck::of(&data)));
        // The same by hand: root, KEK, key.
        let by_hand = crypto::unwrap(key, &wrapped(&kek).bytes).expect("the KEK");
        let opened = crypto::open(&by_hand, b"aad", &sealed).expect("the key");
        assert_eq!(opened.expose(), data.expose());
        let opened = self.open(&kek, b"aad", &sealed).await.expect("opened");
        assert_eq!(opened.expose(), data.expose());
        let moved = self.move_key((&kek, b"aad"), &sealed, (&other, b"to")).await.expect("moved");
        assert_ne!((moved.iv, moved.ciphertext), (sealed.iv, sealed.ciphertext));
        let opened = self.open(&other, b"to", &moved).await.expect("opened");
        assert_eq!(opened.expose(), data.expose());
        let still = self.open(&kek, b"aad", &sealed).await.expect("what was moved is there still");
        assert_eq!(still.expose(), data.expose());
        let (another, _) = self.new_key(&kek, b"aad").await;
        assert_ne!(another.expose(), data.expose());
        // The earliest records have no check value.
        let early = SealedKey { check: None, ..sealed };
        let opened = self.open(&kek, b"aad", &early).await.expect("opened");
        assert_eq!(opened.expose(), data.expose());
    }

    pub(super) async fn damage_is_integrity(&self, root: &NewRoot, second: &NewRoot) {
        let kek = self.new_kek(root.id).await;
        let other = self.new_kek(root.id).await;
        let (_, sealed) = self.new_key(&kek, b"aad").await;
        let with = |bytes: Vec<u8>| Kek::Sealed {
            root: root.id,
            wrapped: WrappedKek { bytes, ..wrapped(&kek).clone() },
        };
        let bytes = &wrapped(&kek).bytes;
        let mut flipped = bytes.clone();
        flipped[7] ^= 0x10;
        let elsewhere = Kek::Sealed { root: second.id, wrapped: wrapped(&kek).clone() };
        for (what, wrong) in [
            ("a flipped bit", with(flipped)),
            ("a byte too few", with(bytes[..39].to_vec())),
            ("a byte too many", with([bytes.as_slice(), &[0]].concat())),
            ("nothing", with(Vec::new())),
            ("another root", elsewhere),
            ("another KEK", other),
        ] {
            let error = self.open(&wrong, b"aad", &sealed).await.expect_err(what);
            assert_eq!(error, HsmError::Integrity, "{what}");
            let error = self.move_key((&wrong, b"aad"), &sealed, (&kek, b"to")).await.expect_err(what);
            assert_eq!(error, HsmError::Integrity, "moved: {what}");
        }
        let mut damaged = vec![("a foreign context", b"AAD".to_vec(), sealed.clone())];
        for (what, at) in [("the ciphertext", 0), ("the tag", 47)] {
            let mut wrong = sealed.clone();
            wrong.ciphertext[at] ^= 1;
            damaged.push((what, b"aad".to_vec(), wrong));
        }
        let mut wrong = sealed.clone();
        wrong.iv[0] ^= 1;
        damaged.push(("the IV", b"aad".to_vec(), wrong));
        for (what, aad, wrong) in damaged {
            let error = self.open(&kek, &aad, &wrong).await.expect_err(what);
            assert_eq!(error, HsmError::Integrity, "{what}");
        }
        self.open(&kek, b"aad", &sealed).await.expect("the key itself still opens");
    }

    pub(super) async fn an_unknown_root_is_named(&self, root: &NewRoot) {
        let kek = self.new_kek(root.id).await;
        let (_, sealed) = self.new_key(&kek, b"aad").await;
        let nobodys = Kek::Sealed { root: NOBODY, wrapped: wrapped(&kek).clone() };
        for unknown in [nobodys, Kek::Resident(NOBODY)] {
            let error = self.open(&unknown, b"aad", &sealed).await.expect_err("no root");
            assert_eq!(error, HsmError::UnknownRoot(NOBODY));
            let moved = self.move_key((&kek, b"aad"), &sealed, (&unknown, b"to")).await;
            assert_eq!(moved.expect_err("no root"), HsmError::UnknownRoot(NOBODY));
            let made = self.one(Operation::GenerateKey { kek: unknown, aad: Vec::new() }).await;
            assert_eq!(made.expect_err("no root"), HsmError::UnknownRoot(NOBODY));
        }
        for operation in
            [Operation::GenerateKek { root: NOBODY }, Operation::GenerateSigningKey { root: NOBODY }]
        {
            assert_eq!(self.one(operation).await.expect_err("no root"), HsmError::UnknownRoot(NOBODY));
        }
    }

    pub(super) async fn operations_are_answered_in_order_each_for_itself(&self, root: &NewRoot) {
        let kek = self.new_kek(root.id).await;
        let (data, sealed) = self.new_key(&kek, b"aad").await;
        let open =
            |aad: &[u8]| Operation::OpenKey { kek: kek.clone(), aad: aad.to_vec(), sealed: sealed.clone() };
        let answers = self
            .hsm
            .run(vec![
                Operation::Random { len: 8 },
                open(b"another"),
                Operation::GenerateKek { root: NOBODY },
                Operation::Random { len: 5000 },
                open(b"aad"),
                Operation::GenerateKek { root: root.id },
                Operation::Random { len: 4 },
            ])
            .await;
        let [first, foreign, nobodys, too_many, opened, new_kek, last] =
            <[_; 7]>::try_from(answers).expect("an answer for each");
        assert!(matches!(&first, Ok(Reply::Random(bytes)) if bytes.len() == 8), "{first:?}");
        assert!(matches!(foreign, Err(HsmError::Integrity)), "{foreign:?}");
        assert!(matches!(nobodys, Err(HsmError::UnknownRoot(NOBODY))), "{nobodys:?}");
        assert!(matches!(too_many, Err(HsmError::Unavailable(_))), "{too_many:?}");
        assert!(matches!(&opened, Ok(Reply::Key(key)) if key.expose() == data.expose()), "{opened:?}");
        assert!(matches!(new_kek, Ok(Reply::Wrapped(_))), "{new_kek:?}");
        assert!(matches!(&last, Ok(Reply::Random(bytes)) if bytes.len() == 4), "{last:?}");
    }
}

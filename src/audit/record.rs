//! The records, and their only encoding.

use minicbor::{Decode, Encode};

use crate::access::Action;
use crate::clock::Date;

/// One record: the leaf of the log. The field numbers are the on-disk format
/// (docs/audit-format.md).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    /// When the call arrived, by the wall clock.
    #[n(1)]
    pub time: Date,
    /// Ties the record to log lines.
    #[n(2)]
    pub request_id: u64,
    /// The caller; absent for the daemon's own acts.
    #[n(3)]
    pub caller: Option<Caller>,
    /// The operation, in the words of docs/audit-format.md: "encrypt", "rotate-tenant", "start".
    #[n(4)]
    pub operation: String,
    /// The full resource name, or empty.
    #[n(5)]
    pub resource: String,
    /// What came of it.
    #[n(6)]
    pub outcome: Outcome,
    /// The rule that allowed or refused it: the principal's grant, or the check that failed.
    #[n(7)]
    pub policy: String,
    /// Microseconds from arrival to the end of the work.
    #[n(8)]
    pub latency_us: u64,
    /// What was worked on, for operations on data.
    #[n(9)]
    pub items: Option<Items>,
    /// The change of the store, for operations that change it.
    #[n(10)]
    pub change: Option<StoreChange>,
    /// More about it in words, never plaintext.
    #[n(11)]
    pub detail: Option<String>,
}

/// The calling process, as the kernel told at connect.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Caller {
    /// The principal that configuration gives it; absent for an unknown caller.
    #[n(1)]
    pub principal: Option<String>,
    /// User id.
    #[n(2)]
    pub uid: u32,
    /// Group id.
    #[n(3)]
    pub gid: u32,
    /// Process id, for the record only.
    #[n(4)]
    pub pid: Option<i32>,
    /// The staff member whom it acted for, as their assertion proved: `accounts/alice`.
    #[n(5)]
    pub staff: Option<String>,
    /// The assertion that it showed for that.
    #[n(6)]
    pub assertion: Option<String>,
    /// Where they, or the customer, were, as the caller said.
    #[n(7)]
    pub client: Option<String>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Done.
    #[n(0)]
    Ok,
    /// Refused or failed, with the reason of docs/errors.md.
    #[n(1)]
    Failed(#[n(0)] String),
    /// The caller went away before the work began to use a key.
    #[n(2)]
    Cancelled,
    /// Work has begun; another record tells its end.
    #[n(3)]
    Started,
}

/// The items of one record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Items {
    /// How many were done.
    #[n(1)]
    pub done: u32,
    /// How many were refused.
    #[n(2)]
    pub refused: u32,
    /// RFC 6962 Merkle tree hash over the digests of the items done, in order.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub root: [u8; 32],
    /// The digests themselves (SHA-256 of BIND, docs/format.md), kept for decrypts.
    #[n(4)]
    pub digests: Option<Vec<ItemDigest>>,
}

/// SHA-256 of the BIND string of one ciphertext: its header and context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct ItemDigest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// What a change did to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StoreChange {
    /// The revision that it made.
    #[n(1)]
    pub revision: u64,
    /// The authority digest at that revision.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub digest: [u8; 32],
}

impl Record {
    /// A record of the log about itself.
    pub(super) fn own(action: Action, detail: String) -> Self {
        Self {
            time: Date::now(),
            request_id: 0,
            caller: None,
            operation: action.word().into(),
            resource: String::new(),
            outcome: Outcome::Ok,
            policy: String::new(),
            latency_us: 0,
            items: None,
            change: None,
            detail: Some(detail),
        }
    }

    /// Reads a record in its only encoding.
    ///
    /// # Errors
    /// When the bytes are not a record, or not the ones that encoding it gives.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        let record: Self = minicbor::decode(bytes)?;
        let again = minicbor::to_vec(&record).map_err(minicbor::decode::Error::custom)?;
        match again == bytes {
            true => Ok(record),
            false => Err(minicbor::decode::Error::message("it is not encoded in the one canonical way")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record with nothing optional in it.
    pub(in crate::audit) fn plain(request_id: u64) -> Record {
        Record {
            request_id,
            resource: "tenants/a/keys/b".into(),
            detail: None,
            ..Record::own(Action::Encrypt, String::new())
        }
    }

    /// Any record.
    pub(in crate::audit) fn any_record() -> impl Strategy<Value = Record> {
        let times = (any::<u64>().prop_map(Date), any::<u64>(), any::<u64>());
        let words = (".{0,20}", ".{0,60}", ".{0,20}", prop::option::of(".{0,40}"));
        (
            times,
            words,
            any_outcome(),
            prop::option::of(any_caller()),
            prop::option::of(any_items()),
            any_change(),
        )
            .prop_map(|(times, words, outcome, caller, items, change)| Record {
                time: times.0,
                request_id: times.1,
                caller,
                operation: words.0,
                resource: words.1,
                outcome,
                policy: words.2,
                latency_us: times.2,
                items,
                change,
                detail: words.3,
            })
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Ok),
            ".{0,20}".prop_map(Outcome::Failed),
            Just(Outcome::Cancelled),
            Just(Outcome::Started)
        ]
    }

    fn any_caller() -> impl Strategy<Value = Caller> {
        (prop::option::of(".{0,20}"), any::<u32>(), any::<u32>(), any::<Option<i32>>()).prop_map(
            |(principal, uid, gid, pid)| Caller {
                principal: principal.clone(),
                uid,
                gid,
                pid,
                staff: principal.clone(),
                assertion: pid.map(|pid| pid.to_string()),
                client: principal,
            },
        )
    }

    fn any_items() -> impl Strategy<Value = Items> {
        let digests = prop::collection::vec(any::<[u8; 32]>().prop_map(ItemDigest), 0..40);
        (any::<u32>(), any::<u32>(), any::<[u8; 32]>(), prop::option::of(digests))
            .prop_map(|(done, refused, root, digests)| Items { done, refused, root, digests })
    }

    fn any_change() -> impl Strategy<Value = Option<StoreChange>> {
        let change = (1..u64::MAX, any::<[u8; 32]>());
        prop::option::of(change.prop_map(|(revision, digest)| StoreChange { revision, digest }))
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut record = plain(7);
        record.time = Date(1000);
        let short = "a7 01 19 03e8 02 07 04 67 656e6372797074 05 70 74656e616e74732f612f6b6579732f62 06 82 00 80 07 60 08 00";
        assert_eq!(hex::encode(minicbor::to_vec(&record).unwrap()), short.replace(' ', ""));

        record.caller = Some(Caller {
            principal: None,
            uid: 0,
            gid: 33,
            pid: Some(9),
            staff: None,
            assertion: None,
            client: None,
        });
        record.outcome = Outcome::Failed("FROZEN".into());
        record.items =
            Some(Items { done: 1, refused: 0, root: [1; 32], digests: Some(vec![ItemDigest([2; 32])]) });
        record.change = Some(StoreChange { revision: 3, digest: [4; 32] });
        record.detail = Some("x".into());
        let long = format!(
            "ab 01 19 03e8 02 07 03 a3 02 00 03 1821 04 09 04 67 656e6372797074 05 70 74656e616e74732f612f6b6579732f62 \
             06 82 01 81 66 46524f5a454e 07 60 08 00 09 a4 01 01 02 00 03 5820 {} 04 81 5820 {} \
             0a a2 01 03 02 5820 {} 0b 61 78",
            "01".repeat(32),
            "02".repeat(32),
            "04".repeat(32)
        );
        assert_eq!(hex::encode(minicbor::to_vec(&record).unwrap()), long.replace(' ', ""));
    }

    #[test]
    fn other_encodings_are_refused() {
        let bytes = minicbor::to_vec(plain(7)).unwrap();
        assert!(Record::from_canonical(&bytes).is_ok());
        // One more byte, an indefinite map, a longer integer, an unknown field.
        let longer = [bytes.as_slice(), &[0]].concat();
        let indefinite = [&[0xbf], &bytes[1..], &[0xff]].concat();
        let at = bytes.windows(2).position(|pair| pair == [2, 7]).unwrap();
        let wide = [&bytes[..=at], &[0x18, 7], &bytes[at + 2..]].concat();
        let unknown = [&[bytes[0] + 1], &bytes[1..], &[0x18, 99, 0]].concat();
        for wrong in [longer, indefinite, wide, unknown] {
            assert!(Record::from_canonical(&wrong).is_err(), "{}", hex::encode(wrong));
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(record in any_record()) {
            let bytes = minicbor::to_vec(&record).unwrap();
            prop_assert_eq!(Record::from_canonical(&bytes).unwrap(), record);
        }

        #[test]
        fn whatever_is_read_encodes_the_same(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(record) = Record::from_canonical(&bytes) {
                prop_assert_eq!(minicbor::to_vec(&record).unwrap(), bytes);
            }
        }
    }
}

//! What people carry to a restore, and transcripts.

use keyward::id::{CeremonyId, CustodianId, DeploymentId};
use keyward::keyring::armour::Armoured;
use keyward::keyring::custodian::AgreementKey;
use keyward::keyring::escrow::{AgreementPoint, EscrowShare, SealedBox};
use keyward::keyring::recovery::{RestoreRequest, RestoreShare};
use keyward::keyring::roster::Members;
use keyward::ops::ceremony::transcript;

use super::card;

/// Reads `data` as each of the records; what is read has no other spelling.
pub fn carried(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    again::<RestoreRequest>(text);
    again::<RestoreShare>(text);
}

fn again<T: Armoured>(text: &str) {
    if let Ok(record) = T::parse(text) {
        assert_eq!(record.to_text().trim_ascii_end(), text.replace("\r\n", "\n").trim_ascii());
    }
}

/// Verifies `data`; nothing that is not signed is believed.
pub fn transcript(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(transcript::verify(text, None, None).is_err(), "nobody has signed this");
}

/// A request and an answer.
pub fn records() -> Vec<Vec<u8>> {
    let custodian = CustodianId::new("alice").expect("a name");
    let sealed = SealedBox { ephemeral: AgreementPoint([4; 65]), ciphertext: vec![1; 49] };
    let ceremony = CeremonyId([1; 16]);
    let custodians: Vec<_> = card::distinct().collect();
    let request = RestoreRequest {
        ceremony,
        deployment: DeploymentId([2; 16]),
        statement: "KEYWARD CEREMONY".into(),
        transport: AgreementKey::of_point(&custodians[0].agreement().point()).expect("a point"),
        made_by: CeremonyId([3; 16]),
        shares: vec![EscrowShare { custodian: custodian.clone(), sealed: sealed.clone() }],
        members: Members::new(2, custodians).expect("a roster"),
    };
    let share = RestoreShare { ceremony, custodian, sealed, signature: vec![7; 64] };
    vec![request.to_text().into_bytes(), share.to_text().into_bytes()]
}

/// A transcript that nobody has signed, of a founding and of something after it.
pub fn transcripts() -> Vec<Vec<u8>> {
    let decision = |action: &str| {
        format!(
            r#"{{"ceremony":"{id}","action":"{action}","statement":"Ceremony: {id}\nDeployment: {id}\nAction: {action}","created":1,"expires":2,"approvals":[{{"custodian":"alice","signature":"AAAA","time":1}}]}}"#,
            id = "01".repeat(16)
        )
    };
    ["found", "rotate-root"]
        .map(|action| {
            format!(
                r#"{{"format":"keyward-transcript-1","deployment":"{}","chain":[{}],"decision":{},"state":"done","finished":3,"outcome":""}}"#,
                "01".repeat(16),
                decision("found"),
                decision(action)
            )
            .into_bytes()
        })
        .to_vec()
}

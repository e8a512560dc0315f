use proptest::prelude::*;

use super::*;
use crate::keyring::public_key::KeyType;
use crate::keyring::public_key::tests::one_of_each;

/// The points of the private keys 1 and 2 on P-256.
const ONE: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                   4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
const TWO: &str = "047cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978\
                   07775510db8ed040293d9ac69f7430dbba7dade63ce982299e04b79d227873d1";
const DEPLOYMENT: DeploymentId = DeploymentId([0x11; 16]);
const CREDENTIAL: CredentialId = CredentialId([0x22; 32]);

fn key(point: &str) -> AgreementKey {
    AgreementKey::of_point(&hex::decode(point).unwrap()).unwrap()
}

fn enrolment() -> Enrolment {
    Enrolment { name: CustodianId::new("alice").unwrap(), agreement: key(ONE) }
}

fn ceremony() -> Ceremony {
    Ceremony {
        ceremony: CeremonyId([0x33; 16]),
        roster: [0x44; 32],
        created: Date(1_800_000_000_000),
        expires: Date(1_800_000_600_000),
        statement: Statement::new("Rotate the root key.\nReason: \"yearly\"").unwrap(),
    }
}

fn restore_share() -> RestoreShare {
    RestoreShare {
        ceremony: CeremonyId([0x33; 16]),
        statement: Statement::new("Restore the root key.").unwrap(),
        transport: key(TWO),
    }
}

fn login() -> Login {
    Login {
        origin: Origin::new("https://crm.example").unwrap(),
        login: LoginId([0x55; 16]),
        nonce: [0x66; 32],
        account: AccountId::new("bob").unwrap(),
        issued: Date(1_800_000_000_000),
        expires: Date(1_800_000_120_000),
        session: key(TWO),
    }
}

fn step_up() -> StepUp {
    StepUp {
        proposal: ProposalId([0x77; 16]),
        account: AccountId::new("carol").unwrap(),
        created: Date(1_800_000_000_000),
        expires: Date(1_800_000_600_000),
        statement: Statement::new("Approve a token.").unwrap(),
    }
}

fn login_enrolment() -> LoginEnrolment {
    LoginEnrolment {
        account: AccountId::new("bob").unwrap(),
        ticket: TicketId([0x88; 16]),
        nonce: [0x99; 32],
        expires: Date(1_800_000_600_000),
        name: TokenName::new("blue").unwrap(),
    }
}

fn all() -> [Matter; 6] {
    [
        Matter::Enrolment(enrolment()),
        Matter::Ceremony(ceremony()),
        Matter::RestoreShare(restore_share()),
        Matter::Login(login()),
        Matter::StepUp(step_up()),
        Matter::LoginEnrolment(login_enrolment()),
    ]
}

const HEAD: &str = "6b6579776172642d7573626b65792d763100";
const NAMES: &str = "0000001011111111111111111111111111111111\
                     000000202222222222222222222222222222222222222222222222222222222222222222";
/// A P-256 SubjectPublicKeyInfo up to the point.
const SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

#[test]
fn the_bytes_are_those_of_the_document() {
    let golden = [
        format!("{HEAD}02{NAMES}00000005616c6963650000005b{SPKI}{ONE}"),
        format!(
            "{HEAD}04{NAMES}0000001033333333333333333333333333333333\
             000000204444444444444444444444444444444444444444444444444444444444444444\
             00000008000001a3185c500000000008000001a318657 7c0\
             00000025526f746174652074686520726f6f74206b65792e0a526561736f6e3a202279656172 6c7922"
        )
        .replace(' ', ""),
        format!(
            "{HEAD}07{NAMES}0000001033333333333333333333333333333333\
             00000015526573746f72652074686520726f6f74206b65792e0000005b{SPKI}{TWO}"
        ),
        format!(
            "{HEAD}01{NAMES}0000001368747470733a2f2f63726d2e6578616d706c650000001055555555555555555555555555555555\
             000000206666666666666666666666666666666666666666666666666666666666666666\
             00000003626f6200000008000001a3185c500000000008000001a3185e24c00000005b{SPKI}{TWO}"
        ),
        format!(
            "{HEAD}03{NAMES}0000001077777777777777777777777777777777000000056361726f6c00000008000001a3185c500000000008000001a3186577c0\
             00000010417070726f7665206120746f6b656e2e"
        ),
        format!(
            "{HEAD}08{NAMES}00000003626f620000001088888888888888888888888888888888\
             000000209999999999999999999999999999999999999999999999999999999999999999\
             00000008000001a3186577c000000004626c7565"
        ),
    ];
    for (matter, golden) in all().into_iter().zip(golden) {
        assert_eq!(hex::encode(matter.envelope(DEPLOYMENT, CREDENTIAL).as_bytes()), golden);
    }
}

#[test]
fn every_field_counts() {
    let enrolment_with = |change: fn(&mut Enrolment)| {
        let mut matter = enrolment();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let ceremony_with = |change: fn(&mut Ceremony)| {
        let mut matter = ceremony();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let share_with = |change: fn(&mut RestoreShare)| {
        let mut matter = restore_share();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let login_with = |change: fn(&mut Login)| {
        let mut matter = login();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let step_up_with = |change: fn(&mut StepUp)| {
        let mut matter = step_up();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let login_enrolment_with = |change: fn(&mut LoginEnrolment)| {
        let mut matter = login_enrolment();
        change(&mut matter);
        matter.envelope(DEPLOYMENT, CREDENTIAL)
    };
    let mut envelopes = vec![
        login_with(|_| ()),
        login_with(|l| l.origin = Origin::new("https://crm.examplf").unwrap()),
        login_with(|l| l.login.0[0] ^= 1),
        login_with(|l| l.nonce[31] ^= 1),
        login_with(|l| l.account = AccountId::new("boc").unwrap()),
        login_with(|l| l.issued.0 += 1),
        login_with(|l| l.expires.0 += 1),
        login_with(|l| l.session = key(ONE)),
        step_up_with(|_| ()),
        step_up_with(|a| a.proposal.0[0] ^= 1),
        step_up_with(|a| a.account = AccountId::new("carom").unwrap()),
        step_up_with(|a| a.created.0 += 1),
        step_up_with(|a| a.expires.0 += 1),
        step_up_with(|a| a.statement = Statement::new("Approve a token").unwrap()),
        login_enrolment_with(|_| ()),
        login_enrolment_with(|e| e.account = AccountId::new("boc").unwrap()),
        login_enrolment_with(|e| e.ticket.0[0] ^= 1),
        login_enrolment_with(|e| e.nonce[0] ^= 1),
        login_enrolment_with(|e| e.expires.0 += 1),
        login_enrolment_with(|e| e.name = TokenName::new("blud").unwrap()),
        enrolment_with(|_| ()),
        enrolment_with(|e| e.name = CustodianId::new("alicf").unwrap()),
        enrolment_with(|e| e.agreement = key(TWO)),
        ceremony_with(|_| ()),
        ceremony_with(|c| c.ceremony.0[15] ^= 1),
        ceremony_with(|c| c.roster[0] ^= 1),
        ceremony_with(|c| c.created.0 += 1),
        ceremony_with(|c| c.expires.0 += 1),
        ceremony_with(|c| c.statement = Statement::new("Rotate the root key").unwrap()),
        share_with(|_| ()),
        share_with(|s| s.ceremony.0[0] ^= 1),
        share_with(|s| s.statement = Statement::new("Restore the root key").unwrap()),
        share_with(|s| s.transport = key(ONE)),
    ];
    for matter in all() {
        envelopes.push(matter.clone().envelope(DeploymentId([0x12; 16]), CREDENTIAL));
        envelopes.push(matter.envelope(DEPLOYMENT, CredentialId([0x23; 32])));
    }
    for (index, one) in envelopes.iter().enumerate() {
        assert!(envelopes[..index].iter().all(|other| other.as_bytes() != one.as_bytes()), "{index}");
        assert_eq!(Envelope::parse(one.as_bytes()).as_ref(), Ok(one));
    }
}

#[test]
fn purposes_are_not_confused() {
    for matter in all() {
        let purpose = matter.purpose();
        let envelope = matter.envelope(DEPLOYMENT, CREDENTIAL);
        for number in 0..=u8::MAX {
            let mut bytes = envelope.as_bytes().to_vec();
            bytes[PREFIX.len()] = number;
            assert_eq!(Envelope::parse(&bytes).is_ok(), number == purpose.number(), "{number}");
        }
    }
}

#[test]
fn the_registry_is_what_it_was() {
    let registry = Purpose::ALL.map(|purpose| (purpose.number(), purpose.as_str()));
    let fixed =
        ["login", "enrolment", "step-up", "ceremony", "grant", "report", "restore-share", "login-enrolment"];
    assert!((1..).zip(fixed).eq(registry));
    assert!(Purpose::ALL.iter().all(|purpose| Purpose::of(purpose.number()) == Some(*purpose)));
    assert_eq!((Purpose::of(0), Purpose::of(9)), (None, None));
}

#[test]
fn what_is_no_envelope_is_refused() {
    let digest = [7; 32];
    assert_eq!(Envelope::parse(&digest), Err(EnvelopeError::Prefix));
    assert_eq!(Envelope::parse(&PREFIX[..17]), Err(EnvelopeError::Prefix));
    for matter in all() {
        let bytes = matter.envelope(DEPLOYMENT, CREDENTIAL).as_bytes().to_vec();
        for cut in 0..bytes.len() {
            assert!(Envelope::parse(&bytes[..cut]).is_err());
        }
        assert!(Envelope::parse(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Envelope::parse(&[&bytes[..], &[0; 4]].concat()).is_err());
    }
    let mut long = ceremony().envelope(DEPLOYMENT, CREDENTIAL).as_bytes().to_vec();
    long.resize(Envelope::LONGEST + 1, b'a');
    assert_eq!(Envelope::parse(&long), Err(EnvelopeError::Fields("it is too long")));
}

#[test]
fn a_hidden_text_is_refused() {
    let mut bytes = ceremony().envelope(DEPLOYMENT, CREDENTIAL).as_bytes().to_vec();
    *bytes.last_mut().unwrap() = 0x1b;
    assert!(matches!(Envelope::parse(&bytes), Err(EnvelopeError::Statement(_))));
}

#[test]
fn keys_of_other_types_are_no_agreement_keys() {
    for (key_type, spki) in one_of_each() {
        let mut bytes = PREFIX.to_vec();
        bytes.push(Purpose::Enrolment.number());
        [&DEPLOYMENT.0[..], &CREDENTIAL.0, b"alice", &spki].iter().for_each(|field| lp(&mut bytes, field));
        assert_eq!(Envelope::parse(&bytes).is_ok(), key_type == KeyType::P256);
    }
}

proptest! {
    #[test]
    fn one_changed_bit_is_another_envelope(which in 0usize..6, at: prop::sample::Index, bit in 0u8..8) {
        let envelope = all()[which].clone().envelope(DEPLOYMENT, CREDENTIAL);
        let mut bytes = envelope.as_bytes().to_vec();
        bytes[at.index(envelope.as_bytes().len())] ^= 1 << bit;
        if let Ok(other) = Envelope::parse(&bytes) {
            prop_assert_ne!(&other, &envelope);
            prop_assert_eq!(other.as_bytes(), &bytes);
        }
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>, number: u8) {
        let _ = Envelope::parse(&bytes);
        let _ = Envelope::parse(&[PREFIX, &[number], &bytes].concat());
    }
}

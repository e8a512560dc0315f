//! Every method, on what is there and on what is not. The order counts: what changes something comes behind what looks at it.

use bytes::Bytes;
use keyward::rpc::proto::*;
use keyward_softhsm_tests::KEY;
use prost::Message;
use prost_types::FieldMask;

use super::scene::{Scene, Sealed};

const TENANT: &str = "tenants/acme";
const NO_TENANT: &str = "tenants/none";
const NO_KEY: &str = "tenants/acme/keys/none";
/// A key of a tenant that nobody but an operator and its own application has to do with.
const THEIRS: &str = "tenants/zeta/keys/theirs";
const ALICE: &str = "accounts/alice";
const NOBODY: &str = "accounts/nobody";
const CEREMONY: &str = "ceremonies/00112233445566778899aabbccddeeff";
const ACT: &str = "acts/00112233445566778899aabbccddeeff";

/// A call as it goes over the wire.
pub(super) struct Asked {
    /// Service and method.
    pub(super) method: &'static str,
    /// What it is about, for the table.
    pub(super) what: String,
    pub(super) messages: Vec<Bytes>,
}

pub(super) fn on(method: &'static str, what: &str, message: &impl Message) -> Asked {
    Asked { method, what: what.to_owned(), messages: vec![message.encode_to_vec().into()] }
}

pub(super) fn asked(scene: &Scene) -> Vec<Asked> {
    [
        system(),
        data(&scene.sealed, KEY),
        data(&scene.sealed, THEIRS),
        data(&scene.sealed, NO_KEY),
        looks(),
        audit(),
        ceremonies(scene),
        logins(scene),
        accounts(scene),
        changes(),
        upkeep(),
        freezes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn system() -> Vec<Asked> {
    vec![
        on("SystemService/GetStatus", "", &GetStatusRequest {}),
        on("SystemService/AcceptClock", "", &AcceptClockRequest { reason: "a test".into() }),
        on("SystemService/AcceptClock", "without a reason", &AcceptClockRequest::default()),
        on("SystemService/CheckStore", "", &CheckStoreRequest {}),
        on("SystemService/ExportStore", "", &ExportStoreRequest {}),
        on("SystemService/Reload", "", &ReloadRequest {}),
    ]
}

/// Work on the data of a key.
pub(super) fn data(sealed: &Sealed, key: &str) -> Vec<Asked> {
    let (name, context) = (key.to_owned(), [("a".to_owned(), "b".to_owned())].into());
    let (ciphertext, data_key): (Bytes, Bytes) =
        (sealed.ciphertext.clone().into(), sealed.data_key.clone().into());
    let encrypt = EncryptRequest { name, plaintext: "x".into(), context };
    let (name, context) = (encrypt.name.clone(), encrypt.context.clone());
    let decrypt =
        DecryptRequest { name: name.clone(), ciphertext: ciphertext.clone(), context: context.clone() };
    let batch = BatchEncryptRequest {
        name: name.clone(),
        items: vec![batch_encrypt_request::Item {
            plaintext: "x".into(),
            context: context.clone(),
            ..Default::default()
        }],
    };
    let batch_decrypt = BatchDecryptRequest {
        name: name.clone(),
        items: vec![batch_decrypt_request::Item {
            ciphertext: ciphertext.clone(),
            context: context.clone(),
            ..Default::default()
        }],
    };
    let session = |request| CryptSessionRequest { id: 1, request: Some(request) };
    let header = || StreamHeader { name: name.clone(), context: context.clone() };
    let again = ReEncryptRequest { name: name.clone(), ciphertext, context: context.clone() };
    let make = GenerateDataKeyRequest { name: name.clone(), context: context.clone() };
    let hidden = GenerateDataKeyWithoutPlaintextRequest { name: name.clone(), context: context.clone() };
    let open = DecryptDataKeyRequest { name: name.clone(), ciphertext: data_key, context: context.clone() };
    let index = ComputeBlindIndexRequest {
        name: name.clone(),
        field: "phone".into(),
        value: "1".into(),
        normalization: 1,
    };
    vec![
        on("CryptoService/Encrypt", key, &encrypt),
        on("CryptoService/Decrypt", key, &decrypt),
        on("CryptoService/BatchEncrypt", key, &batch),
        on("CryptoService/BatchDecrypt", key, &batch_decrypt),
        on(
            "CryptoService/CryptSession",
            &format!("encrypt {key}"),
            &session(crypt_session_request::Request::Encrypt(encrypt)),
        ),
        on(
            "CryptoService/CryptSession",
            &format!("decrypt {key}"),
            &session(crypt_session_request::Request::Decrypt(decrypt)),
        ),
        on("CryptoService/ReEncrypt", key, &again),
        on("CryptoService/GenerateDataKey", key, &make),
        on("CryptoService/GenerateDataKeyWithoutPlaintext", key, &hidden),
        on("CryptoService/DecryptDataKey", key, &open),
        on(
            "CryptoService/EncryptStream",
            key,
            &EncryptStreamRequest { message: Some(encrypt_stream_request::Message::Header(header())) },
        ),
        on(
            "CryptoService/DecryptStream",
            key,
            &DecryptStreamRequest { message: Some(decrypt_stream_request::Message::Header(header())) },
        ),
        on("CryptoService/ComputeBlindIndex", key, &index),
    ]
}

/// What changes nothing.
fn looks() -> Vec<Asked> {
    let mut all = Vec::new();
    for name in [TENANT, NO_TENANT, "no name"] {
        let (named, parent) = (name.to_owned(), name.to_owned());
        all.push(on("KeyService/GetTenant", name, &GetTenantRequest { name: named }));
        all.push(on("KeyService/ListKekVersions", name, &ListKekVersionsRequest { parent: parent.clone() }));
        all.push(on("KeyService/ListKeys", name, &ListKeysRequest { parent, ..Default::default() }));
    }
    for name in [KEY, THEIRS, NO_KEY, "no name"] {
        let (named, parent) = (name.to_owned(), name.to_owned());
        all.push(on("KeyService/GetKey", name, &GetKeyRequest { name: named }));
        all.push(on(
            "KeyService/ListKeyVersions",
            name,
            &ListKeyVersionsRequest { parent, ..Default::default() },
        ));
        let version = format!("{name}/versions/1");
        all.push(on("KeyService/GetKeyVersion", &version, &GetKeyVersionRequest { name: version.clone() }));
    }
    let rotation = "tenants/acme/rotations/2";
    all.push(on("KeyService/ListTenants", "", &ListTenantsRequest::default()));
    all.push(on("KeyService/GetRotation", rotation, &GetRotationRequest { name: rotation.into() }));
    all
}

fn audit() -> Vec<Asked> {
    let certificate = |name: &str| GetDestructionCertificateRequest { name: name.to_owned() };
    vec![
        on("AuditService/GetCheckpoint", "", &GetCheckpointRequest { fresh: false }),
        on("AuditService/GetCheckpoint", "fresh", &GetCheckpointRequest { fresh: true }),
        on("AuditService/GetInclusionProof", "1", &GetInclusionProofRequest { sequence: 1 }),
        on("AuditService/GetInclusionProof", "of none", &GetInclusionProofRequest { sequence: 1 << 40 }),
        on("AuditService/GetConsistencyProof", "1", &GetConsistencyProofRequest { old_size: 1 }),
        on("AuditService/AttestRecord", "1", &AttestRecordRequest { sequence: 1 }),
        on("AuditService/GetDestructionCertificate", KEY, &certificate(KEY)),
        on("AuditService/GetDestructionCertificate", NO_KEY, &certificate(NO_KEY)),
        on("AuditService/GetPublicKeys", "", &GetPublicKeysRequest {}),
    ]
}

fn ceremonies(scene: &Scene) -> Vec<Asked> {
    use propose_request::{
        Action, ChangeRoster, Found, MakeAdministrator, MoveTenant, RotateRoot, SetMinVersion,
    };
    let get = || GetCeremonyRequest { name: CEREMONY.into() };
    let propose = |action| ProposeRequest { reason: "a test".into(), lasts: None, action: Some(action) };
    let approve =
        ApproveRequest { name: CEREMONY.into(), custodian: "bob".into(), signature: vec![1; 64].into() };
    let cancel = CancelRequest { name: CEREMONY.into(), reason: "a test".into() };
    let administrator =
        MakeAdministrator { account: ALICE.into(), credential: scene.credential.clone().into() };
    let actions = [
        ("found", Action::Found(Found { quorum: 2, cards: vec!["no card".into()] })),
        ("rotate-root", Action::RotateRoot(RotateRoot {})),
        (
            "change-roster",
            Action::ChangeRoster(ChangeRoster { quorum: 0, add: vec![], remove: vec!["dave".into()] }),
        ),
        ("rotate-tenant", Action::RotateTenant(TENANT.into())),
        ("destroy", Action::Destroy("tenants/acme/keys/spare".into())),
        ("destroy of none", Action::Destroy(NO_KEY.into())),
        ("unfreeze", Action::Unfreeze(TENANT.into())),
        ("set-min-version", Action::SetMinVersion(SetMinVersion { name: KEY.into(), version: 1 })),
        ("move-tenant", Action::MoveTenant(MoveTenant { name: TENANT.into(), resident: true })),
        ("make-administrator", Action::MakeAdministrator(administrator)),
        ("forget-erasure-root", Action::ForgetErasureRoot("00112233445566778899aabbccddeeff".into())),
    ];
    let mut all = vec![
        on("CeremonyService/GetCeremony", "none", &get()),
        on("CeremonyService/ListCeremonies", "", &ListCeremoniesRequest {}),
        on("CeremonyService/Watch", "none", &get()),
        on("CeremonyService/GetRoster", "", &GetRosterRequest {}),
        on("CeremonyService/GetTranscript", "none", &get()),
        on("CeremonyService/GetEscrow", "", &GetEscrowRequest {}),
        on("CeremonyService/Approve", "none", &approve),
        on("CeremonyService/Cancel", "none", &cancel),
    ];
    all.extend(actions.map(|(what, action)| on("CeremonyService/Propose", what, &propose(action))));
    all
}

fn logins(scene: &Scene) -> Vec<Asked> {
    let begin =
        |account: &str| BeginLoginRequest { account: account.to_owned(), client_address: "192.0.2.7".into() };
    let complete = CompleteLoginRequest {
        login_id: vec![1; 16].into(),
        otp: "123456".into(),
        credential: scene.credential.clone().into(),
        session_public_key: vec![1; 91].into(),
        signature: vec![1; 64].into(),
    };
    vec![
        on("LoginService/GetJwks", "", &GetJwksRequest {}),
        on("LoginService/BeginLogin", ALICE, &begin(ALICE)),
        on("LoginService/BeginLogin", NOBODY, &begin(NOBODY)),
        on("LoginService/CompleteLogin", "none", &complete),
        on(
            "LoginService/IntrospectAssertion",
            "none",
            &IntrospectAssertionRequest { assertion: "a.b.c".into() },
        ),
        on("LoginService/EndAssertion", "none", &EndAssertionRequest { assertion: "a.b.c".into() }),
    ]
}

fn accounts(scene: &Scene) -> Vec<Asked> {
    let mut all = vec![
        on("LoginService/ListAccounts", "", &ListAccountsRequest {}),
        on("LoginService/ListActs", "", &ListActsRequest {}),
    ];
    for account in [ALICE, NOBODY] {
        let name = || account.to_owned();
        let credential = || Bytes::from(scene.credential.clone());
        let reason = || "a test".to_owned();
        let update =
            UpdateAccountRequest { name: name(), display_name: Some("A".into()), ..Default::default() };
        let level = UpdateAccountRequest { name: name(), level: Some(2), ..Default::default() };
        let confirm = ConfirmOtpRequest { name: name(), password: "1".into(), ..Default::default() };
        let act = propose_act_request::Act::SetLevel(2);
        let propose = ProposeActRequest { reason: reason(), account: name(), act: Some(act) };
        let signed = ApproveActRequest {
            name: ACT.into(),
            administrator: name(),
            credential: credential(),
            signature: vec![1; 64].into(),
        };
        let revoke = RevokeCredentialRequest { name: name(), credential: credential(), reason: reason() };
        let submit =
            SubmitEnrolmentRequest { ticket: vec![1; 16].into(), token: "t".into(), ..Default::default() };
        all.extend([
            on("LoginService/GetAccount", account, &GetAccountRequest { name: name() }),
            on("LoginService/UpdateAccount", account, &update),
            on("LoginService/UpdateAccount", &format!("level of {account}"), &level),
            on(
                "LoginService/UnlockAccount",
                account,
                &UnlockAccountRequest { name: name(), reason: reason() },
            ),
            on("LoginService/CreateOtp", account, &CreateOtpRequest { name: name(), ..Default::default() }),
            on("LoginService/ConfirmOtp", account, &confirm),
            on(
                "LoginService/OpenEnrolment",
                account,
                &OpenEnrolmentRequest { name: name(), ..Default::default() },
            ),
            on("LoginService/SubmitEnrolment", "none", &submit),
            on(
                "LoginService/ApproveCredential",
                account,
                &ApproveCredentialRequest { name: name(), credential: credential() },
            ),
            on("LoginService/ProposeAct", account, &propose),
            on("LoginService/ApproveAct", &format!("none by {account}"), &signed),
            on("LoginService/CancelAct", "none", &CancelActRequest { name: ACT.into() }),
            on("LoginService/RevokeCredential", account, &revoke),
        ]);
    }
    let made = |name: &str| CreateAccountRequest { name: name.to_owned(), ..Default::default() };
    all.push(on("LoginService/CreateAccount", "accounts/new", &made("accounts/new")));
    all.push(on("LoginService/CreateAccount", ALICE, &made(ALICE)));
    all
}

/// What changes tenants and keys.
fn changes() -> Vec<Asked> {
    let mask = |field: &str| Some(FieldMask { paths: vec![field.to_owned()] });
    let tenant = |id: &str| CreateTenantRequest { tenant_id: id.to_owned(), display_name: String::new() };
    let mut all = vec![
        on("KeyService/CreateTenant", "new", &tenant("new")),
        on("KeyService/CreateTenant", "acme", &tenant("acme")),
    ];
    for name in [TENANT, NO_TENANT] {
        let named = Tenant { name: name.to_owned(), display_name: "A".into(), ..Default::default() };
        let key =
            |id: &str| CreateKeyRequest { parent: name.to_owned(), key_id: id.to_owned(), data_class: 0 };
        let update = UpdateTenantRequest { tenant: Some(named), update_mask: mask("display_name") };
        all.extend([
            on("KeyService/UpdateTenant", name, &update),
            on("KeyService/CreateKey", &format!("new of {name}"), &key("new")),
            on("KeyService/CreateKey", &format!("spare of {name}"), &key("spare")),
        ]);
    }
    for name in [KEY, NO_KEY] {
        let named =
            || Key { name: name.to_owned(), rotation_uses: 1 << 20, min_version: 1, ..Default::default() };
        let update = |field| UpdateKeyRequest { key: Some(named()), update_mask: mask(field) };
        let version = format!("{name}/versions/1");
        let off =
            KeyVersion { name: version.clone(), state: KeyState::DecryptOnly.into(), ..Default::default() };
        let parent = name.to_owned();
        all.extend([
            on("KeyService/UpdateKey", &format!("rotation_uses of {name}"), &update("rotation_uses")),
            on("KeyService/UpdateKey", &format!("min_version of {name}"), &update("min_version")),
            on("KeyService/RotateKey", name, &RotateKeyRequest { name: parent.clone() }),
            on(
                "KeyService/RotateIndexKey",
                name,
                &RotateIndexKeyRequest { name: parent.clone(), field: "phone".into() },
            ),
            on("KeyService/CreateKeyVersion", name, &CreateKeyVersionRequest { parent, activate_time: None }),
            on(
                "KeyService/UpdateKeyVersion",
                name,
                &UpdateKeyVersionRequest { key_version: Some(off), update_mask: mask("state") },
            ),
        ]);
    }
    for name in ["tenants/acme/keys/going", "tenants/acme/keys/spare", NO_KEY, TENANT, NO_TENANT] {
        let reason = "a test".to_owned();
        all.push(on(
            "KeyService/CancelDestroy",
            name,
            &CancelDestroyRequest { name: name.to_owned(), reason },
        ));
    }
    let spare = ScheduleDestroyRequest {
        name: "tenants/acme/keys/spare".into(),
        delay: None,
        reason: "a test".into(),
    };
    let none = ScheduleDestroyRequest { name: NO_KEY.into(), ..spare.clone() };
    all.push(on("KeyService/ScheduleDestroy", "spare", &spare));
    all.push(on("KeyService/ScheduleDestroy", NO_KEY, &none));
    all
}

fn upkeep() -> Vec<Asked> {
    let drill = RecordDrillRequest {
        name: "backups/00112233445566778899aabbccddeeff".into(),
        passed: true,
        report: "a test".into(),
    };
    let root = ForgetErasureRootRequest { id: "00112233445566778899aabbccddeeff".into() };
    vec![
        on("BackupService/GetErasureKey", "", &GetErasureKeyRequest { look_for_strays: true }),
        on("BackupService/ReplaceErasureKey", "", &ReplaceErasureKeyRequest {}),
        on("BackupService/ForgetErasureRoot", "none", &root),
        on("BackupService/CreateBackup", "", &CreateBackupRequest { keep_for: None }),
        on("BackupService/ListBackups", "", &ListBackupsRequest {}),
        on("BackupService/RecordDrill", "none", &drill),
    ]
}

/// What stops work; each freeze is followed by what it stops, and by its end.
fn freezes() -> Vec<Asked> {
    let mut all = Vec::new();
    for name in [KEY, TENANT, "principals/tester", "principals/none", NO_KEY] {
        let (named, reason) = (name.to_owned(), "a test".to_owned());
        all.push(on(
            "AccessService/Freeze",
            name,
            &FreezeRequest { name: named.clone(), reason: reason.clone() },
        ));
        let encrypt = EncryptRequest { name: KEY.into(), plaintext: "x".into(), ..Default::default() };
        all.push(on("CryptoService/Encrypt", &format!("{KEY} behind the freeze of {name}"), &encrypt));
        all.push(on("AccessService/Unfreeze", name, &UnfreezeRequest { name: named, reason }));
    }
    let rotate = |name: &str| RotateTenantRequest { name: name.to_owned() };
    all.push(on("KeyService/RotateTenant", NO_TENANT, &rotate(NO_TENANT)));
    all.push(on("KeyService/RotateTenant", "tenants/zeta", &rotate("tenants/zeta")));
    all
}

//! What each request is about, as the record has it and as it is decided on.

use std::borrow::Cow;

use super::access::check_reason;
use super::convert::parse_duration;
use super::login;
use super::proto::*;
use super::serve::About;
use crate::id::{
    AccountName, CeremonyId, ClientAddress, Destroyable, Freezable, KeyName, RotationName, TenantId,
    TenantName, VersionName,
};
use crate::ops::Error;

/// `REQUEST => RESOURCE: |message| text, what is decided on`. What is wrong there is told before anything is decided.
macro_rules! about {
    ($($request:ident => $resource:ty: |$message:ident| $text:expr, $parsed:expr;)*) => {$(
        impl About for $request {
            type Resource = $resource;

            fn text(&self) -> Cow<'_, str> {
                let $message = self;
                // Not every request says more than what it is.
                _ = $message;
                Cow::from($text)
            }

            fn resource(&self) -> Result<$resource, Error> {
                let $message = self;
                _ = $message;
                Ok($parsed)
            }
        }
    )*};
}

about! {
    EncryptRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    DecryptRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    BatchEncryptRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    BatchDecryptRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    ReEncryptRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    GenerateDataKeyRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    GenerateDataKeyWithoutPlaintextRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    DecryptDataKeyRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    ComputeBlindIndexRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;

    CreateTenantRequest => TenantName:
        |it| format!("tenants/{}", it.tenant_id), TenantName(TenantId::new(&it.tenant_id)?);
    GetTenantRequest => TenantName: |it| &it.name, TenantName::parse(&it.name)?;
    ListTenantsRequest => (): |it| "tenants", ();
    UpdateTenantRequest => TenantName:
        |it| it.tenant.as_ref().map_or("", |to| &to.name),
        TenantName::parse(it.tenant.as_ref().map_or("", |to| &to.name))?;
    RotateTenantRequest => TenantName: |it| &it.name, TenantName::parse(&it.name)?;
    GetRotationRequest => TenantName: |it| &it.name, TenantName(RotationName::parse(&it.name)?.tenant);
    ListKekVersionsRequest => TenantName: |it| &it.parent, TenantName::parse(&it.parent)?;
    CreateKeyRequest => KeyName: |it| key_of(it), KeyName::parse(&key_of(it))?;
    GetKeyRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    ListKeysRequest => TenantName: |it| &it.parent, TenantName::parse(&it.parent)?;
    UpdateKeyRequest => KeyName:
        |it| it.key.as_ref().map_or("", |to| &to.name),
        KeyName::parse(it.key.as_ref().map_or("", |to| &to.name))?;
    RotateKeyRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    RotateIndexKeyRequest => KeyName: |it| &it.name, KeyName::parse(&it.name)?;
    CreateKeyVersionRequest => KeyName: |it| &it.parent, KeyName::parse(&it.parent)?;
    GetKeyVersionRequest => KeyName: |it| &it.name, VersionName::parse(&it.name)?.key;
    ListKeyVersionsRequest => KeyName: |it| &it.parent, KeyName::parse(&it.parent)?;
    UpdateKeyVersionRequest => KeyName:
        |it| it.key_version.as_ref().map_or("", |to| &to.name),
        VersionName::parse(it.key_version.as_ref().map_or("", |to| &to.name))?.key;
    ScheduleDestroyRequest => Destroyable: |it| &it.name, {
        check_reason(&it.reason)?;
        it.delay.map(|delay| parse_duration(delay, "delay")).transpose()?;
        Destroyable::parse(&it.name)?
    };
    CancelDestroyRequest => Destroyable: |it| &it.name, {
        check_reason(&it.reason)?;
        Destroyable::parse(&it.name)?
    };

    FreezeRequest => Freezable: |it| &it.name, {
        check_reason(&it.reason)?;
        Freezable::parse(&it.name)?
    };
    UnfreezeRequest => Freezable: |it| &it.name, {
        check_reason(&it.reason)?;
        Freezable::parse(&it.name)?
    };

    ProposeRequest => (): |it| "ceremonies", ();
    GetCeremonyRequest => (): |it| &it.name, CeremonyId::parse_name(&it.name).map(drop)?;
    ListCeremoniesRequest => (): |it| "ceremonies", ();
    ApproveRequest => (): |it| &it.name, CeremonyId::parse_name(&it.name).map(drop)?;
    CancelRequest => (): |it| &it.name, CeremonyId::parse_name(&it.name).map(drop)?;
    GetRosterRequest => (): |it| "rosters", ();
    GetEscrowRequest => (): |it| "roots", ();

    BeginLoginRequest => (): |it| &it.account, {
        AccountName::parse(&it.account)?;
        ClientAddress::new(&it.client_address)?;
    };
    CompleteLoginRequest => (): |it| "logins", {
        login::exact::<16>(&it.login_id, "login_id")?;
        login::exact::<32>(&it.credential, "credential")?;
    };
    IntrospectAssertionRequest => (): |it| "assertions", ();
    EndAssertionRequest => (): |it| "assertions", ();
    GetJwksRequest => (): |it| "system-keys/login", ();
    CreateAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    GetAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    ListAccountsRequest => (): |it| "accounts", ();
    UpdateAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    UnlockAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    CreateOtpRequest => AccountName: |it| &it.name, {
        let name = AccountName::parse(&it.name)?;
        login::scheme(it)?;
        name
    };
    ConfirmOtpRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    OpenEnrolmentRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    SubmitEnrolmentRequest => (): |it| "tickets", ();
    ApproveCredentialRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    RevokeCredentialRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    ProposeActRequest => AccountName: |it| &it.account, AccountName::parse(&it.account)?;
    ListActsRequest => (): |it| "acts", ();
    ApproveActRequest => (): |it| &it.name, ();
    CancelActRequest => (): |it| &it.name, ();

    GetCheckpointRequest => (): |it| "", ();
    GetInclusionProofRequest => (): |it| it.sequence.to_string(), ();
    GetConsistencyProofRequest => (): |it| it.old_size.to_string(), ();
    AttestRecordRequest => (): |it| it.sequence.to_string(), ();
    GetDestructionCertificateRequest => (): |it| &it.name, ();
    GetPublicKeysRequest => (): |it| "", ();

    GetErasureKeyRequest => (): |it| "", ();
    ReplaceErasureKeyRequest => (): |it| "", ();
    ForgetErasureRootRequest => (): |it| format!("erasure-roots/{}", it.id), ();
    ListBackupsRequest => (): |it| "", ();
    RecordDrillRequest => (): |it| &it.name, ();

    AcceptClockRequest => (): |it| "", ();
    ReloadRequest => (): |it| "", ();
    CheckStoreRequest => (): |it| "", ();
}

fn key_of(message: &CreateKeyRequest) -> String {
    format!("{}/keys/{}", message.parent, message.key_id)
}

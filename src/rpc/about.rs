//! What each request is about, as the record has it and as it is decided on.

use std::borrow::Cow;

use super::access::check_reason;
use super::convert::{erasure_root, parse_duration};
use super::login;
use super::proto::*;
use super::serve::About;
use crate::id::{
    AccountName, CeremonyId, ClientAddress, DestroyTarget, Destroyable, Freezable, Installation, KeyName,
    LoginId, ProposalId, RecordNumber, RootId, RotationName, TenantId, TenantName, TicketId, VersionName,
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
    ListTenantsRequest => Installation: |it| "tenants", Installation;
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

    ProposeRequest => Installation: |it| "ceremonies", Installation;
    GetCeremonyRequest => CeremonyId: |it| &it.name, CeremonyId::parse_name(&it.name)?;
    ListCeremoniesRequest => Installation: |it| "ceremonies", Installation;
    ApproveRequest => CeremonyId: |it| &it.name, CeremonyId::parse_name(&it.name)?;
    CancelRequest => CeremonyId: |it| &it.name, CeremonyId::parse_name(&it.name)?;
    GetRosterRequest => Installation: |it| "rosters", Installation;
    GetEscrowRequest => Installation: |it| "roots", Installation;

    BeginLoginRequest => AccountName: |it| &it.account, {
        let name = AccountName::parse(&it.account)?;
        ClientAddress::new(&it.client_address)?;
        name
    };
    CompleteLoginRequest => LoginId: |it| "logins", {
        let login = LoginId(login::exact(&it.login_id, "login_id")?);
        login::exact::<32>(&it.credential, "credential")?;
        login
    };
    IntrospectAssertionRequest => Installation: |it| "assertions", Installation;
    EndAssertionRequest => Installation: |it| "assertions", Installation;
    GetJwksRequest => Installation: |it| "system-keys/login", Installation;
    CreateAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    GetAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    ListAccountsRequest => Installation: |it| "accounts", Installation;
    UpdateAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    UnlockAccountRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    CreateOtpRequest => AccountName: |it| &it.name, {
        let name = AccountName::parse(&it.name)?;
        login::scheme(it)?;
        name
    };
    ConfirmOtpRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    OpenEnrolmentRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    SubmitEnrolmentRequest => TicketId: |it| "tickets", TicketId(login::exact(&it.ticket, "ticket")?);
    ApproveCredentialRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    RevokeCredentialRequest => AccountName: |it| &it.name, AccountName::parse(&it.name)?;
    ProposeActRequest => AccountName: |it| &it.account, AccountName::parse(&it.account)?;
    ListActsRequest => Installation: |it| "acts", Installation;
    ApproveActRequest => ProposalId: |it| &it.name, login::act_id(&it.name)?;
    CancelActRequest => ProposalId: |it| &it.name, login::act_id(&it.name)?;

    GetCheckpointRequest => Installation: |it| "", Installation;
    GetInclusionProofRequest => RecordNumber: |it| it.sequence.to_string(), RecordNumber(it.sequence);
    GetConsistencyProofRequest => Installation: |it| it.old_size.to_string(), Installation;
    AttestRecordRequest => RecordNumber: |it| it.sequence.to_string(), RecordNumber(it.sequence);
    GetDestructionCertificateRequest => DestroyTarget: |it| &it.name, DestroyTarget::parse(&it.name)?;
    GetPublicKeysRequest => Installation: |it| "", Installation;

    GetErasureKeyRequest => Installation: |it| "", Installation;
    ReplaceErasureKeyRequest => Installation: |it| "", Installation;
    ForgetErasureRootRequest => RootId: |it| format!("erasure-roots/{}", it.id), erasure_root(&it.id)?;
    ListBackupsRequest => Installation: |it| "", Installation;
    RecordDrillRequest => Installation: |it| &it.name, Installation;

    AcceptClockRequest => Installation: |it| "", Installation;
    ReloadRequest => Installation: |it| "", Installation;
    CheckStoreRequest => Installation: |it| "", Installation;
}

fn key_of(message: &CreateKeyRequest) -> String {
    format!("{}/keys/{}", message.parent, message.key_id)
}

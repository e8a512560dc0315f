//! Everything that leaves a record: one table. What a caller asks for has a method of the API, a permission, and a place among
//! the kinds; the rest the daemon does by itself. `softhsm-tests/tests/all/actions.rs` holds the proto, docs/audit-format.md and the words of
//! grants against it.

use super::permission::{self, Permission};

/// What an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Data is read, or searched.
    DataRead,
    /// Data is made or changed.
    DataWrite,
    /// Keys, and what keeps them: tenants, roots, ceremonies, exports, the store.
    KeyAdmin,
    /// Who may do what, and what is known of it: accounts, logins, freezes, the log.
    AccessAdmin,
    /// The daemon does it by itself.
    Own,
}

impl Kind {
    /// Whether it is work on data, which a caller may do for a staff member.
    pub const fn is_data(self) -> bool {
        matches!(self, Self::DataRead | Self::DataWrite)
    }
}

/// What becomes of a call whose caller goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It is given up, and recorded as cancelled.
    GivenUp,
    /// It is worked to its end, and recorded with that.
    Finished,
}

/// An action that a method of the API asks for.
pub trait Method: Send + Sync + 'static {
    /// Which.
    const ACTION: Action;
    /// What becomes of it when its caller goes away.
    const COURSE: Course;
    /// What its caller needs.
    type Permission: Permission;
}

macro_rules! actions {
    (
        called { $($name:ident $word:literal $kind:ident $course:ident $permission:ident $method:literal;)* }
        own { $($own:ident $own_word:literal;)* }
    ) => {
        /// Something that leaves a record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $(#[doc = concat!("`", $word, "`, asked for by ", $method, ".")] $name,)*
            $(#[doc = concat!("`", $own_word, "`, of the daemon's own.")] $own,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)* $(Self::$own,)*];

            /// The word that records have (docs/audit-format.md).
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                    $(Self::$own => $own_word,)*
                }
            }

            /// What it is about.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)*
                    $(Self::$own => Kind::Own,)*
                }
            }

            /// The path of the method that asks for it, which proofs of possession name too.
            pub const fn method(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("/keyward.v1.", $method)),)*
                    $(Self::$own => None,)*
                }
            }
        }

        $(
            #[doc = concat!("`", $word, "`, asked for by ", $method, ".")]
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl Method for $name {
                const ACTION: Action = Action::$name;
                const COURSE: Course = Course::$course;
                type Permission = permission::$permission;
            }
        )*
    };
}

actions! {
    called {
        Encrypt "encrypt" DataWrite GivenUp Encrypt "CryptoService/Encrypt";
        Decrypt "decrypt" DataRead GivenUp Decrypt "CryptoService/Decrypt";
        BatchEncrypt "batch-encrypt" DataWrite GivenUp Encrypt "CryptoService/BatchEncrypt";
        BatchDecrypt "batch-decrypt" DataRead GivenUp Decrypt "CryptoService/BatchDecrypt";
        SessionBegin "session-begin" DataRead GivenUp Decrypt "CryptoService/CryptSession";
        SessionEncrypt "session-encrypt" DataWrite Finished Encrypt "CryptoService/CryptSession";
        SessionDecrypt "session-decrypt" DataRead Finished Decrypt "CryptoService/CryptSession";
        SessionEnd "session-end" DataRead Finished Decrypt "CryptoService/CryptSession";
        ReEncrypt "re-encrypt" DataWrite GivenUp ReEncrypt "CryptoService/ReEncrypt";
        GenerateDataKey "generate-data-key" DataWrite GivenUp GenerateDataKey "CryptoService/GenerateDataKey";
        GenerateDataKeyWithoutPlaintext "generate-data-key-without-plaintext" DataWrite GivenUp GenerateDataKey
            "CryptoService/GenerateDataKeyWithoutPlaintext";
        DecryptDataKey "decrypt-data-key" DataRead GivenUp DecryptDataKey "CryptoService/DecryptDataKey";
        EncryptStream "encrypt-stream" DataWrite Finished Encrypt "CryptoService/EncryptStream";
        EncryptStreamEnd "encrypt-stream-end" DataWrite Finished Encrypt "CryptoService/EncryptStream";
        DecryptStream "decrypt-stream" DataRead Finished Decrypt "CryptoService/DecryptStream";
        DecryptStreamEnd "decrypt-stream-end" DataRead Finished Decrypt "CryptoService/DecryptStream";
        BlindIndex "blind-index" DataRead Finished BlindIndex "CryptoService/ComputeBlindIndex";

        CreateTenant "create-tenant" KeyAdmin Finished ManageTenant "KeyService/CreateTenant";
        GetTenant "get-tenant" KeyAdmin GivenUp ViewTenant "KeyService/GetTenant";
        ListTenants "list-tenants" KeyAdmin GivenUp ListTenants "KeyService/ListTenants";
        UpdateTenant "update-tenant" KeyAdmin Finished ManageTenant "KeyService/UpdateTenant";
        RotateTenant "rotate-tenant" KeyAdmin Finished ManageTenant "KeyService/RotateTenant";
        GetRotation "get-rotation" KeyAdmin GivenUp ViewTenant "KeyService/GetRotation";
        ListKekVersions "list-kek-versions" KeyAdmin GivenUp ViewTenant "KeyService/ListKekVersions";
        CreateKey "create-key" KeyAdmin Finished ManageKey "KeyService/CreateKey";
        GetKey "get-key" KeyAdmin GivenUp ViewKey "KeyService/GetKey";
        ListKeys "list-keys" KeyAdmin GivenUp ViewTenant "KeyService/ListKeys";
        UpdateKey "update-key" KeyAdmin Finished ManageKey "KeyService/UpdateKey";
        RotateKey "rotate-key" KeyAdmin Finished ManageKey "KeyService/RotateKey";
        RotateIndexKey "rotate-index-key" KeyAdmin Finished ManageKey "KeyService/RotateIndexKey";
        CreateKeyVersion "create-key-version" KeyAdmin Finished ManageKey "KeyService/CreateKeyVersion";
        GetKeyVersion "get-key-version" KeyAdmin GivenUp ViewKey "KeyService/GetKeyVersion";
        ListKeyVersions "list-key-versions" KeyAdmin GivenUp ViewKey "KeyService/ListKeyVersions";
        UpdateKeyVersion "update-key-version" KeyAdmin Finished ManageKey "KeyService/UpdateKeyVersion";
        ScheduleDestroy "schedule-destroy" KeyAdmin Finished Destroy "KeyService/ScheduleDestroy";
        CancelDestroy "cancel-destroy" KeyAdmin Finished Destroy "KeyService/CancelDestroy";

        Freeze "freeze" AccessAdmin Finished Freeze "AccessService/Freeze";
        Unfreeze "unfreeze" AccessAdmin Finished Freeze "AccessService/Unfreeze";

        CeremonyPropose "ceremony-propose" KeyAdmin Finished ProposeCeremony "CeremonyService/Propose";
        GetCeremony "get-ceremony" KeyAdmin GivenUp ViewCeremony "CeremonyService/GetCeremony";
        ListCeremonies "list-ceremonies" KeyAdmin GivenUp ListCeremonies "CeremonyService/ListCeremonies";
        CeremonyApprove "ceremony-approve" KeyAdmin Finished ApproveCeremony "CeremonyService/Approve";
        CeremonyCancel "ceremony-cancel" KeyAdmin Finished CancelCeremony "CeremonyService/Cancel";
        WatchCeremony "watch-ceremony" KeyAdmin GivenUp ViewCeremony "CeremonyService/Watch";
        GetRoster "get-roster" KeyAdmin GivenUp ListCeremonies "CeremonyService/GetRoster";
        GetTranscript "get-transcript" KeyAdmin GivenUp ViewCeremony "CeremonyService/GetTranscript";
        GetEscrow "get-escrow" KeyAdmin GivenUp ViewEscrow "CeremonyService/GetEscrow";

        BeginLogin "begin-login" AccessAdmin Finished BeginLogin "LoginService/BeginLogin";
        CompleteLogin "complete-login" AccessAdmin Finished CompleteLogin "LoginService/CompleteLogin";
        IntrospectAssertion "introspect-assertion" AccessAdmin Finished UseAssertions "LoginService/IntrospectAssertion";
        EndAssertion "end-assertion" AccessAdmin Finished UseAssertions "LoginService/EndAssertion";
        GetJwks "get-jwks" AccessAdmin Finished ViewLoginKeys "LoginService/GetJwks";
        CreateAccount "create-account" AccessAdmin Finished ManageAccount "LoginService/CreateAccount";
        GetAccount "get-account" AccessAdmin Finished ManageAccount "LoginService/GetAccount";
        ListAccounts "list-accounts" AccessAdmin Finished ListAccounts "LoginService/ListAccounts";
        UpdateAccount "update-account" AccessAdmin Finished ManageAccount "LoginService/UpdateAccount";
        UnlockAccount "unlock-account" AccessAdmin Finished ManageAccount "LoginService/UnlockAccount";
        CreateOtp "create-otp" AccessAdmin Finished ManageAccount "LoginService/CreateOtp";
        ConfirmOtp "confirm-otp" AccessAdmin Finished ManageAccount "LoginService/ConfirmOtp";
        OpenEnrolment "open-enrolment" AccessAdmin Finished ManageAccount "LoginService/OpenEnrolment";
        SubmitEnrolment "submit-enrolment" AccessAdmin Finished SubmitEnrolment "LoginService/SubmitEnrolment";
        ApproveCredential "approve-credential" AccessAdmin Finished ManageAccount "LoginService/ApproveCredential";
        RevokeCredential "revoke-credential" AccessAdmin Finished ManageAccount "LoginService/RevokeCredential";
        ProposeAct "propose-act" AccessAdmin Finished ManageAccount "LoginService/ProposeAct";
        ListActs "list-acts" AccessAdmin Finished ListActs "LoginService/ListActs";
        ApproveAct "approve-act" AccessAdmin Finished ApproveAct "LoginService/ApproveAct";
        CancelAct "cancel-act" AccessAdmin Finished CancelAct "LoginService/CancelAct";

        GetCheckpoint "get-checkpoint" AccessAdmin GivenUp ViewCheckpoints "AuditService/GetCheckpoint";
        GetInclusionProof "get-inclusion-proof" AccessAdmin GivenUp ViewRecord "AuditService/GetInclusionProof";
        GetConsistencyProof "get-consistency-proof" AccessAdmin GivenUp ViewCheckpoints
            "AuditService/GetConsistencyProof";
        AttestRecord "attest-record" AccessAdmin GivenUp ViewRecord "AuditService/AttestRecord";
        GetDestructionCertificate "get-destruction-certificate" AccessAdmin GivenUp ViewCertificate
            "AuditService/GetDestructionCertificate";
        GetAuditKeys "get-audit-keys" AccessAdmin GivenUp ViewCheckpoints "AuditService/GetPublicKeys";

        GetErasureKey "get-erasure-key" KeyAdmin GivenUp ManageErasure "BackupService/GetErasureKey";
        ReplaceErasureKey "replace-erasure-key" KeyAdmin Finished ManageErasure "BackupService/ReplaceErasureKey";
        ForgetErasureRoot "forget-erasure-root" KeyAdmin Finished ForgetErasureRoot "BackupService/ForgetErasureRoot";
        CreateBackup "create-backup" KeyAdmin Finished ManageBackups "BackupService/CreateBackup";
        CreateBackupEnd "create-backup-end" KeyAdmin Finished ManageBackups "BackupService/CreateBackup";
        ListBackups "list-backups" KeyAdmin GivenUp ManageBackups "BackupService/ListBackups";
        BackupDrill "backup-drill" KeyAdmin GivenUp RecordDrill "BackupService/RecordDrill";

        ClockAccept "clock-accept" AccessAdmin Finished ManageDaemon "SystemService/AcceptClock";
        Reload "reload" AccessAdmin Finished Reload "SystemService/Reload";
        CheckStore "check-store" KeyAdmin GivenUp ManageStore "SystemService/CheckStore";
        ExportStore "export-store" KeyAdmin Finished ManageStore "SystemService/ExportStore";
        ExportStoreEnd "export-store-end" KeyAdmin Finished ManageStore "SystemService/ExportStore";
    }
    own {
        Init "init";
        Start "start";
        Stop "stop";
        Configuration "configuration";
        StoreOpened "store-opened";
        StoreRecovered "store-recovered";
        StoreImport "store-import";
        StoreRepair "store-repair";
        StoreRollbackAccepted "store-rollback-accepted";
        StoreRowRestored "store-row-restored";
        JournalRebuilt "journal-rebuilt";
        ChangeRecovered "change-recovered";
        Lease "lease";
        HsmState "hsm-state";
        ClockMark "clock-mark";
        ClockState "clock-state";
        RotateTenantProgress "rotate-tenant-progress";
        RotateTenantEnd "rotate-tenant-end";
        RotateTenantDue "rotate-tenant-due";
        RotateKeyDue "rotate-key-due";
        ActivateKeyVersion "activate-key-version";
        ReserveKekUses "reserve-kek-uses";
        ReserveKeyUses "reserve-key-uses";
        DestroyBegin "destroy-begin";
        Destroy "destroy";
        KeepOldKek "keep-old-kek";
        AgendaCleared "agenda-cleared";
        AgendaCounted "agenda-counted";
        MinVersion "min-version";
        MakeAdministrator "make-administrator";
        CeremonyProgress "ceremony-progress";
        CeremonyEnd "ceremony-end";
        CeremonyExpired "ceremony-expired";
        CeremonyTranscript "ceremony-transcript";
        DestructionCertificate "destruction-certificate";
        RootEscrow "root-escrow";
        RootAbandoned "root-abandoned";
        RootInForce "root-in-force";
        RootDestroyed "root-destroyed";
        RootRestore "root-restore";
        KekEscrow "kek-escrow";
        KekAbandoned "kek-abandoned";
        KekObjectDestroyed "kek-object-destroyed";
        KekEscrowBuried "kek-escrow-buried";
        CreateSystemKey "create-system-key";
        ErasureKeyBirth "erasure-key-birth";
        ErasureKeyNew "erasure-key-new";
        ErasureKeyReseal "erasure-key-reseal";
        ErasureKeyCurrent "erasure-key-current";
        ErasureKeyDestroyed "erasure-key-destroyed";
        ErasureKeyAbandoned "erasure-key-abandoned";
        ErasureRootForget "erasure-root-forget";
        ErasureRootForgotten "erasure-root-forgotten";
        BackupRecorded "backup-recorded";
        BackupHolds "backup-holds";
        BackupRestore "backup-restore";
        LoginFailure "login-failure";
        RefusedCall "refused-call";
        UnknownCallers "unknown-callers";
        AmbiguousCallers "ambiguous-callers";
        ConnectionsRefused "connections-refused";
        Refusals "refusals";
        AuditStopped "audit-stopped";
        AuditResumed "audit-resumed";
    }
}

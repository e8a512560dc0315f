//! The bytes of what names a record.

use super::PathId;
use crate::clock::{Date, Day};
use crate::id::{
    AccountId, AssertionId, CeremonyId, DekId, Epoch, ErasureGeneration, ExportId, FieldId, IndexVersion,
    KekVersion, KeyId, KeyName, PrincipalId, ProposalId, RootGeneration, RosterVersion, RotationName,
    SigningGeneration, TenantId, TicketId, VersionName,
};
use crate::keyring::agenda::Task;
use crate::keyring::credential::CredentialId;
use crate::keyring::record::SigningPurpose;

macro_rules! identifier_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_str().as_bytes());
                out.push(0);
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let (text, tail) = rest.split_at(end);
                *rest = tail.get(1..)?;
                Self::new(std::str::from_utf8(text).ok()?).ok()
            }
        })*
    };
}
identifier_path!(AccountId TenantId KeyId FieldId PrincipalId);

macro_rules! number_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.get().to_be_bytes());
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (number, tail) = rest.split_first_chunk()?;
                *rest = tail;
                Self::new(u32::from_be_bytes(*number))
            }
        })*
    };
}
number_path!(Epoch ErasureGeneration KekVersion RootGeneration IndexVersion RosterVersion SigningGeneration);

impl PathId for SigningPurpose {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        Self::ALL.into_iter().find(|purpose| *purpose as u8 == *byte)
    }
}

macro_rules! random_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (id, tail) = rest.split_first_chunk()?;
                *rest = tail;
                Some(Self(*id))
            }
        })*
    };
}
random_path!(AssertionId CeremonyId CredentialId DekId ExportId ProposalId TicketId);

impl PathId for Day {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (number, tail) = rest.split_first_chunk()?;
        *rest = tail;
        Some(Self(u32::from_be_bytes(*number)))
    }
}

impl PathId for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

macro_rules! struct_path {
    ($type:ty { $($field:ident),* }) => {
        impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: PathId::take(rest)?),* })
            }
        }
    };
}
struct_path!(KeyName { tenant, key });
struct_path!(VersionName { key, epoch });
struct_path!(RotationName { tenant, to });

macro_rules! tuple_path {
    ($($name:ident),*) => {
        impl<$($name: PathId),*> PathId for ($($name,)*) {
            #[allow(non_snake_case, reason = "the type parameters name the fields")]
            fn put(&self, out: &mut Vec<u8>) {
                let ($($name,)*) = self;
                $($name.put(out);)*
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                Some(($($name::take(rest)?,)*))
            }
        }
    };
}
tuple_path!(A, B);
tuple_path!(A, B, C);

impl PathId for Date {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.millis().to_be_bytes());
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (millis, tail) = rest.split_first_chunk()?;
        *rest = tail;
        Some(Self(u64::from_be_bytes(*millis)))
    }
}

/// A byte for the kind, and the path of what it is about.
impl PathId for Task {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::RotateKey(_) => 1,
            Self::RotateTenant(_) => 2,
            Self::Activate(_) => 3,
            Self::DestroyVersion(_) => 4,
            Self::DestroyKey(_) => 5,
            Self::DestroyTenant(_) => 6,
            Self::DestroyKek(..) => 7,
        });
        match self {
            Self::RotateKey(key) | Self::DestroyKey(key) => key.put(out),
            Self::RotateTenant(tenant) | Self::DestroyTenant(tenant) => tenant.put(out),
            Self::Activate(version) | Self::DestroyVersion(version) => version.put(out),
            Self::DestroyKek(tenant, version) => {
                tenant.put(out);
                version.put(out);
            }
        }
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (kind, tail) = rest.split_first()?;
        *rest = tail;
        match kind {
            1 => Some(Self::RotateKey(PathId::take(rest)?)),
            2 => Some(Self::RotateTenant(PathId::take(rest)?)),
            3 => Some(Self::Activate(PathId::take(rest)?)),
            4 => Some(Self::DestroyVersion(PathId::take(rest)?)),
            5 => Some(Self::DestroyKey(PathId::take(rest)?)),
            6 => Some(Self::DestroyTenant(PathId::take(rest)?)),
            7 => Some(Self::DestroyKek(PathId::take(rest)?, PathId::take(rest)?)),
            _ => None,
        }
    }
}

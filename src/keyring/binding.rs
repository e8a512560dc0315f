//! What a sealed key is bound to: the AAD of its GCM encryption under a KEK.
//!
//! ```text
//! "keyward/1/sealed" | u8 purpose | deployment (16) | lp32(tenant) | u32 KEK version | rest
//!   purpose 1, DEK:       lp32(key) | u32 epoch | DEK id (16) | u8 suite family
//!   purpose 2, index key: lp32(key) | lp32(field) | u32 index version
//!   purpose 3, daemon secret: nothing; tenant is empty and the KEK version 0
//!   purpose 4, erasure secret: u32 generation; tenant is empty and the KEK version 0
//!   purpose 5, export key: SHA-256 of the export's header; tenant is empty and the KEK version 0
//! ```
//! Numbers are big-endian; lp32 is a u32 length before the bytes.

use super::record::SuiteFamily;
use crate::id::{DekId, DeploymentId, Epoch, ErasureGeneration, FieldId, IndexVersion, KekVersion, KeyName};

const DOMAIN: &[u8] = b"keyward/1/sealed";

/// The AAD of a DEK sealed under version `kek` of its tenant's KEK.
pub fn dek(
    deployment: DeploymentId,
    name: &KeyName,
    kek: KekVersion,
    epoch: Epoch,
    id: DekId,
    family: SuiteFamily,
) -> Vec<u8> {
    let mut aad = begin(1, deployment, name.tenant.as_str(), kek.get());
    lp32(&mut aad, name.key.as_str());
    aad.extend_from_slice(&epoch.get().to_be_bytes());
    aad.extend_from_slice(&id.0);
    aad.push(match family {
        SuiteFamily::AesSha2 => 1,
    });
    aad
}

/// The AAD of a blind index key sealed under version `kek` of its tenant's KEK.
pub fn index_key(
    deployment: DeploymentId,
    name: &KeyName,
    kek: KekVersion,
    field: &FieldId,
    version: IndexVersion,
) -> Vec<u8> {
    let mut aad = begin(2, deployment, name.tenant.as_str(), kek.get());
    lp32(&mut aad, name.key.as_str());
    lp32(&mut aad, field.as_str());
    aad.extend_from_slice(&version.get().to_be_bytes());
    aad
}

/// The AAD of the daemon's own secret.
pub fn system_secret(deployment: DeploymentId) -> Vec<u8> {
    begin(3, deployment, "", 0)
}

/// The AAD of the secret of one generation of the erasure key.
pub fn erasure_secret(deployment: DeploymentId, generation: ErasureGeneration) -> Vec<u8> {
    let mut aad = begin(4, deployment, "", 0);
    aad.extend_from_slice(&generation.get().to_be_bytes());
    aad
}

/// The AAD of the key of a recovery export, whose header has this hash.
pub fn export_key(deployment: DeploymentId, header: &[u8; 32]) -> Vec<u8> {
    let mut aad = begin(5, deployment, "", 0);
    aad.extend_from_slice(header);
    aad
}

fn begin(purpose: u8, deployment: DeploymentId, tenant: &str, kek: u32) -> Vec<u8> {
    let mut aad = Vec::with_capacity(128);
    aad.extend_from_slice(DOMAIN);
    aad.push(purpose);
    aad.extend_from_slice(&deployment.0);
    lp32(&mut aad, tenant);
    aad.extend_from_slice(&kek.to_be_bytes());
    aad
}

/// Identifiers have at most 63 bytes, so the length always fits.
fn lp32(aad: &mut Vec<u8>, text: &str) {
    aad.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    aad.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_is_bound() {
        let name = |text| KeyName::parse(text).unwrap();
        let (a, b) = (name("tenants/a/keys/b"), name("tenants/ab/keys/c"));
        let one = DeploymentId([1; 16]);
        let kek = KekVersion::FIRST;
        let next = kek.next().unwrap();
        let family = SuiteFamily::AesSha2;
        let field = |text| FieldId::new(text).unwrap();
        let all = [
            dek(one, &a, kek, Epoch::FIRST, DekId([0; 16]), family),
            dek(DeploymentId([2; 16]), &a, kek, Epoch::FIRST, DekId([0; 16]), family),
            dek(one, &b, kek, Epoch::FIRST, DekId([0; 16]), family),
            dek(one, &a, next, Epoch::FIRST, DekId([0; 16]), family),
            dek(one, &a, kek, Epoch::FIRST.next().unwrap(), DekId([0; 16]), family),
            dek(one, &a, kek, Epoch::FIRST, DekId([1; 16]), family),
            index_key(one, &a, kek, &field("phone"), IndexVersion::FIRST),
            index_key(one, &a, kek, &field("phone"), IndexVersion::FIRST.next().unwrap()),
            index_key(one, &a, kek, &field("card"), IndexVersion::FIRST),
            system_secret(one),
            erasure_secret(one, ErasureGeneration::FIRST),
            erasure_secret(one, ErasureGeneration::FIRST.next().unwrap()),
            export_key(one, &[0; 32]),
            export_key(one, &[1; 32]),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}

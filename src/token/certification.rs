//! Certificates of tokens by a company's own authority: an X.509 path (RFC 5280) to a configured root, by
//! `rustls-webpki`, with certificate revocation lists. What is not known to be good is refused: a list that
//! is missing or out of date is no excuse.

use std::cmp::Reverse;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy,
    ExtendedKeyUsageValidator, KeyPurposeIdIter, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert, aws_lc_rs as algorithms,
};
use x509_cert::Certificate;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::KeyUsage;

use crate::clock::Date;
pub use crate::token::pem::NoList;
use crate::token::{pem, printable};

/// Most certificates, and most bytes of each, that are looked at.
const MOST: (usize, usize) = (8, 8192);

/// RSA from 2048 bits, P-256, P-384, Ed25519; SHA-1 is not among them.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// RFC 5280, section 4.2.1.12: `id-kp-clientAuth`.
const CLIENT_AUTH: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];
/// Microsoft's smart card logon.
const SMART_CARD_LOGON: [usize; 10] = [1, 3, 6, 1, 4, 1, 311, 20, 2, 2];

/// The company's authority, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    roots: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
}

/// What a certificate says that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Whom it names, for people.
    pub subject: String,
    /// When it ends.
    pub expires: Date,
    /// SHA-256 of the root's certificate.
    pub root: [u8; 32],
}

/// Why a certificate does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificationError {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// It is of another key.
    #[error("the certificate is of another key")]
    OtherKey,
    /// It is not for signing, or not for logging in.
    #[error(
        "the certificate is not for logging in: it needs the key usage digitalSignature, and clientAuth or smart card logon where it has extended key usages"
    )]
    Usage,
    /// It has expired.
    #[error("the certificate has expired, or one above it")]
    Expired,
    /// It is not valid yet.
    #[error("the certificate is not valid yet, or one above it")]
    Early,
    /// It was revoked.
    #[error("the certificate was revoked, or one above it")]
    Revoked,
    /// Nobody knows whether it was revoked.
    #[error(
        "nobody says that the certificate was not revoked: the revocation list of its issuer is missing, out of date, or not by it"
    )]
    Unknown,
    /// It leads to no root.
    #[error("the certificate leads to no root of the company ({0})")]
    Chain(String),
    /// What is configured cannot be used.
    #[error("the company's authority: {0}")]
    Authority(String),
}

impl Authority {
    /// Adds the roots of a file in PEM.
    ///
    /// # Errors
    /// What is wrong with the file; then nothing was added.
    pub fn add_roots(&mut self, file: &[u8]) -> Result<(), String> {
        self.roots.extend(pem::roots(file)?);
        Ok(())
    }

    /// Adds the revocation lists of a file in PEM, or the one in DER. Of several of one authority the newest decides.
    ///
    /// # Errors
    /// [`NoList`]; then nothing was added.
    pub fn add_lists(&mut self, file: &[u8]) -> Result<(), NoList> {
        self.lists.extend(pem::lists(file)?);
        // The first that is its issuer's decides.
        self.lists.sort_by_key(|list| Reverse(pem::issued(list)));
        Ok(())
    }

    /// Verifies the certificate of `spki` at `now`: first that of the key, then those above it; all in DER.
    ///
    /// # Errors
    /// [`CertificationError`].
    pub fn verify(&self, chain: &[Vec<u8>], spki: &[u8], now: Date) -> Result<Certified, CertificationError> {
        let small = chain.len() <= MOST.0 && chain.iter().all(|certificate| certificate.len() <= MOST.1);
        let (Some((own, above)), true) = (chain.split_first(), small) else {
            return Err(CertificationError::Malformed);
        };
        let certificate = Certificate::from_der(own).map_err(|_| CertificationError::Malformed)?;
        let certified = certificate.tbs_certificate().subject_public_key_info().to_der();
        if certified.ok().as_deref() != Some(spki) {
            return Err(CertificationError::OtherKey);
        }
        if !signs(&certificate) {
            return Err(CertificationError::Usage);
        }
        let root = self.path(own, above, now)?;
        let subject = printable::quote(&certificate.tbs_certificate().subject().to_string());
        let expires = certificate.tbs_certificate().validity().not_after.to_unix_duration();
        let expires = Date(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
        Ok(Certified { subject, expires, root })
    }

    /// The root that a path leads to.
    fn path(&self, own: &[u8], above: &[Vec<u8>], now: Date) -> Result<[u8; 32], CertificationError> {
        let authority = |error: &dyn std::fmt::Display| CertificationError::Authority(error.to_string());
        let roots: Vec<CertificateDer<'_>> =
            self.roots.iter().map(|root| CertificateDer::from(&root[..])).collect();
        let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|error| authority(&error))?;
        let lists = self
            .lists
            .iter()
            .map(|list| BorrowedCertRevocationList::from_der(list).map(CertRevocationList::from));
        let lists = lists.collect::<Result<Vec<_>, _>>().map_err(|error| authority(&error))?;
        let lists: Vec<_> = lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists)
            .map_err(|_| CertificationError::Unknown)?
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        let own = CertificateDer::from(own);
        let own = EndEntityCert::try_from(&own).map_err(|_| CertificationError::Malformed)?;
        let above: Vec<_> = above.iter().map(|certificate| CertificateDer::from(&certificate[..])).collect();
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now.millis()));
        let path = own.verify_for_usage(ALGORITHMS, &anchors, &above, time, LogsIn, Some(revocation), None);
        let path = path.map_err(|error| reason(&error))?;
        let found = anchors.iter().position(|anchor| {
            anchor.subject == path.anchor().subject
                && anchor.subject_public_key_info == path.anchor().subject_public_key_info
        });
        let root = found.and_then(|at| self.roots.get(at));
        root.map(|root| Sha256::digest(root).into()).ok_or_else(|| authority(&"a root without a place"))
    }
}

/// Key usage is not looked at by path validation: digitalSignature must stand in it, where there is one.
fn signs(certificate: &Certificate) -> bool {
    let extensions = certificate.tbs_certificate().extensions();
    let usage = extensions.and_then(|all| all.iter().find(|extension| extension.extn_id == KeyUsage::OID));
    usage.is_none_or(|usage| {
        KeyUsage::from_der(usage.extn_value.as_bytes()).is_ok_and(|usage| usage.digital_signature())
    })
}

/// A certificate for logging in, where it says what it is for.
struct LogsIn;

impl ExtendedKeyUsageValidator for LogsIn {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut says_nothing = true;
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            if purpose == CLIENT_AUTH || purpose == SMART_CARD_LOGON {
                return Ok(());
            }
            says_nothing = false;
        }
        match says_nothing {
            true => Ok(()),
            false => Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
                required: webpki::KeyUsage::client_auth(),
                present: Vec::new(),
            })),
        }
    }
}

fn reason(error: &webpki::Error) -> CertificationError {
    use webpki::Error as Path;
    match error {
        Path::CertExpired { .. } => CertificationError::Expired,
        Path::CertNotValidYet { .. } => CertificationError::Early,
        Path::CertRevoked => CertificationError::Revoked,
        Path::UnknownRevocationStatus
        | Path::CrlExpired { .. }
        | Path::InvalidCrlSignatureForPublicKey
        | Path::IssuerNotCrlSigner => CertificationError::Unknown,
        Path::RequiredEkuNotFoundContext(_) => CertificationError::Usage,
        Path::BadDer => CertificationError::Malformed,
        other => CertificationError::Chain(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_panics(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4), list: Vec<u8>) {
            let mut authority = Authority::default();
            prop_assert!(authority.add_lists(&list).is_err() && authority.add_roots(&list).is_err());
            prop_assert!(authority.verify(&chain, &[], Date::now()).is_err());
        }
    }
}

//! Certificates and revocation lists from files as people have them: bundles, with text and other objects around.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{BorrowedCertRevocationList, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

const BEGIN: &[u8] = b"-----BEGIN ";
/// An editor's mark, which hides the first line from whoever reads PEM.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// All certificates of a PEM file.
///
/// # Errors
/// What is wrong with it, and how to mend that.
pub(super) fn certificates(file: &[u8]) -> Result<Vec<Certificate>, String> {
    let found = objects::<CertificateDer<'_>>(file)?;
    let read = |der: &CertificateDer<'_>| Certificate::from_der(der).map_err(|error| error.to_string());
    match found.is_empty() {
        false => found.iter().map(read).collect(),
        true if Certificate::from_der(file).is_ok() => {
            Err("it is DER, and must be PEM: openssl x509 -inform DER -in FILE -out FILE.pem".to_owned())
        }
        true => Err("it has no certificate (-----BEGIN CERTIFICATE-----)".to_owned()),
    }
}

/// The DER of all certificates of a PEM file, each of which can be a root.
///
/// # Errors
/// As [`certificates`].
pub(super) fn roots(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    // What is wrong with the file as a whole is said first.
    certificates(file)?;
    let root = |der: CertificateDer<'_>| {
        anchor_from_trusted_cert(&der).map_err(|error| format!("it cannot be a root: {error}"))?;
        Ok(der.to_vec())
    };
    objects::<CertificateDer<'_>>(file)?.into_iter().map(root).collect()
}

/// Why a file gives no revocation lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoList {
    /// It has none.
    #[error("{0}")]
    Unreadable(String),
    /// It has one that means something which is not understood here.
    #[error("it has a revocation list that is not understood here: {0}")]
    Unsupported(String),
}

/// The DER of all revocation lists of a file in PEM, or of the one in DER.
///
/// # Errors
/// [`NoList`]: what is wrong with it, and how to mend that.
pub(super) fn lists(file: &[u8]) -> Result<Vec<Vec<u8>>, NoList> {
    let is_pem = file.windows(BEGIN.len()).any(|bytes| bytes == BEGIN);
    let found: Vec<Vec<u8>> = match is_pem {
        true => {
            let found = objects::<CertificateRevocationListDer<'_>>(file).map_err(NoList::Unreadable)?;
            found.iter().map(|list| list.to_vec()).collect()
        }
        false => vec![file.to_vec()],
    };
    if found.is_empty() {
        return Err(NoList::Unreadable("it has no revocation list (-----BEGIN X509 CRL-----)".to_owned()));
    }
    for list in &found {
        BorrowedCertRevocationList::from_der(list).map_err(|error| no_list(list, &error))?;
    }
    Ok(found)
}

fn no_list(list: &[u8], error: &webpki::Error) -> NoList {
    match issued(list) {
        Some(_) => NoList::Unsupported(error.to_string()),
        None => NoList::Unreadable(format!(
            "it is no revocation list that can be read: {error}; one of version 1 says neither whose it is nor until when: \
             have the authority make it of version 2"
        )),
    }
}

/// When a list was made; `None` for what is no list of version 2.
pub(super) fn issued(list: &[u8]) -> Option<Duration> {
    let list = CertificateList::<Rfc5280>::from_der(list).ok()?;
    Some(list.tbs_cert_list.this_update.to_unix_duration())
}

fn objects<T: PemObject>(file: &[u8]) -> Result<Vec<T>, String> {
    let file = file.strip_prefix(MARK).unwrap_or(file);
    T::pem_slice_iter(file).collect::<Result<_, _>>().map_err(|error| format!("its PEM is broken: {error:?}"))
}

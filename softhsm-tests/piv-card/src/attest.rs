//! Attestation: certificates as a YubiKey makes them, under a root of the tests.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rand_core::OsRng;
use rsa::pkcs8::EncodePublicKey;
use rsa::{BigUint, RsaPublicKey};
use x509_cert::Certificate;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::der::asn1::{BitString, GeneralizedTime, ObjectIdentifier};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{self, Any, Decode, DecodePem, Encode, EncodePem, Length, Writer};
use x509_cert::ext::{AsExtension, Extension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::apdu::find;
use crate::state::Key;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROOT: &str = "CN=Keyward Test PIV Root CA";
const DEVICE: &str = "CN=Yubico PIV Attestation";
/// Seconds since 1970 of 2016-03-14 and of 2052-04-17, between which such certificates are valid.
const VALID: [u64; 2] = [1_457_913_600, 2_597_529_600];

/// The key in slot f9, and its certificate.
pub struct Attester {
    key: SigningKey,
    /// In DER.
    pub certificate: Vec<u8>,
}

impl Attester {
    /// The key of a card, made at its first start and certified by the root, which is made too when
    /// it is missing.
    pub fn open(folder: &Path, authority: &Path) -> Result<Self> {
        let (key_file, certificate_file) = (folder.join("f9.key"), folder.join("f9.pem"));
        if !certificate_file.exists() {
            let root = root(authority)?;
            let key = make_key(&key_file)?;
            let issuer = Name::from_str(ROOT)?;
            let profile = Profile::SubCA { issuer, path_len_constraint: Some(0) };
            let spki = SubjectPublicKeyInfoOwned::from_key(*key.verifying_key())?;
            let made = certificate(profile, DEVICE, spki, &root, &[])?;
            fs::write(&certificate_file, made.to_pem(LineEnding::LF)?)?;
        }
        let certificate = Certificate::from_pem(fs::read(certificate_file)?)?.to_der()?;
        Ok(Self { key: read_key(&key_file)?, certificate })
    }

    /// The certificate of a key that was made in a slot.
    pub fn attest(&self, slot: u8, key: &Key, firmware: [u8; 3], serial: u32) -> Result<Vec<u8>> {
        let subject = format!("CN=YubiKey PIV Attestation {slot:02x}");
        let profile = Profile::Manual { issuer: Some(Name::from_str(DEVICE)?) };
        let serial = der::asn1::Uint::new(&serial.to_be_bytes())?.to_der()?;
        let extensions = [
            Extra(3, firmware.to_vec()),
            Extra(7, serial),
            Extra(8, vec![key.pin, key.touch]),
            // USB-A keychain.
            Extra(9, vec![1]),
        ];
        Ok(certificate(profile, &subject, spki(key)?, &self.key, &extensions)?.to_der()?)
    }
}

fn root(folder: &Path) -> Result<SigningKey> {
    let (key_file, certificate_file) = (folder.join("root.key"), folder.join("root.pem"));
    if certificate_file.exists() {
        return read_key(&key_file);
    }
    fs::create_dir_all(folder)?;
    let key = make_key(&key_file)?;
    let spki = SubjectPublicKeyInfoOwned::from_key(*key.verifying_key())?;
    let made = certificate(Profile::Root, ROOT, spki, &key, &[])?;
    fs::write(certificate_file, made.to_pem(LineEnding::LF)?)?;
    Ok(key)
}

fn make_key(file: &Path) -> Result<SigningKey> {
    let key = SigningKey::random(&mut OsRng);
    fs::write(file, key.to_pkcs8_pem(LineEnding::LF)?)?;
    Ok(key)
}

fn read_key(file: &Path) -> Result<SigningKey> {
    Ok(SigningKey::from_pkcs8_pem(&fs::read_to_string(file)?)?)
}

fn certificate(
    profile: Profile,
    subject: &str,
    spki: SubjectPublicKeyInfoOwned,
    issuer: &SigningKey,
    extensions: &[Extra],
) -> Result<Certificate> {
    let time = |seconds| GeneralizedTime::from_unix_duration(Duration::from_secs(seconds));
    let [not_before, not_after] = VALID.map(|seconds| time(seconds).map(Time::GeneralTime));
    let validity = Validity { not_before: not_before?, not_after: not_after? };
    let mut number = [0; 16];
    rand_core::RngCore::fill_bytes(&mut OsRng, &mut number);
    // Positive, and no byte too many.
    number[0] = number[0] & 0x7f | 0x40;
    let (serial, subject) = (SerialNumber::new(&number)?, Name::from_str(subject)?);
    let mut builder = CertificateBuilder::new(profile, serial, validity, subject, spki, issuer)?;
    for extension in extensions {
        builder.add_extension(extension)?;
    }
    Ok(builder.build::<DerSignature>()?)
}

/// The public key of a slot.
fn spki(key: &Key) -> Result<SubjectPublicKeyInfoOwned> {
    let objects = hex::decode(&key.public)?;
    let part = |tag| find(&objects, tag).ok_or("a public key without a part");
    let curve = |oid: &str| -> Result<SubjectPublicKeyInfoOwned> {
        let algorithm = AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new_unwrap("1.2.840.10045.2.1"),
            parameters: Some(Any::encode_from(&ObjectIdentifier::new(oid)?)?),
        };
        Ok(SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(part(0x86)?)? })
    };
    match key.algorithm {
        0x11 => curve("1.2.840.10045.3.1.7"),
        0x14 => curve("1.3.132.0.34"),
        _ => {
            let number = |tag| part(tag).map(BigUint::from_bytes_be);
            let key = RsaPublicKey::new(number(0x81)?, number(0x82)?)?;
            Ok(SubjectPublicKeyInfoOwned::from_der(key.to_public_key_der()?.as_bytes())?)
        }
    }
}

/// An extension of Yubico's, 1.3.6.1.4.1.41482.3.x, whose value is not always DER.
struct Extra(u8, Vec<u8>);

impl AssociatedOid for Extra {
    const OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3");
}

impl Encode for Extra {
    fn encoded_len(&self) -> der::Result<Length> {
        Length::try_from(self.1.len())
    }

    fn encode(&self, writer: &mut impl Writer) -> der::Result<()> {
        writer.write(&self.1)
    }
}

impl AsExtension for Extra {
    fn critical(&self, _: &Name, _: &[Extension]) -> bool {
        false
    }

    fn to_extension(&self, _: &Name, _: &[Extension]) -> std::result::Result<Extension, der::Error> {
        let extn_id = Self::OID.push_arc(self.0.into())?;
        Ok(Extension { extn_id, critical: false, extn_value: der::asn1::OctetString::new(&*self.1)? })
    }
}

//! Which mechanism, if any, wraps signing keys as RFC 5649 says. The number
//! 0x210A means that on some modules and something else on others.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType};
use cryptoki_sys::CK_MECHANISM_TYPE;

use super::{Bench, Finding, ID, PADDED, Problem, must};
use crate::hsm::pkcs11::error::words;
use crate::hsm::pkcs11::primitive::{self, Pair, Usage};
use crate::keyring::signing::{PublicKey, Signature};

/// Bytes of an AES-256 key wrapped as RFC 5649 says; PKCS#7 padding would make it 48.
const WRAPPED_AES: usize = 40;

fn missing(what: &'static str) -> impl Fn(Error) -> Problem {
    move |error| Problem::Missing(format!("{what}: {}", words(&error)))
}

/// `right`, or the module is used without signing keys.
fn or_without(right: bool, detail: &str) -> Finding {
    if right { Ok(()) } else { Err(Problem::Missing(detail.to_owned())) }
}

fn pair(bench: &Bench, extractable: bool) -> Result<Pair, Problem> {
    let pair =
        primitive::generate_pair(bench.session, extractable).map_err(missing("making a P-256 pair"))?;
    bench.made.borrow_mut().extend([pair.public, pair.private]);
    Ok(pair)
}

/// That no mechanism lets out what it must not.
pub(super) fn cannot_be_wrapped(bench: &Bench) -> Finding {
    let (wrapping, pair) = (bench.key(Usage::Wrap, false)?, pair(bench, false)?);
    let raw = bench.module.raw();
    let wrapped = PADDED
        .iter()
        .any(|(_, mechanism)| raw.wrap(bench.session, *mechanism, wrapping, pair.private).is_ok());
    must(!wrapped, "it was wrapped")
}

/// Wraps and unwraps a signing key, which must then sign, and tries to unwrap it damaged.
pub(super) fn wraps(bench: &Bench, mechanism: CK_MECHANISM_TYPE) -> Finding {
    let raw = bench.module.raw();
    let wrapping = bench.key(Usage::Wrap, false)?;
    let aes = bench.key(Usage::Cipher, true)?;
    let length = raw.wrap(bench.session, mechanism, wrapping, aes).map_err(missing("wrapping"))?.len();
    or_without(
        length == WRAPPED_AES,
        &format!("it is not RFC 5649: a wrapped AES-256 key has {length} bytes"),
    )?;

    let pair = pair(bench, true)?;
    let mut wrapped =
        raw.wrap(bench.session, mechanism, wrapping, pair.private).map_err(missing("wrapping a pair"))?;
    let unwrap = |wrapped: &[u8]| {
        let template = primitive::private_key(ID);
        bench.keep(raw.unwrap(bench.session, mechanism, wrapping, wrapped, &template))
    };
    let private = unwrap(&wrapped).map_err(missing("unwrapping a pair"))?;
    must(primitive::protected(bench.session, private, ID)?, "the template of C_UnwrapKey is ignored")?;
    let digest = [7; 32];
    let signed =
        bench.session.sign(&Mechanism::Ecdsa, private, &digest).map_err(missing("signing with CKM_ECDSA"))?;
    or_without(verifies(bench, &pair, &digest, &signed)?, "a signature does not verify")?;
    wrapped[20] ^= 1;
    or_without(unwrap(&wrapped).is_err(), "a damaged key was unwrapped")
}

fn verifies(bench: &Bench, pair: &Pair, digest: &[u8; 32], signed: &[u8]) -> Result<bool, Problem> {
    let shown = bench.session.get_attributes(pair.public, &[AttributeType::EcPoint])?;
    let [Attribute::EcPoint(point)] = shown.as_slice() else { return Ok(false) };
    let (public, signature) = (PublicKey::from_ec_point(point), Signature::from_raw(signed));
    Ok(public.zip(signature).is_some_and(|(public, signature)| public.verifies(digest, &signature)))
}

//! Acting for a staff member: their assertion, and proofs by the session's key, go with each call.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{GrpcMethod, Request, Status};

use super::error::{Code, Error};
use crate::keyring::signing::{PublicKey, Signature};
use crate::ops::login::proof::{self, Subject};
use crate::rpc::staff::{ASSERTION, CLIENT, PROOF};

/// The P-256 key of one login session: it is named when a staff member logs in, and proves afterwards
/// that calls come from the session that logged in. It is never stored and never leaves this process.
pub struct SessionKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl SessionKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`Error`] when the operating system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        let failed = || Error::local(Code::Internal, "SESSION_KEY", "no session key could be made");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| failed())?;
        let public = PublicKey::from_point(pair.public_key().as_ref()).ok_or_else(failed)?;
        Ok(Self { pair, public })
    }

    /// What `CompleteLogin` takes as `session_public_key`: SubjectPublicKeyInfo in DER (RFC 5480), 91 bytes.
    pub fn public_key(&self) -> Vec<u8> {
        self.public.spki()
    }

    /// A DPoP proof (RFC 9449) for one call of `method` (`/keyward.v1.CryptoService/Decrypt`) with `assertion`.
    ///
    /// # Errors
    /// [`Error`] when the operating system has no randomness.
    pub fn proof(&self, method: &str, assertion: &str) -> Result<String, Error> {
        let failed = || Error::local(Code::Internal, "SESSION_KEY", "no proof could be signed");
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| failed())?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let subject = Subject { method, assertion, now: since.as_secs() };
        let input = proof::signing_input(&self.public, id, &subject);
        let signed = self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| failed())?;
        let signature = Signature::from_raw(signed.as_ref()).ok_or_else(failed)?;
        Ok(proof::complete(&input, &signature))
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A staff member whom an application acts for.
#[derive(Debug, Clone)]
pub struct Staff {
    /// The assertion that `CompleteLogin` answered.
    pub assertion: String,
    /// The key that was named at the login; classes above the default take proofs by it.
    pub session: Option<Arc<SessionKey>>,
    /// Where the staff member is, for the audit log.
    pub client_address: Option<String>,
}

/// Puts what belongs to a call into its metadata.
#[derive(Clone, Default)]
pub struct Stamp(Option<Arc<Stamped>>);

struct Stamped {
    assertion: MetadataValue<Ascii>,
    client: Option<MetadataValue<Ascii>>,
    staff: Staff,
}

impl Stamp {
    pub(super) fn of(staff: Staff) -> Result<Self, Error> {
        let value = |text: &str, what: &str| {
            MetadataValue::try_from(text).map_err(|_| {
                Error::local(
                    Code::InvalidArgument,
                    "ARGUMENT_INVALID",
                    format!("{what} is no visible ASCII text"),
                )
            })
        };
        let assertion = value(&staff.assertion, "the assertion")?;
        let client = staff.client_address.as_deref().map(|address| value(address, "the client's address"));
        Ok(Self(Some(Arc::new(Stamped { assertion, client: client.transpose()?, staff }))))
    }
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(stamped) = &self.0 else { return Ok(request) };
        let proof = stamped.proof(request.extensions().get::<GrpcMethod<'_>>())?;
        let metadata = request.metadata_mut();
        metadata.insert(ASSERTION, stamped.assertion.clone());
        if let Some(client) = &stamped.client {
            metadata.insert(CLIENT, client.clone());
        }
        if let Some(proof) = proof {
            metadata.insert(PROOF, proof);
        }
        Ok(request)
    }
}

impl Stamped {
    /// A proof is for one call, or for one stream when it is opened: each try has its own.
    fn proof(&self, method: Option<&GrpcMethod<'_>>) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let (Some(session), Some(method)) = (&self.staff.session, method) else { return Ok(None) };
        let method = format!("/{}/{}", method.service(), method.method());
        let proof = session.proof(&method, &self.staff.assertion);
        let proof = proof.map_err(|error| Status::internal(error.to_string()))?;
        MetadataValue::try_from(proof).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

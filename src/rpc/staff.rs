//! What a call's metadata says of the person whom an application acts for (docs/login.md):
//!
//! | metadata | |
//! |---|---|
//! | `keyward-assertion` | the assertion of the staff member |
//! | `keyward-proof` | a DPoP proof (RFC 9449) by the key of their session |
//! | `keyward-client-address` | where they are, or the customer is, for the record |

use std::sync::Arc;

use tonic::codegen::http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;

use super::call::short;
use crate::access::Action;
use crate::id::ClientAddress;
use crate::ops::Error;
use crate::ops::login::staff::Showing;

/// Metadata with the assertion.
pub(crate) const ASSERTION: &str = "keyward-assertion";
/// Metadata with the proof of possession.
pub(crate) const PROOF: &str = "keyward-proof";
/// Metadata with the client's address.
pub(crate) const CLIENT: &str = "keyward-client-address";

/// What begins like ours is ours, however it goes on.
const OURS: [&str; 2] = ["keyward-", "keyward_"];

/// That a call's metadata has no name that begins like ours and is none: with a typing error in it the call would be
/// done for nobody.
///
/// # Errors
/// [`Error::Argument`], which names it.
pub(super) fn check_names(headers: &HeaderMap) -> Result<(), Error> {
    let known = [ASSERTION, PROOF, CLIENT];
    let ours = |name: &&HeaderName| OURS.iter().any(|ours| name.as_str().starts_with(ours));
    match headers.keys().filter(ours).find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::Argument(format!(
            "metadata {}: there is no such name; those that begin like it are {}",
            short(name.as_str()),
            known.join(", ")
        ))),
    }
}

/// The metadata of one call.
#[derive(Debug)]
pub(super) struct Shown {
    assertion: Option<String>,
    proof: Option<String>,
}

impl Shown {
    /// What the metadata shows; `None` when that is nothing.
    ///
    /// # Errors
    /// [`Error::Argument`] for what stands there twice, or in another form.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Option<Self>, Error> {
        let shown = Self { assertion: one(metadata, ASSERTION)?, proof: one(metadata, PROOF)? };
        let unfit =
            metadata.contains_key(CLIENT) && (one(metadata, CLIENT)?.is_none() || client(metadata).is_none());
        match (&shown.assertion, &shown.proof) {
            // The record of what is done for somebody says where they were.
            (Some(_), _) if unfit => {
                Err(Error::Argument(format!("{CLIENT}: one address of 1 to 100 visible ASCII characters")))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::Argument(format!("{PROOF} is shown without {ASSERTION}"))),
            _ => Ok(Some(shown)),
        }
    }

    /// The same for the method that is called.
    pub(super) fn showing(&self, method: &'static str) -> Option<Showing<'_>> {
        let assertion = self.assertion.as_deref()?;
        Some(Showing { assertion, proof: self.proof.as_deref(), method })
    }
}

/// The client's address, if the caller says one in a form that can be recorded.
pub(super) fn client(metadata: &MetadataMap) -> Option<Arc<str>> {
    let address = ClientAddress::new(metadata.get(CLIENT)?.to_str().ok()?).ok()?;
    Some(address.into())
}

fn one(metadata: &MetadataMap, key: &str) -> Result<Option<String>, Error> {
    let mut values = metadata.get_all(key).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.to_owned())),
        _ => Err(Error::Argument(format!("{key}: one text of visible ASCII characters"))),
    }
}

/// The method that a proof for an action names; there is none for other work than that on data.
pub(super) fn method(action: Action) -> &'static str {
    action.method().filter(|_| action.kind().is_data()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn a_name_with_a_typing_error_is_refused() {
        let headers = |name: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), "x".parse().unwrap())])
        };
        for good in [ASSERTION, PROOF, CLIENT, "traceparent", "keywards", "x-keyward-assertion"] {
            assert!(check_names(&headers(good)).is_ok(), "{good}");
        }
        for wrong in ["keyward-asertion", "keyward_assertion", "keyward-assertion-bin", "keyward-"] {
            let refused = check_names(&headers(wrong)).unwrap_err().to_string();
            assert!(refused.contains(wrong) && refused.contains(ASSERTION), "{refused}");
        }
    }

    #[test]
    fn metadata_is_read_once_or_not_at_all() {
        let mut metadata = MetadataMap::new();
        assert!(Shown::of(&metadata).unwrap().is_none());
        metadata.insert(ASSERTION, MetadataValue::from_static("a.b.c"));
        let shown = Shown::of(&metadata).unwrap().unwrap();
        assert_eq!(shown.showing("/m").unwrap().assertion, "a.b.c");
        metadata.append(ASSERTION, MetadataValue::from_static("d.e.f"));
        assert!(Shown::of(&metadata).is_err());
        metadata.insert(ASSERTION, MetadataValue::try_from(&b"\xff"[..]).unwrap());
        assert!(Shown::of(&metadata).is_err());
        metadata.insert(ASSERTION, MetadataValue::from_static("a.b.c"));
        for address in ["", "a b", "192.0.2.7"] {
            metadata.insert(CLIENT, MetadataValue::try_from(address).unwrap());
            assert_eq!(Shown::of(&metadata).is_ok(), address == "192.0.2.7", "{address:?}");
        }
        metadata.append(CLIENT, MetadataValue::from_static("192.0.2.8"));
        assert!(Shown::of(&metadata).is_err(), "from where?");
        metadata.remove(CLIENT);
        metadata.remove(ASSERTION);
        metadata.insert(PROOF, MetadataValue::from_static("a.b.c"));
        assert!(Shown::of(&metadata).is_err(), "a proof of what?");
    }

    #[test]
    fn an_address_that_cannot_be_recorded_is_none() {
        let mut metadata = MetadataMap::new();
        for (text, fit) in [("10.0.0.7", true), ("2001:db8::1", true), ("", false), ("a b", false)] {
            metadata.insert(CLIENT, MetadataValue::try_from(text).unwrap());
            assert_eq!(client(&metadata).is_some(), fit, "{text:?}");
        }
        metadata.insert(CLIENT, MetadataValue::try_from("1".repeat(101)).unwrap());
        assert!(client(&metadata).is_none());
    }
}

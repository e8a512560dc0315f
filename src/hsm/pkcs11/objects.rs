//! The objects that are stored on a token.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::hsm::birth::Purpose;
use crate::hsm::figures::Objects;
use crate::id::RootId;

/// Counts them, and those that Keyward has made.
pub(super) fn count(session: &Session, limit: usize) -> Result<Objects, Error> {
    let total = session.find_objects(&[Attribute::Token(true)])?.len();
    let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)])?;
    let mut own = 0;
    for key in keys {
        own += usize::from(is_own(session, key)?);
    }
    Ok(Objects { total, own, limit })
}

fn is_own(session: &Session, key: ObjectHandle) -> Result<bool, Error> {
    let shown = session.get_attributes(key, &[AttributeType::Label, AttributeType::Id])?;
    Ok(Purpose::LABELS.into_iter().any(|label| named(label, &shown).is_some()))
}

/// The id of a key whose label begins so.
pub(super) fn named(beginning: &str, shown: &[Attribute]) -> Option<RootId> {
    match shown {
        [Attribute::Label(label), Attribute::Id(id)] if label.starts_with(beginning.as_bytes()) => {
            <[u8; 16]>::try_from(id.as_slice()).ok().map(RootId)
        }
        _ => None,
    }
}

/// Counts anew only when other objects are there than before: to read their labels takes a call each.
#[derive(Default)]
pub(super) struct Counter(Option<(Vec<ObjectHandle>, Objects)>);

impl Counter {
    pub(super) fn look(&mut self, session: &Session, limit: usize) -> Result<Objects, Error> {
        let found = session.find_objects(&[Attribute::Token(true)])?;
        if let Some((_, objects)) = self.0.as_ref().filter(|(known, _)| *known == found) {
            return Ok(*objects);
        }
        let objects = count(session, limit)?;
        self.0 = Some((found, objects));
        Ok(objects)
    }
}

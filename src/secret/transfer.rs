//! How secrets cross from one process to the other.
//!
//! The secret types themselves cannot be serialised; a field that may travel
//! says so with `#[cbor(with = "transfer::…")]`, and whoever holds the encoded
//! bytes wipes them.

/// A [`Key256`](crate::secret::Key256).
pub(crate) mod key {
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    use crate::secret::Key256;

    pub(crate) fn encode<C, W: Write>(
        key: &Key256,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.bytes(key.expose())?.ok()
    }

    pub(crate) fn decode<C>(decoder: &mut Decoder<'_>, _: &mut C) -> Result<Key256, Error> {
        Key256::from_slice(decoder.bytes()?).ok_or_else(|| Error::message("a key has 32 bytes"))
    }
}

/// [`SecretBytes`](crate::secret::SecretBytes).
pub(crate) mod bytes {
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    use crate::secret::SecretBytes;

    pub(crate) fn encode<C, W: Write>(
        bytes: &SecretBytes,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.bytes(bytes.expose())?.ok()
    }

    pub(crate) fn decode<C>(decoder: &mut Decoder<'_>, _: &mut C) -> Result<SecretBytes, Error> {
        Ok(SecretBytes::new(decoder.bytes()?.to_vec()))
    }
}

/// A [`Pin`](crate::secret::Pin).
pub(crate) mod pin {
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    use crate::secret::Pin;

    pub(crate) fn encode<C, W: Write>(
        pin: &Pin,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.str(pin.expose())?.ok()
    }

    pub(crate) fn decode<C>(decoder: &mut Decoder<'_>, _: &mut C) -> Result<Pin, Error> {
        Pin::from_bytes(decoder.str()?.as_bytes()).map_err(|_| Error::message("what was sent is no PIN"))
    }
}

//! Batches, judged by their shape on the wire before anything is made of them.
//!
//! An empty item has two bytes there and eighty in memory; a pair of a context five, and a hundred.
//! So both are counted in the encoded message, and one that has too many is never decoded.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::codegen::{BoxFuture, StdError, http};
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic::{Request, Status};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};
use tower::Service;

use super::crypto::Crypto;
use super::proto::crypto_service_server::CryptoService;
use super::proto::{BatchDecryptRequest, BatchDecryptResponse, BatchEncryptRequest, BatchEncryptResponse};
use crate::envelope::Context as EncryptionContext;
use crate::ops::Error;

/// The field `items` of both requests, and the field `context` of an item.
const ITEMS: u32 = 2;
const CONTEXT: u32 = 3;

/// How large a batch may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Most items.
    pub items: usize,
    /// Most bytes.
    pub bytes: usize,
}

/// Serves the two batch calls by their shape; everything else goes its usual way.
pub(super) fn route(routes: Routes, crypto: &Arc<Crypto>, shape: Shape) -> Routes {
    // A path in full goes before the one of its whole service.
    let router = routes
        .into_axum_router()
        .route_service(
            "/keyward.v1.CryptoService/BatchEncrypt",
            BatchEncrypt { crypto: crypto.clone(), shape },
        )
        .route_service(
            "/keyward.v1.CryptoService/BatchDecrypt",
            BatchDecrypt { crypto: crypto.clone(), shape },
        );
    Routes::from(router)
}

macro_rules! batch_services {
    ($($name:ident $method:ident $request:ty => $response:ty;)*) => {$(
        #[derive(Clone)]
        struct $name {
            crypto: Arc<Crypto>,
            shape: Shape,
        }

        impl<B> Service<http::Request<B>> for $name
        where
            B: http_body::Body + Send + 'static,
            B::Error: Into<StdError> + Send + 'static,
        {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<Self::Response, Infallible>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<B>) -> Self::Future {
                let Self { crypto, shape } = self.clone();
                Box::pin(async move {
                    let method = tower::service_fn(move |request: Request<$request>| {
                        let crypto = crypto.clone();
                        async move { crypto.$method(request).await }
                    });
                    let codec = ShapedCodec::<$response, $request> { shape, types: PhantomData };
                    let mut grpc = Grpc::new(codec)
                        .apply_max_message_size_config(Some(shape.bytes), Some(usize::MAX));
                    Ok(grpc.unary(method, request).await)
                })
            }
        }
    )*};
}

batch_services! {
    BatchEncrypt batch_encrypt BatchEncryptRequest => BatchEncryptResponse;
    BatchDecrypt batch_decrypt BatchDecryptRequest => BatchDecryptResponse;
}

/// The usual codec, with a look at the shape before a request is decoded.
struct ShapedCodec<T, U> {
    shape: Shape,
    types: PhantomData<fn() -> (T, U)>,
}

impl<T, U> Codec for ShapedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ShapedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::new().encoder()
    }

    fn decoder(&mut self) -> ShapedDecoder<U> {
        ShapedDecoder { items: self.shape.items, inner: ProstCodec::<T, U>::new().decoder() }
    }
}

struct ShapedDecoder<U> {
    items: usize,
    inner: ProstDecoder<U>,
}

impl<U: Message + Default> Decoder for ShapedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The transport has put the message into one piece; less of it would not pass for all of it.
        if message.chunk().len() != message.remaining() {
            return Err(Status::internal("a message in pieces"));
        }
        // A status without details: it is recorded with its reason as what the transport refuses.
        match check(message.chunk(), self.items) {
            Ok(()) => self.inner.decode(message),
            Err(Misshapen::TooMany(error)) => Err(Status::out_of_range(error.to_string())),
            Err(Misshapen::Undecodable(error)) => Err(Status::internal(error.to_string())),
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

#[derive(Debug)]
enum Misshapen {
    TooMany(Error),
    Undecodable(DecodeError),
}

impl From<DecodeError> for Misshapen {
    fn from(error: DecodeError) -> Self {
        Self::Undecodable(error)
    }
}

/// Counts the items of a batch, and the pairs of all their contexts.
fn check(mut message: &[u8], limit: usize) -> Result<(), Misshapen> {
    let too_many = |unit, limit| {
        let (what, option) = ("the batch", "batch_items");
        Err(Misshapen::TooMany(Error::TooMany { what, unit, limit, option }))
    };
    let most_pairs = limit.saturating_mul(EncryptionContext::MAX_PAIRS);
    let (mut items, mut pairs) = (0, 0);
    while message.has_remaining() {
        let (tag, wire) = decode_key(&mut message)?;
        if (tag, wire) != (ITEMS, WireType::LengthDelimited) {
            skip_field(wire, tag, &mut message, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        let Some((item, rest)) = message.split_at_checked(length) else {
            // What is cut short is refused by the decoder itself, before it makes anything of it.
            return Ok(());
        };
        (items, pairs, message) = (items + 1, pairs + pairs_of(item)?, rest);
        if items > limit {
            return too_many("items", limit);
        }
        if pairs > most_pairs {
            return too_many("pairs of contexts", most_pairs);
        }
    }
    Ok(())
}

/// How many pairs the context of an item has.
fn pairs_of(mut item: &[u8]) -> Result<usize, DecodeError> {
    let mut pairs = 0;
    while item.has_remaining() {
        let (tag, wire) = decode_key(&mut item)?;
        pairs += usize::from(tag == CONTEXT);
        skip_field(wire, tag, &mut item, DecodeContext::default())?;
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::proto::batch_encrypt_request::Item;
    use super::*;

    fn item(pairs: usize) -> Item {
        let context: BTreeMap<_, _> = (0..pairs).map(|n| (n.to_string(), String::new())).collect();
        Item { reference: "r".into(), plaintext: vec![7; 3].into(), context }
    }

    fn batch(items: Vec<Item>) -> Vec<u8> {
        BatchEncryptRequest { name: "tenants/a/keys/b".into(), items }.encode_to_vec()
    }

    #[test]
    fn items_are_counted_on_the_wire() {
        assert!(check(&batch(vec![item(2); 10]), 10).is_ok());
        let error = check(&batch(vec![item(2); 11]), 10).unwrap_err();
        let Misshapen::TooMany(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains("more than 10 items (limits.batch_items"), "{error}");
        // Two bytes each: what 40-fold memory was made of.
        assert!(check(&[0x12, 0].repeat(11), 10).is_err());
        assert!(check(&[0x12, 0].repeat(10), 10).is_ok());
    }

    #[test]
    fn pairs_of_contexts_are_counted_over_all_items() {
        let most = EncryptionContext::MAX_PAIRS;
        // One item with too many fails alone; not the whole batch for it.
        assert!(check(&batch(vec![item(most + 1), item(0)]), 2).is_ok());
        assert!(check(&batch(vec![item(2 * most + 1), item(0)]), 2).is_err());
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder_or_refused() {
        let whole = batch(vec![item(1)]);
        for cut in 1..whole.len() {
            let decodes = BatchEncryptRequest::decode(&whole[..cut]).is_ok();
            assert!(check(&whole[..cut], 10).is_ok() || !decodes, "{cut}");
        }
        assert!(check(&[0x0f], 10).is_err(), "a wire type that there is not");
    }
}

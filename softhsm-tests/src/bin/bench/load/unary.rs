//! One field in a call.

use std::cell::RefCell;
use std::time::Instant;

use futures_util::future::try_join_all;
use keyward::rpc::proto::DecryptRequest;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::super::Outcome;
use super::super::figures::{Figures, Meter};
use super::{Load, decrypt_request, encrypt_request};

pub(super) async fn encrypt(load: &Load) -> Outcome<Figures> {
    let request = encrypt_request(load.bytes);
    lanes(load, 1, async |mut client, _, meter| {
        loop {
            let sent = Instant::now();
            client.encrypt(request.clone()).await?;
            if !meter.borrow_mut().note(sent) {
                return Ok(());
            }
        }
    })
    .await
}

/// Each lane decrypts a ciphertext of its own.
pub(super) async fn decrypt(load: &Load) -> Outcome<Figures> {
    let requests = ciphertexts(load).await?;
    lanes(load, 1, async |mut client, lane, meter| {
        loop {
            let sent = Instant::now();
            client.decrypt(requests[lane].clone()).await?;
            if !meter.borrow_mut().note(sent) {
                return Ok(());
            }
        }
    })
    .await
}

async fn ciphertexts(load: &Load) -> Outcome<Vec<DecryptRequest>> {
    let mut client = super::connect(&load.socket).await?;
    let mut requests = Vec::new();
    for _ in 0..load.in_flight {
        let made = client.encrypt(encrypt_request(load.bytes)).await?.into_inner();
        requests.push(decrypt_request(made.ciphertext));
    }
    Ok(requests)
}

/// Runs as many lanes as calls may be in flight; each has one call under way.
pub(super) async fn lanes(
    load: &Load,
    items: u32,
    lane: impl AsyncFn(CryptoServiceClient<Channel>, usize, &RefCell<Meter>) -> Result<(), Status>,
) -> Outcome<Figures> {
    let clients = load.clients().await?;
    let meter = RefCell::new(load.meter(items));
    let lanes = (0..load.in_flight).map(|number| {
        let client = clients[number % clients.len()].clone();
        lane(client, number, &meter)
    });
    try_join_all(lanes).await?;
    Ok(meter.into_inner().figures())
}

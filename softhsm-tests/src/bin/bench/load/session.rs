//! Sessions: as many items under way as asked, answered in any order.

use std::cell::RefCell;
use std::time::Instant;

use futures_util::future::try_join_all;
use keyward::rpc::proto::crypt_session_request::Request;
use keyward::rpc::proto::crypt_session_response::Response;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::{CryptSessionRequest, CryptSessionResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::super::Outcome;
use super::super::figures::{Figures, Meter};
use super::{Load, encrypt_request};

/// One session on each connection.
pub(super) async fn encrypt(load: &Load) -> Outcome<Figures> {
    let clients = load.clients().await?;
    let meter = RefCell::new(load.meter(1));
    let share = load.in_flight.div_ceil(clients.len());
    let request = Request::Encrypt(encrypt_request(load.bytes));
    try_join_all(clients.into_iter().map(|client| session(client, share, &request, &meter))).await?;
    Ok(meter.into_inner().figures())
}

async fn session(
    mut client: CryptoServiceClient<Channel>,
    in_flight: usize,
    request: &Request,
    meter: &RefCell<Meter>,
) -> Outcome<()> {
    // As large as what is under way, so that sending never waits.
    let (requests, queue) = mpsc::channel(in_flight);
    let ask = |id| CryptSessionRequest { id, request: Some(request.clone()) };
    let mut sent = vec![Instant::now(); in_flight];
    for id in 0..in_flight {
        requests.try_send(ask(id as u64))?;
    }
    let mut answers = client.crypt_session(ReceiverStream::new(queue)).await?.into_inner();
    let mut requests = Some(requests);
    while let Some(answer) = answers.message().await? {
        let id = encrypted(&answer)?;
        let place = sent.get_mut(usize::try_from(id)?).ok_or("an answer to no request")?;
        if !meter.borrow_mut().note(*place) {
            // What is still under way is answered; then the session ends.
            requests = None;
        }
        if let Some(requests) = &requests {
            *place = Instant::now();
            requests.try_send(ask(id))?;
        }
    }
    Ok(())
}

fn encrypted(answer: &CryptSessionResponse) -> Outcome<u64> {
    match &answer.response {
        Some(Response::Encrypt(_)) => Ok(answer.id),
        other => Err(format!("item {}: {other:?}", answer.id).into()),
    }
}

//! Many fields in a call.

use std::time::Instant;

use keyward::rpc::proto::{BatchEncryptRequest, batch_encrypt_request};
use keyward_softhsm_tests::KEY;

use super::super::Outcome;
use super::super::figures::Figures;
use super::{BATCH, Load, context, plaintext, unary};

pub(super) async fn encrypt(load: &Load) -> Outcome<Figures> {
    let request = request(load.bytes);
    unary::lanes(load, BATCH, async |mut client, _, meter| {
        loop {
            let sent = Instant::now();
            client.batch_encrypt(request.clone()).await?;
            if !meter.borrow_mut().note(sent) {
                return Ok(());
            }
        }
    })
    .await
}

fn request(bytes: usize) -> BatchEncryptRequest {
    let item = |number: u32| batch_encrypt_request::Item {
        reference: number.to_string(),
        plaintext: plaintext(bytes),
        context: context(),
    };
    BatchEncryptRequest { name: KEY.into(), items: (0..BATCH).map(item).collect() }
}

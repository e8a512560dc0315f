//! One file, with the Rust client. An item is a byte.

use std::time::Instant;

use keyward::client::Client;
use keyward_softhsm_tests::KEY;
use tokio::io::AsyncReadExt;

use super::super::Outcome;
use super::super::figures::Figures;
use super::{Load, context};

pub(super) async fn encrypt(load: &Load) -> Outcome<Figures> {
    let client = Client::connect(&load.socket).await?;
    let file = tokio::io::repeat(b'7').take(load.bytes as u64);
    let begun = Instant::now();
    let streamed = client.encrypt_stream(KEY, &context(), file, tokio::io::sink()).await?;
    let took = begun.elapsed();
    let micros = took.as_secs_f64() * 1e6;
    let per_second = streamed.bytes_in as f64 / took.as_secs_f64();
    Ok(Figures { per_second, p50_us: micros, p99_us: micros, answered: streamed.bytes_in })
}

//! A PIV card in software, in a reader of vpcd's: for the tests of Keyward.
//!
//! The application is Nitrokey's `piv-authenticator`; what a YubiKey has beside it is made here, so
//! what is tested against this card is the way to a token, not the token.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::attest::Attester;
use crate::card::{Card, Settings};
use crate::state::Memory;

mod apdu;
mod attest;
mod card;
mod platform;
mod state;
mod trouble;
mod vpcd;

#[derive(Parser)]
struct Arguments {
    /// Port of the reader
    #[arg(long, default_value_t = 35963)]
    port: u16,
    /// Folder with keys, PINs and counters, which survive
    #[arg(long)]
    state: PathBuf,
    /// Folder with the root that attests to the card; it is made when it is missing
    #[arg(long)]
    authority: PathBuf,
    /// Serial number
    #[arg(long, default_value_t = 10_000_001)]
    serial: u32,
    /// Version of the firmware; clients expect another management key from 5.7 on
    #[arg(long, default_value = "5.4.3", value_parser = firmware)]
    firmware: [u8; 3],
    /// PIN of a new card
    #[arg(long, default_value = "123456")]
    pin: String,
    /// PUK of a new card
    #[arg(long, default_value = "12345678")]
    puk: String,
    /// File that exists while the user touches [default: touch, in the folder]
    #[arg(long)]
    touch: Option<PathBuf>,
    /// Milliseconds to wait for a touch
    #[arg(long, default_value_t = 1000)]
    patience: u64,
    /// File that says how the card misbehaves while it exists [default: trouble, in the folder]
    #[arg(long)]
    trouble: Option<PathBuf>,
}

fn firmware(text: &str) -> Result<[u8; 3], String> {
    let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
    parts.and_then(|parts| parts.try_into().ok()).ok_or_else(|| "expected three numbers, as 5.4.3".to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { port, state, authority, serial, firmware, pin, puk, touch, patience, trouble } =
        Arguments::parse();
    std::fs::create_dir_all(&state)?;
    let (memory, is_new) = (Memory::open(&state)?, !Memory::exists(&state));
    let attester = Attester::open(&state, &authority)?;
    let settings = Settings {
        firmware,
        serial,
        touch: touch.unwrap_or_else(|| state.join("touch")),
        patience: Duration::from_millis(patience),
        trouble: trouble.unwrap_or_else(|| state.join("trouble")),
    };
    platform::with_application(&state, |application| {
        let mut card = Card::new(settings, application, memory, attester);
        if is_new {
            card.personalise(&pin, &puk);
        }
        vpcd::serve(port, &mut card)
    })?;
    Ok(())
}

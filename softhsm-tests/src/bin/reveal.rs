//! `reveal CONFIG`: every DEK of a test's store, in hexadecimal, for the test that
//! looks for them in the daemon's memory.

use std::error::Error;
use std::io::Write;

use keyward_softhsm_tests::offline::Offline;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let store = Offline::open(config.as_ref()).await?;
    for dek in store.deks().await? {
        let digits: String = dek.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(std::io::stdout(), "{digits}")?;
    }
    store.hsm.shutdown().await;
    Ok(())
}

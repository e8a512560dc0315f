//! `replay SOCKET ACCOUNT OTP-FILE COMMAND…`: logs in as an application does, the signature by the helper that COMMAND
//! starts, and sends the daemon the very same call once more: for the demo.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use keyward::client::Client;
use keyward_softhsm_tests::staff::{Agent, begin, complete};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [socket, account, otp, program, words @ ..] = arguments.as_slice() else {
        return Err("which socket, account, one-time password and helper?".into());
    };
    let client = Client::connect(Path::new(socket)).await?;
    let begun = begin(&client, account).await?;
    let mut agent = Agent::start(Command::new(program).args(words));
    let answer = agent.sign(&begun, std::fs::read_to_string(otp)?.trim().to_owned());
    agent.end();
    let done = complete(&client, answer.clone()).await?;
    writeln!(std::io::stdout(), "the first time: {} is logged in", done.account)?;
    match complete(&client, answer).await {
        Ok(_) => Err("the same call logged in twice".into()),
        Err(refused) => Ok(writeln!(std::io::stdout(), "the second time: {refused}")?),
    }
}

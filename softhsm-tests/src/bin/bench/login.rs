//! Whether the time of an answer says that an account exists: challenges, and failed logins, of an account that
//! does and of one that does not, in turns.

use std::path::Path;
use std::time::Instant;

use keyward::client::Client;
use keyward_softhsm_tests::World;
use keyward_softhsm_tests::staff::{ORIGIN, Staff, begin_from, complete};
use serde::Serialize;

use super::Outcome;
use super::figures::median;
use super::report::say;

/// How often each is asked.
const BEGINS: usize = 200;
const COMPLETIONS: usize = 40;

/// Microseconds of each answer, of the account that exists and of the other.
#[derive(Debug, Serialize)]
pub(crate) struct Logins {
    pub(crate) begin: [Vec<f64>; 2],
    pub(crate) failure: [Vec<f64>; 2],
}

impl Logins {
    /// How much longer the slower of the two challenges takes.
    pub(crate) fn begin_tells(&self) -> f64 {
        slower(&self.begin)
    }

    /// The same for logins that fail.
    pub(crate) fn failure_tells(&self) -> f64 {
        slower(&self.failure)
    }
}

fn slower(both: &[Vec<f64>; 2]) -> f64 {
    let [one, other] = [&both[0], &both[1]].map(|times| median(times.iter().copied()));
    one.max(other) / one.min(other)
}

/// Measures with data in `folder`.
pub(crate) async fn run(folder: &Path) -> Outcome<Logins> {
    let mut world = World::in_folder(folder);
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    let alice = Staff::new(&client, "alice").await;
    let names = [alice.account.as_str(), "accounts/mallory"];
    let mut found = Logins { begin: Default::default(), failure: Default::default() };
    for number in 0..BEGINS {
        for (name, times) in names.iter().zip(&mut found.begin) {
            let began = Instant::now();
            begin_from(&client, name, &format!("begin-{number}")).await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    for number in 0..COMPLETIONS {
        for (name, times) in names.iter().zip(&mut found.failure) {
            times.push(failure(&client, &alice, name, &format!("complete-{number}")).await?);
        }
    }
    say(&format!("{BEGINS} challenges and {COMPLETIONS} failed logins of two accounts"))?;
    daemon.stop().await;
    Ok(found)
}

/// How long a login takes to fail whose password is wrong: behind a good signature, where there is an account.
async fn failure(client: &Client, alice: &Staff, name: &str, address: &str) -> Outcome<f64> {
    let begun = begin_from(client, name, address).await?;
    let answer = alice.answer(&begun, String::new());
    let began = Instant::now();
    match complete(client, answer).await {
        Ok(_) => Err("a login without a password succeeded".into()),
        Err(error) if error.reason() == "LOGIN_FAILED" => Ok(began.elapsed().as_secs_f64() * 1e6),
        Err(error) => Err(error.into()),
    }
}

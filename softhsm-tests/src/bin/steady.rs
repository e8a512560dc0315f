//! An application that encrypts and decrypts on and on, and says which of its calls failed: `steady SOCKET KEY FILE MODE`.
//!
//! MODE is `client`, by the client of this project with its deadline of ten seconds, or `plain`, each call once and by no
//! session. FILE gets the number of calls while it runs; it ends with SIGTERM, and then FILE gets what failed as well.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::client::{Client, Context};
use keyward::rpc::proto::{DecryptRequest, EncryptRequest};

/// Callers at a time.
const CALLERS: usize = 8;
const PLAINTEXT: &[u8] = b"0912 345 678";

#[derive(Default)]
struct Done {
    calls: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    end: AtomicBool,
}

impl Done {
    fn told(&self) -> String {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed: Vec<_> = failed.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        format!("calls {}\nfailed {}\n", self.calls.load(Ordering::Relaxed), failed.join("; "))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, key, file, mode] = &arguments[..] else {
        return Err("steady SOCKET KEY FILE client|plain".into());
    };
    let client = Client::connect(socket).await?;
    let done = Arc::new(Done::default());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(call_on_and_on(client.clone(), key.clone(), mode == "plain", done.clone())))
        .collect();
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            _ = tick.tick() => write(file.as_ref(), &done)?,
            _ = told.recv() => break,
        }
    }
    done.end.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await?;
    }
    Ok(write(file.as_ref(), &done)?)
}

/// Whole or not at all: somebody reads it meanwhile.
fn write(file: &Path, done: &Done) -> std::io::Result<()> {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, done.told())?;
    std::fs::rename(draft, file)
}

async fn call_on_and_on(client: Client, key: String, plain: bool, done: Arc<Done>) {
    while !done.end.load(Ordering::Relaxed) {
        let outcome = if plain { once(&client, &key).await } else { repeated(&client, &key).await };
        done.calls.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = outcome {
            *done.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(failure).or_default() += 1;
            // Whoever cannot connect must not use up the machine.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn repeated(client: &Client, key: &str) -> Result<(), String> {
    let failed = |error: keyward::client::Error| format!("{:?} {} {error}", error.code, error.reason());
    let sealed = client.encrypt(key, PLAINTEXT, &Context::new()).await.map_err(failed)?;
    let opened = client.decrypt(key, sealed.ciphertext, &Context::new()).await.map_err(failed)?;
    if opened.plaintext.expose() == PLAINTEXT { Ok(()) } else { Err("another plaintext".to_owned()) }
}

async fn once(client: &Client, key: &str) -> Result<(), String> {
    let failed = |error: keyward::client::Error| format!("{:?}", error.code);
    let request = EncryptRequest { name: key.into(), plaintext: PLAINTEXT.into(), ..Default::default() };
    let sealed = client.call(client.crypto().encrypt(request)).await.map_err(failed)?;
    let request = DecryptRequest { name: key.into(), ciphertext: sealed.ciphertext, ..Default::default() };
    let opened = client.call(client.crypto().decrypt(request)).await.map_err(failed)?;
    if opened.plaintext == PLAINTEXT { Ok(()) } else { Err("another plaintext".to_owned()) }
}

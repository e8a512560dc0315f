//! The loop that has the vault do what is due. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::keyring::timekeeping::Now;
use crate::ops::Vault;
use crate::rpc::call::Gate;
use crate::rpc::services;

/// How often the clock and the agenda are looked at, although nobody changed them.
const LOOK: Duration = Duration::from_secs(5);
/// The shortest pause between two looks: many changes are one reason to look.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs what is due until the daemon stops.
pub(super) async fn follow_agenda(gate: Arc<Gate>, vault: Arc<Vault>) {
    let mut stop = gate.shutdown();
    while !*stop.borrow() {
        // A destruction that has begun is not cut short by the end of the daemon, if that is patient.
        let look = vault.clone();
        let looked = gate.spawn(async move { look.run_due(Now::read()).await }).await;
        match looked {
            Ok(Ok(rotating)) => {
                rotating.into_iter().for_each(|tenant| services::go_on_rotating(&gate, tenant));
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot do what is due"),
            Err(panicked) => tracing::error!(%panicked, "the scheduler failed"),
        }
        tokio::select! {
            () = async { tokio::join!(vault.agenda_changed(), tokio::time::sleep(PAUSE)); } => {}
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

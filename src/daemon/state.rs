//! What systemd is told of the daemon: that it is ready, and how it is.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use super::run::notify;
use super::stop;
use crate::hsm::Status;
use crate::rpc::call::{Gate, stopped};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Says READY once the daemon serves, or once it is known why it does not: an HSM that is away, or a store that is not opened,
/// is no start that failed. Until then more time is asked for: the store may be large. Then keeps `STATUS=` true, which `systemctl
/// status` shows, until the daemon stops.
pub(super) async fn tell(gate: Arc<Gate>, unlocking: JoinHandle<()>) {
    let mut stop = gate.shutdown();
    let asking = tokio::spawn(stop::extend_timeout());
    tokio::select! {
        () = known(&gate, unlocking) => {}
        () = stopped(&mut stop) => {}
    }
    asking.abort();
    let mut told = in_one_line(&gate);
    notify(&[NotifyState::Ready, NotifyState::Status(&told)]);
    let mut tick = tokio::time::interval(LOOK);
    while !*stop.borrow() {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopped(&mut stop) => return,
        }
        let now = in_one_line(&gate);
        if now != told {
            notify(&[NotifyState::Status(&now)]);
            told = now;
        }
    }
}

/// How it is. A reason may come from the vendor's library, and each line of a message to systemd is one of its variables.
fn in_one_line(gate: &Gate) -> String {
    gate.state_in_words().replace(char::is_control, " ")
}

/// Returns when it serves, or when it is known why it does not.
async fn known(gate: &Gate, unlocking: JoinHandle<()>) {
    let mut status = gate.hsm.status();
    let away = status.wait_for(|status| matches!(status, Status::Down { .. } | Status::Refused { .. }));
    tokio::select! {
        // Opened, or refused; a panic is neither, and a daemon that serves nothing says so.
        _ = unlocking => {}
        // An error means that the HSM was given up, as at a stop.
        _ = away => {}
    }
}

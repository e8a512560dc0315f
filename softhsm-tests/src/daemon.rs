//! A daemon, and its HSM processes.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use keyward::client::Client;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::{GetStatusRequest, Status};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use crate::{PATIENCE, eventually};

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn of(child: Child, socket: PathBuf) -> Self {
        Self { child, socket }
    }

    /// Its HSM processes, by name.
    pub fn hsm_processes(&self) -> Vec<HsmProcess> {
        let pids = std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| entry.expect("/proc").file_name().to_str()?.parse::<u32>().ok());
        let parent = format!("PPid:\t{}\n", self.pid());
        let mut found: Vec<_> = pids
            .map(|pid| HsmProcess { pid, name: String::new() })
            .filter(|process| process.proc("status").contains(&parent))
            .map(|process| HsmProcess { name: process.proc("cmdline"), ..process })
            .filter(|process| process.name.starts_with("keyward-hsm: "))
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// Its HSM processes, once those of tasks that are done once, as at its start, have ended.
    pub async fn serving_processes(&self, count: usize) -> Vec<HsmProcess> {
        let look = async || Some(self.hsm_processes()).filter(|found| found.len() == count);
        eventually("the HSM processes", look).await
    }

    /// A client of this daemon.
    pub async fn client(&self) -> Client {
        Client::connect(&self.socket).await.expect("a connection")
    }

    /// A client, as soon as the daemon answers at all.
    pub async fn answering(&mut self) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Client::connect(&self.socket).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            assert_eq!(self.child.try_wait().expect("wait"), None, "the daemon stopped");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// See [`World::crypto`](crate::World::crypto).
    pub async fn crypto(&self) -> CryptoServiceClient<Channel> {
        crypto(&self.socket).await
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its status is as wanted.
    ///
    /// # Errors
    /// When it stopped, or patience ended; with the last status.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Status) -> bool) -> Result<Status, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("the daemon stopped: {status}"));
            }
            match self.status().await {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => last = format!("{status:?}"),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("the daemon did not come to the wanted state: {last}"))
    }

    /// Its status now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Status, String> {
        status(&self.socket).await
    }

    /// Ends it without warning.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks it to stop, and waits while clients of this test go on running.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        tokio::task::spawn_blocking(move || self.child.wait().expect("wait")).await.expect("a thread")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("kill");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An HSM process of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsmProcess {
    /// The process.
    pub pid: u32,
    /// What it calls itself: `keyward-hsm: ` and the token that it serves.
    pub name: String,
}

impl HsmProcess {
    /// Sends it a signal; one that has gone already needs none.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).ok();
    }

    /// A file of the process in `/proc`, or nothing when it has gone.
    pub fn proc(&self, file: &str) -> String {
        let read = std::fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&read).replace('\0', " ")
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A zombie has no command line any more.
        while self.proc("cmdline").starts_with("keyward-hsm: ") {
            assert!(Instant::now() < deadline, "{self:?} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) async fn crypto(socket: &Path) -> CryptoServiceClient<Channel> {
    CryptoServiceClient::new(channel(socket).await)
}

pub(crate) async fn channel(socket: &Path) -> Channel {
    let socket = format!("unix://{}", socket.display());
    Endpoint::try_from(socket).expect("a path").connect().await.expect("a connection")
}

pub(crate) async fn status(socket: &Path) -> Result<Status, String> {
    let client = Client::connect(socket).await.map_err(|error| error.to_string())?;
    let answer = client.system().get_status(GetStatusRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

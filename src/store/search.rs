//! The search of the store's files for destroyed keys, in a process of its own.
//!
//! SQLite's locks are of POSIX: all that a process has on a file end when it closes *any* descriptor of that
//! file. A daemon that read `store.db` by itself would lose them, and another program that opens the database
//! then believes to be alone and takes the write-ahead log away under it. So the same program is started once
//! more, reads the files, and answers what it found. The daemon looks at names and sizes at most.
//!
//! ```text
//! daemon → process   Needles …   Search
//! process → daemon   Found …     Done | Failed
//! ```

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use minicbor::{Decode, Encode};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::kv::KvError;
use crate::child::{ChildError, Program, frame, last_words, take_socket};
use crate::keyring::remains::{Remains, Search};

/// The command that makes a search process of `keywardd` and of `keyward`; no user calls it.
pub const COMMAND: &str = "search-process";

/// How lists of processes name it.
const TITLE: &str = "keyward-search";

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Pieces after which the process says that it is still at work.
const REPORT: u64 = 64;

/// Destroyed keys in one message.
const TOGETHER: usize = 4096;

/// How long the process may say nothing. Far more than a slow disk needs for what it reads meanwhile.
const SILENCE: Duration = Duration::from_secs(300);

/// From the daemon.
#[derive(Debug, Encode, Decode)]
enum Request {
    /// Some of the keys to look for.
    #[n(0)]
    Needles(#[n(0)] Vec<Remains>),
    /// The files, by the bytes of their paths: nothing follows.
    #[n(1)]
    Search(#[n(0)] Vec<Vec<u8>>),
}

/// From the process.
#[derive(Debug, Encode, Decode)]
enum Answer {
    /// What was found since the answer before; nothing, too: it is at work.
    #[n(0)]
    Found(#[n(0)] Vec<Remains>),
    /// Each file was read to its end, and had so many bytes: nothing follows.
    #[n(1)]
    Done(#[n(0)] Vec<u64>),
    /// A file cannot be read, and why: nothing follows.
    #[n(2)]
    Failed(#[n(0)] String),
}

/// What stands in the files.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// The keys that were found, each as often as it stands there.
    pub found: Vec<Remains>,
    /// How many bytes all files had.
    pub bytes: u64,
}

/// Has a process look for `needles` in `files`, which must all be there.
///
/// # Errors
/// [`KvError::Other`] when a file cannot be read, or the process does not say of each file that it was
/// read to its end: then nothing is known.
pub(super) async fn search(files: &[PathBuf], needles: &[Remains]) -> Result<Searched, KvError> {
    search_by(&program(), files, needles).await
}

/// This very program.
#[cfg(not(test))]
fn program() -> Program {
    Program::this(vec![OsString::from(COMMAND)])
}

/// The program of the unit tests: one of its tests is the process.
#[cfg(test)]
fn program() -> Program {
    let words = ["--exact", tests::PROCESS, "--ignored", "--test-threads=1"];
    Program::this(words.map(OsString::from).to_vec())
}

async fn search_by(program: &Program, files: &[PathBuf], needles: &[Remains]) -> Result<Searched, KvError> {
    let failed = |why: String| {
        KvError::Other(format!("the store's files cannot be searched for destroyed keys: {why}"))
    };
    let (mut child, mut socket) = program.spawn(TITLE).map_err(|error| failed(error.to_string()))?;
    match ask(&mut socket, files, needles).await {
        Ok(searched) => Ok(searched),
        Err(error) => {
            // Nobody waits for a process that is of no use; one that hangs is killed when it is dropped.
            drop(socket);
            let end = last_words("the process", &mut child).await;
            Err(failed(format!("{error} ({end})")))
        }
    }
}

/// Asks, and listens until the last answer.
async fn ask(socket: &mut UnixStream, files: &[PathBuf], needles: &[Remains]) -> io::Result<Searched> {
    for some in needles.chunks(TOGETHER) {
        in_time(frame::write_async(socket, &Request::Needles(some.to_vec()))).await?;
    }
    let paths = files.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    in_time(frame::write_async(socket, &Request::Search(paths))).await?;
    let known: HashSet<[u8; 32]> = needles.iter().map(|remains| remains.fingerprint).collect();
    let mut searched = Searched::default();
    loop {
        match in_time(frame::read_async::<Answer>(socket)).await? {
            Some(Answer::Found(some)) if some.iter().all(|one| known.contains(&one.fingerprint)) => {
                searched.found.extend(some);
            }
            Some(Answer::Done(lengths)) if lengths.len() == files.len() => {
                searched.bytes = lengths.into_iter().fold(0, u64::saturating_add);
                return Ok(searched);
            }
            Some(Answer::Failed(why)) => return Err(io::Error::other(why)),
            Some(Answer::Found(_) | Answer::Done(_)) => {
                return Err(io::Error::other("it answers what was not asked"));
            }
            None => return Err(io::Error::other("it ended before it was done")),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(SILENCE, work).await.unwrap_or_else(|_| {
        Err(io::Error::other(format!("it said nothing for {} seconds", SILENCE.as_secs())))
    })
}

/// Runs as the search process: standard input is the socket to whoever asks.
///
/// # Errors
/// [`ChildError`]; a file that cannot be read is an answer instead.
pub fn run_search_process() -> Result<(), ChildError> {
    Ok(serve(&mut take_socket()?)?)
}

fn serve(socket: &mut StdStream) -> io::Result<()> {
    let mut needles = Vec::new();
    while let Some(request) = frame::read::<Request>(socket)? {
        match request {
            Request::Needles(some) => needles.extend(some),
            Request::Search(paths) => {
                let paths: Vec<PathBuf> =
                    paths.into_iter().map(|path| OsString::from_vec(path).into()).collect();
                let search = Search::new(needles);
                let mut report = |found: Vec<Remains>| tell(socket, &found);
                let answer = match search_all(&paths, &search, &mut report) {
                    Ok(lengths) => Answer::Done(lengths),
                    Err(why) => Answer::Failed(why),
                };
                return frame::write(socket, &answer);
            }
        }
    }
    Ok(())
}

/// Tells what was found, or by an empty message that nothing was.
fn tell(socket: &mut StdStream, found: &[Remains]) -> io::Result<()> {
    let (first, rest) = found.split_at(found.len().min(TOGETHER));
    frame::write(socket, &Answer::Found(first.to_vec()))?;
    rest.chunks(TOGETHER).try_for_each(|some| frame::write(socket, &Answer::Found(some.to_vec())))
}

/// Reads all files to their ends. Answers their lengths, or which of them cannot be read and why.
fn search_all(
    files: &[PathBuf],
    search: &Search,
    report: &mut impl FnMut(Vec<Remains>) -> io::Result<()>,
) -> Result<Vec<u64>, String> {
    let lengths = files.iter().map(|path| {
        search_file(path, search, report).map_err(|error| format!("{}: {error}", path.display()))
    });
    lengths.collect()
}

fn search_file(
    path: &Path,
    search: &Search,
    report: &mut impl FnMut(Vec<Remains>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut read, mut piece) = (0, Vec::with_capacity(PIECE + search.overlap()));
    let (mut found, mut pieces) = (Vec::new(), 0u64);
    loop {
        // What stands across the border of two pieces stands whole in the second.
        piece.drain(..piece.len().saturating_sub(search.overlap()));
        let new = file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if new == 0 {
            report(found)?;
            return Ok(read);
        }
        read += new as u64;
        found.extend(search.find(&piece));
        pieces += 1;
        if pieces.is_multiple_of(REPORT) {
            report(std::mem::take(&mut found))?;
        }
    }
}

#[cfg(test)]
mod tests;

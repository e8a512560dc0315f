//! The attackers of the soak, each a process of its own:
//!
//! - `soak-attacker call SOCKET UID stranger|greedy` becomes that user and misuses the socket;
//! - `soak-attacker rewrite STORE OLDER` takes rows of a store away and puts others in their place, and at
//!   the end everything back.
//!
//! Each goes on until its standard input ends, and then says in one line of JSON what it did.

use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{Uid, set_thread_res_uid};

mod post;
mod rewriter;
mod shapes;

use post::Post;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = match words.as_slice() {
        ["call", socket, uid, who] => {
            let shapes = shapes::of(who).ok_or("stranger or greedy?")?;
            many_files()?;
            // Before there are threads, which inherit it: it is of this thread alone.
            let uid = Uid::from_raw(uid.parse()?);
            set_thread_res_uid(uid, uid, uid)?;
            call(socket, shapes)
        }
        ["rewrite", store, older] => rewrite(store, older)?,
        _ => return Err("call SOCKET UID stranger|greedy, or rewrite STORE OLDER".into()),
    };
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

/// As many descriptors as the system allows: it is the daemon's that are to run out.
fn many_files() -> Result<(), rustix::io::Errno> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
}

fn call(socket: &str, shapes: &[fn(&Post)]) -> serde_json::Value {
    let post = Post::to(Path::new(socket));
    std::thread::scope(|scope| {
        let post = &post;
        for shape in shapes {
            scope.spawn(move || shape(post));
        }
        wait_for_the_end();
        post.end();
    });
    post.told()
}

fn rewrite(store: &str, older: &str) -> Result<serde_json::Value, Box<dyn Error>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_the_end();
            over.store(true, Ordering::Relaxed);
        });
        rewriter::run(Path::new(store), Path::new(older), &over)
    })
}

fn wait_for_the_end() {
    // Whatever ends it, an error too.
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
}

//! The Python reader, written from docs/format.md alone, agrees with every vector.

use std::path::PathBuf;
use std::process::Command;

#[test]
fn the_python_reader_agrees_with_every_vector() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("reader/check_vectors.py");
    // -B: leave no byte code in the tree. The system's Python is the one that sees system packages.
    let run = Command::new("/usr/bin/python3").arg("-B").arg(script).output();
    let run =
        run.unwrap_or_else(|error| panic!("/usr/bin/python3: {error}\napt-get install python3-cryptography"));
    let said = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&said));
}

//! The process does what a search must do, and is never taken at its word when it does not.

use super::*;

/// The test that is the process.
pub(super) const PROCESS: &str = "store::search::tests::the_process_itself";

/// No test: [`program`] starts it, with a socket as its standard input.
#[test]
#[ignore = "it is the process that the other tests start"]
fn the_process_itself() {
    match run_search_process() {
        // Somebody runs all ignored tests.
        Ok(()) | Err(ChildError::NotStartedByKeyward) => {}
        Err(error) => panic!("{error}"),
    }
}

fn record(seed: u8) -> Vec<u8> {
    (0..90).map(|at: u8| at.wrapping_mul(7).wrapping_add(seed)).collect()
}

/// A shell in the place of the process: its standard input is the socket.
fn shell(script: &str) -> Program {
    Program::new("/bin/sh".into(), vec!["-c".into(), script.into()])
}

#[tokio::test]
async fn what_stands_in_a_file_is_found_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let (here, gone) = (Remains::of(&record(1)), Remains::of(&record(2)));
    std::fs::write(&first, [vec![0; 3 * PIECE], record(1), vec![0; 5]].concat()).unwrap();
    std::fs::write(&second, record(1)).unwrap();
    let files = [first, second];
    let searched = search(&files, &[here, gone]).await.unwrap();
    assert_eq!(searched.found, [here, here]);
    assert_eq!(searched.bytes, (3 * PIECE + 90 + 5 + 90) as u64);
    assert_eq!(search(&files, &[gone]).await.unwrap().found, []);
}

#[tokio::test]
async fn more_needles_than_a_message_holds_are_all_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let record = |number: u32| [number.to_be_bytes().repeat(2), vec![9; 40]].concat();
    let needles: Vec<Remains> = (0..10_000).map(|number| Remains::of(&record(number))).collect();
    std::fs::write(&path, (0..10_000).flat_map(record).collect::<Vec<u8>>()).unwrap();
    let searched = search(&[path], &needles).await.unwrap();
    assert_eq!(searched.found, needles);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("there");
    std::fs::write(&there, "x").unwrap();
    let missing = dir.path().join("missing");
    let error = search(&[there, missing], &[]).await.unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_process_that_dies_or_talks_nonsense_never_means_clean() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    // Nothing found, and no end; all of no file; all of two files; an unknown answer; an answer that is cut.
    let cases = [
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "signal 9"),
        ("exec <&-", "ended"),
        (r"printf '\0\0\0\4\202\0\201\200' >&0", "ended"),
        (r"printf '\0\0\0\4\202\1\201\200' >&0; cat >/dev/null", "not asked"),
        (r"printf '\0\0\0\6\202\1\201\202\1\1' >&0; cat >/dev/null", "not asked"),
        (r"printf '\0\0\0\3\202\11\200' >&0; cat >/dev/null", "malformed"),
        (r"printf '\0\0\0\11\202\1' >&0", ""),
        (r"printf 'running 0 tests\n' >&0; cat >/dev/null", "are the most"),
    ];
    for (script, words) in cases {
        let answer = search_by(&shell(script), std::slice::from_ref(&file), &[]).await;
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(words), "{script}: {error}");
    }
    let nowhere = Program::new("/nowhere/keywardd".into(), Vec::new());
    assert!(search_by(&nowhere, &[file], &[]).await.is_err());
}

#[test]
fn nothing_is_missed_at_the_border_of_two_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let record: [u8; 48] = std::array::from_fn(|at| at as u8 + 1);
    for at in [PIECE - 48, PIECE - 47, PIECE - 20, PIECE - 1, PIECE, 2 * PIECE - 10] {
        let mut bytes = vec![0; 2 * PIECE + 100];
        bytes[at..at + 48].copy_from_slice(&record);
        std::fs::write(&path, bytes).unwrap();
        let mut found = Vec::new();
        let mut report = |some: Vec<Remains>| {
            found.extend(some);
            Ok(())
        };
        let length = search_file(&path, &Search::new([Remains::of(&record)]), &mut report).unwrap();
        assert_eq!(length, 2 * PIECE as u64 + 100);
        assert!(!found.is_empty(), "{at}");
    }
}

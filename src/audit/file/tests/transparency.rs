//! The tree and the checkpoints beside the log: across restarts, crashes and tampering.

use super::*;
use crate::audit::checkpoint::tests::signed;
use crate::audit::checkpoint::{NoteKey, SignedCheckpoint, TreeHead};
use crate::audit::merkle::{self, Frontier};
use crate::audit::verify::Against;
use crate::audit::{Damage, proof};
use crate::keyring::signing::tests::TestKey;

/// The tree over the records, computed from them.
fn computed(dir: &Path) -> TreeHead {
    let mut frontier = Frontier::default();
    for item in verify::read(dir).unwrap() {
        let bytes = minicbor::to_vec(item.unwrap().1).unwrap();
        frontier.push(merkle::leaf(&bytes), |_, _| ());
    }
    TreeHead { size: frontier.count(), root: frontier.root() }
}

/// That the files of the tree are what the records make, all of them.
pub(super) fn assert_tree(dir: &Path) {
    let report = verify::verify(dir).unwrap();
    assert_eq!(report.counted.head, computed(dir));
    let leaves = fs::metadata(dir.join("tree/0")).unwrap().len();
    assert_eq!(leaves, 32 * report.records);
}

/// A closed log of `records` records and, over the first `covered`, a checkpoint.
fn log(key: &TestKey, covered: u64, records: u64) -> (TempDir, Settings) {
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 1500, ..settings(temp.path()) };
    let (log, _) = open(&settings);
    write_each(&log, 0..covered);
    checkpoint(&log, key);
    write_each(&log, covered..records);
    drop(log);
    (temp, settings)
}

fn checkpoint(log: &FileLog, key: &TestKey) -> SignedCheckpoint {
    let note = signed(key, DEPLOYMENT, log.settle(log.durable()).unwrap());
    log.keep(&note).unwrap();
    note
}

fn by(keys: &[NoteKey]) -> Against<'_> {
    Against { keys: Some(keys), witness: None }
}

fn refused(settings: &Settings) -> Damage {
    match FileLog::open(settings.clone(), DEPLOYMENT).map(drop) {
        Err(OpenError::Unsound(VerifyError::Damaged(damage))) => damage,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_tree_grows_with_the_log_and_across_restarts() {
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 20_000, ..settings(temp.path()) };
    for round in 0..4 {
        let (log, _) = open(&settings);
        assert_eq!(log.tree().size(), round * 200);
        write_each(&log, round * 200..(round + 1) * 200);
        let head = log.settle(log.durable()).unwrap();
        assert_eq!(head, computed(&settings.dir));
    }
    assert_tree(&settings.dir);
    assert_eq!(fs::metadata(settings.dir.join("tree/1")).unwrap().len(), 32 * 3);
}

#[test]
fn a_log_of_the_first_form_gets_its_tree() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 300, 310);
    let before = computed(&settings.dir);
    fs::remove_dir_all(settings.dir.join("tree")).unwrap();
    for name in ["checkpoint", "checkpoints"] {
        fs::remove_file(settings.dir.join(name)).unwrap();
    }
    let (log, opened) = open(&settings);
    assert_eq!((opened.last_sequence, log.tree().head(310).unwrap()), (310, before));
    drop(log);
    assert_tree(&settings.dir);
}

#[test]
fn a_start_reads_only_what_is_new() {
    let (_temp, settings) = log(&TestKey::new(), 50, 60);
    // Were the first segment read, this would be noticed.
    let first = segment(&settings.dir, 1);
    let mut bytes = fs::read(&first).unwrap();
    bytes[500] ^= 1;
    fs::write(&first, bytes).unwrap();
    assert_eq!(open(&settings).0.tree().size(), 60);
}

#[test]
fn a_damaged_tree_is_computed_again() {
    let key = TestKey::new();
    let damages: [&dyn Fn(&Path); 4] = [
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::write(path, vec![7; 32 * 300]).unwrap(),
        &|path| File::options().write(true).open(path).unwrap().set_len(999).unwrap(),
        &|path| fs::write(path, vec![0; 32 * 9000]).unwrap(),
    ];
    for damage in damages {
        let (_temp, settings) = log(&key, 290, 300);
        damage(&settings.dir.join("tree/0"));
        drop(open(&settings));
        assert_tree(&settings.dir);
    }
}

/// Whoever can write the files can make them fit each other. Only what was signed is taken from them.
#[test]
fn a_tree_that_somebody_wrote_is_not_signed() {
    let (_temp, settings) = log(&TestKey::new(), 50, 60);
    let honest = computed(&settings.dir);
    let path = settings.dir.join("tree/0");
    let mut leaves = fs::read(&path).unwrap();
    leaves[32 * 54] ^= 1;
    fs::write(&path, &leaves).unwrap();
    let mut forged = Frontier::default();
    leaves.chunks_exact(32).for_each(|leaf| forged.push(leaf.try_into().unwrap(), |_, _| ()));
    let mark = settings.dir.join("tree/durable");
    let text = fs::read_to_string(&mark).unwrap();
    let chain = text.trim_end().rsplit('\n').next().unwrap();
    let head = TreeHead { size: 60, root: forged.root() };
    let origin = crate::audit::checkpoint::origin(DEPLOYMENT);
    let text = crate::audit::checkpoint::Checkpoint { origin, head }.text();
    fs::write(&mark, format!("{text}{chain}\n")).unwrap();
    let (log, _) = open(&settings);
    assert_eq!(log.settle(60).unwrap(), honest);
    drop(log);
    assert_tree(&settings.dir);
}

/// Nor while the daemon runs.
#[test]
fn a_tree_that_is_changed_under_way_is_not_signed() {
    let (_temp, settings) = log(&TestKey::new(), 50, 60);
    let (log, _) = open(&settings);
    let path = settings.dir.join("tree/0");
    let mut leaves = fs::read(&path).unwrap();
    leaves[32 * 59] ^= 1;
    fs::write(&path, &leaves).unwrap();
    assert!(matches!(log.settle(60), Err(TreeError::Unsound(_))));
}

#[test]
fn a_hash_damaged_inside_the_tree_leads_to_no_proof() {
    let (_temp, settings) = log(&TestKey::new(), 300, 300);
    let path = settings.dir.join("tree/0");
    let mut bytes = fs::read(&path).unwrap();
    bytes[32 * 17] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = verify::verify(&settings.dir).unwrap_err().to_string();
    assert!(found.contains("tree/0, byte 544, record 18"), "{found}");
    let (log, _) = open(&settings);
    let head = log.tree().head(300).unwrap();
    let leaf = merkle::leaf(&log.record(17).unwrap());
    assert!(matches!(log.tree().inclusion(&leaf, 16, &head), Err(TreeError::Unsound(_))));
    assert!(matches!(log.record(18), Err(TreeError::Unsound(_))));
}

#[test]
fn every_record_is_found_and_proved() {
    let (_temp, settings) = log(&TestKey::new(), 300, 300);
    let (log, _) = open(&settings);
    let tree = log.tree();
    let heads: Vec<TreeHead> = [1, 2, 255, 256, 257, 300].map(|size| tree.head(size).unwrap()).into();
    for sequence in 1..=300 {
        let record = Record::from_canonical(&log.record(sequence).unwrap()).unwrap();
        assert_eq!(record.request_id, sequence - 1);
        let leaf = merkle::leaf(&log.record(sequence).unwrap());
        for head in heads.iter().filter(|head| head.size >= sequence) {
            let path = tree.inclusion(&leaf, sequence - 1, head).unwrap();
            assert!(proof::verify_inclusion(&leaf, sequence - 1, head.size, &path, &head.root));
        }
    }
    for (old, new) in heads.iter().flat_map(|old| heads.iter().map(move |new| (old, new))) {
        assert_eq!(tree.consistency(old, new).is_ok(), old.size <= new.size);
    }
    for beyond in [0, 301, u64::MAX] {
        assert!(matches!(log.record(beyond), Err(TreeError::Beyond(_))));
    }
    assert!(matches!(tree.head(301), Err(TreeError::Beyond(301))));
}

#[test]
fn checkpoints_are_kept_and_verified() {
    let (key, stranger) = (TestKey::new(), TestKey::new());
    let (_temp, settings) = log(&key, 10, 20);
    let (log, _) = open(&settings);
    let newest = checkpoint(&log, &key);
    // The same head again, or an older one, is passed over.
    checkpoint(&log, &key);
    assert_eq!(log.checkpoint(), Some(newest.clone()));
    assert_eq!(fs::read_to_string(settings.dir.join("checkpoint")).unwrap(), newest.to_string());
    drop(log);
    assert_eq!(open(&settings).0.checkpoint(), Some(newest));
    let trusted = [NoteKey::new(DEPLOYMENT, key.public())];
    let report = verify::verify_against(&settings.dir, by(&trusted)).unwrap();
    assert_eq!((report.counted.checkpoints, report.counted.covered), (2, 20));
    let foreign = [NoteKey::new(DEPLOYMENT, stranger.public())];
    let refused = verify::verify_against(&settings.dir, by(&foreign)).unwrap_err().to_string();
    assert!(
        refused.contains("checkpoints, byte 0") && refused.contains("none of the trusted keys"),
        "{refused}"
    );
}

#[test]
fn a_log_cut_behind_a_record_is_refused() {
    let (_temp, settings) = log(&TestKey::new(), 12, 12);
    let numbers = crate::audit::segment::list(&settings.dir).unwrap();
    let path = segment(&settings.dir, *numbers.last().unwrap());
    let bytes = fs::read(&path).unwrap();
    let ends = frame_ends(&bytes);
    fs::write(&path, &bytes[..ends[ends.len() - 2]]).unwrap();
    let damage = refused(&settings);
    assert_eq!((damage.sequence, &damage.flaw), (12, &Flaw::Cut { records: 11 }));
    let found = verify::verify(&settings.dir).unwrap_err().to_string();
    assert!(found.contains("record 12") && found.contains("only 11 records"), "{found}");
}

#[test]
fn a_log_written_anew_is_refused() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 12, 14);
    let (_other, other) = log(&key, 1, 14);
    // The same number of records, all hashes in order, and another history.
    for number in crate::audit::segment::list(&settings.dir).unwrap() {
        fs::remove_file(segment(&settings.dir, number)).unwrap();
    }
    for number in crate::audit::segment::list(&other.dir).unwrap() {
        fs::copy(segment(&other.dir, number), segment(&settings.dir, number)).unwrap();
    }
    assert_eq!(refused(&settings).flaw, Flaw::Forked);
    let found = verify::verify(&settings.dir).unwrap_err().to_string();
    assert!(found.contains("not those that this checkpoint covers"), "{found}");
}

#[test]
fn a_replaced_checkpoint_is_refused() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 12, 14);
    let path = settings.dir.join("checkpoint");
    let right = fs::read_to_string(&path).unwrap();
    let put = |note: &str| fs::write(&path, note).unwrap();
    let head = TreeHead { size: 13, root: [1; 32] };
    for wrong in [
        // Newer than the last of all; the same size and another root; of another log; not one.
        signed(&key, DEPLOYMENT, head).to_string(),
        signed(&key, DEPLOYMENT, TreeHead { size: 12, ..head }).to_string(),
        signed(&key, DeploymentId([6; 16]), TreeHead { size: 11, ..head }).to_string(),
        right[1..].to_owned(),
    ] {
        put(&wrong);
        assert!(matches!(refused(&settings).flaw, Flaw::Checkpoint(_)), "{wrong}");
        assert!(verify::verify(&settings.dir).is_err(), "{wrong}");
    }
    put(&right);
    drop(open(&settings));
    // One that is lost stands in the other file still.
    fs::remove_file(&path).unwrap();
    assert_eq!(open(&settings).0.checkpoint().unwrap().to_string(), right);
    assert_eq!(fs::read_to_string(&path).unwrap(), right);
    fs::remove_file(settings.dir.join("checkpoints")).unwrap();
    assert!(matches!(refused(&settings).flaw, Flaw::Checkpoint(_)));
}

#[test]
fn a_checkpoint_torn_at_any_byte_is_cut() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 5, 8);
    let (log, _) = open(&settings);
    let path = settings.dir.join("checkpoints");
    let first = fs::read(&path).unwrap();
    let newest = fs::read(settings.dir.join("checkpoint")).unwrap();
    let second = checkpoint(&log, &key);
    drop(log);
    let all = fs::read(&path).unwrap();
    for cut in first.len()..=all.len() {
        fs::write(&path, &all[..cut]).unwrap();
        // The list is written before the newest one is replaced.
        fs::write(settings.dir.join("checkpoint"), &newest).unwrap();
        verify::verify(&settings.dir).unwrap();
        let whole = cut == all.len();
        let found = open(&settings).0.checkpoint().unwrap();
        assert_eq!(found == second, whole, "{cut} bytes");
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(length, if whole { all.len() } else { first.len() } as u64);
    }
}

/// Its last block may reach the disk before its first.
#[test]
fn a_checkpoint_with_a_hole_is_cut() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 5, 8);
    let (log, _) = open(&settings);
    let path = settings.dir.join("checkpoints");
    let first = fs::read(&path).unwrap();
    let newest = fs::read(settings.dir.join("checkpoint")).unwrap();
    checkpoint(&log, &key);
    drop(log);
    let all = fs::read(&path).unwrap();
    for hole in first.len() + 1..all.len() {
        let mut torn = all.clone();
        torn[first.len()..hole].fill(0);
        fs::write(&path, &torn).unwrap();
        fs::write(settings.dir.join("checkpoint"), &newest).unwrap();
        verify::verify(&settings.dir).unwrap();
        let found = open(&settings).0.checkpoint().unwrap();
        assert_eq!(found.to_string().as_bytes(), newest, "{hole} bytes");
        assert_eq!(fs::read(&path).unwrap(), first);
    }
}

#[test]
fn a_log_put_back_with_all_that_belongs_to_it_is_found_by_a_checkpoint_kept_elsewhere() {
    let key = TestKey::new();
    let (_temp, settings) = log(&key, 12, 14);
    let trusted = [NoteKey::new(DEPLOYMENT, key.public())];
    let file = Path::new("/elsewhere/checkpoint");
    let check = |note: &SignedCheckpoint| {
        verify::verify_against(&settings.dir, Against { keys: Some(&trusted), witness: Some((file, note)) })
    };
    let here = |size| signed(&key, DEPLOYMENT, open(&settings).0.tree().head(size).unwrap());
    for size in [1, 7, 12, 14] {
        check(&here(size)).unwrap();
    }
    let refused = |note: &SignedCheckpoint| match check(note).unwrap_err() {
        VerifyError::Damaged(damage) => (damage.file, damage.sequence, damage.flaw),
        other => panic!("{other}"),
    };
    let later = signed(&key, DEPLOYMENT, TreeHead { size: 20, root: [1; 32] });
    assert_eq!(refused(&later), (file.into(), 20, Flaw::Cut { records: 14 }));
    let other = signed(&key, DEPLOYMENT, TreeHead { size: 7, root: [1; 32] });
    assert_eq!(refused(&other), (file.into(), 7, Flaw::Forked));
    let unsigned = signed(&TestKey::new(), DEPLOYMENT, here(7).checkpoint.head);
    assert!(matches!(refused(&unsigned).2, Flaw::Checkpoint(_)));
    let foreign = signed(&key, DeploymentId([6; 16]), here(7).checkpoint.head);
    assert!(matches!(refused(&foreign).2, Flaw::Checkpoint(_)));
}

//! Running a use case on an honest copy of an installation, and on copies that lie.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyward::id::RootId;
use keyward::store::tables::{Table, describe};
use keyward_hsm_memory::lying::Reads;
use keyward_hsm_memory::{Lie, Place, When, World};
use keyward_softhsm_tests::rounds;

use super::deeds;
use super::harness::{Answer, UseCase};
use super::works::{Works, works};
use super::worlds::{Scene, on_runtime};

/// Cases that are run at a time: some of them only wait.
const AT_ONCE: usize = 6;

/// What a use case came to.
struct Run {
    answer: Answer,
    /// Master keys that were there before and are destroyed.
    destroyed: BTreeSet<RootId>,
    /// How many that were made meanwhile are destroyed.
    unborn: usize,
    reads: Reads,
    world: Option<World>,
}

/// A run without a lie: what others are compared with.
struct Honest {
    answer: Answer,
    destroyed: BTreeSet<RootId>,
    unborn: usize,
    reads: Reads,
    before: Works,
    after: Works,
}

/// One lie in one use case.
struct Case<'a> {
    use_case: &'a UseCase,
    honest: &'a Honest,
    lie: Lie,
    key: Vec<u8>,
    when: When,
}

/// What came of all cases.
pub(crate) struct Verdict {
    /// How many there were.
    pub(crate) judged: usize,
    /// In how many the lie was told.
    pub(crate) told: usize,
    /// What should not have happened.
    pub(crate) violations: Vec<String>,
}

/// Runs use cases under every lie.
pub(crate) fn judge_all(scene: &Scene, use_cases: &[UseCase]) -> Verdict {
    let honest = in_parallel(use_cases, |one| on_runtime(undisturbed(scene, one)));
    let cases: Vec<Case<'_>> =
        use_cases.iter().zip(&honest).flat_map(|(use_case, honest)| cases(use_case, honest)).collect();
    let outcomes = in_parallel(&cases, |case| {
        let outcome = catch_unwind(AssertUnwindSafe(|| on_runtime(judge(scene, case))));
        let outcome = outcome.unwrap_or_else(|_| Err("a panic".to_owned()));
        outcome.map_err(|violation| format!("{}: {violation}", name_of(case)))
    });
    let told = outcomes.iter().filter(|outcome| !matches!(outcome, Ok(false))).count();
    let violations: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    Verdict { judged: cases.len(), told, violations }
}

/// What comes of work on each of some things, in their order.
fn in_parallel<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = things.get(at) else { return };
                    let result = work(thing);
                    done.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The tables that use cases read rows of which were there before.
pub(crate) fn tables_of(scene: &Scene, use_cases: &[UseCase]) -> BTreeSet<Table> {
    let read = in_parallel(use_cases, |one| {
        on_runtime(async {
            let place = scene.place.copy();
            let Run { mut reads, world, .. } = run(&place, one, scene, None).await;
            if let Some(world) = world {
                world.close().await;
            }
            reads.retain(|key, _| scene.place.lies().knows(key));
            reads
        })
    });
    read.iter().flat_map(|reads| reads.keys().filter_map(|key| Table::from_byte(key[0]))).collect()
}

fn name_of(case: &Case<'_>) -> String {
    let Case { use_case, lie, key, when, .. } = case;
    format!("{}, {lie:?} {when:?}, {}", use_case.name, describe(key))
}

fn cases<'a>(use_case: &'a UseCase, honest: &'a Honest) -> Vec<Case<'a>> {
    let one = |(key, lie): (Vec<u8>, Lie)| {
        let reads = honest.reads[&key][&lie];
        let whens = if full() { each(reads) } else { first_and_last(lie, reads) };
        whens.into_iter().map(move |when| Case { use_case, honest, lie, key: key.clone(), when })
    };
    chosen(&honest.reads).into_iter().flat_map(one).collect()
}

fn first_and_last(lie: Lie, reads: usize) -> Vec<When> {
    // What is there twice or in another's place is refused by the read itself, whichever it is.
    let last = (reads > 1 && matches!(lie, Lie::Hidden | Lie::Older)).then_some(When::Only(reads));
    [When::From(1)].into_iter().chain(last).collect()
}

fn each(reads: usize) -> Vec<When> {
    let once = (1..=reads).map(When::Only);
    (1..=reads).map(When::From).chain(once).collect()
}

/// The rows that lies are told about: for each table and lie the one that is read most, of several the newest by
/// name; or all of them.
pub(crate) fn chosen(reads: &Reads) -> Vec<(Vec<u8>, Lie)> {
    let mut most: BTreeMap<(u8, Lie), (usize, Vec<u8>)> = BTreeMap::new();
    let mut every = Vec::new();
    for (key, lies) in reads {
        for (lie, count) in lies {
            every.push((key.clone(), *lie));
            let known = most.entry((key[0], *lie)).or_default();
            if *count >= known.0 {
                *known = (*count, key.clone());
            }
        }
    }
    if full() { every } else { most.into_iter().map(|((_, lie), (_, key))| (key, lie)).collect() }
}

fn full() -> bool {
    rounds(false, true)
}

async fn run(place: &Arc<Place>, use_case: &UseCase, scene: &Scene, lie: Option<(Lie, &[u8], When)>) -> Run {
    let before: BTreeSet<RootId> = place.token().objects().into_iter().map(|(id, _)| id).collect();
    let tell = || match lie {
        Some((lie, key, when)) => place.lies().tell(lie, key.to_vec(), when),
        None => place.lies().forget_reads(),
    };
    if use_case.opens {
        tell();
    }
    let (answer, world) = match place.open().await {
        Err(error) => (Err(error.into()), None),
        Ok(world) => {
            if !use_case.opens {
                tell();
            }
            let answer = (use_case.work)(&world, scene).await;
            (answer, Some(world))
        }
    };
    let reads = place.lies().reads();
    place.lies().be_honest();
    let all = place.token().destroyed();
    let (destroyed, unborn): (Vec<_>, Vec<_>) = all.into_iter().partition(|(id, _)| before.contains(id));
    let destroyed = destroyed.into_iter().map(|(id, _)| id).collect();
    Run { answer, destroyed, unborn: unborn.len(), reads, world }
}

async fn undisturbed(scene: &Scene, use_case: &UseCase) -> Honest {
    let place = scene.place.copy();
    let world = place.open().await.expect("the vault");
    let before = works(&world, scene).await;
    world.close().await;
    let mut honest = once(scene, use_case, before.clone()).await;
    // A row whose name is drawn has another one each time: nothing can be told about it in advance.
    let same = once(scene, use_case, before).await.reads;
    for (key, lies) in &mut honest.reads {
        let again = same.get(key);
        lies.retain(|lie, count| {
            *count = again.and_then(|again| again.get(lie)).map_or(0, |again| (*again).min(*count));
            *count > 0
        });
    }
    honest
}

async fn once(scene: &Scene, use_case: &UseCase, before: Works) -> Honest {
    let place = scene.place.copy();
    let Run { answer, destroyed, unborn, reads, world } = run(&place, use_case, scene, None).await;
    let name = use_case.name;
    assert_eq!(answer.is_err(), use_case.refused, "{name}: {answer:?}");
    let world = world.unwrap_or_else(|| panic!("{name}: {answer:?}"));
    let after = works(&world, scene).await;
    let report = world.records().check().await.expect("a report");
    assert!(report.is_whole(), "{name}: {:?}", report.lines());
    world.close().await;
    Honest { answer, destroyed, unborn, reads, before, after }
}

/// Whether the lie was told; or what should not have happened.
async fn judge(scene: &Scene, case: &Case<'_>) -> Result<bool, String> {
    let Case { use_case, honest, lie, key, when } = case;
    let place = scene.place.copy();
    let Run { answer, destroyed, unborn, world, .. } =
        run(&place, use_case, scene, Some((*lie, key.as_slice(), *when))).await;
    let told = place.lies().told() > 0;
    let done = compare(honest, &answer, &destroyed, unborn);
    // It is put back: the same daemon goes on where it serves, another one where it did not start.
    let world = match world {
        Some(world) => world,
        None => match place.open().await {
            Ok(world) => world,
            Err(error) => return Err(format!("put back, the vault does not open: {error}")),
        },
    };
    let covered = Table::from_byte(key[0]).is_some_and(Table::covered);
    let same = !full() && world.records().position() == scene.position && unborn == 0 && destroyed.is_empty();
    let found = if same { still_works(&world, scene).await } else { recovered(&world, scene, honest).await };
    let (world, whole) = if same { (world, Ok(())) } else { made_whole(world, covered).await };
    let mut all = done.and(found).and(whole);
    let world = if full() && all.is_ok() {
        let world = world.restart().await;
        all = recovered(&world, scene, honest).await;
        world
    } else {
        world
    };
    world.close().await;
    all.map(|()| told).map_err(|what| format!("{what} (answer: {answer:?})"))
}

/// That the store is whole. One that was changed while a row was disturbed that the digest does not cover has counts
/// that do not fit: the check tells, the journal is not compacted, and a repair counts anew.
async fn made_whole(world: World, covered: bool) -> (World, Result<(), String>) {
    let report = world.records().check().await.expect("a report");
    if report.is_whole() {
        return (world, Ok(()));
    }
    let told = Err(format!("put back, the store is not whole: {:?}", report.lines()));
    if covered || !report.journal.is_empty() {
        return (world, told);
    }
    let place = world.close().await;
    place.repair().await.expect("a repair");
    let world = place.open().await.expect("the vault after the repair");
    let report = world.records().check().await.expect("a report");
    let mended = if report.is_whole() { Ok(()) } else { told };
    (world, mended)
}

/// It fails, or it is unaffected; and nothing is destroyed that it does not destroy without the lie.
fn compare(
    honest: &Honest,
    answer: &Answer,
    destroyed: &BTreeSet<RootId>,
    unborn: usize,
) -> Result<(), String> {
    if !destroyed.is_subset(&honest.destroyed) {
        let more: Vec<_> = destroyed.difference(&honest.destroyed).collect();
        return Err(format!("destroyed in the HSM: {more:?}"));
    }
    match (answer, &honest.answer) {
        (Err(_), _) => Ok(()),
        (Ok(done), Ok(before)) if done != before => {
            Err(format!("it answers {done:?} in place of {before:?}"))
        }
        (Ok(done), Err(refused)) => Err(format!("it does what was refused ({refused:?}): {done:?}")),
        // A step that the lie made fail is done again, and what it had made by then is given up by its record.
        (Ok(_), Ok(_)) if *destroyed != honest.destroyed || unborn < honest.unborn => {
            Err(format!("it says that it is done, and destroyed {destroyed:?} and {unborn} unborn keys"))
        }
        (Ok(_), Ok(_)) => Ok(()),
    }
}

/// Everything works as before the use case, or as after it.
async fn recovered(world: &World, scene: &Scene, honest: &Honest) -> Result<(), String> {
    world
        .records()
        .settle()
        .await
        .map_err(|error| format!("put back, the store does not settle: {error}"))?;
    for (what, how) in works(world, scene).await {
        let known = [honest.before.get(&what), honest.after.get(&what)];
        if !known.contains(&Some(&how)) {
            return Err(format!("put back, {what}: {how:?} in place of {known:?}"));
        }
    }
    Ok(())
}

/// Where nothing was changed, neither in the store nor in the HSM, it is enough that the daemon goes on.
async fn still_works(world: &World, scene: &Scene) -> Result<(), String> {
    let (key, ciphertext) = &scene.ciphertexts[scene.works];
    match deeds::decrypt(world, key, ciphertext).await {
        Ok(true) => Ok(()),
        other => Err(format!("put back, {key} does not decrypt: {other:?}")),
    }
}

//! A store's backend that shows one row otherwise than it is, as a database file does whose tree somebody builds by
//! hand, changes in place and puts back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward::store::kv::{Entry, Kv, KvError};
use keyward::store::tables::Table;

mod backend;

pub(crate) use backend::LyingKv;

/// What a row is made to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lie {
    /// It is not there.
    Hidden,
    /// It is not there in lists; read by its name it is.
    HiddenInRanges,
    /// It is what it was before it was changed last, which was genuine then.
    Older,
    /// It stands twice in lists.
    Doubled,
    /// In lists it stands in the place of the one behind it, so that their number is right.
    InPlaceOfTheNext,
    /// It is there again, although it was deleted.
    Back,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Hidden, Self::HiddenInRanges, Self::Older, Self::Doubled, Self::InPlaceOfTheNext, Self::Back];

    /// Whether it can be told in this read.
    fn fits(self, read: Read) -> bool {
        match self {
            Self::Hidden => read.there,
            Self::HiddenInRanges | Self::Doubled | Self::InPlaceOfTheNext => read.there && read.listed,
            Self::Older => read.there && read.other,
            Self::Back => !read.there && read.other,
        }
    }
}

/// In which reads of the row it is told. Only those are counted in which it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// In the nth, from 1, and all after it.
    From(usize),
    /// In the nth, from 1, and in no other: it is put back.
    Only(usize),
}

/// How often each lie could have been told about each row since the reads were forgotten last.
pub type Reads = BTreeMap<Vec<u8>, BTreeMap<Lie, usize>>;

/// The test's hand on the backend. Clones are the same hand. It outlives the backend.
#[derive(Clone, Default)]
pub struct Lies(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    past: BTreeMap<Vec<u8>, Vec<Version>>,
    reads: Reads,
    plan: Option<Plan>,
    told: u64,
}

/// What a row was from a revision on; none when it was deleted then.
#[derive(Clone)]
struct Version {
    revision: u64,
    value: Option<Vec<u8>>,
}

struct Plan {
    lie: Lie,
    key: Vec<u8>,
    when: When,
    reads: usize,
}

/// One read of one row.
#[derive(Clone, Copy)]
struct Read {
    listed: bool,
    there: bool,
    /// It had another value before.
    other: bool,
}

/// What a list was asked for.
struct Window<'a> {
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
    limit: usize,
    revision: u64,
}

impl Lies {
    /// Has the row at `key` look otherwise from now on.
    pub fn tell(&self, lie: Lie, key: Vec<u8>, when: When) {
        let (When::From(nth) | When::Only(nth)) = when;
        assert!(nth > 0, "reads are counted from 1");
        let mut state = self.lock();
        state.told = 0;
        state.plan = Some(Plan { lie, key, when, reads: 0 });
    }

    /// Shows everything as it is.
    pub fn be_honest(&self) {
        self.lock().plan = None;
    }

    /// How often the lie that was planned last was told.
    pub fn told(&self) -> u64 {
        self.lock().told
    }

    /// Counts reads from nothing.
    pub fn forget_reads(&self) {
        self.lock().reads.clear();
    }

    /// What was read.
    pub fn reads(&self) -> Reads {
        self.lock().reads.clone()
    }

    /// Whether there is, or was, a row at `key`.
    pub fn knows(&self, key: &[u8]) -> bool {
        self.lock().past.contains_key(key)
    }

    /// Another hand, which knows what every row was until now, and plans nothing.
    pub(crate) fn copy(&self) -> Self {
        let state = State { past: self.lock().past.clone(), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Takes note of what is there, where nothing is known yet.
    async fn learn_all(&self, kv: &dyn Kv) -> Result<(), KvError> {
        if !self.lock().past.is_empty() {
            return Ok(());
        }
        let rows = kv.snapshot().await?.range(b"", None, usize::MAX).await?;
        let mut state = self.lock();
        for (key, Entry { value, revision }) in rows {
            state.learn(key, Version { revision, value: Some(value) });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn learn(&mut self, key: Vec<u8>, version: Version) {
        if is_record(&key) {
            self.past.entry(key).or_default().push(version);
        }
    }

    /// What the row was before it became what it is; of one that is not there, what it was last.
    fn other(&self, key: &[u8], entry: Option<&Entry>, revision: u64) -> Option<Entry> {
        let before = entry.map_or_else(|| revision.saturating_add(1), |entry| entry.revision);
        let earlier = self.past.get(key)?.iter().rev().filter(|version| version.revision < before);
        let mut values = earlier.filter_map(|Version { revision, value }| {
            value.clone().map(|value| Entry { value, revision: *revision })
        });
        values.next()
    }

    /// Counts a read, and says what is to be told in it.
    fn read(&mut self, key: &[u8], read: Read) -> Option<Lie> {
        if !is_record(key) {
            return None;
        }
        for lie in Lie::ALL.into_iter().filter(|lie| lie.fits(read)) {
            *self.reads.entry(key.to_vec()).or_default().entry(lie).or_default() += 1;
        }
        let plan = self.plan.as_mut().filter(|plan| plan.key == key && plan.lie.fits(read))?;
        plan.reads += 1;
        let told = match plan.when {
            When::From(nth) => plan.reads >= nth,
            When::Only(nth) => plan.reads == nth,
        };
        if !told {
            return None;
        }
        let lie = plan.lie;
        self.told += 1;
        Some(lie)
    }

    /// A row that is asked for by its name.
    fn one(&mut self, key: &[u8], entry: Option<Entry>, revision: u64) -> Option<Entry> {
        let other = self.other(key, entry.as_ref(), revision);
        let read = Read { listed: false, there: entry.is_some(), other: other.is_some() };
        match self.read(key, read) {
            Some(Lie::Hidden) => None,
            Some(Lie::Older | Lie::Back) => other,
            _ => entry,
        }
    }

    /// The rows of a list.
    fn many(&mut self, rows: &mut Vec<(Vec<u8>, Entry)>, window: &Window<'_>) {
        let mut lies = Vec::new();
        for (key, entry) in rows.iter() {
            let other = self.other(key, Some(entry), window.revision);
            let read = Read { listed: true, there: true, other: other.is_some() };
            lies.extend(self.read(key, read).map(|lie| (key.clone(), lie, other)));
        }
        let shown: &[(Vec<u8>, Entry)] = rows;
        // A list that is full ends with its last row; any other one with the prefix.
        let behind = shown.last().map(|(key, _)| key).filter(|_| shown.len() >= window.limit);
        let known = self.past.range(window.prefix.to_vec()..).map(|(key, _)| key);
        let known = known.take_while(|key| key.starts_with(window.prefix));
        let inside = known.filter(|key| {
            window.after.is_none_or(|after| key.as_slice() > after)
                && behind.is_none_or(|last| *key < last)
                && place(shown, key).is_err()
        });
        let absent: Vec<Vec<u8>> = inside.cloned().collect();
        for key in absent {
            let other = self.other(&key, None, window.revision);
            let read = Read { listed: true, there: false, other: other.is_some() };
            if let Some(lie) = self.read(&key, read) {
                lies.push((key, lie, other));
            }
        }
        for (key, lie, other) in lies {
            tell(rows, key, lie, other);
        }
    }
}

fn place(rows: &[(Vec<u8>, Entry)], key: &[u8]) -> Result<usize, usize> {
    rows.binary_search_by(|(found, _)| found.as_slice().cmp(key))
}

fn tell(rows: &mut Vec<(Vec<u8>, Entry)>, key: Vec<u8>, lie: Lie, other: Option<Entry>) {
    match (lie, place(rows, &key), other) {
        (Lie::Hidden | Lie::HiddenInRanges, Ok(at), _) => drop(rows.remove(at)),
        (Lie::Doubled, Ok(at), _) => rows.insert(at, rows[at].clone()),
        (Lie::InPlaceOfTheNext, Ok(at), _) if at + 1 < rows.len() => rows[at + 1] = rows[at].clone(),
        (Lie::InPlaceOfTheNext, Ok(at), _) => drop(rows.remove(at)),
        (Lie::Older, Ok(at), Some(older)) => rows[at].1 = older,
        (Lie::Back, Err(at), Some(back)) => rows.insert(at, (key, back)),
        _ => {}
    }
}

/// The store's own rows are what proves the others; about them nothing is told here.
fn is_record(key: &[u8]) -> bool {
    let table = key.first().and_then(|byte| Table::from_byte(*byte));
    table.is_some_and(Table::holds_records)
}

//! How many rows of wrapped keys are sealed under each generation of the erasure key.

use std::collections::BTreeMap;

use crate::id::ErasureGeneration;

/// Rows of wrapped keys by the generation that they are sealed under, authenticated with the totals. Whether
/// a generation is still needed is asked here, and not of the rows that are found: one old row that somebody
/// puts back would keep it alive for ever.
///
/// A new generation is made when the one before it is gone, so rows are under two of them at a time, and not
/// sealed at all in a store that came from format 1. There is room for more; rows of a generation beyond that are
/// not counted, and cannot be counted out either: a change of one is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Generations([(u32, u64); Generations::MOST]);

/// Stands for the rows that are not sealed; generations have numbers from 1.
const NOT_SEALED: u32 = 0;

impl Generations {
    const MOST: usize = 8;
    /// No rows.
    pub(in crate::store) const NONE: Self = Self([(NOT_SEALED, 0); Self::MOST]);

    /// Rows that are sealed under a generation before `oldest`, or not at all.
    pub(in crate::store) fn before(&self, oldest: ErasureGeneration) -> u64 {
        self.all().filter(|(number, _)| *number < oldest.get()).map(|(_, rows)| rows).sum()
    }

    /// Rows that are sealed under a generation; of `None`, those that are not sealed.
    pub(in crate::store) fn under(&self, generation: Option<ErasureGeneration>) -> u64 {
        let number = number(generation);
        self.all().filter(|(known, _)| *known == number).map(|(_, rows)| rows).sum()
    }

    /// Counts a row in.
    pub(super) fn add(&mut self, generation: Option<ErasureGeneration>) {
        let number = number(generation);
        if let Some((_, rows)) = self.slot(number) {
            *rows += 1;
        } else if let Some(free) = self.0.iter_mut().find(|(_, rows)| *rows == 0) {
            *free = (number, 1);
            self.sort();
        }
    }

    /// Counts a row out; `None` when no row of its generation was counted in.
    pub(super) fn remove(&mut self, generation: Option<ErasureGeneration>) -> Option<()> {
        let slot = self.slot(number(generation))?;
        slot.1 -= 1;
        if slot.1 == 0 {
            *slot = (NOT_SEALED, 0);
            self.sort();
        }
        Some(())
    }

    /// As they stand on disk: 0 for those that are not sealed.
    pub(super) fn stored(&self) -> BTreeMap<u32, u64> {
        self.all().collect()
    }

    /// Reads what stands on disk; `None` when it is nothing that this program writes.
    pub(super) fn read(stored: &BTreeMap<u32, u64>) -> Option<Self> {
        let mut read = Self::NONE;
        if stored.len() > Self::MOST || stored.values().any(|rows| *rows == 0) {
            return None;
        }
        for (slot, (number, rows)) in read.0.iter_mut().zip(stored) {
            *slot = (*number, *rows);
        }
        Some(read)
    }

    /// Numbers of generations, 0 for none, and their rows.
    pub(in crate::store) fn all(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().copied().filter(|(_, rows)| *rows > 0)
    }

    fn slot(&mut self, number: u32) -> Option<&mut (u32, u64)> {
        self.0.iter_mut().find(|(known, rows)| *known == number && *rows > 0)
    }

    /// Free places stand behind the others, so that equal numbers of rows are equal bytes.
    fn sort(&mut self) {
        self.0.sort_unstable_by_key(|(number, rows)| (*rows == 0, *number));
    }
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.all()).finish()
    }
}

fn number(generation: Option<ErasureGeneration>) -> u32 {
    generation.map_or(NOT_SEALED, ErasureGeneration::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn generation(number: u32) -> Option<ErasureGeneration> {
        ErasureGeneration::new(number)
    }

    proptest! {
        #[test]
        fn rows_are_counted_in_any_order(numbers in prop::collection::vec(0u32..6, 0..40)) {
            let (mut rows, mut reversed) = (Generations::NONE, Generations::NONE);
            numbers.iter().for_each(|number| rows.add(generation(*number)));
            numbers.iter().rev().for_each(|number| reversed.add(generation(*number)));
            prop_assert_eq!(rows, reversed);
            prop_assert_eq!(Generations::read(&rows.stored()), Some(rows));
            for oldest in 1..7 {
                let older = numbers.iter().filter(|number| **number < oldest).count() as u64;
                prop_assert_eq!(rows.before(generation(oldest).unwrap()), older);
                let under = numbers.iter().filter(|number| **number == oldest - 1).count() as u64;
                prop_assert_eq!(rows.under(generation(oldest - 1)), under);
            }
            for number in &numbers {
                prop_assert_eq!(rows.remove(generation(*number)), Some(()));
            }
            prop_assert_eq!(rows, Generations::NONE);
        }
    }

    #[test]
    fn a_row_that_was_never_counted_in_is_not_counted_out() {
        let mut rows = Generations::NONE;
        rows.add(generation(2));
        assert_eq!(rows.remove(generation(1)), None);
        assert_eq!(rows.remove(None), None);
        assert_eq!(rows.remove(generation(2)), Some(()));
        assert_eq!(rows.remove(generation(2)), None);
        let full: BTreeMap<u32, u64> = (1..=8).map(|number| (number, 1)).collect();
        let mut rows = Generations::read(&full).unwrap();
        rows.add(generation(9));
        assert_eq!(rows.remove(generation(9)), None, "there was no room to count it");
        assert_eq!(Generations::read(&(1..=9).map(|number| (number, 1)).collect()), None);
        assert_eq!(Generations::read(&BTreeMap::from([(1, 0)])), None);
    }
}

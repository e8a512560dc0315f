//! The logins of one application by where they come from: which one to give up when there are too many.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::source::Source;
use crate::clock::Moment;
use crate::id::LoginId;

/// Whether it waits for an answer, when it ends, and which it is: so those that were answered stand first, and then
/// those that have waited longest.
type Place = (bool, Moment, LoginId);

/// The logins of one application.
#[derive(Default)]
pub(super) struct Crowd {
    logins: usize,
    /// By address, and by network around it.
    groups: HashMap<String, Group>,
    /// How crowded each group is; among groups that are equally so, the one of the oldest login is last.
    ranks: BTreeSet<Rank>,
}

/// Of an address or network.
struct Group {
    /// How many logins of it weigh as much as one of an address.
    width: usize,
    places: BTreeSet<Place>,
}

/// The measure, what would be given up, and the group's name.
type Rank = (usize, Reverse<Place>, String);

impl Crowd {
    /// How many logins there are.
    pub(super) fn len(&self) -> usize {
        self.logins
    }

    /// How many addresses and networks there are.
    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        assert_eq!(self.groups.len(), self.ranks.len());
        self.groups.len()
    }

    /// Adds a login that nobody has answered.
    pub(super) fn insert(&mut self, source: &Source, end: Moment, login: LoginId) {
        self.logins += 1;
        self.change(source, |places| {
            places.insert((true, end, login));
        });
    }

    /// Notes that a login was answered: its challenge is of no more use to anybody.
    pub(super) fn answered(&mut self, source: &Source, end: Moment, login: LoginId) {
        self.change(source, |places| {
            places.remove(&(true, end, login));
            places.insert((false, end, login));
        });
    }

    /// Takes a login out.
    pub(super) fn remove(&mut self, source: &Source, answered: bool, end: Moment, login: LoginId) {
        self.logins -= 1;
        self.change(source, |places| {
            places.remove(&(!answered, end, login));
        });
    }

    /// The login to give up: in the most crowded group, one that was answered, or else the oldest.
    pub(super) fn most_crowded(&self) -> Option<LoginId> {
        self.ranks.last().map(|(_, Reverse((_, _, login)), _)| *login)
    }

    /// Changes the groups of a source, and ranks them anew.
    fn change(&mut self, source: &Source, mut change: impl FnMut(&mut BTreeSet<Place>)) {
        let address = (&source.address, 1);
        let networks = source.networks.iter().map(|(network, width)| (network, *width));
        for (name, width) in networks.chain([address]) {
            let new = || Group { width, places: BTreeSet::new() };
            let group = self.groups.entry(name.clone()).or_insert_with(new);
            if let Some(rank) = group.rank(name) {
                self.ranks.remove(&rank);
            }
            change(&mut group.places);
            match group.rank(name) {
                Some(rank) => drop(self.ranks.insert(rank)),
                None => drop(self.groups.remove(name)),
            }
        }
    }
}

impl Group {
    /// `None` when it is empty.
    fn rank(&self, name: &str) -> Option<Rank> {
        // In sixteenths, so that the width of every network divides it.
        let measure = self.places.len() * 16 / self.width;
        self.places.first().map(|first| (measure, Reverse(*first), name.to_owned()))
    }
}

//! The arithmetic: figures that were taken in turns, compared pair by pair, and what a comparison of a version
//! with itself says about how far that can be trusted.

use serde::Serialize;

use super::super::figures::median;

/// With fewer pairs nothing is distinguished.
const ENOUGH: usize = 5;

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The version that this program was built with.
    This,
    /// The version that it is compared with.
    Older,
    /// The first one once more, in a world of its own: the control.
    Again,
}

/// Ratios of pairs: their middle, and how far they reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) pairs: usize,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// What a comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    NotDistinguishable,
    Less,
    More,
}

/// One figure of one operation, of all who were measured.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) operation: &'static str,
    pub(crate) figure: &'static str,
    /// Medians.
    pub(crate) this: f64,
    pub(crate) older: Option<f64>,
    /// This version divided by the older one.
    pub(crate) ratio: Option<Spread>,
    /// This version divided by itself.
    pub(crate) control: Option<Spread>,
    pub(crate) verdict: Option<Verdict>,
    /// Each round's figure: this, older, this again.
    pub(crate) rounds: [Vec<f64>; 3],
}

/// All figures so far.
#[derive(Default)]
pub(crate) struct Series(Vec<Taken>);

struct Taken {
    operation: &'static str,
    figure: &'static str,
    /// By role.
    rounds: [Vec<f64>; 3],
}

impl Series {
    /// Notes the figure of one round.
    pub(crate) fn note(&mut self, operation: &'static str, figure: &'static str, role: Role, value: f64) {
        let known = self.0.iter().position(|one| (one.operation, one.figure) == (operation, figure));
        let at = known.unwrap_or_else(|| {
            self.0.push(Taken { operation, figure, rounds: Default::default() });
            self.0.len() - 1
        });
        self.0[at].rounds[role as usize].push(value);
    }

    /// Compares them, in the order in which they were first noted.
    pub(crate) fn rows(self) -> Vec<Row> {
        self.0.into_iter().map(Row::new).collect()
    }
}

impl Row {
    fn new(Taken { operation, figure, rounds }: Taken) -> Self {
        let [this, older, again] = &rounds;
        let (ratio, control) = (Spread::of(this, older), Spread::of(this, again));
        Self {
            operation,
            figure,
            this: median(this.iter().copied()),
            older: (!older.is_empty()).then(|| median(older.iter().copied())),
            ratio,
            control,
            verdict: ratio.zip(control).map(|(ratio, control)| verdict(&ratio, &control)),
            rounds,
        }
    }
}

impl Spread {
    /// The ratios of each figure to the one of the same round; none where there is no pair of which a
    /// ratio can be made.
    pub(crate) fn of(these: &[f64], those: &[f64]) -> Option<Self> {
        let usable = |(this, that): &(&f64, &f64)| **this > 0.0 && **that > 0.0;
        let ratios: Vec<f64> =
            these.iter().zip(those).filter(usable).map(|(this, that)| this / that).collect();
        (!ratios.is_empty()).then(|| Self {
            pairs: ratios.len(),
            median: median(ratios.iter().copied()),
            min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            max: ratios.iter().copied().fold(0.0, f64::max),
        })
    }

    /// How far from 1 it reaches to either side: twice as much is as far as half as much.
    fn reach(&self) -> f64 {
        self.min.ln().abs().max(self.max.ln().abs())
    }
}

/// A difference counts when its median is farther from 1 than any pair of the control: which of the two worlds
/// of a control got the worse pages is chance, so its reach counts to both sides.
fn verdict(ratio: &Spread, control: &Spread) -> Verdict {
    let enough = ratio.pairs.min(control.pairs) >= ENOUGH;
    if !enough || ratio.median.ln().abs() <= control.reach() {
        return Verdict::NotDistinguishable;
    }
    if ratio.median < 1.0 { Verdict::Less } else { Verdict::More }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: [f64; 5] = [10.0, 10.0, 10.0, 10.0, 10.0];

    fn row(this: &[f64], older: &[f64], again: &[f64]) -> Row {
        let rounds = [this, older, again].map(<[f64]>::to_vec);
        Row::new(Taken { operation: "encrypt", figure: "CPU us", rounds })
    }

    #[test]
    fn ratios_are_of_pairs_of_the_same_round() {
        // Each round is twice as slow as the one before: pairs do not see it.
        let spread = Spread::of(&[1.0, 2.0, 4.0], &[2.0, 4.0, 10.0]).unwrap();
        assert_eq!(spread, Spread { pairs: 3, median: 0.5, min: 0.4, max: 0.5 });
        assert_eq!(Spread::of(&[1.0], &[]), None);
        // Nothing was used: there is no ratio, and no infinite one.
        assert_eq!(Spread::of(&[0.0, 1.0], &[1.0, 0.0]), None);
        assert_eq!(Spread::of(&[0.0, 3.0], &[1.0, 1.0]).unwrap().pairs, 1);
    }

    #[test]
    fn what_the_control_reaches_is_not_distinguishable() {
        let noisy = [10.0, 10.5, 10.0, 10.0, 10.0];
        let (more, less) = ([9.0; 5], [11.0; 5]);
        assert_eq!(row(&SAME, &more, &noisy).verdict, Some(Verdict::More));
        assert_eq!(row(&SAME, &less, &noisy).verdict, Some(Verdict::Less));
        assert_eq!(row(&SAME, &[9.6; 5], &noisy).verdict, Some(Verdict::NotDistinguishable));
        // The control was off to one side only; that counts to the other side too.
        assert_eq!(row(&SAME, &[10.4; 5], &noisy).verdict, Some(Verdict::NotDistinguishable));
        // One wild pair of the comparison moves no median.
        assert_eq!(
            row(&SAME, &[10.0, 10.0, 5.0, 10.0, 10.0], &noisy).verdict,
            Some(Verdict::NotDistinguishable)
        );
    }

    #[test]
    fn few_pairs_distinguish_nothing() {
        assert_eq!(row(&SAME[..4], &[1.0; 4], &SAME[..4]).verdict, Some(Verdict::NotDistinguishable));
        assert_eq!(row(&SAME, &[1.0; 5], &SAME).verdict, Some(Verdict::More));
    }

    #[test]
    fn without_an_older_version_there_is_the_control_alone() {
        let mut series = Series::default();
        for value in [3.0, 1.0, 2.0] {
            series.note("start", "ms", Role::This, value);
            series.note("start", "cpu-ms", Role::This, 7.0);
            series.note("start", "ms", Role::Again, value * 2.0);
        }
        let rows = series.rows();
        assert_eq!((rows[0].figure, rows[0].this, rows[0].older), ("ms", 2.0, None));
        assert_eq!(rows[0].control, Some(Spread { pairs: 3, median: 0.5, min: 0.5, max: 0.5 }));
        assert_eq!((rows[0].ratio, rows[0].verdict), (None, None));
        assert_eq!((rows[1].figure, rows[1].control), ("cpu-ms", None));
    }
}

//! What one piece of load saw.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The figures of one measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Items (calls, where a call has one item) answered in each second.
    pub(crate) per_second: f64,
    /// Median time from request to answer in microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 answers came within this time.
    pub(crate) p99_us: f64,
    /// Items answered in all, before and after the measurement too.
    pub(crate) answered: u64,
}

/// Takes the time of calls that end within a window after a warm-up.
pub(crate) struct Meter {
    begin: Instant,
    end: Instant,
    /// Items in one call.
    items: u32,
    answered: u64,
    latencies: Vec<Duration>,
}

impl Meter {
    pub(crate) fn new(warm_up: Duration, measured: Duration, items: u32) -> Self {
        let begin = Instant::now() + warm_up;
        Self { begin, end: begin + measured, items, answered: 0, latencies: Vec::new() }
    }

    /// Notes a call that ended now; answers whether to go on.
    pub(crate) fn note(&mut self, sent: Instant) -> bool {
        let now = Instant::now();
        self.answered += u64::from(self.items);
        if now >= self.begin && now < self.end {
            self.latencies.push(now - sent);
        }
        now < self.end
    }

    pub(crate) fn figures(mut self) -> Figures {
        self.latencies.sort_unstable();
        let items = self.latencies.len() as f64 * f64::from(self.items);
        Figures {
            per_second: items / (self.end - self.begin).as_secs_f64(),
            p50_us: quantile(&self.latencies, 0.50),
            p99_us: quantile(&self.latencies, 0.99),
            answered: self.answered,
        }
    }
}

/// A quantile of sorted times, in microseconds; 0 when there are none.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
}

/// The middle of some numbers; 0 when there are none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => 0.0,
        (half, 0) => f64::midpoint(sorted[half - 1], sorted[half]),
        (half, _) => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
        let times: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99), quantile(&[], 0.5)), (51.0, 100.0, 0.0));
    }
}

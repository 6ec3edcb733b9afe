//! What is shown of each function: what changed between two looks.

use std::sync::Arc;
use std::time::Duration;

use incise::timing::{Snapshot, Values};
use serde::Serialize;

use super::args::Sort;

/// A function in one interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Row {
    /// Its place in the snapshot.
    #[serde(skip)]
    pub place: usize,
    pub module: String,
    pub function: String,
    pub calls_per_second: f64,
    /// Nanoseconds in calls, over all threads, for each second.
    pub time_per_second: f64,
    /// Nanoseconds.
    pub p50: f64,
    /// Nanoseconds.
    pub p99: f64,
    /// Calls that ended, since the start.
    pub calls: u64,
    /// Nanoseconds in them.
    pub time: i64,
    pub enabled: bool,
}

/// What changed from `before` to `now`.
pub(super) fn rows(before: Option<&Snapshot>, now: &Snapshot) -> Vec<Row> {
    let since = before.map_or(Duration::ZERO, |before| before.elapsed);
    let seconds = now.elapsed.saturating_sub(since).as_secs_f64().max(1e-9);
    let row = |(place, values): (usize, &Arc<Values>)| {
        let earlier = before.and_then(|before| before.functions.get(place));
        if let Some(same) = earlier.filter(|earlier| Arc::ptr_eq(earlier, values)) {
            return Row::idle(place, same);
        }
        let mut counts = values.counts.clone();
        if let Some(earlier) = earlier {
            counts.iter_mut().zip(&earlier.counts).for_each(|(now, then)| *now -= *then.min(now));
        }
        let sum = values.sum.wrapping_sub(earlier.map_or(0, |earlier| earlier.sum));
        let quantile = |share| now.buckets.quantile(&counts, share).unwrap_or(0.0);
        Row {
            calls_per_second: counts.iter().sum::<u64>() as f64 / seconds,
            time_per_second: sum as f64 / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
            ..Row::idle(place, values)
        }
    };
    now.functions.iter().enumerate().map(row).collect()
}

impl Row {
    /// A function that was not called.
    fn idle(place: usize, values: &Values) -> Row {
        Row {
            place,
            module: values.function.module.clone(),
            function: values.function.name.clone(),
            calls_per_second: 0.0,
            time_per_second: 0.0,
            p50: 0.0,
            p99: 0.0,
            calls: values.count(),
            time: values.sum,
            enabled: values.enabled,
        }
    }
}

/// Puts them in order.
pub(super) fn sort(rows: &mut [Row], by: Sort) {
    let greatest = |key: fn(&Row) -> f64| move |a: &Row, b: &Row| key(b).total_cmp(&key(a));
    match by {
        Sort::Calls => rows.sort_by(greatest(|row| row.calls_per_second)),
        Sort::Time => rows.sort_by(greatest(|row| row.time_per_second)),
        Sort::P99 => rows.sort_by(greatest(|row| row.p99)),
        Sort::Name => rows.sort_by(|a, b| a.function.cmp(&b.function)),
    }
}

#[cfg(test)]
mod tests {
    use incise::timing::{Buckets, Log};
    use incise::trace::TracedFunction;

    use super::*;

    fn snapshot(seconds: u64, calls: &[u64]) -> Snapshot {
        let buckets = Buckets::Log(Log::PLAIN);
        let values = |(index, &count): (usize, &u64)| {
            let mut counts = vec![0; buckets.count() as usize];
            counts[buckets.of(100 << index) as usize] = count;
            let name = format!("f{index}");
            let function = TracedFunction { module: "m".into(), name, addr: incise::Addr(0) };
            Arc::new(Values { function, counts, sum: (100 << index) * count as i64, enabled: true })
        };
        let functions = calls.iter().enumerate().map(values).collect();
        let elapsed = Duration::from_secs(seconds);
        Snapshot { elapsed, functions, untimed: 0, unpaired: 0, left_out: 0, buckets }
    }

    #[test]
    fn rates_are_those_of_the_interval() {
        let (before, now) = (snapshot(10, &[1000]), snapshot(12, &[1200, 10]));
        let mut rows = rows(Some(&before), &now);
        assert_eq!(
            (rows[0].calls_per_second, rows[0].time_per_second, rows[0].calls),
            (100.0, 10_000.0, 1200)
        );
        assert_eq!((rows[1].calls_per_second, rows[1].time_per_second), (5.0, 1000.0));
        assert!((64.0..128.0).contains(&rows[0].p50) && (128.0..256.0).contains(&rows[1].p99));
        sort(&mut rows, Sort::P99);
        assert_eq!(rows[0].function, "f1");
        sort(&mut rows, Sort::Calls);
        assert_eq!(rows[0].function, "f0");
    }
}

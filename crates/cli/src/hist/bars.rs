//! Histograms in the terminal.

use std::io::{self, Write};

use incise::timing::Buckets;

use super::args::Of;
use super::{Histogram, Measured, rows};
use crate::trace::duration;

/// Widest bar, in columns.
const BAR: usize = 40;

/// A value, with its unit.
pub(super) fn number(value: i64, of: &Of) -> String {
    if of.is_time() {
        return duration(value.max(0) as u64);
    }
    if value == i64::MIN {
        return "-".to_owned();
    }
    let binary = [(1i64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let unit = binary.into_iter().find(|(unit, _)| value >= *unit && value % unit == 0);
    unit.map_or_else(|| value.to_string(), |(unit, name)| format!("{}{name}", value / unit))
}

pub(super) fn write(measured: &Measured, of: &Of, out: &mut dyn Write) -> io::Result<()> {
    let (histograms, buckets) = (&measured.histograms, measured.buckets);
    if histograms.is_empty() {
        return writeln!(out, "no values");
    }
    for (index, histogram) in histograms.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", title(histogram, of, buckets))?;
        let rows = rows(&histogram.counts, buckets);
        let most = rows.iter().map(|row| row.count).max().unwrap_or(1).max(1);
        for row in rows {
            let from = number(row.from, of);
            let to = row.to.map_or_else(String::new, |to| number(to, of));
            // Eighths of a column.
            let eighths = (row.count as u128 * BAR as u128 * 8 / u128::from(most)) as usize;
            let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
            let bar = "█".repeat(eighths / 8) + part;
            let line = format!("  {from:>10} .. {to:<10} {:>10}  {bar}", row.count);
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

/// A line about a histogram.
pub(super) fn title(histogram: &Histogram, of: &Of, buckets: Buckets) -> String {
    let Histogram { module, function, key, counts, sum } = histogram;
    let between = if module.is_empty() { "" } else { "!" };
    let key = key.as_ref().map_or(String::new(), |key| format!(" [{key}]"));
    let count = histogram.count();
    let plural = if count == 1 { "call" } else { "calls" };
    let at = |share| {
        let value = buckets.quantile(counts, share).unwrap_or(0.0);
        number(value as i64, of)
    };
    let mean = number(sum / count.max(1) as i64, of);
    format!(
        "{module}{between}{function}{key}: {of} of {count} {plural}, mean {mean}, p50 {}, p90 {}, p99 {}",
        at(0.5),
        at(0.9),
        at(0.99)
    )
}

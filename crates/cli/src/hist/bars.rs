//! Histograms in the terminal.

use std::io::{self, Write};

use incise::timing::{Buckets, Measure, Values};

use super::{measured, rows};
use crate::trace::duration;

/// Widest bar, in columns.
const BAR: usize = 40;

/// A value, with its unit.
pub(crate) fn number(value: i64, of: Measure) -> String {
    match of {
        Measure::Duration => duration(value.max(0) as u64),
        _ if value == i64::MIN => "-".to_owned(),
        _ => {
            let binary = [(1i64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
            let unit = binary.into_iter().find(|(unit, _)| value >= *unit && value % unit == 0);
            unit.map_or_else(|| value.to_string(), |(unit, name)| format!("{}{name}", value / unit))
        }
    }
}

pub(super) fn write(
    histograms: &[Values],
    of: Measure,
    buckets: Buckets,
    out: &mut dyn Write,
) -> io::Result<()> {
    if histograms.is_empty() {
        return writeln!(out, "no values");
    }
    for (index, values) in histograms.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", title(values, of, buckets))?;
        let rows = rows(values, buckets);
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
pub(super) fn title(values: &Values, of: Measure, buckets: Buckets) -> String {
    let module = if values.function.module.is_empty() { "" } else { "!" };
    let (count, what) = (values.count(), measured(of));
    let plural = if count == 1 { "call" } else { "calls" };
    let at = |share| {
        let value = buckets.quantile(&values.counts, share).unwrap_or(0.0);
        number(value as i64, of)
    };
    let mean = number(values.sum / count.max(1) as i64, of);
    format!(
        "{}{module}{}: {what} of {count} {plural}, mean {mean}, p50 {}, p90 {}, p99 {}",
        values.function.module,
        values.function.name,
        at(0.5),
        at(0.9),
        at(0.99)
    )
}

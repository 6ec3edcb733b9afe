//! `incise hist`: histograms of durations, arguments and results.

pub mod args;
mod bars;
mod json;
mod script;
mod svg;

use std::cmp::Reverse;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use incise::CountResult;
use incise::timing::{Buckets, Look, Measure, Next, Snapshot, Timing, TimingResult};

use crate::signals::INTERRUPTED;
use crate::target::{Which, exit_code};
use crate::{FAILED, Failure};
use args::{By, Format, HistArgs, Of};

/// The histogram of a function, or of all.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Histogram {
    module: String,
    function: String,
    /// The value that it is for, if there is one for each.
    key: Option<String>,
    counts: Vec<u64>,
    sum: i64,
}

impl Histogram {
    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What was measured.
struct Measured {
    /// Those that hold anything, the fullest first.
    histograms: Vec<Histogram>,
    buckets: Buckets,
    probes: CountResult,
    untimed: u64,
    unpaired: u64,
    left_out: usize,
}

pub(crate) fn run(args: &HistArgs) -> Result<ExitCode, Failure> {
    let target = &args.target;
    let mut out = target.writer(io::stderr())?;
    let measured = match (&args.of, &args.by) {
        (Of::Measure(of), By::Function | By::All) => built_in(args, *of)?,
        _ => match script::measure(args)? {
            Some(measured) => measured,
            None => return Ok(ExitCode::from(FAILED)),
        },
    };
    match if args.json { Format::Json } else { args.format } {
        Format::Text => bars::write(&measured, &args.of, &mut out)?,
        Format::Json => json::write(&measured, &args.of, &mut out)?,
        Format::Svg => svg::write(&measured, &args.of, &mut out)?,
    }
    out.flush()?;
    target.tell_missing(&measured.probes, "measured");
    target.tell_stop(&measured.probes);
    Ok(exit_code(measured.probes.ending))
}

/// Measures what needs no program.
fn built_in(args: &HistArgs, of: Measure) -> Result<Measured, Failure> {
    let target = &args.target;
    let functions = args.functions.options_where(target, args.holds.as_ref());
    // Nobody looks before the end.
    let watch = |_: &mut Look<'_>| Ok(Next { pause: Duration::from_secs(3600), switches: Vec::new() });
    let timing = match target.which()? {
        Which::Process(pid) => Timing::attach(pid, functions, of, watch)?,
        Which::Program(program, arguments) => Timing::launch(program, arguments, functions, of, watch)?,
    };
    target.tell_start(timing.installed(), timing.stop(), "the measuring");
    let TimingResult { probes, values } = timing.run(&INTERRUPTED)?;
    tell(&values);
    let Snapshot { buckets, untimed, unpaired, left_out, .. } = values;
    let histograms = histograms(&args.by, &values);
    Ok(Measured { histograms, buckets, probes, untimed, unpaired, left_out })
}

/// Those that hold anything, the fullest first.
fn histograms(by: &By, values: &Snapshot) -> Vec<Histogram> {
    let full = values.functions.iter().filter(|values| values.count() > 0);
    let mut all: Vec<Histogram> = full
        .map(|values| Histogram {
            module: values.function.module.clone(),
            function: values.function.name.clone(),
            key: None,
            counts: values.counts.clone(),
            sum: values.sum,
        })
        .collect();
    if *by == By::All {
        all = all
            .into_iter()
            .reduce(|mut sum, next| {
                sum.counts.iter_mut().zip(next.counts).for_each(|(into, from)| *into += from);
                sum.sum = sum.sum.wrapping_add(next.sum);
                sum.module.clear();
                sum.function = "all".to_owned();
                sum
            })
            .into_iter()
            .collect();
    }
    all.sort_by_key(|histogram| Reverse(histogram.count()));
    all
}

/// Tells what is missing.
pub(crate) fn tell(values: &Snapshot) {
    if values.left_out > 0 {
        let (count, most) = (values.left_out, values.functions.len());
        eprintln!(
            "incise: {count} functions are not measured: {most} are the most at a time; name fewer, or one module (-m)"
        );
    }
    if values.untimed > 0 || values.unpaired > 0 {
        let (untimed, unpaired) = (values.untimed, values.unpaired);
        eprintln!(
            "incise: {untimed} calls were not timed for want of room, {unpaired} were not seen to begin"
        );
    }
}

/// A row of a histogram: values from the first to below the last number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    from: i64,
    to: Option<i64>,
    count: u64,
}

/// One row for each power of two, from the least to the greatest that holds anything.
fn rows(counts: &[u64], buckets: Buckets) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (bucket, &count) in (0..).zip(counts) {
        let (from, to) = (buckets.start(bucket), buckets.end(bucket));
        let class = |value: i64| value.checked_ilog2();
        match rows.last_mut() {
            Some(row) if from > 0 && class(row.from) == class(from) => {
                row.to = to;
                row.count += count;
            }
            _ => rows.push(Row { from, to, count }),
        }
    }
    let full = |row: &Row| row.count > 0;
    let last = rows.iter().rposition(full).map_or(0, |last| last + 1);
    rows.truncate(last);
    rows.drain(..rows.iter().position(full).unwrap_or(0));
    rows
}

#[cfg(test)]
mod tests {
    use incise::timing::Log;

    use super::*;

    #[test]
    fn a_row_is_a_power_of_two() {
        let buckets = Buckets::Log(Log::split(2).expect("small"));
        let mut counts = vec![0; buckets.count() as usize];
        for value in [5, 6, 7, 8, 31, 32] {
            counts[buckets.of(value) as usize] += 1;
        }
        let rows = rows(&counts, buckets);
        let of = |from, to, count| Row { from, to: Some(to), count };
        assert_eq!(rows, [of(4, 8, 3), of(8, 16, 1), of(16, 32, 1), of(32, 64, 1)]);
    }
}

//! `incise hist`: histograms of durations, arguments and results.

pub mod args;
mod bars;
mod json;
mod svg;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use incise::CountResult;
use incise::timing::{Buckets, Measure, Next, Snapshot, Timing, TimingResult, Values};

use crate::Failure;
use crate::signals::INTERRUPTED;
use crate::target::{TargetArgs, Which, exit_code};
use args::{By, Format, HistArgs};

pub(crate) use bars::number;

pub(crate) fn run(args: &HistArgs) -> Result<ExitCode, Failure> {
    let target = &args.target;
    let mut out = target.writer(io::stderr())?;
    let functions = args.functions.options_where(target, args.holds.as_ref());
    // Nobody looks before the end.
    let watch = |_: &Snapshot| Ok(Next { pause: Duration::from_secs(3600), switches: Vec::new() });
    let timing = match target.which()? {
        Which::Process(pid) => Timing::attach(pid, functions, args.of, watch)?,
        Which::Program(program, arguments) => Timing::launch(program, arguments, functions, args.of, watch)?,
    };
    target.tell_start(timing.installed(), timing.stop(), "the measuring");
    let TimingResult { probes, values } = timing.run(&INTERRUPTED)?;
    let histograms = histograms(args.by, &values);
    match if args.json { Format::Json } else { args.format } {
        Format::Text => bars::write(&histograms, args.of, values.buckets, &mut out)?,
        Format::Json => json::write(&histograms, args.of, &values, &probes, &mut out)?,
        Format::Svg => svg::write(&histograms, args.of, values.buckets, &mut out)?,
    }
    out.flush()?;
    tell(target, &probes, &values);
    Ok(exit_code(probes.ending))
}

/// Those that hold anything, the fullest first.
fn histograms(by: By, values: &Snapshot) -> Vec<Values> {
    let mut all: Vec<Values> = values.functions.iter().filter(|values| values.count() > 0).cloned().collect();
    if by == By::All {
        all = all
            .into_iter()
            .reduce(|mut sum, next| {
                sum.counts.iter_mut().zip(next.counts).for_each(|(into, from)| *into += from);
                sum.sum = sum.sum.wrapping_add(next.sum);
                sum.function.module.clear();
                sum.function.name = "all".to_owned();
                sum
            })
            .into_iter()
            .collect();
    }
    all.sort_by_key(|values| std::cmp::Reverse(values.count()));
    all
}

/// Tells what is missing.
pub(crate) fn tell(target: &TargetArgs, probes: &CountResult, values: &Snapshot) {
    target.tell_missing(probes, "measured");
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
    target.tell_stop(probes);
}

/// What is measured, in a word.
fn measured(of: Measure) -> String {
    match of {
        Measure::Duration => "duration".to_owned(),
        Measure::Argument(index) => format!("arg{index}"),
        Measure::Return => "return".to_owned(),
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
fn rows(values: &Values, buckets: Buckets) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (bucket, &count) in (0..).zip(&values.counts) {
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
    use incise::trace::TracedFunction;

    use super::*;

    #[test]
    fn a_row_is_a_power_of_two() {
        let buckets = Buckets::Log(Log::split(2).expect("small"));
        let mut counts = vec![0; buckets.count() as usize];
        for value in [5, 6, 7, 8, 31, 32] {
            counts[buckets.of(value) as usize] += 1;
        }
        let function = TracedFunction { module: String::new(), name: String::new(), addr: incise::Addr(0) };
        let rows = rows(&Values { function, counts, sum: 0, enabled: true }, buckets);
        let of = |from, to, count| Row { from, to: Some(to), count };
        assert_eq!(rows, [of(4, 8, 3), of(8, 16, 1), of(16, 32, 1), of(32, 64, 1)]);
    }
}

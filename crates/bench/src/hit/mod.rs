//! `hit`: what one hit of a probe adds to a call.
//!
//! Every contender has a subject of its own. In each round each contender times a short batch of calls of an
//! unprobed subject of the same shape and then of its own; the difference is a sample. Rounds of all contenders
//! are interleaved, so that what disturbs the machine disturbs all of them.

mod contender;
mod data;
mod own;
mod pair;
mod peers;
mod remote;

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::Error;
use crate::stats::{median, quantile};
use crate::table::Table;
use contender::{Contender, Line};

/// Settings of `hit`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; each contender has a batch in each
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// Microseconds of a batch
    #[arg(long, default_value_t = 50)]
    batch: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Leave the peers out
    #[arg(long)]
    no_peers: bool,
    /// Only contenders whose names contain this, and their twins
    #[arg(long)]
    only: Option<String>,
}

/// What was measured of one contender.
#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    /// Nanoseconds added per hit, median over the rounds.
    ns: f64,
    /// First and third quartile.
    spread: [f64; 2],
    /// Nanoseconds of the unprobed call.
    base: f64,
    twin: Option<&'static str>,
    /// `ns` over that of the twin.
    ratio: Option<f64>,
    bar: Option<f64>,
    /// The most nanoseconds there may be.
    limit: Option<f64>,
    /// Whether every call was counted once; none if it does not count.
    exact: Option<bool>,
}

#[derive(Serialize)]
struct Skipped<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    reason: &'a str,
}

/// `data`: what a hit costs that leaves a record or a value in a histogram. Whether every bar was met and nothing was lost uncounted.
pub(crate) fn data(options: &Options) -> Result<bool, Error> {
    let mut lines = data::lines(!options.no_peers);
    lines.extend(pair::lines()?);
    compare(options, lines)
}

/// Runs it. Whether every bar was met and every count was exact.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let mut lines = own::lines()?;
    if !options.no_peers {
        lines.extend(remote::lines());
        lines.extend(peers::lines());
    }
    compare(options, lines)
}

/// `tactics`: what a hit of the same counter costs by each tactic. Whether every hit was counted.
pub(crate) fn tactics(options: &Options) -> Result<bool, Error> {
    compare(options, remote::tactics())
}

fn compare(options: &Options, lines: Vec<Line>) -> Result<bool, Error> {
    let mut out = std::io::stdout().lock();
    let mut skipped = Vec::new();
    let mut contenders: Vec<(Line, Box<dyn Contender>)> = Vec::new();
    let wanted = wanted(&lines, options.only.as_deref());
    for line in lines {
        if !wanted.contains(&line.name) {
            continue;
        }
        match (line.start)() {
            Ok(contender) => contenders.push((line, contender)),
            Err(error) => skipped.push((line.name, error.to_string())),
        }
    }
    let mut samples = measure(options, &mut contenders)?;
    let mut rows: Vec<Row> = Vec::new();
    for ((line, contender), samples) in contenders.iter_mut().zip(&mut samples) {
        let ns = median(&samples.added);
        let twin = rows.iter().find(|row| Some(row.name.as_str()) == line.twin).map(|row| row.ns);
        rows.push(Row {
            kind: "hit",
            name: line.name.to_owned(),
            ns,
            spread: [quantile(&samples.added, 0.25), quantile(&samples.added, 0.75)],
            base: median(&samples.base),
            twin: line.twin,
            ratio: twin.map(|twin| ns / twin),
            bar: line.bar,
            limit: line.limit,
            exact: contender.hits()?.map(|hits| hits == samples.calls),
        });
    }
    drop(contenders);
    if options.json {
        for row in &rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
        for (name, reason) in &skipped {
            writeln!(out, "{}", serde_json::to_string(&Skipped { kind: "skipped", name, reason })?)?;
        }
    } else {
        print(&mut out, &rows)?;
        for (name, reason) in &skipped {
            writeln!(out, "skipped: {name}: {reason}")?;
        }
    }
    let missed = |row: &Row| {
        matches!((row.ratio, row.bar), (Some(ratio), Some(bar)) if ratio > bar)
            || row.limit.is_some_and(|limit| row.ns > limit)
    };
    for row in rows.iter().filter(|row| missed(row)) {
        match row.limit {
            Some(limit) => eprintln!("bar missed: {}: {:.2} ns > {limit}", row.name, row.ns),
            None => eprintln!(
                "bar missed: {}: {:.2} > {}",
                row.name,
                row.ratio.unwrap_or(0.0),
                row.bar.unwrap_or(0.0)
            ),
        }
    }
    for row in rows.iter().filter(|row| row.exact == Some(false)) {
        eprintln!("hits lost: {}", row.name);
    }
    Ok(rows.iter().all(|row| !missed(row) && row.exact != Some(false)))
}

/// The names that are to be measured.
fn wanted(lines: &[Line], only: Option<&str>) -> Vec<&'static str> {
    let Some(only) = only else { return lines.iter().map(|line| line.name).collect() };
    let chosen = lines.iter().filter(|line| line.name.contains(only));
    chosen.flat_map(|line| [Some(line.name), line.twin].into_iter().flatten()).collect()
}

#[derive(Default)]
struct Samples {
    base: Vec<f64>,
    added: Vec<f64>,
    calls: u64,
}

fn measure(options: &Options, contenders: &mut [(Line, Box<dyn Contender>)]) -> Result<Vec<Samples>, Error> {
    let batch = f64::from(options.batch) * 1000.0;
    let mut samples: Vec<Samples> = Vec::new();
    let mut calls: Vec<u32> = Vec::new();
    for (line, contender) in contenders.iter_mut() {
        let mut sample = Samples::default();
        // The second try is warm.
        let mut pair = (0.0, 0.0);
        for _ in 0..2 {
            pair = contender.measure(64).map_err(|error| format!("{}: {error}", line.name))?;
            sample.calls += 64;
        }
        calls.push((batch / pair.1.max(0.1)).clamp(8.0, 20_000.0) as u32);
        samples.push(sample);
    }
    for round in 0..options.rounds as usize {
        for index in 0..contenders.len() {
            let index = (index + round) % contenders.len();
            let (base, probed) = contenders[index].1.measure(calls[index])?;
            let sample = &mut samples[index];
            sample.base.push(base);
            sample.added.push(probed - base);
            sample.calls += u64::from(calls[index]);
        }
    }
    Ok(samples)
}

fn print(out: &mut impl Write, rows: &[Row]) -> Result<(), Error> {
    let mut table = Table::new(&["", "added ns", "quartiles", "base ns", "ratio", "bar", "counted"]);
    for row in rows {
        table.row([
            row.name.clone(),
            format!("{:.2}", row.ns),
            format!("{:.2} - {:.2}", row.spread[0], row.spread[1]),
            format!("{:.2}", row.base),
            row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            match (row.bar, row.limit) {
                (Some(bar), _) => format!("<= {bar}"),
                (None, Some(limit)) => format!("<= {limit} ns"),
                (None, None) => String::new(),
            },
            row.exact.map_or("", |exact| if exact { "exactly" } else { "WRONG" }).to_owned(),
        ]);
    }
    table.print(out)?;
    Ok(())
}

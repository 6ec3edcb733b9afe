//! `install`: what it takes to put many probes in and to take them out again.
//!
//! A counter of its own at the entry of each function: of a library generated for this, and of the largest library
//! there is on most machines, LLVM's. Rounds of all contenders are interleaved; figures are medians over the rounds.
//! Peers, which take long, have one round.

mod own;
mod peers;
mod remote;
mod subjects;

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::Error;
use crate::stats::median;
use crate::table::Table;
use subjects::{Subject, subjects};

/// Settings of `install`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; in each, every contender installs and removes once
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Leave the peers out
    #[arg(long)]
    no_peers: bool,
    /// Leave LLVM's library out
    #[arg(long)]
    no_llvm: bool,
}

/// One installation.
#[derive(Clone, Copy, Default)]
struct Sample {
    /// Probes that were put in.
    installed: usize,
    /// Of these, traps.
    trapped: usize,
    /// Finding the functions, where that is a step of its own.
    find: Option<Duration>,
    install: Duration,
    /// How long the other process stood still.
    stop: Option<Duration>,
    remove: Duration,
    /// Bytes of trampolines, and mappings added.
    memory: Option<(u64, usize)>,
}

/// Something that can install probes at a subject's functions.
trait Contender {
    fn name(&self) -> &'static str;
    /// Installs once, removes, and tells how long it took.
    fn sample(&mut self, subject: &Subject) -> Result<Sample, Error>;
    /// The most functions it is asked to take.
    fn limit(&self) -> usize {
        usize::MAX
    }
    /// It has one round only.
    fn takes_long(&self) -> bool {
        false
    }
}

/// Medians of one contender at one subject.
#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    contender: &'static str,
    subject: String,
    installed: usize,
    trapped: usize,
    find_ms: Option<f64>,
    install_ms: f64,
    ns_per_site: f64,
    stop_ms: Option<f64>,
    remove_ms: f64,
    bytes_per_site: Option<f64>,
    mappings: Option<usize>,
    /// The bar that was missed.
    missed: Option<String>,
}

/// The founding bars: 20,000 functions of the own process within 30 ms, and no other process stands still for more
/// than 5 ms for them.
const BAR_SITES: usize = 20_000;
const OWN_BAR_MS: f64 = 30.0;
const STOP_BAR_MS: f64 = 5.0;

/// Runs it. Whether every bar was met.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let (subjects, mut skipped) = subjects(!options.no_llvm)?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(own::Own::start()?)];
    contenders.push(Box::new(remote::Remote::start(&subjects)?));
    if !options.no_peers {
        for peer in peers::start(&subjects) {
            match peer {
                Ok(peer) => contenders.push(peer),
                Err(reason) => skipped.push(reason.to_string()),
            }
        }
    }
    let mut rows = Vec::new();
    for subject in &subjects {
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
                if subject.sites <= contender.limit() && (round == 0 || !contender.takes_long()) {
                    let sample = contender.sample(subject);
                    samples.push(sample.map_err(|error| format!("{}: {error}", contender.name()))?);
                }
            }
        }
        let measured = contenders.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty());
        rows.extend(measured.map(|(contender, samples)| Row::new(contender.name(), subject, samples)));
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        for row in &rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
    } else {
        print(&mut out, &rows)?;
    }
    for reason in &skipped {
        writeln!(std::io::stderr(), "skipped: {reason}")?;
    }
    for row in &rows {
        if let Some(missed) = &row.missed {
            eprintln!("bar missed: {}, {}: {missed}", row.contender, row.subject);
        }
    }
    Ok(rows.iter().all(|row| row.missed.is_none()))
}

impl Row {
    fn new(contender: &'static str, subject: &Subject, samples: &[Sample]) -> Row {
        let of = |figure: &dyn Fn(&Sample) -> Duration| {
            median(&samples.iter().map(|sample| figure(sample).as_secs_f64() * 1e3).collect::<Vec<_>>())
        };
        let of_some = |figure: &dyn Fn(&Sample) -> Option<Duration>| {
            samples
                .iter()
                .all(|sample| figure(sample).is_some())
                .then(|| of(&|s| figure(s).unwrap_or_default()))
        };
        let last = samples[samples.len() - 1];
        let install_ms = of(&|sample| sample.install);
        let stop_ms = of_some(&|sample| sample.stop);
        let missed = match stop_ms {
            _ if subject.sites != BAR_SITES || contender != own::NAME && contender != remote::NAME => None,
            None if install_ms > OWN_BAR_MS => Some(format!("{install_ms:.1} ms > {OWN_BAR_MS} ms")),
            Some(stop) if stop > STOP_BAR_MS => Some(format!("stopped {stop:.2} ms > {STOP_BAR_MS} ms")),
            _ => None,
        };
        Row {
            kind: "install",
            contender,
            subject: subject.name.clone(),
            installed: last.installed,
            trapped: last.trapped,
            find_ms: of_some(&|sample| sample.find),
            install_ms,
            ns_per_site: install_ms * 1e6 / last.installed.max(1) as f64,
            stop_ms,
            remove_ms: of(&|sample| sample.remove),
            bytes_per_site: last.memory.map(|(bytes, _)| bytes as f64 / last.installed.max(1) as f64),
            mappings: last.memory.map(|(_, mappings)| mappings),
            missed,
        }
    }
}

fn print(out: &mut impl Write, rows: &[Row]) -> Result<(), Error> {
    let head = [
        "",
        "",
        "sites",
        "traps",
        "find ms",
        "install ms",
        "ns/site",
        "stop ms",
        "remove ms",
        "bytes/site",
        "mappings",
    ];
    let mut table = Table::new(&head);
    let optional = |figure: Option<f64>| figure.map_or(String::new(), |figure| format!("{figure:.2}"));
    for row in rows {
        table.row([
            row.subject.clone(),
            row.contender.to_owned(),
            row.installed.to_string(),
            row.trapped.to_string(),
            optional(row.find_ms),
            format!("{:.2}", row.install_ms),
            format!("{:.0}", row.ns_per_site),
            optional(row.stop_ms),
            format!("{:.2}", row.remove_ms),
            row.bytes_per_site.map_or(String::new(), |bytes| format!("{bytes:.1}")),
            row.mappings.map_or(String::new(), |mappings| mappings.to_string()),
        ]);
    }
    table.print(out)?;
    Ok(())
}

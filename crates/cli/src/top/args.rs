//! The arguments of `incise top`.

use clap::{ArgGroup, Args, ValueEnum};

use crate::target::TargetArgs;

/// Arguments of `top`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").args(["pid", "program"]).required(true))]
#[command(
    override_usage = "incise top [OPTIONS] [PATTERN]... -p <PID>\n       incise top [OPTIONS] [PATTERN]... -- <CMD> [ARGS]..."
)]
#[command(
    after_help = "Patterns are those of `incise count`; without any, all functions of the program itself.

Keys: arrows select, c t p n sort by calls, time, p99, name; space switches the selected function's probes off and \
on, / filters by name, q ends. Where standard error is no terminal, or with --json or --once, a table is written at \
each interval instead."
)]
pub struct TopArgs {
    /// Functions to show.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
    /// Write one table after one interval, then let the program go on without probes.
    #[arg(long)]
    pub once: bool,
    /// Write JSON Lines at each interval.
    #[arg(long)]
    pub json: bool,
    /// What comes first.
    #[arg(long, value_name = "KEY", value_enum, default_value_t = Sort::Time)]
    pub sort: Sort,
    /// Show N functions.
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    pub number: usize,
    /// The program.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// What functions are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sort {
    /// Calls in the last interval.
    Calls,
    /// Time in the last interval.
    Time,
    /// The time below which 99 of 100 calls take.
    P99,
    /// The name.
    Name,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("from 0.01 to 3600".to_owned()) }
}

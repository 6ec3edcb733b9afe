//! The arguments of `incise top`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::Trap;

/// Arguments of `top`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise top [OPTIONS] [PATTERN]... -p <PID>\n       incise top [OPTIONS] [PATTERN]... -- <CMD> [ARGS]..."
)]
#[command(
    after_help = "Patterns are those of `incise count`; without any, all functions of the program itself (up to 8192).

Keys: arrows select, c t p n sort by calls, time, p99, name; space switches the selected function's probes off and
on, / filters by name, q ends. Where standard error is no terminal, or with --json or --once, a table is written at
each interval instead."
)]
pub struct TopArgs {
    /// Functions to show.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Attach to a running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program", required_unless_present = "program")]
    pub pid: Option<i32>,
    /// Follow child processes.
    #[arg(short, long)]
    pub follow: bool,
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
    /// Write to FILE instead of standard error.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Tell which functions could not be measured, and why.
    #[arg(long)]
    pub explain: bool,
    /// What to do where only a trap fits.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Fallback)]
    pub trap: Trap,
    /// The program to run, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub program: Vec<OsString>,
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

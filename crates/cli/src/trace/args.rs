//! The arguments of `incise trace`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::Trap;

/// Arguments of `trace`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise trace [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise trace [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns are those of `incise count`.

The trace goes to standard error (or -o FILE), while the program runs. Without --return and --duration only entries
are recorded. Records that find no room are dropped, counted and told; the program never waits. The exit code is
the program's.")]
pub struct TraceArgs {
    /// Functions to trace.
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Record the first N integer or pointer arguments: 3, if no number is given.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=6))]
    pub args: Option<u8>,
    /// Record what functions return.
    #[arg(long = "return")]
    pub returns: bool,
    /// Record how long calls take.
    #[arg(long)]
    pub duration: bool,
    /// Attach to a running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program", required_unless_present = "program")]
    pub pid: Option<i32>,
    /// Follow child processes.
    #[arg(short, long)]
    pub follow: bool,
    /// What the trace looks like.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Write the trace to FILE instead of standard error.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Room for N records on each CPU.
    #[arg(long, value_name = "N", default_value_t = 1 << 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub buffer: u32,
    /// Tell what is done, and how long the program was stopped for it.
    #[arg(short, long)]
    pub verbose: bool,
    /// Tell which functions could not be traced, and why.
    #[arg(long)]
    pub explain: bool,
    /// What to do where only a trap fits.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Fallback)]
    pub trap: Trap,
    /// The program to run, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub program: Vec<OsString>,
}

/// What a trace looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A line for each call, indented by depth.
    Text,
    /// A line of JSON for each record.
    Json,
    /// Trace events, as Perfetto and chrome://tracing open them.
    Chrome,
    /// Nanoseconds for each chain of calls, as flame graph tools take them.
    Folded,
}

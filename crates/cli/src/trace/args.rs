//! The arguments of `incise trace`.

use clap::{ArgGroup, Args, ValueEnum};
use incise::Condition;

use crate::target::{PatternArgs, TargetArgs};

/// Arguments of `trace`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").args(["pid", "program"]).required(true))]
#[command(
    override_usage = "incise trace [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise trace [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns are those of `incise count`.

The trace goes to standard error (or -o FILE), while the program runs. Without --return and --duration only entries \
are recorded. Records that find no room are dropped, counted and told; the program never waits. The exit code is \
the program's.")]
pub struct TraceArgs {
    /// The functions.
    #[command(flatten)]
    pub functions: PatternArgs,
    /// The same as --if.
    #[arg(long = "where", value_name = "EXPR", value_parser = Condition::parse, conflicts_with = "condition")]
    pub holds: Option<Condition>,
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
    /// Show who called each function, as far as a copy of KIB KiB of the stack tells: 4, if no number is given.
    #[arg(long, value_name = "KIB", num_args = 0..=1, require_equals = true, default_missing_value = "4")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=63))]
    pub stack: Option<u32>,
    /// What the trace looks like.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Room for N records on each CPU. If it is not given: 65,536 to 262,144, a million in all; with stacks 16 MiB of them.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub buffer: Option<u32>,
    /// The program.
    #[command(flatten)]
    pub target: TargetArgs,
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
    /// A number for each chain of calls, as flame graph tools take them: nanoseconds, or with stacks and without durations, calls.
    Folded,
}

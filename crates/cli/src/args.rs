//! The command line, as clap sees it. Manual pages and shell completions are made from it too.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use incise::TrapPolicy;

/// Put code into programs that already exist.
#[derive(Parser, Debug)]
#[command(name = "incise", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Example:\n  incise count malloc free 'str*' -- ls -lR /usr/share")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Count how often functions of a program are called.
    Count(CountArgs),
    /// List the functions that patterns match, without touching anything.
    List(ListArgs),
    /// Tell what this machine allows, and what to do about what it does not.
    Doctor(DoctorArgs),
}

/// Arguments of `count`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise count [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise count [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns:
  malloc          a name, in any module
  'str*'          a glob on names: * ? [a-c]
  libc!malloc     in modules whose file name is libc, libc.so, libc.so.6, ...; also in one that is loaded later
  main+0x1f       an instruction inside a function
  '*0x401136'     an address
  'std::*'        a pattern with :: or ( matches C++ and Rust names as written

The report goes to standard error (or -o FILE), after the program ends or on Ctrl-C. The exit code is the
program's.")]
pub struct CountArgs {
    /// Functions or places to count.
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Attach to a running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program", required_unless_present = "program")]
    pub pid: Option<i32>,
    /// Follow child processes; their counts are added.
    #[arg(short, long)]
    pub follow: bool,
    /// Report as JSON Lines.
    #[arg(long)]
    pub json: bool,
    /// Write the report to FILE instead of standard error.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Tell what is done, and how long the program was stopped for it.
    #[arg(short, long)]
    pub verbose: bool,
    /// Show for each function how it was patched, and why not where it was not.
    #[arg(long)]
    pub explain: bool,
    /// What to do where only a trap fits.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Fallback)]
    pub trap: Trap,
    /// Leave the probes in the process when detaching.
    #[arg(long, conflicts_with = "program")]
    pub keep: bool,
    /// The program to run, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub program: Vec<OsString>,
}

/// Arguments of `list`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise list [OPTIONS] <PATTERN>... <BINARY>\n       incise list [OPTIONS] <PATTERN>... -p <PID>"
)]
pub struct ListArgs {
    /// Patterns, then the file to look in (unless -p is given).
    #[arg(value_name = "PATTERN", required = true)]
    pub words: Vec<String>,
    /// Look in a running process.
    #[arg(short, long, value_name = "PID")]
    pub pid: Option<i32>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// What to do where only a trap fits.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// Refuse the site.
    Forbid,
    /// Use a trap, which costs microseconds a hit.
    Fallback,
    /// Use traps everywhere.
    Force,
}

impl From<Trap> for TrapPolicy {
    fn from(trap: Trap) -> TrapPolicy {
        match trap {
            Trap::Forbid => TrapPolicy::Forbid,
            Trap::Fallback => TrapPolicy::Fallback,
            Trap::Force => TrapPolicy::Force,
        }
    }
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

//! The arguments of `incise hist`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use incise::timing::Measure;

use crate::args::Trap;

/// Arguments of `hist`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise hist [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise hist [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns are those of `incise count`.

The histograms go to standard error (or -o FILE), after the program ends or on Ctrl-C. The exit code is the
program's.")]
pub struct HistArgs {
    /// Functions to measure.
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// What to measure: duration, arg0 to arg5, return.
    #[arg(long, value_name = "VALUE", default_value = "duration", value_parser = measure)]
    pub of: Measure,
    /// A histogram for each function, or one of all.
    #[arg(long, value_name = "KEY", value_enum, default_value_t = By::Function)]
    pub by: By,
    /// Attach to a running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program", required_unless_present = "program")]
    pub pid: Option<i32>,
    /// Follow child processes.
    #[arg(short, long)]
    pub follow: bool,
    /// What the histograms look like.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Write to FILE instead of standard error.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Tell what is done, and how long the program was stopped for it.
    #[arg(short, long)]
    pub verbose: bool,
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

/// What gets a histogram of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum By {
    /// Each function.
    Function,
    /// Nothing: there is one.
    All,
}

/// What histograms look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Bars in the terminal.
    Text,
    /// A line of JSON for each.
    Json,
    /// A picture.
    Svg,
}

fn measure(text: &str) -> Result<Measure, String> {
    let argument = || text.strip_prefix("arg")?.parse().ok().filter(|index| *index < 6);
    match text {
        "duration" => Ok(Measure::Duration),
        "return" => Ok(Measure::Return),
        _ => argument().map(Measure::Argument).ok_or("one of duration, arg0 to arg5, return".to_owned()),
    }
}

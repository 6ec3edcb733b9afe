//! The arguments of `incise hist`.

use clap::{ArgGroup, Args, ValueEnum};
use incise::Condition;
use incise::timing::Measure;

use crate::target::{PatternArgs, TargetArgs};

/// Arguments of `hist`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").args(["pid", "program"]).required(true))]
#[command(
    override_usage = "incise hist [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise hist [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns are those of `incise count`.

The histograms go to standard error (or -o FILE), after the program ends or on Ctrl-C. The exit code is the
program's.")]
pub struct HistArgs {
    /// The functions.
    #[command(flatten)]
    pub functions: PatternArgs,
    /// The same as --if.
    #[arg(long = "where", value_name = "EXPR", value_parser = Condition::parse, conflicts_with = "condition")]
    pub holds: Option<Condition>,
    /// What to measure: duration, arg0 to arg5, return.
    #[arg(long, value_name = "VALUE", default_value = "duration", value_parser = measure)]
    pub of: Measure,
    /// A histogram for each function, or one of all.
    #[arg(long, value_name = "KEY", value_enum, default_value_t = By::Function)]
    pub by: By,
    /// What the histograms look like.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// The program.
    #[command(flatten)]
    pub target: TargetArgs,
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

//! The arguments of `incise hist`.

use std::fmt;

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

The histograms go to standard error (or -o FILE), after the program ends or on Ctrl-C. The exit code is the \
program's.")]
pub struct HistArgs {
    /// The functions.
    #[command(flatten)]
    pub functions: PatternArgs,
    /// The same as --if.
    #[arg(long = "where", value_name = "EXPR", value_parser = Condition::parse, conflicts_with = "condition")]
    pub holds: Option<Condition>,
    /// What to measure: duration, arg0 to arg5, return, or EXPR in the language of `incise run`, such as 'arg0 * arg1'.
    #[arg(long, value_name = "VALUE", default_value = "duration", value_parser = Of::parse)]
    pub of: Of,
    /// What gets a histogram of its own: each function, all together, or of each function each value of EXPR, such as comm.
    #[arg(long, value_name = "KEY", default_value = "function", value_parser = By::parse)]
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

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Of {
    /// What needs no program.
    Measure(Measure),
    /// The value of an expression.
    Expression(String),
}

impl Of {
    fn parse(text: &str) -> Result<Of, String> {
        let argument = || text.strip_prefix("arg")?.parse().ok().filter(|index| *index < 6);
        match text {
            "duration" => Ok(Of::Measure(Measure::Duration)),
            "return" => Ok(Of::Measure(Measure::Return)),
            _ => match argument() {
                Some(index) => Ok(Of::Measure(Measure::Argument(index))),
                None => expression(text).map(Of::Expression),
            },
        }
    }

    /// Whether values are times.
    pub(super) fn is_time(&self) -> bool {
        *self == Of::Measure(Measure::Duration)
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Measure(Measure::Duration) => f.write_str("duration"),
            Of::Measure(Measure::Argument(index)) => write!(f, "arg{index}"),
            Of::Measure(Measure::Return) => f.write_str("return"),
            Of::Expression(text) => f.write_str(text),
        }
    }
}

/// What gets a histogram of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// Each function.
    Function,
    /// Nothing: there is one.
    All,
    /// Of each function, each value of an expression.
    Expression(String),
}

impl By {
    fn parse(text: &str) -> Result<By, String> {
        match text {
            "function" => Ok(By::Function),
            "all" => Ok(By::All),
            _ => expression(text).map(By::Expression),
        }
    }
}

/// A text that is an expression.
fn expression(text: &str) -> Result<String, String> {
    Condition::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
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

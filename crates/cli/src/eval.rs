//! `incise eval`: an expression, or statements, evaluated once in a running process.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use incise::script::ScriptError;
use incise::{Error, Evaluated, Ran, evaluate};

use crate::signals::{self, INTERRUPTED};
use crate::{FAILED, Failure};

/// Arguments of `eval`.
#[derive(Args, Debug)]
#[command(
    after_help = "The text is in the language of `incise run`: the value of an expression is printed as `print` does, \
statements print what they print. A thread of the process evaluates it wherever it stands, on a stack of its own, \
then goes on with what it did, and nothing is left behind. Functions of the program may be called; one that waits \
for something that this thread holds never comes back.

Examples:
  incise eval -p 4711 'global`debug_level'
  incise eval -p 4711 'inf`malloc_stats()'
  incise eval -p 4711 'global`debug_level = 3;'"
)]
pub struct EvalArgs {
    /// The process.
    #[arg(short, long, value_name = "PID")]
    pub pid: i32,
    /// An expression, or statements.
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// How long to wait for it, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub patience: u32,
    /// Print a line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Tell which thread it was, and how long the program was stopped.
    #[arg(short, long)]
    pub verbose: bool,
}

pub(crate) fn run(args: &EvalArgs) -> Result<ExitCode, Failure> {
    signals::catch(true);
    let patience = Duration::from_secs(args.patience.into());
    let Evaluated { printed, ran, thread, stop } =
        match evaluate(args.pid, &args.text, patience, &INTERRUPTED) {
            Ok(evaluated) => evaluated,
            Err(Error::Script(ScriptError::Source(diagnostics))) => {
                eprint!("{}", diagnostics.render(io::stderr().is_terminal()));
                return Ok(ExitCode::from(FAILED));
            }
            Err(error) => return Err(error.into()),
        };
    let fault = match ran {
        Ran::Fault(fault) => Some(fault.to_string()),
        Ran::Value(_) | Ran::Nothing => None,
    };
    if args.json {
        let line = serde_json::json!({
            "printed": printed.concat(), "fault": fault, "thread": thread, "stop_us": stop.as_micros() as u64,
        });
        println!("{line}");
    } else {
        printed.iter().for_each(|text| print!("{text}"));
    }
    if args.verbose {
        eprintln!("incise: thread {thread}, stopped {} us", stop.as_micros());
    }
    if let Some(fault) = fault {
        eprintln!("incise: the run ended early: {fault}");
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

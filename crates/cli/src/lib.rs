//! The incise command.

#![deny(unsafe_code)]

pub mod args;
mod count;
mod counts;
mod coverage;
mod doctor;
pub mod eval;
pub mod flow;
pub mod hist;
mod kinds;
mod list;
pub mod patching;
mod report;
mod rewrite;
pub mod run;
mod script_file;
mod signals;
pub mod target;
pub mod top;
pub mod trace;
mod undo;

use std::any::Any;
use std::io;
use std::panic;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

/// Exit code of a run that failed for a reason of ours, as env(1) and time(1) have it.
const FAILED: u8 = 125;

/// Exit code of a command whose reader has gone, as a shell tells it (128 + SIGPIPE).
const READER_GONE: u8 = 128 + 13;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !is_reader_gone(panic.payload()) {
            told(panic);
        }
    }));
    signals::tell_of_files_cut_short();
    // Unwinding, so that a process that is traced is left as it was.
    panic::catch_unwind(run).unwrap_or_else(|panic| match is_reader_gone(&*panic) {
        true => ExitCode::from(READER_GONE),
        false => panic::resume_unwind(panic),
    })
}

/// Whether a panic is that of `println!` into a pipe that nobody reads any more, as in `incise find ... | head`.
fn is_reader_gone(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("os error 32"))
}

fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Count(args) => args.target.explained(count::run(&args)),
        Command::Trace(args) => args.target.explained(trace::run(&args)),
        Command::Hist(args) => args.target.explained(hist::run(&args)),
        Command::Top(args) => args.target.explained(top::run(&args)),
        Command::Run(args) => run::complete(args).and_then(|args| args.target.explained(run::run(&args))),
        Command::Eval(args) => eval::run(&args),
        Command::List(args) => list::run(&args),
        Command::Functions(args) => flow::functions(&args),
        Command::Disasm(args) => flow::disasm(&args),
        Command::Cfg(args) => flow::cfg(&args),
        Command::Parse(args) => flow::parse(&args),
        Command::Rewrite(args) => rewrite::run(&args),
        Command::Report(args) => counts::run(&args),
        Command::Undo(args) => undo::run(&args),
        Command::Coverage(args) => coverage::run(&args),
        Command::Inspect(args) => patching::inspect(&args),
        Command::Find(args) => patching::find(&args),
        Command::Patch(args) => patching::patch(&args),
        Command::Patches(args) => patching::patches(&args),
        Command::Set(args) => patching::set(&args),
        Command::Apply(args) => patching::apply(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    result.unwrap_or_else(|error| {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::from(READER_GONE);
        }
        eprintln!("incise: {error}");
        ExitCode::from(FAILED)
    })
}

/// Anything that ends a command, with a text for the user.
type Failure = Box<dyn std::error::Error>;

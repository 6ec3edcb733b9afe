//! The incise command.

#![deny(unsafe_code)]

pub mod args;
mod count;
mod counts;
mod coverage;
mod doctor;
pub mod flow;
mod kinds;
mod list;
pub mod patching;
mod report;
mod rewrite;
mod signals;
pub mod trace;
mod undo;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

/// Exit code of a run that failed for a reason of ours, as env(1) and time(1) have it.
const FAILED: u8 = 125;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Count(args) => count::run(&args),
        Command::Trace(args) => trace::run(&args),
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
        eprintln!("incise: {error}");
        ExitCode::from(FAILED)
    })
}

/// Anything that ends a command, with a text for the user.
type Failure = Box<dyn std::error::Error>;

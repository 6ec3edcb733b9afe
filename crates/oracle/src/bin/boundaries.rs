//! `boundaries`: runs the boundary oracle on programs and prints what it found.

#![deny(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use incise_oracle::boundary::{Options, Tally, check};
use incise_patch::{Layout, TrapPolicy};

/// Patches every instruction of programs and enters at every original boundary, beside the original.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Programs and libraries.
    #[arg(required = true)]
    binaries: Vec<PathBuf>,
    /// Patch and enter this many instructions in a row at a time, instead of all.
    #[arg(long, value_name = "N")]
    run: Option<usize>,
    /// How many such runs, at random places.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "run")]
    runs: usize,
    /// Instructions to follow from each boundary.
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// The seed everything is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Traps everywhere, to try their landings.
    #[arg(long)]
    traps: bool,
    /// Counters where control enters only, so that runs of instructions have one.
    #[arg(long)]
    entered: bool,
    /// Counters at every so many-th instruction only.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// Functions run as copies.
    #[arg(long)]
    in_line: bool,
    /// Most findings to print.
    #[arg(long, default_value_t = 20)]
    show: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let traps = if arguments.traps { TrapPolicy::Force } else { TrapPolicy::Fallback };
    let Arguments { run, runs, steps, seed, entered, every, .. } = arguments;
    let layout = if arguments.in_line { Layout::InLine } else { Layout::OutOfLine };
    let layout = Some(layout);
    let every = every.max(1);
    let options = Options { run, runs, steps, seed, traps, entered, every, layout, spoil: 0 };
    let shown = std::io::stderr().is_terminal();
    let progress = |done: usize, of: usize| {
        if shown {
            eprint!("\r{done} of {of}");
        }
    };
    let mut all = Tally::default();
    for binary in &arguments.binaries {
        match check(binary, &options, &progress) {
            Ok(tally) => {
                println!("{}: {tally}", binary.display());
                for finding in tally.findings.iter().take(arguments.show) {
                    println!("  {finding}");
                }
                all.add(tally);
            }
            Err(error) => {
                eprintln!("boundaries: {}: {error}", binary.display());
                return ExitCode::from(2);
            }
        }
    }
    if all.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

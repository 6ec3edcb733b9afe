//! What a hit of a probe costs, what installing it does, and what it does to a file. Peers and hand-written twins run in the same run, interleaved.

#![deny(unsafe_code)]

mod blocks;
mod hit;
mod install;
mod instructions;
mod library;
mod pair;
mod parse;
mod plot;
mod rewrite;
mod servers;
mod stats;
mod subjects;
mod table;
mod target;
mod toggle;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Any failure; what it says is all that matters here.
type Error = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(name = "incise-bench", about = "Benchmarks of Incise, with peers and baselines in one run")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The cost of one hit of a probe
    Hit(hit::Options),
    /// The cost of a hit that leaves a record, or a value in a histogram
    Data(hit::Options),
    /// The cost of one hit by each way of patching
    Tactics(hit::Options),
    /// What counting every basic block of real programs costs, with either engine
    Blocks(blocks::Options),
    /// What a counter at every instruction of real programs costs
    Instructions(instructions::Options),
    /// How fast whole programs are parsed, and how soon the first probe is in
    Parse(parse::Options),
    /// What it takes to put many probes in, and to take them out
    Install(install::Options),
    /// What tracing costs servers under load
    Servers(servers::Options),
    /// What counters at every function do to the size and the start of programs on disk
    Rewrite(rewrite::Options),
    /// How quickly a probe can be switched off and on, and what that costs running threads
    Toggle(toggle::Options),
    /// A process for probes of other processes (used by the others)
    #[command(hide = true)]
    Target,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Hit(options) => hit::run(&options),
        Command::Data(options) => hit::data(&options),
        Command::Tactics(options) => hit::tactics(&options),
        Command::Blocks(options) => blocks::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Parse(options) => parse::run(&options),
        Command::Install(options) => install::run(&options),
        Command::Servers(options) => servers::run(&options),
        Command::Rewrite(options) => rewrite::run(&options),
        Command::Toggle(options) => toggle::run(&options),
        Command::Target => target::serve(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("incise-bench: {error}");
            ExitCode::from(2)
        }
    }
}

//! Development tasks: `cargo xtask --help`.

#![deny(unsafe_code)]

mod bench;
mod build;
mod fuzz;
mod generate;
mod install;
mod plan;
#[path = "../../crates/bench/src/plot.rs"]
mod plot;
mod task;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all tests.
    Test(test::Args),
    /// Install the command, the C library, its header, manual pages and shell completions.
    Install(install::Args),
    /// Look for what nobody thought of: run an oracle with one seed after the other.
    Fuzz(fuzz::Args),
    /// Run a benchmark.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Install(args) => install::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

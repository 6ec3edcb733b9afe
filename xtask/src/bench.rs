//! Benchmarks: `cargo xtask bench hit`, `tactics`, `data`, `install`, `toggle`, `servers`, `blocks`, `instructions`, `parse`, `rewrite`
//! and `plan`.

use std::ffi::OsString;

use crate::plan;
use crate::task::{self, Error};

/// Which benchmark, and its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// `hit`, `tactics`, `data`, `install`, `toggle`, `servers`, `blocks`, `instructions`, `parse` or `rewrite`, with their
    /// options, which `--help` tells; or `plan`, `--svg FILE` for a plot, and a large program, gcc's compiler if there is none.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

/// Builds the benchmarks and runs one.
pub fn run(args: &Args) -> Result<(), Error> {
    if let [first, rest @ ..] = &*args.arguments
        && first == "plan"
    {
        return plan::run(rest);
    }
    // It runs the command itself.
    if args.arguments.first().is_some_and(|which| which == "servers") {
        task::run(task::cargo().args(["build", "--release", "--locked", "--quiet", "--package=incise-cli"]))?;
    }
    let mut command = task::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "--package=incise-bench", "--"]);
    task::run(command.args(&args.arguments))
}

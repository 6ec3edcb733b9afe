//! `cargo xtask fuzz`: the oracles with one seed after the other, until something differs or the time is over.

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::build;
use crate::task::{self, Error};

/// What to try, and for how long.
#[derive(clap::Args)]
pub struct Args {
    /// Which oracle.
    #[arg(value_enum)]
    what: What,
    /// The time after which no further seed is tried.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// The first seed. The same one tries the same.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Programs whose code is tried (boundaries); some that most machines have by default.
    #[arg(value_name = "BINARY")]
    binaries: Vec<OsString>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Every form of instruction in random states, beside its displaced copy.
    Relocation,
    /// Random runs of instructions of programs, entered at every boundary when patched, in every layout.
    Boundaries,
}

/// What random runs are patched with, one after the other.
const LAYOUTS: [&[&str]; 6] =
    [&[], &["--entered"], &["--in-line"], &["--in-line", "--every", "3"], &["--every", "7"], &["--traps"]];

/// Programs with compiled and with hand-written code.
const PROGRAMS: [&str; 3] = ["/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/perl"];

/// Runs one oracle with seeds that ascend.
pub fn run(args: &Args) -> Result<(), Error> {
    let oracle = build::program(
        "incise-oracle",
        match args.what {
            What::Relocation => "incise-oracle",
            What::Boundaries => "boundaries",
        },
    )?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut seed = args.seed;
    while seed == args.seed || Instant::now() < end {
        let mut command = Command::new(&oracle);
        match args.what {
            What::Relocation => {
                command.args(if seed.is_multiple_of(2) { &["--moves"][..] } else { &[] });
            }
            What::Boundaries => {
                command.args(["--run=400", "--runs=4"]);
                command.args(LAYOUTS[(seed % LAYOUTS.len() as u64) as usize]);
                match &args.binaries[..] {
                    [] => command.args(PROGRAMS.iter().filter(|path| std::path::Path::new(path).exists())),
                    binaries => command.args(binaries),
                };
            }
        }
        // The command that failed is told: it does the same again.
        task::run(command.arg(format!("--seed={seed}")))?;
        seed += 1;
    }
    println!("seeds {} to {}: no difference", args.seed, seed - 1);
    Ok(())
}

//! `incise-oracle`: runs the relocation oracle and prints its report.

#![deny(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use incise_oracle::{Incise, Movable, Options, Relocator, run};

/// Runs original and displaced instructions side by side on the processor.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Rounds of machine states; each also chooses operands anew.
    #[arg(long, default_value_t = 1)]
    states: u64,
    /// The seed everything is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only forms whose name contains TEXT (`Mov_r64`, `EVEX`).
    #[arg(long, value_name = "TEXT", default_value = "")]
    form: String,
    /// Judge copies for programs that may be loaded anywhere.
    #[arg(long)]
    moves: bool,
    /// Worker threads; the default is one per processor.
    #[arg(long)]
    workers: Option<usize>,
    /// Most findings to print.
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut options = Options {
        states: arguments.states,
        seed: arguments.seed,
        filter: arguments.form,
        ..Options::default()
    };
    if let Some(workers) = arguments.workers {
        options.workers = workers;
    }
    let relocator: &dyn Relocator = if arguments.moves { &Movable } else { &Incise };
    let report = match run(relocator, &options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("incise-oracle: {error}");
            return ExitCode::from(2);
        }
    };
    let text = if arguments.json {
        match serde_json::to_string(&report) {
            Ok(text) => text + "\n",
            Err(error) => {
                eprintln!("incise-oracle: {error}");
                return ExitCode::from(2);
            }
        }
    } else {
        let findings = report.findings.iter().take(arguments.show);
        findings.fold(report.to_string(), |text, finding| text + "\n" + &finding.to_string())
    };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        eprintln!("incise-oracle: {error}");
        return ExitCode::from(2);
    }
    if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

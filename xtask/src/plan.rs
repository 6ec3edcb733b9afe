//! `cargo xtask bench plan [--svg FILE] [PROGRAM]`: what a plan costs as its sites grow.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build;
use crate::plot::{Dot, scatter};
use crate::task::{self, Error};

/// So many sites, as far as the program has them.
const SITES: [usize; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000];
/// The quickest of so many plans counts: whatever else runs on the machine only makes them slower.
const ROUNDS: usize = 3;
/// Width of the plot in characters.
const WIDTH: f64 = 60.0;

/// Plans counters at the first instructions of a program, more and more of them, and prints the cost of each plan.
pub fn run(arguments: &[OsString]) -> Result<(), Error> {
    let (picture, arguments) = match arguments {
        [option, file, rest @ ..] if option == "--svg" => (Some(PathBuf::from(file)), rest),
        other => (None, other),
    };
    let program = match arguments {
        [] => compiler()?,
        [program] => PathBuf::from(program),
        [_, more, ..] => return Err(Error::Output(format!("one program at most, not {}", more.display()))),
    };
    let incise = build::release()?.command;
    println!("counters at the first instructions of {}, best of {ROUNDS}", program.display());
    println!("{:>9}  {:>10}  {:>8}  {:>8}  log(ms)", "sites", "plan ms", "us/site", "bytes");
    let mut before = 0;
    let mut points = Vec::new();
    for count in SITES {
        let mut best: Option<Summary> = None;
        for _ in 0..ROUNDS {
            let planned = plan(&incise, &program, count)?;
            if best.as_ref().is_none_or(|best| planned.plan_ms < best.plan_ms) {
                best = Some(planned);
            }
        }
        let Some(best) = best.filter(|best| best.sites > before) else { break };
        before = best.sites;
        points.push((best.sites as f64, best.plan_ms.max(0.01)));
        let bar = (WIDTH * (best.plan_ms.max(0.01) * 100.0).log10() / 6.5).max(1.0) as usize;
        println!(
            "{:>9}  {:>10.2}  {:>8.2}  {:>8.1}  {}",
            best.sites,
            best.plan_ms,
            1000.0 * best.plan_ms / best.sites as f64,
            best.bytes_per_site,
            "#".repeat(bar)
        );
    }
    if let Some(file) = picture {
        let name = program.file_name().unwrap_or_default().display();
        let slope = points.last().map_or(1.0, |(most, longest)| longest / most);
        let dot = |&(x, y): &(f64, f64)| Dot { label: format!("{y:.0} ms"), x, y };
        let dots: Vec<Dot> = points.iter().map(dot).collect();
        let title = format!("A plan of counters in {name}; dashed: in proportion");
        let drawn = scatter(&title, ("sites", "ms"), &dots, slope);
        std::fs::write(&file, drawn)
            .map_err(|error| Error::Output(format!("{}: {error}", file.display())))?;
    }
    Ok(())
}

/// Of the last line of `incise coverage --json`.
struct Summary {
    sites: usize,
    bytes_per_site: f64,
    plan_ms: f64,
}

fn plan(incise: &Path, program: &Path, count: usize) -> Result<Summary, Error> {
    let count = count.to_string();
    let lines = output(Command::new(incise).args(["coverage", "--json", "--first", &count]).arg(program))?;
    let last = serde_json::from_str::<serde_json::Value>(lines.lines().last().unwrap_or_default());
    let last = last.map_err(|error| Error::Output(error.to_string()))?;
    let number =
        |name: &str| last[name].as_f64().ok_or_else(|| Error::Output(format!("no {name} in {last}")));
    let (plan_ms, bytes_per_site) = (number("plan_ms")?, number("bytes_per_site")?);
    Ok(Summary { sites: number("sites")? as usize, bytes_per_site, plan_ms })
}

fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|source| Error::Start { command: task::text(command), source })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Status { command: task::text(command), status: output.status }),
    }
}

/// The largest program that most machines have.
fn compiler() -> Result<PathBuf, Error> {
    let path = output(Command::new("gcc").arg("-print-prog-name=cc1"))?;
    let path = PathBuf::from(path.trim());
    if path.is_absolute() { Ok(path) } else { Err(Error::Output("gcc has no cc1: name a program".into())) }
}

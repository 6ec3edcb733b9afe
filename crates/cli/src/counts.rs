//! `incise report`: what a rewritten program has counted, process by process and in all.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use incise::{CountsReport, read_counts};
use serde::Serialize;

use crate::Failure;
use crate::args::ReportArgs;
use crate::report::Report;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Process { pid: u32, running: bool, file: String },
    Hits { pid: u32, module: &'a str, function: &'a str, address: String, hits: u64 },
}

pub(crate) fn run(args: &ReportArgs) -> Result<ExitCode, Failure> {
    let counts = read_counts(&args.target, args.counts.as_deref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        json(&mut out, &counts)?;
    } else {
        table(&mut out, &counts, args.explain)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// One line for each process and for each function that it called, then the lines of a count.
fn json(out: &mut dyn Write, counts: &CountsReport) -> Result<(), Failure> {
    for process in &counts.processes {
        let (pid, running, file) = (process.pid, process.running, process.file.display().to_string());
        writeln!(out, "{}", serde_json::to_string(&Line::Process { pid, running, file })?)?;
        for (counted, &hits) in counts.counted.iter().zip(&process.hits).filter(|(_, hits)| **hits > 0) {
            let (module, function) = (&*counted.point.module, &*counted.point.display_name);
            let line = Line::Hits { pid, module, function, address: counted.point.addr.to_string(), hits };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        }
    }
    Ok(Report::of(&counts.counted, &counts.refused).json(out)?)
}

/// A table for each process if there are several, then that of all.
fn table(out: &mut dyn Write, counts: &CountsReport, explain: bool) -> io::Result<()> {
    let state = |running| if running { "running" } else { "ended" };
    match &counts.processes[..] {
        [] => writeln!(out, "no process of {} has counted anything yet", counts.module)?,
        [only] => writeln!(out, "process {} ({})", only.pid, state(only.running))?,
        several => {
            for process in several {
                writeln!(out, "process {} ({})", process.pid, state(process.running))?;
                let mut counted = counts.counted.clone();
                counted.iter_mut().zip(&process.hits).for_each(|(counted, &hits)| counted.hits = hits);
                Report::of(&counted, &[]).hits(out, false)?;
            }
            writeln!(out, "all {} processes", several.len())?;
        }
    }
    Report::of(&counts.counted, &counts.refused).table(out, explain)
}

//! `incise count`: who was called how often.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use incise::{CountOptions, CountResult, Counting, Ending, Incomplete};

use crate::Failure;
use crate::args::CountArgs;
use crate::list;
use crate::report::Report;
use crate::signals::{self, INTERRUPTED};

pub(crate) fn run(args: &CountArgs) -> Result<ExitCode, Failure> {
    if args.list {
        return list::count(args);
    }
    // Refused before anything runs: a report that cannot be written is a run in vain.
    let file = args.output.as_ref().map(|path| (File::create(path), path));
    let file = match file {
        Some((Err(error), path)) => return Err(format!("cannot write {}: {error}", path.display()).into()),
        Some((Ok(file), _)) => Some(file),
        None => None,
    };
    let options = CountOptions {
        patterns: args.patterns.clone(),
        module: args.module.clone(),
        points: args.points.into(),
        filter: args.filter.clone(),
        follow: args.follow,
        keep: args.keep,
        perf_map: args.perf_map,
        traps: args.trap.into(),
    };
    signals::catch(args.pid.is_some());
    let counting = match (args.pid, args.program.split_first()) {
        (Some(pid), _) => Counting::attach(pid, options)?,
        (None, Some((program, arguments))) => Counting::launch(program, arguments, options)?,
        (None, None) => return Err("a program to run, or -p PID, is needed".into()),
    };
    if args.verbose && args.pid.is_some() {
        let stop = counting.stop().as_micros();
        eprintln!(
            "incise: {} probes in place, stopped {stop} us; Ctrl-C ends the count",
            counting.installed()
        );
    }
    let result = counting.run(&INTERRUPTED)?;
    for error in &result.unmatched {
        eprintln!("incise: {error}");
    }
    incomplete(&result.incomplete, args.explain);
    if args.filter.is_some() && result.counted.is_empty() && result.refused.is_empty() {
        eprintln!("incise: nothing was counted: --where holds at no point (-l lists points)");
    }
    if args.verbose {
        verbose(&result);
    }
    let report = report(&result);
    let mut out: Box<dyn Write> = match file {
        Some(file) => Box::new(BufWriter::new(file)),
        None => Box::new(BufWriter::new(io::stderr())),
    };
    if args.json { report.json(&mut out) } else { report.table(&mut out, args.explain) }?;
    out.flush()?;
    Ok(match result.ending {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    })
}

/// Tells which functions may have more points.
pub(crate) fn incomplete(functions: &[Incomplete], explain: bool) {
    if functions.is_empty() {
        return;
    }
    for Incomplete { module, function, addr, why } in functions.iter().filter(|_| explain) {
        eprintln!("incise: {module}!{function} at {addr} may have more points: {why}");
    }
    if !explain {
        eprintln!("incise: {} functions may have more points; --explain tells why", functions.len());
    }
}

fn verbose(result: &CountResult) {
    let micros = result.stop.as_micros();
    eprintln!("incise: stopped {micros} us in all, {} mappings added", result.mappings);
    if result.left_behind > 0 {
        eprintln!("incise: {} bytes stay in the process: a thread was inside", result.left_behind);
    }
}

fn report(result: &CountResult) -> Report {
    let mut report = Report::of(&result.counted, &result.refused);
    report.summary.mappings = result.mappings;
    report.summary.stop_us = result.stop.as_micros() as u64;
    report
}

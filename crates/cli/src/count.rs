//! `incise count`: who was called how often.

use std::io;
use std::process::ExitCode;

use incise::{CountOptions, CountResult, Counting, Incomplete};

use crate::Failure;
use crate::args::CountArgs;
use crate::list;
use crate::report::Report;
use crate::signals::INTERRUPTED;
use crate::target::{Which, exit_code};

pub(crate) fn run(args: &CountArgs) -> Result<ExitCode, Failure> {
    if args.list {
        return list::count(args);
    }
    let target = &args.target;
    let mut out = target.writer(io::stderr())?;
    let options = CountOptions {
        points: args.points.into(),
        filter: args.filter.clone(),
        keep: args.keep,
        exact: args.exact,
        perf_map: args.perf_map,
        jit_dump: args.jit_dump,
        layout: args.engine.into(),
        debug_file: args.debug_file,
        ..args.functions.options(target)
    };
    let counting = match target.which()? {
        Which::Process(pid) => Counting::attach(pid, options)?,
        Which::Program(program, arguments) => Counting::launch(program, arguments, options)?,
    };
    target.tell_start(counting.installed(), counting.stop(), "the count");
    let result = counting.run(&INTERRUPTED)?;
    target.tell_unmatched(&result.unmatched);
    incomplete(&result.incomplete, target.explain);
    if args.filter.is_some() && result.counted.is_empty() && result.refused.is_empty() {
        eprintln!("incise: nothing was counted: --where holds at no point (-l lists points)");
    }
    target.tell_stop(&result);
    let report = report(&result);
    if args.json { report.json(&mut out) } else { report.table(&mut out, target.explain) }?;
    out.flush()?;
    Ok(exit_code(result.ending))
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

fn report(result: &CountResult) -> Report {
    let mut report = Report::of(&result.counted, &result.refused);
    report.summary.mappings = result.mappings;
    report.summary.stop_us = result.stop.as_micros() as u64;
    report
}

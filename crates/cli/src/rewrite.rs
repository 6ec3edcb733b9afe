//! `incise rewrite`: a program with counters in it, as a file.

use std::io::{self, Write};
use std::process::ExitCode;

use incise::space::file::Output;
use incise::{RewriteOptions, Rewritten};

use crate::Failure;
use crate::args::RewriteArgs;
use crate::report::Report;

pub(crate) fn run(args: &RewriteArgs) -> Result<ExitCode, Failure> {
    let output = match &args.output {
        Some(path) => Output::new(path),
        None => Output::in_place(&args.binary),
    };
    let options = RewriteOptions {
        patterns: args.count.clone(),
        points: args.points.into(),
        filter: args.filter.clone(),
        traps: args.trap.into(),
        layout: args.engine.into(),
        counts: args.counts.clone(),
    };
    let rewritten = incise::rewrite(&args.binary, &output, &options)?;
    crate::count::incomplete(&rewritten.incomplete, args.explain);
    let mut report = Report::of(&rewritten.counted, &rewritten.refused);
    report.summary.mappings = rewritten.saved.mappings;
    let mut out = io::stdout().lock();
    if args.json {
        report.json(&mut out)?;
    } else {
        table(&mut out, &report, &rewritten, args.explain)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(out: &mut dyn Write, report: &Report, rewritten: &Rewritten, explain: bool) -> io::Result<()> {
    for count in report.counts.iter().filter(|_| explain) {
        writeln!(out, "{:>18}  {:<8}  {}!{}", count.address, count.tactic, count.module, count.function)?;
    }
    report.refusals(out, explain)?;
    let saved = rewritten.saved;
    let summary = report.summary;
    let ratio = saved.len as f64 / saved.original_len.max(1) as f64;
    writeln!(
        out,
        "installed {} of {}, {} refused, {} trapped; {} bytes became {} ({ratio:.2} x), {} mappings added",
        summary.installed,
        summary.installed + summary.refused,
        summary.refused,
        summary.trapped,
        saved.original_len,
        saved.len,
        saved.mappings
    )
}

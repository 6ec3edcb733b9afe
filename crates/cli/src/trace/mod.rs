//! `incise trace`: calls of functions, as they happen.

pub mod args;
mod chrome;
mod folded;
mod json;
mod numbers;
mod text;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::rc::Rc;

use incise::trace::{TraceOptions, TraceRecord, TraceResult, TracedFunction, Tracing};
use incise::{CountOptions, Ending};

use crate::Failure;
use crate::count::incomplete;
use crate::signals::{self, INTERRUPTED};
use args::{Format, TraceArgs};

pub(crate) use numbers::duration;

/// A way to write a trace.
trait Writer {
    /// A record.
    fn record(
        &mut self,
        record: &TraceRecord,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()>;

    /// Nothing comes for now.
    fn pause(&mut self, _functions: &[TracedFunction], _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// The trace is over.
    fn finish(
        &mut self,
        result: &TraceResult,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()>;
}

/// What is shown of a call.
#[derive(Clone, Copy, Debug)]
struct Shown {
    arguments: usize,
    returns: bool,
    duration: bool,
}

/// A trace on its way out.
struct Output {
    writer: Box<dyn Writer>,
    out: Box<dyn Write>,
    functions: Vec<TracedFunction>,
}

impl Output {
    fn take(&mut self, record: Option<&TraceRecord>, functions: &[TracedFunction]) -> io::Result<()> {
        if self.functions.len() < functions.len() {
            self.functions = functions.to_vec();
        }
        match record {
            Some(record) => self.writer.record(record, functions, &mut self.out),
            None => {
                self.writer.pause(functions, &mut self.out)?;
                self.out.flush()
            }
        }
    }
}

pub(crate) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    let out: Box<dyn Write> = match &args.output {
        Some(path) => {
            let file =
                File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(io::stderr())),
    };
    let format = if args.json { Format::Json } else { args.format };
    let shown =
        Shown { arguments: args.args.unwrap_or(0).into(), returns: args.returns, duration: args.duration };
    let timed = matches!(format, Format::Chrome | Format::Folded);
    let options = TraceOptions {
        functions: CountOptions {
            patterns: args.patterns.clone(),
            module: args.module.clone(),
            follow: args.follow,
            traps: args.trap.into(),
            ..CountOptions::default()
        },
        arguments: shown.arguments,
        exits: shown.returns || shown.duration || timed,
        records: args.buffer as usize,
    };
    let writer: Box<dyn Writer> = match format {
        Format::Text => Box::new(text::Text::new(shown)),
        Format::Json => Box::new(json::Json::new(shown)),
        Format::Chrome => Box::new(chrome::Chrome::new(shown)),
        Format::Folded => Box::new(folded::Folded::default()),
    };
    let output = Rc::new(RefCell::new(Output { writer, out, functions: Vec::new() }));
    let sink = {
        let output = Rc::clone(&output);
        move |record: Option<&TraceRecord>, functions: &[TracedFunction]| {
            output.borrow_mut().take(record, functions)
        }
    };
    signals::catch(args.pid.is_some());
    let tracing = match (args.pid, args.program.split_first()) {
        (Some(pid), _) => Tracing::attach(pid, &options, sink)?,
        (None, Some((program, arguments))) => Tracing::launch(program, arguments, &options, sink)?,
        (None, None) => return Err("a program to run, or -p PID, is needed".into()),
    };
    if args.verbose && args.pid.is_some() {
        let (installed, stop) = (tracing.installed(), tracing.stop().as_micros());
        eprintln!("incise: {installed} probes in place, stopped {stop} us; Ctrl-C ends the trace");
    }
    let result = tracing.run(&INTERRUPTED).map_err(failure)?;
    let Output { writer, out, functions } = &mut *output.borrow_mut();
    writer.finish(&result, functions, out)?;
    out.flush()?;
    tell(args, &result);
    Ok(match result.probes.ending {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    })
}

/// A reader that went away is told as such.
pub(crate) fn failure(error: incise::Error) -> Failure {
    match error {
        incise::Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Box::new(error),
        error => Box::new(error),
    }
}

/// Tells what is missing in the trace.
fn tell(args: &TraceArgs, result: &TraceResult) {
    for error in &result.probes.unmatched {
        eprintln!("incise: {error}");
    }
    incomplete(&result.probes.incomplete, args.explain);
    let refused = &result.probes.refused;
    for refused in refused.iter().filter(|_| args.explain) {
        eprintln!("incise: {}!{} is not traced: {}", refused.module, refused.function, refused.reason);
    }
    if !refused.is_empty() && !args.explain {
        eprintln!("incise: {} points are not traced; --explain tells why", refused.len());
    }
    let totals = result.totals;
    if args.verbose || totals.dropped > 0 || totals.unfinished > 0 {
        let hint = if totals.dropped > 0 { "; --buffer makes more room" } else { "" };
        eprintln!(
            "incise: {} records, {} dropped, {} unfinished{hint}",
            totals.records, totals.dropped, totals.unfinished
        );
    }
    if args.verbose {
        let probes = &result.probes;
        eprintln!(
            "incise: stopped {} us in all, {} mappings added",
            probes.stop.as_micros(),
            probes.mappings
        );
    }
}

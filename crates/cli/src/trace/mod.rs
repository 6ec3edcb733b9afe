//! `incise trace`: calls of functions, as they happen.

pub mod args;
mod caller;
mod chrome;
mod folded;
mod json;
mod numbers;
mod text;

use std::cell::RefCell;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use incise::trace::{Totals, TraceOptions, TraceRecord, TraceResult, TracedFunction, Tracing};

use crate::Failure;
use crate::signals::INTERRUPTED;
use crate::target::{Which, exit_code};
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
    let target = &args.target;
    let out = target.writer(io::stderr())?;
    let format = if args.json { Format::Json } else { args.format };
    let shown =
        Shown { arguments: args.args.unwrap_or(0).into(), returns: args.returns, duration: args.duration };
    let stack = args.stack.map_or(0, |kib| kib as usize * 1024);
    let counted = format == Format::Folded && stack > 0 && !shown.duration;
    let timed = matches!(format, Format::Chrome | Format::Folded) && !counted;
    let options = TraceOptions {
        functions: args.functions.options_where(target, args.holds.as_ref()),
        arguments: shown.arguments,
        exits: shown.returns || shown.duration || timed,
        records: args.buffer.map_or_else(|| room(stack), |records| records as usize),
        stack: stack.saturating_sub(RECORD),
    };
    let writer: Box<dyn Writer> = match format {
        Format::Text => Box::new(text::Text::new(shown)),
        Format::Json => Box::new(json::Json::new(shown)),
        Format::Chrome => {
            let started = target.program.first().map(std::path::Path::new);
            let name = started.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            Box::new(chrome::Chrome::new(shown, name))
        }
        Format::Folded => Box::new(folded::Folded::new(counted)),
    };
    let output = Rc::new(RefCell::new(Output { writer, out, functions: Vec::new() }));
    let sink = {
        let output = Rc::clone(&output);
        move |record: Option<&TraceRecord>, functions: &[TracedFunction]| {
            output.borrow_mut().take(record, functions)
        }
    };
    let tracing = match target.which()? {
        Which::Process(pid) => Tracing::attach(pid, &options, sink)?,
        Which::Program(program, arguments) => Tracing::launch(program, arguments, &options, sink)?,
    };
    target.tell_start(tracing.installed(), tracing.stop(), "the trace");
    let result = tracing.run(&INTERRUPTED).map_err(failure)?;
    let Output { writer, out, functions } = &mut *output.borrow_mut();
    writer.finish(&result, functions, out)?;
    out.flush()?;
    target.tell_missing(&result.probes, "traced");
    tell(&result, target.verbose);
    target.tell_stop(&result.probes);
    Ok(exit_code(result.probes.ending))
}

/// Bytes of a record besides the stack, at most: a record with KIB KiB of stack shall take no more than that.
const RECORD: usize = 96;

/// Records on each CPU, if the user does not say.
fn room(stack: usize) -> usize {
    if stack > 0 {
        return (16 << 20) / stack.next_power_of_two();
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ((1 << 20) / cpus.next_power_of_two()).clamp(1 << 16, 1 << 18)
}

/// A reader that went away is told as such.
pub(crate) fn failure(error: incise::Error) -> Failure {
    match error {
        incise::Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Box::new(error),
        error => Box::new(error),
    }
}

/// Tells what became of the records.
fn tell(result: &TraceResult, verbose: bool) {
    let Totals { records, dropped, unfinished } = result.totals;
    if verbose || dropped > 0 || unfinished > 0 {
        let hint = if dropped > 0 { "; --buffer makes more room" } else { "" };
        eprintln!("incise: {records} records, {dropped} dropped, {unfinished} unfinished{hint}");
    }
}

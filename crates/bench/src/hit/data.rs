//! What data costs that a probe leaves in another process: records, histograms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use incise::script::{ScriptOptions, Scripting};
use incise::timing::{Look, Measure, Next, Timing};
use incise::trace::{TraceOptions, TraceRecord, TracedFunction, Tracing};
use incise::{Condition, CountOptions, Counting, TrapPolicy};

use super::contender::{Contender, Line};
use super::{own, peers};
use crate::Error;
use crate::subjects::Shape;
use crate::target::Target;

/// Everybody who leaves data, and peers.
pub(super) fn lines(peers: bool) -> Vec<Line> {
    let start = |symbol, work| move || Remote::start(symbol, work);
    let mut lines = vec![
        own::hand("hand-written: jmp, rdtsc", Shape::Plain, "twin_rdtsc"),
        Line::new("record, time stamp and thread", start("plain_record", Work::Trace(0, false))).within(30.0),
        Line::new("record, 3 arguments too", start("plain_arguments", Work::Trace(3, false))).within(30.0),
        Line::new("record at entry and exit", start("plain_call", Work::Trace(3, true))),
        Line::new("histogram of an argument", start("plain_argument", Work::Histogram(Measure::Argument(0)))),
        Line::new(
            "histogram of durations, entry and exit",
            start("plain_duration", Work::Histogram(Measure::Duration)),
        )
        .within(60.0),
        Line::new("counter where arg0 > 100 holds", start("plain_filtered", Work::Count("arg0 > 100")))
            .within(3.0),
        Line::new(
            "counter where arg0 > 100 does not",
            start("plain_refused", Work::Count("arg0 > 100 && arg0 < 101")),
        )
        .within(3.0),
        Line::new("@[arg0 & 63] = count()", start("plain_map", Work::Script("@[arg0 & 63] = count();")))
            .within(15.0),
    ];
    if peers {
        lines.extend(peers::recording());
    }
    lines
}

/// What is done at each hit.
#[derive(Clone, Copy)]
enum Work {
    /// A record with so many arguments, and one at the exit.
    Trace(usize, bool),
    Histogram(Measure),
    /// A counter where a condition holds.
    Count(&'static str),
    /// A clause at the entry.
    Script(&'static str),
}

/// Data from another process. The thread that put the probe in reads it.
struct Remote {
    target: Target,
    symbol: &'static str,
    finish: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<Option<u64>, String>>>,
}

type Ready = Sender<Result<usize, String>>;

impl Remote {
    fn start(symbol: &'static str, work: Work) -> Result<Remote, Error> {
        let target = Target::start(&[])?;
        let pid = target.pid();
        let finish = Arc::new(AtomicBool::new(false));
        let (send, ready) = channel();
        let stop = Arc::clone(&finish);
        let reader = spawn(move || read(pid, symbol, work, &send, &stop).map_err(|error| error.to_string()));
        let reader = Some(reader);
        match ready.recv() {
            Ok(Ok(1)) => Ok(Remote { target, symbol, finish, reader }),
            Ok(Ok(other)) => Err(format!("{other} functions are probed").into()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads until it is told to stop. Returns how many hits there were.
fn read(
    pid: i32,
    symbol: &str,
    work: Work,
    send: &Ready,
    stop: &AtomicBool,
) -> Result<Option<u64>, incise::Error> {
    let functions = CountOptions { patterns: vec![symbol.to_owned()], ..CountOptions::default() };
    // Whoever started this may be gone.
    let tell = |installed: Result<usize, String>| drop(send.send(installed));
    match work {
        Work::Trace(arguments, exits) => {
            let options = TraceOptions { functions, arguments, exits, records: 1 << 16, stack: 0 };
            let ignore = |_: Option<&TraceRecord>, _: &[TracedFunction]| Ok(());
            let tracing =
                Tracing::attach(pid, &options, ignore).inspect_err(|error| tell(Err(error.to_string())))?;
            tell(Ok(tracing.installed()));
            let totals = tracing.run(stop)?.totals;
            Ok(Some((totals.records + totals.dropped + totals.unfinished) / if exits { 2 } else { 1 }))
        }
        Work::Histogram(of) => {
            let watch =
                |_: &mut Look<'_>| Ok(Next { pause: Duration::from_secs(3600), switches: Vec::new() });
            let timing = Timing::attach(pid, functions, of, watch)
                .inspect_err(|error| tell(Err(error.to_string())))?;
            tell(Ok(timing.installed()));
            let values = timing.run(stop)?.values;
            Ok(Some(values.functions.iter().map(|values| values.count()).sum()))
        }
        Work::Count(condition) => {
            let condition = Condition::parse(condition).ok();
            let counting = Counting::attach(pid, CountOptions { condition, ..functions })
                .inspect_err(|error| tell(Err(error.to_string())))?;
            tell(Ok(counting.installed()));
            counting.run(stop)?;
            Ok(None)
        }
        Work::Script(clause) => {
            let options = ScriptOptions {
                name: "bench".to_owned(),
                source: format!("function:{symbol} {{ {clause} }}"),
                arguments: Vec::new(),
                follow: false,
                traps: TrapPolicy::Fallback,
                records: 64,
                keys: 4096,
                rows: incise::data::walk::SPARE,
                dry_run: false,
                awaiting: None,
            };
            let scripting = Scripting::attach(pid, &options, |_| Ok(()))
                .inspect_err(|error| tell(Err(error.to_string())))?;
            tell(Ok(scripting.installed()));
            scripting.run(stop)?;
            Ok(None)
        }
    }
}

impl Contender for Remote {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.target.time(self.symbol, calls)
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        self.finish.store(true, Ordering::Relaxed);
        let Some(reader) = self.reader.take() else { return Ok(None) };
        Ok(reader.join().map_err(|_| "the reading thread has panicked")??)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::Relaxed);
        self.target.end();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

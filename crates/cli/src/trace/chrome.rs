//! A trace as trace events (the JSON format of chrome://tracing, which Perfetto's viewer opens too): one complete event for each
//! call, when it has ended.

use std::collections::BTreeMap;
use std::io::{self, Write};

use incise::trace::{CallStacks, Frame, TraceRecord, TraceResult, TracedFunction};
use serde::Serialize;

use super::{Shown, Writer, caller};

/// Writes trace events.
pub(super) struct Chrome {
    shown: Shown,
    stacks: CallStacks,
    /// Threads that were seen, with their processes.
    threads: BTreeMap<u32, u32>,
    /// What the program is called that was started.
    program: Option<String>,
    begun: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'a str,
    /// X: a call; B: one that did not end; i: an exit whose entry is not known.
    ph: &'a str,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    args: Values,
}

#[derive(Serialize)]
struct Values {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    returns: Option<String>,
    /// The nearest caller first.
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<Vec<String>>,
}

/// Names a process or a thread.
#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
    ph: &'a str,
    pid: u32,
    tid: u32,
    args: BTreeMap<&'a str, String>,
}

impl Chrome {
    pub(super) fn new(shown: Shown, program: Option<String>) -> Chrome {
        Chrome { shown, stacks: CallStacks::default(), threads: BTreeMap::new(), program, begun: false }
    }

    fn event(&mut self, event: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
        let before = if self.begun { ",\n" } else { "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n" };
        self.begun = true;
        out.write_all(before.as_bytes())?;
        Ok(serde_json::to_writer(out, event)?)
    }

    fn of<'a>(&self, thread: u32, frame: &Frame, functions: &'a [TracedFunction]) -> Event<'a> {
        let TracedFunction { module, name, .. } = &functions[frame.function];
        let args = frame.arguments.iter().take(self.shown.arguments);
        let args = args.map(|argument| format!("{argument:#x}")).collect();
        let stack = frame.callers.as_ref().map(|callers| callers.frames.iter().map(caller::place).collect());
        Event {
            name,
            cat: module,
            ph: "B",
            ts: micros(frame.time),
            dur: None,
            pid: self.threads.get(&thread).copied().unwrap_or(thread),
            tid: thread,
            args: Values { args, returns: None, stack },
        }
    }

    /// A thread that was not seen before, and its process, get their names, as the system has them now; those that have ended are called
    /// what was started.
    fn meet(&mut self, record: &TraceRecord, out: &mut dyn Write) -> io::Result<()> {
        let TraceRecord { process, thread, .. } = *record;
        if self.threads.contains_key(&thread) {
            return Ok(());
        }
        let known = self.threads.values().any(|seen| *seen == process);
        self.threads.insert(thread, process);
        let mut name = |what: &str, tid: u32, file: String| {
            let now = std::fs::read_to_string(file).ok().map(|text| text.trim_end().to_owned());
            let Some(text) = now.or_else(|| self.program.clone()) else { return Ok(()) };
            let args = BTreeMap::from([("name", text)]);
            self.event(&Name { name: what, ph: "M", pid: process, tid, args }, out)
        };
        if !known {
            name("process_name", process, format!("/proc/{process}/comm"))?;
        }
        name("thread_name", thread, format!("/proc/{process}/task/{thread}/comm"))
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

impl Writer for Chrome {
    fn record(
        &mut self,
        record: &TraceRecord,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.meet(record, out)?;
        if !record.exit {
            self.stacks.enter(record);
            return Ok(());
        }
        let returns = self.shown.returns.then(|| format!("{:#x}", record.values[0]));
        let event = match self.stacks.leave(record) {
            Some(frame) => {
                let event = self.of(record.thread, &frame, functions);
                let args = Values { returns, ..event.args };
                Event { ph: "X", dur: Some(micros(record.time - frame.time)), args, ..event }
            }
            None => {
                let frame = Frame {
                    function: record.function,
                    time: record.time,
                    stack: 0,
                    arguments: Vec::new(),
                    callers: None,
                    inner: 0,
                };
                let event = self.of(record.thread, &frame, functions);
                Event { ph: "i", args: Values { args: Vec::new(), returns, stack: None }, ..event }
            }
        };
        self.event(&event, out)
    }

    fn finish(
        &mut self,
        result: &TraceResult,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        for thread in self.threads.keys().copied().collect::<Vec<_>>() {
            for frame in self.stacks.of(thread).to_vec() {
                let event = self.of(thread, &frame, functions);
                self.event(&event, out)?;
            }
        }
        if !self.begun {
            out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        }
        let totals = result.totals;
        writeln!(
            out,
            "\n],\"otherData\":{{\"records\":\"{}\",\"dropped\":\"{}\",\"unfinished\":\"{}\"}}}}",
            totals.records, totals.dropped, totals.unfinished
        )
    }
}

//! A trace as JSON Lines: one for each record, then those that could not be traced, then a summary.

use std::io::{self, Write};

use incise::trace::{CallStacks, Callers, TraceRecord, TraceResult, TracedFunction};
use serde::Serialize;

use super::{Shown, Writer};

/// Writes JSON Lines.
pub(super) struct Json {
    shown: Shown,
    stacks: CallStacks,
    line: Vec<u8>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Entry {
        time_ns: u64,
        process: u32,
        thread: u32,
        depth: usize,
        module: &'a str,
        function: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stack: Option<Vec<Caller<'a>>>,
        /// Whether the stack is told to its end.
        #[serde(skip_serializing_if = "Option::is_none")]
        whole: Option<bool>,
    },
    Exit {
        time_ns: u64,
        process: u32,
        thread: u32,
        depth: usize,
        module: &'a str,
        function: &'a str,
        #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
        returns: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        duration_ns: Option<u64>,
    },
    Refused {
        module: &'a str,
        function: &'a str,
        address: String,
        reason: &'a str,
    },
    Summary {
        installed: usize,
        refused: usize,
        records: u64,
        dropped: u64,
        unfinished: u64,
        stop_us: u64,
    },
}

#[derive(Serialize)]
struct Caller<'a> {
    address: String,
    module: &'a str,
    function: &'a str,
    offset: u64,
}

fn callers(callers: &Callers) -> Vec<Caller<'_>> {
    let frames = callers.frames.iter();
    frames
        .map(|frame| Caller {
            address: frame.addr.to_string(),
            module: &frame.module,
            function: &frame.function,
            offset: frame.offset,
        })
        .collect()
}

impl Json {
    pub(super) fn new(shown: Shown) -> Json {
        Json { shown, stacks: CallStacks::default(), line: Vec::new() }
    }
}

fn hex(value: &u64) -> String {
    format!("{value:#x}")
}

/// Writes a line at once: a serializer writes many small pieces.
fn write(line: &Line, buffer: &mut Vec<u8>, out: &mut dyn Write) -> io::Result<()> {
    buffer.clear();
    serde_json::to_writer(&mut *buffer, line)?;
    buffer.push(b'\n');
    out.write_all(buffer)
}

impl Writer for Json {
    fn record(
        &mut self,
        record: &TraceRecord,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let TracedFunction { module, name, .. } = &functions[record.function];
        let (module, function) = (module.as_str(), name.as_str());
        let TraceRecord { time: time_ns, process, thread, .. } = *record;
        if !record.exit {
            self.stacks.enter(record);
            let depth = self.stacks.of(thread).len() - 1;
            let args = record.values.iter().take(self.shown.arguments).map(hex).collect();
            let stack = record.callers.as_ref().map(callers);
            let whole = record.callers.as_ref().map(|callers| callers.whole);
            let line = Line::Entry { time_ns, process, thread, depth, module, function, args, stack, whole };
            return write(&line, &mut self.line, out);
        }
        let frame = self.stacks.leave(record);
        let depth = self.stacks.of(thread).len();
        let returns = self.shown.returns.then(|| hex(&record.values[0]));
        let duration_ns = frame.map(|frame| time_ns.saturating_sub(frame.time));
        let line = Line::Exit { time_ns, process, thread, depth, module, function, returns, duration_ns };
        write(&line, &mut self.line, out)
    }

    fn finish(&mut self, result: &TraceResult, _: &[TracedFunction], out: &mut dyn Write) -> io::Result<()> {
        let (probes, totals) = (&result.probes, result.totals);
        for refused in &probes.refused {
            let address = refused.addr.to_string();
            let (module, function, reason) = (&*refused.module, &*refused.function, &*refused.reason);
            write(&Line::Refused { module, function, address, reason }, &mut self.line, out)?;
        }
        let summary = Line::Summary {
            installed: probes.counted.len(),
            refused: probes.refused.len(),
            records: totals.records,
            dropped: totals.dropped,
            unfinished: totals.unfinished,
            stop_us: probes.stop.as_micros() as u64,
        };
        write(&summary, &mut self.line, out)
    }
}

//! A trace for people: a line for each call, indented by depth.

use std::io::{self, Write};

use incise::trace::{CallStacks, TraceRecord, TraceResult, TracedFunction};

use super::numbers::{duration, value};
use super::{Shown, Writer, caller};

/// Writes text.
pub(super) struct Text {
    shown: Shown,
    stacks: CallStacks,
    /// An entry whose line is not ended: a call that ends next is told in the same line.
    open: Option<TraceRecord>,
    /// Calls whose lines were ended with a brace.
    widest: usize,
}

impl Text {
    pub(super) fn new(shown: Shown) -> Text {
        Text { shown, stacks: CallStacks::default(), open: None, widest: 0 }
    }

    fn exits(&self) -> bool {
        self.shown.returns || self.shown.duration
    }

    /// What stands before a call.
    fn margin(&mut self, record: &TraceRecord, depth: usize) -> String {
        let thread = record.thread.to_string();
        self.widest = self.widest.max(thread.len());
        let (seconds, nanos) = (record.time / 1_000_000_000, record.time % 1_000_000_000);
        format!("{seconds:3}.{nanos:09}  {thread:>width$}  {:1$}", "", 2 * depth, width = self.widest)
    }

    fn call(&self, record: &TraceRecord, functions: &[TracedFunction]) -> String {
        let name = &functions[record.function].name;
        if self.shown.arguments == 0 {
            return name.clone();
        }
        let arguments = record.values.iter().take(self.shown.arguments);
        let arguments: Vec<String> = arguments.map(|argument| value(*argument)).collect();
        format!("{name}({})", arguments.join(", "))
    }

    /// What stands behind a call: its result, and how long it took if that is known.
    fn result(&self, record: &TraceRecord, began: Option<u64>) -> String {
        let mut text = String::new();
        if self.shown.returns {
            text += &format!(" = {}", value(record.values[0]));
        }
        if let Some(began) = began.filter(|_| self.shown.duration) {
            text += &format!("  {}", duration(record.time.saturating_sub(began)));
        }
        text
    }

    /// Ends the line of a call that goes on.
    fn close(&mut self, functions: &[TracedFunction], out: &mut dyn Write) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let depth = self.stacks.of(open.thread).len().saturating_sub(1);
        let (margin, call) = (self.margin(&open, depth), self.call(&open, functions));
        writeln!(out, "{margin}{call} {{")?;
        callers(&open, margin.chars().count(), out)
    }
}

/// Who called it, if that is recorded: a line for each, the nearest first.
fn callers(record: &TraceRecord, margin: usize, out: &mut dyn Write) -> io::Result<()> {
    let Some(callers) = &record.callers else { return Ok(()) };
    for frame in &*callers.frames {
        writeln!(out, "{:margin$}    < {}", "", caller::place(frame))?;
    }
    if callers.whole { Ok(()) } else { writeln!(out, "{:margin$}    < ...", "") }
}

impl Writer for Text {
    fn record(
        &mut self,
        record: &TraceRecord,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if !record.exit {
            self.close(functions, out)?;
            if self.exits() {
                self.stacks.enter(record);
                self.open = Some(record.clone());
                return Ok(());
            }
            // Without exits nobody knows which calls are over.
            let (margin, call) = (self.margin(record, 0), self.call(record, functions));
            writeln!(out, "{margin}{call}")?;
            return callers(record, margin.chars().count(), out);
        }
        let ends = |open: &mut TraceRecord| {
            (open.thread, open.stack, open.function) == (record.thread, record.stack, record.function)
        };
        if let Some(open) = self.open.take_if(ends) {
            self.stacks.leave(record);
            let depth = self.stacks.of(record.thread).len();
            let (margin, call) = (self.margin(&open, depth), self.call(&open, functions));
            writeln!(out, "{margin}{call}{}", self.result(record, Some(open.time)))?;
            return callers(&open, margin.chars().count(), out);
        }
        self.close(functions, out)?;
        let frame = self.stacks.leave(record);
        let depth = self.stacks.of(record.thread).len();
        let margin = self.margin(record, depth);
        let result = self.result(record, frame.as_ref().map(|frame| frame.time));
        let name = &functions[record.function].name;
        match frame {
            Some(_) => writeln!(out, "{margin}}} {name}{result}"),
            None => writeln!(out, "{margin}{name} returns{result}"),
        }
    }

    fn pause(&mut self, functions: &[TracedFunction], out: &mut dyn Write) -> io::Result<()> {
        self.close(functions, out)
    }

    fn finish(
        &mut self,
        _: &TraceResult,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.close(functions, out)
    }
}

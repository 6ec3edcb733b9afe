//! A trace as folded stacks: for each chain of calls how many nanoseconds were spent in its last function itself.

use std::collections::BTreeMap;
use std::io::{self, Write};

use incise::trace::{CallStacks, TraceRecord, TraceResult, TracedFunction};

use super::Writer;

/// Adds up, and writes at the end.
#[derive(Default)]
pub(super) struct Folded {
    stacks: CallStacks,
    times: BTreeMap<Vec<usize>, u64>,
}

impl Writer for Folded {
    fn record(&mut self, record: &TraceRecord, _: &[TracedFunction], _: &mut dyn Write) -> io::Result<()> {
        if !record.exit {
            self.stacks.enter(record);
        } else if let Some(frame) = self.stacks.leave(record) {
            let outer = self.stacks.of(record.thread).iter().map(|frame| frame.function);
            let chain = outer.chain([record.function]).collect();
            let took = record.time.saturating_sub(frame.time);
            *self.times.entry(chain).or_default() += took.saturating_sub(frame.inner);
        }
        Ok(())
    }

    fn finish(
        &mut self,
        _: &TraceResult,
        functions: &[TracedFunction],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        for (chain, time) in &self.times {
            // Semicolons part frames.
            let names: Vec<String> =
                chain.iter().map(|function| functions[*function].name.replace(';', ":")).collect();
            writeln!(out, "{} {time}", names.join(";"))?;
        }
        Ok(())
    }
}

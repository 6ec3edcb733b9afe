//! A trace as folded stacks: for each chain of calls how many nanoseconds were spent in its last function itself, or how often it was
//! called so.

use std::collections::BTreeMap;
use std::io::{self, Write};

use incise::trace::{CallStacks, Callers, Frame, TraceRecord, TraceResult, TracedFunction};

use super::{Writer, caller};

/// Adds up, and writes at the end.
pub(super) struct Folded {
    /// Calls are counted, not timed.
    counted: bool,
    stacks: CallStacks,
    chains: BTreeMap<Vec<String>, u64>,
}

impl Folded {
    pub(super) fn new(counted: bool) -> Folded {
        Folded { counted, stacks: CallStacks::default(), chains: BTreeMap::new() }
    }

    fn add(&mut self, chain: Vec<String>, number: u64) {
        *self.chains.entry(chain).or_default() += number;
    }
}

/// All callers that are known, the outermost first.
fn outer(callers: &Callers) -> Vec<String> {
    let cut = (!callers.whole).then(|| "[unknown]".to_owned());
    cut.into_iter().chain(callers.frames.iter().rev().map(caller::function)).collect()
}

impl Writer for Folded {
    fn record(
        &mut self,
        record: &TraceRecord,
        functions: &[TracedFunction],
        _: &mut dyn Write,
    ) -> io::Result<()> {
        let name = |function: usize| functions[function].name.clone();
        if self.counted {
            let callers = record.callers.as_ref().map_or_else(Vec::new, outer);
            self.add(callers.into_iter().chain([name(record.function)]).collect(), 1);
        } else if !record.exit {
            self.stacks.enter(record);
        } else if let Some(Frame { time, inner, callers, .. }) = self.stacks.leave(record) {
            let outer = match &callers {
                Some(callers) => outer(callers),
                None => self.stacks.of(record.thread).iter().map(|frame| name(frame.function)).collect(),
            };
            let took = record.time.saturating_sub(time);
            self.add(outer.into_iter().chain([name(record.function)]).collect(), took.saturating_sub(inner));
        }
        Ok(())
    }

    fn finish(&mut self, _: &TraceResult, _: &[TracedFunction], out: &mut dyn Write) -> io::Result<()> {
        for (chain, number) in &self.chains {
            // Semicolons part frames.
            let names: Vec<String> = chain.iter().map(|name| name.replace(';', ":")).collect();
            writeln!(out, "{} {number}", names.join(";"))?;
        }
        Ok(())
    }
}

//! Takes everything back that was put into a target.

use std::ops::Range;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use incise_isa::Addr;

use super::runtime::{RETRIES, is_busy};
use super::tracees::{MemoryId, Tracees};
use crate::SpaceError;

/// What a removal had to leave in the target.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Left {
    /// Mappings that a thread may still be running in, or that a signal handler of the program's may
    /// still lead to.
    pub mappings: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Runs of changed bytes that the program has overwritten itself since: its own bytes stay.
    pub overwritten: usize,
}

impl Tracees {
    /// Restores the original code bytes and signal actions, and unmaps what no thread can be in.
    pub(super) fn remove_all(&mut self, memory: MemoryId) -> Result<Left, SpaceError> {
        let overwritten = self.restore_code(memory)?;
        let target = self.target(memory)?;
        let Some(runtime) = target.runtime.clone() else {
            return Ok(Left { overwritten, ..Left::default() });
        };
        let mut code: Vec<Range<Addr>> = target.code.clone();
        code.push(runtime.range());
        code.sort_by_key(|range| range.start);
        self.wait_until_quiescent(memory, &code)?;
        let mut retries = RETRIES;
        loop {
            self.hold(memory)?;
            let left = self.remove_stopped(memory, &code);
            self.release(memory);
            match left {
                Err(error) if is_busy(&error) && retries > 0 => retries -= 1,
                left => return left.map(|left| Left { overwritten, ..left }),
            }
            thread::sleep(Duration::from_millis(1));
            self.take_reports_on(memory);
        }
    }

    /// Puts the original code bytes back, and forgets those that are not ours any more. Returns how many runs of bytes
    /// these are.
    pub(super) fn restore_code(&mut self, memory: MemoryId) -> Result<usize, SpaceError> {
        let mut overwritten = 0;
        let mut retries = RETRIES;
        loop {
            let target = self.target(memory)?;
            if target.journal.is_empty() {
                return Ok(overwritten);
            }
            let mut edits = target.journal.restoring(|at| target.landing(at).is_some());
            let map = self.memory_map(memory)?;
            let mut lost: Vec<Range<Addr>> = Vec::new();
            edits.retain(|edit| {
                let mut now = vec![0; edit.new.len()];
                let ours = match target.memory.read(edit.at, &mut now) {
                    Ok(()) => now == *edit.old,
                    Err(_) => map.find(edit.at).is_some(),
                };
                // What someone has put back already needs nothing either.
                if !ours && now != *edit.new {
                    lost.push(edit.at.span(edit.old.len() as u64));
                }
                ours
            });
            overwritten += lost.len();
            let journal = Rc::make_mut(&mut self.target_mut(memory)?.journal);
            lost.iter().for_each(|range| journal.forget(range));
            match self.apply(memory, &edits, &|_| None) {
                // The program may write while we look.
                Err(SpaceError::Changed { .. }) if retries > 0 => retries -= 1,
                done => return done.map(|_| overwritten),
            }
        }
    }

    fn remove_stopped(&mut self, memory: MemoryId, code: &[Range<Addr>]) -> Result<Left, SpaceError> {
        self.publish(memory, &[])?;
        let restored = self.restore_handlers(memory)?;
        let quiescent = self.quiescent(memory, code)?;
        let target = self.target(memory)?;
        let Some(runtime) = target.runtime.clone() else { return Ok(Left::default()) };
        let (mut idle, mut left): (Vec<Range<Addr>>, Vec<Range<Addr>>) =
            (runtime.retired.clone(), Vec::new());
        for (range, quiescent) in code.iter().cloned().zip(quiescent) {
            // The handler's page goes only if nothing can lead to it.
            let idle_now = quiescent && (restored || range != runtime.range());
            if idle_now { idle.push(range) } else { left.push(range) }
        }
        // A thread in a trampoline may touch any data.
        self.take_areas(memory, &[]);
        let target = self.target(memory)?;
        let trampolines_left = left.iter().any(|range| *range != runtime.range());
        if trampolines_left { &mut left } else { &mut idle }.extend(target.data.iter().cloned());
        // Our own page last: after a failure before that, all this can be done again.
        idle.sort_by_key(|range| *range == runtime.range());
        // Not from our own page: the thread that unmaps it comes back to the code behind the call.
        let mut unmapped: Vec<Range<Addr>> = Vec::new();
        let result = self.with_caller_in_slack(memory, |caller| {
            idle.iter().try_for_each(|range| {
                caller.unmap(range.start, len(range))?;
                unmapped.push(range.clone());
                Ok(())
            })
        });
        let target = self.target_mut(memory)?;
        if unmapped.contains(&runtime.range()) {
            target.runtime = None;
        } else if let Some(runtime) = &mut target.runtime {
            runtime.retired.retain(|range| !unmapped.contains(range));
        }
        target.code.retain(|range| !unmapped.contains(range));
        target.data.retain(|range| !unmapped.contains(range));
        result?;
        Ok(Left { mappings: left.len(), bytes: left.iter().map(len).sum(), overwritten: 0 })
    }
}

fn len(range: &Range<Addr>) -> u64 {
    range.end.offset_from(range.start) as u64
}

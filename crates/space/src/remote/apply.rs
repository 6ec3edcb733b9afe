//! Changes live code while all threads stand still.
//!
//! Two writers. *Poke* writes the bytes through /proc/PID/mem and is for few pages; *swap* (see `swap.rs`)
//! makes changed copies of the pages beforehand and moves them over the text, so that the stop does not
//! depend on how many bytes change.
//!
//! What makes a change safe although the tracer may be killed in the middle of it, when all threads go on:
//!
//! 1. The landings of all heads are published and handled inside the target before the first byte changes.
//! 2. What lies inside one page is written by one pwrite, which is carried out whole or not at all.
//!    So an edit inside one page is made whole, and each made edit is right without the others.
//! 3. An edit that crosses a page boundary is made round by round (see `rounds.rs`): the heads become traps, then the
//!    other bytes change, then the heads. After each write every head is its old instruction, or a trap,
//!    or its new instruction with all its bytes in place. So are edits on several pages of which a jump in one reaches
//!    into another.
//! 4. A thread whose instruction pointer is inside an edit stands on a head, which is a trap now. It is
//!    moved to the landing only to spare it the trap.
//!
//! Where pwrite is refused and memory is written word by word, read "aligned word" for "page".

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;

use super::journal::Journal;
use super::memory::Memory;
use super::ptrace::{self, Stop, Tid};
use super::swap::Swap;
use super::tracees::{MemoryId, State, Tracees};
use super::x86_64::Registers;
use crate::{Applied, Edit, SpaceError, rounds};

/// How often a thread inside an edit, at an address that is no head, is given time to leave.
const RETRIES: usize = 20;

/// From this many edits on, the journal is written before the stop.
const MANY: usize = 500;

/// Where a thread inside an edit goes on.
pub(super) type LandingOf<'a> = &'a dyn Fn(Addr) -> Option<Addr>;

impl Tracees {
    /// Makes all edits or none.
    pub(super) fn apply(
        &mut self,
        memory: MemoryId,
        edits: &[Edit],
        landing_of: LandingOf<'_>,
    ) -> Result<Applied, SpaceError> {
        check_edits(edits)?;
        if edits.is_empty() {
            return Ok(Applied::default());
        }
        let held_before = self.target(memory)?.held;
        let mut swap = self.prepare_swap(memory, edits)?;
        let mut journal = self.prepare_journal(memory, edits)?;
        let mut retries = RETRIES;
        let result = loop {
            if let Err(error) = self.hold(memory) {
                break Err(error);
            }
            let result = self.apply_stopped(memory, edits, &mut swap, &mut journal, landing_of);
            self.release(memory);
            match result {
                Err(SpaceError::Busy { .. }) if retries > 0 => retries -= 1,
                other => break other,
            }
            thread::sleep(Duration::from_millis(1));
        };
        let unmapped = self.discard(memory, swap);
        let mappings = result?;
        unmapped?;
        let stop = self.target(memory)?.held.saturating_sub(held_before);
        Ok(Applied { stop, mappings })
    }

    fn apply_stopped(
        &mut self,
        memory: MemoryId,
        edits: &[Edit],
        swap: &mut Swap,
        journal: &mut Option<Rc<Journal>>,
        landing_of: LandingOf<'_>,
    ) -> Result<usize, SpaceError> {
        let target = Rc::clone(&self.target(memory)?.memory);
        let stopped = self.live_thread(memory)?;
        let moves = self.threads_inside(memory, edits, landing_of)?;
        self.verify_unchanged(memory, swap, edits)?;
        let poked: Vec<Edit> = edits.iter().filter(|edit| !swap.covers(edit)).copied().collect();
        let mut poke = Poke::new(&target, stopped, &poked)?;
        poke.write(&poked)?;
        let mappings = match self.swap_all(memory, swap, edits) {
            Ok(mappings) => mappings,
            Err(error) => {
                // The threads stand still and the pages were writable a moment ago.
                poke.write(&poked.iter().map(Edit::inverse).collect::<Vec<_>>())?;
                return Err(error);
            }
        };
        for (tid, registers) in moves {
            drop(ptrace::set_registers(tid, &registers)); // ESRCH: it was killed.
        }
        let target = self.target_mut(memory)?;
        match journal.take() {
            Some(journal) => target.journal = journal,
            None => record(Rc::make_mut(&mut target.journal), edits),
        }
        Ok(mappings)
    }

    /// The journal as it will be, where writing it would prolong the stop.
    fn prepare_journal(&self, memory: MemoryId, edits: &[Edit]) -> Result<Option<Rc<Journal>>, SpaceError> {
        let current = &self.target(memory)?.journal;
        if edits.len() < MANY {
            return Ok(None);
        }
        let mut journal = Journal::clone(current);
        record(&mut journal, edits);
        Ok(Some(Rc::new(journal)))
    }

    /// The threads that stand inside an edit, and the registers they go on with.
    fn threads_inside(
        &self,
        memory: MemoryId,
        edits: &[Edit],
        landing_of: LandingOf<'_>,
    ) -> Result<Vec<(Tid, Registers)>, SpaceError> {
        let mut moves = Vec::new();
        for tid in self.threads_on(memory) {
            let Some(State::Stopped(stop)) = self.state(tid) else { continue };
            let Ok(registers) = ptrace::registers(tid) else { continue };
            let ip = registers.ip();
            let Some(offset) = offset_inside(edits, ip) else { continue };
            // In a system call, the instruction that comes next may be the one before `ip` again.
            let settled = matches!(stop, Stop::Trap | Stop::Group | Stop::Signal(_))
                && !registers.in_restart()
                && !registers.failed_by_stop();
            match landing_of(ip).filter(|_| settled) {
                Some(landing) => moves.push((tid, registers.moved_to(landing))),
                None if offset.1 => {}
                None => return Err(SpaceError::Busy { at: ip }),
            }
        }
        Ok(moves)
    }
}

fn record(journal: &mut Journal, edits: &[Edit]) {
    edits.iter().for_each(|edit| journal.record(edit));
}

/// The offset of `ip` behind the beginning of the edit around it, and whether that is a head.
fn offset_inside(edits: &[Edit], ip: Addr) -> Option<(usize, bool)> {
    let index = edits.partition_point(|edit| edit.at < ip).checked_sub(1)?;
    let edit = &edits[index];
    let offset = ip.offset_from(edit.at) as usize;
    (offset < edit.old.len()).then(|| (offset, edit.heads & (1 << offset) != 0))
}

fn check_edits(edits: &[Edit]) -> Result<(), SpaceError> {
    let mut end = Addr(0);
    for edit in edits {
        let reason = if edit.at < end {
            "it overlaps the one before it, or is not sorted"
        } else if edit.old.is_empty() || edit.old.len() != edit.new.len() {
            "it does not replace bytes by as many"
        } else {
            end = edit.at + edit.old.len() as u64;
            continue;
        };
        return Err(SpaceError::BadEdit { at: edit.at, reason });
    }
    Ok(())
}

/// Edits, and the steps to make them in.
struct Change {
    /// Those made by one write each, in the last step.
    whole: Vec<Edit>,
    /// Those made round by round, with the states they go through.
    parts: Vec<Edit>,
    states: Vec<rounds::State>,
}

impl Change {
    /// For memory that is written in pieces of `unit` bytes.
    fn new(edits: &[Edit], unit: u64) -> Change {
        let first = |edit: &Edit| edit.at.align_down(unit);
        let last = |edit: &Edit| (edit.at + (edit.old.len() as u64 - 1)).align_down(unit);
        let is_near = |a: &Edit, b: &Edit| b.at < a.at + (a.old.len() + SPRINGBOARD_LEN - 1) as u64;
        let (mut whole, mut parts): (Vec<Edit>, Vec<Edit>) = (Vec::new(), Vec::new());
        // A jump in one edit may reach into another one.
        for near in edits.chunk_by(is_near) {
            let in_one_piece = first(&near[0]) == last(&near[near.len() - 1]);
            if in_one_piece || !rounds::is_nested(near) {
                let (crossing, inside): (Vec<&Edit>, Vec<&Edit>) =
                    near.iter().partition(|edit| first(edit) != last(edit));
                whole.extend(inside);
                parts.extend(crossing);
            } else {
                parts.extend(near);
            }
        }
        let states = rounds::states(&parts);
        Change { whole, parts, states }
    }

    fn steps(&self) -> usize {
        (self.states.len() - 1).max(1)
    }

    /// What memory has to hold after `step`.
    fn set(&self, poke: &mut Poke<'_>, step: usize) {
        for edit in &self.whole {
            poke.set_bytes(edit.at, if step == self.steps() { &edit.new } else { &edit.old });
        }
        let state = &self.states[step.min(self.states.len() - 1)];
        self.parts.iter().zip(state).for_each(|(edit, bytes)| poke.set_bytes(edit.at, bytes));
    }
}

/// The bytes of one page between its first and its last change.
struct Span {
    at: Addr,
    bytes: Vec<u8>,
    dirty: bool,
}

/// Writes edits into memory that no thread is running.
struct Poke<'a> {
    memory: &'a Memory,
    stopped: Tid,
    spans: Vec<Span>,
}

impl<'a> Poke<'a> {
    /// Reads what is there, and checks that it is what the edits expect.
    fn new(memory: &'a Memory, stopped: Tid, edits: &[Edit]) -> Result<Poke<'a>, SpaceError> {
        let unit = memory.unit();
        let mut ranges: Vec<std::ops::Range<Addr>> = Vec::new();
        for edit in edits {
            let end = edit.at + edit.old.len() as u64;
            let mut at = edit.at;
            while at < end {
                let stop = (at.align_down(unit) + unit).min(end);
                match ranges.last_mut() {
                    Some(last) if last.start.align_down(unit) == at.align_down(unit) => last.end = stop,
                    _ => ranges.push(at..stop),
                }
                at = stop;
            }
        }
        let mut spans = Vec::with_capacity(ranges.len());
        for range in ranges {
            let bytes = memory.read_vec(range.start, range.end.offset_from(range.start) as usize)?;
            spans.push(Span { at: range.start, bytes, dirty: false });
        }
        let poke = Poke { memory, stopped, spans };
        for edit in edits {
            let found: Vec<u8> =
                (0..edit.old.len()).map(|offset| poke.get(edit.at + offset as u64)).collect();
            if found != *edit.old {
                return Err(SpaceError::Changed { at: edit.at, expected: edit.old.to_vec(), found });
            }
        }
        Ok(poke)
    }

    fn locate(&self, at: Addr) -> (usize, usize) {
        let index = self.spans.partition_point(|span| span.at <= at) - 1;
        (index, at.offset_from(self.spans[index].at) as usize)
    }

    fn get(&self, at: Addr) -> u8 {
        let (span, offset) = self.locate(at);
        self.spans[span].bytes[offset]
    }

    fn set(&mut self, at: Addr, byte: u8) {
        let (span, offset) = self.locate(at);
        let span = &mut self.spans[span];
        span.dirty |= span.bytes[offset] != byte;
        span.bytes[offset] = byte;
    }

    /// Makes all edits, or in case of an error none, if the memory can still be written; see the head of this file for
    /// the order.
    fn write(&mut self, edits: &[Edit]) -> Result<(), SpaceError> {
        let change = Change::new(edits, self.memory.unit());
        for step in 1..=change.steps() {
            change.set(self, step);
            if let Err(error) = self.flush() {
                self.take_back(&change, step)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Goes back from a step that was tried.
    fn take_back(&mut self, change: &Change, tried: usize) -> Result<(), SpaceError> {
        // What is in memory now is not known for the last one.
        for step in (0..tried).rev() {
            change.set(self, step);
            self.spans.iter_mut().for_each(|span| span.dirty = true);
            self.flush()?;
        }
        Ok(())
    }

    fn set_bytes(&mut self, at: Addr, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(offset, &byte)| self.set(at + offset as u64, byte));
    }

    /// Writes the spans that differ from memory, and reads them back.
    fn flush(&mut self) -> Result<(), SpaceError> {
        for span in self.spans.iter_mut().filter(|span| span.dirty) {
            self.memory.write(span.at, &span.bytes, Some(self.stopped))?;
            span.dirty = false;
            let found = self.memory.read_vec(span.at, span.bytes.len())?;
            if found != span.bytes {
                return Err(SpaceError::Changed { at: span.at, expected: span.bytes.clone(), found });
            }
        }
        Ok(())
    }
}

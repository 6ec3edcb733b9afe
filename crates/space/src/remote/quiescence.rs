//! Whether any thread can still run given code: instruction pointers, registers, and stacks.
//!
//! A stack is scanned from the red zone to the end of its mapping. A thread in a signal handler may be on
//! an alternate stack: the frame there is known by its return address, which leads to a restorer, and holds
//! the stack pointer of the interrupted code; that stack is scanned too.
//!
//! Not seen are stacks that no thread is on, of coroutines that were switched away from inside the code
//! in question by a signal handler. No trampoline calls a switch itself.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use incise_image::MemoryMap;
use incise_isa::Addr;

use super::memory::Memory;
use super::procfs;
use super::ptrace;
use super::tracees::{MemoryId, State, Tracees};
use super::x86_64::{FRAME_SP, RESTORER_CODE};
use crate::SpaceError;

/// Bytes below the stack pointer that belong to the function running (System V ABI, AMD64, 3.2.2).
const RED_ZONE: u64 = 128;

/// A stack larger than this is not scanned: nothing is shown to be quiescent then.
const LARGEST_STACK: u64 = 256 << 20;

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// How often threads are given a millisecond to leave.
const ROUNDS: usize = 20;

impl Tracees {
    /// Which of `ranges` (sorted) no thread can run any more.
    pub(super) fn quiescent(
        &mut self,
        memory: MemoryId,
        ranges: &[Range<Addr>],
    ) -> Result<Vec<bool>, SpaceError> {
        self.hold(memory)?;
        let result = self.scan_threads(memory, ranges);
        self.release(memory);
        result
    }

    /// As [`quiescent`](Self::quiescent), but gives threads that are in the ranges time to run out of them.
    ///
    /// Not by single-stepping: the kernel does not take the trap flag back from a thread whose tracer is
    /// killed, and the thread would die of it.
    pub(super) fn wait_until_quiescent(
        &mut self,
        memory: MemoryId,
        ranges: &[Range<Addr>],
    ) -> Result<Vec<bool>, SpaceError> {
        for _ in 0..ROUNDS {
            let quiescent = self.quiescent(memory, ranges)?;
            if self.target(memory)?.holds > 0 || quiescent.iter().all(|&quiescent| quiescent) {
                return Ok(quiescent);
            }
            thread::sleep(Duration::from_millis(1));
            self.take_reports_on(memory);
        }
        self.quiescent(memory, ranges)
    }

    fn scan_threads(&self, memory: MemoryId, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        let nothing = vec![false; ranges.len()];
        let map = self.memory_map(memory)?;
        let target = &self.target(memory)?.memory;
        let mut scan = Scan::new(target, &map, ranges);
        for tid in self.threads_on(memory) {
            self.interrupted(tid).for_each(|ip| scan.mark(ip.0));
            let sp = match self.state(tid) {
                Some(State::Stopped(_)) => {
                    let Ok(registers) = ptrace::registers(tid) else { continue };
                    scan.mark(registers.ip().0);
                    registers.words().iter().for_each(|&word| scan.mark(word));
                    registers.sp()
                }
                Some(State::Parked) => {
                    let Some(asleep) = procfs::asleep(tid) else { return Ok(nothing) };
                    scan.mark(asleep.ip);
                    Addr(asleep.sp)
                }
                Some(State::Dead | State::Buried) | None => continue,
                Some(_) => return Ok(nothing),
            };
            if scan.stack(sp).is_none() {
                return Ok(nothing);
            }
        }
        Ok(scan.found.iter().map(|found| !found).collect())
    }
}

struct Scan<'a> {
    memory: &'a Memory,
    map: &'a MemoryMap,
    ranges: &'a [Range<Addr>],
    /// All ranges are inside this.
    bounds: Range<u64>,
    /// Executable memory is inside this.
    code: Range<u64>,
    found: Vec<bool>,
    /// Whether an address is that of a restorer.
    restorers: HashMap<u64, bool>,
}

impl<'a> Scan<'a> {
    fn new(memory: &'a Memory, map: &'a MemoryMap, ranges: &'a [Range<Addr>]) -> Scan<'a> {
        let bounds = ranges.first().map_or(0, |range| range.start.0)..ranges.last().map_or(0, |r| r.end.0);
        let code = map.iter().filter(|mapping| mapping.permissions.execute);
        let code = code.clone().map(|m| m.range.start.0).min().unwrap_or(0)
            ..code.map(|m| m.range.end.0).max().unwrap_or(0);
        let found = vec![false; ranges.len()];
        Scan { memory, map, ranges, bounds, code, found, restorers: HashMap::new() }
    }

    fn mark(&mut self, word: u64) {
        if self.bounds.contains(&word) {
            let index = self.ranges.partition_point(|range| range.end.0 <= word);
            if self.ranges[index].start.0 <= word {
                self.found[index] = true;
            }
        }
    }

    /// Scans the stack from `sp`, and those that signal handlers on it have interrupted. `None` if one
    /// cannot be read.
    fn stack(&mut self, sp: Addr) -> Option<()> {
        // (mapping, from where on it was scanned)
        let mut scanned: HashMap<Addr, Addr> = HashMap::new();
        let mut waiting = vec![sp];
        while let Some(sp) = waiting.pop() {
            let mapping = self.map.find(sp)?;
            let (start, mut end) = (mapping.range.start, mapping.range.end);
            let from = Addr(sp.0.saturating_sub(RED_ZONE)).max(start).align_down(8);
            match scanned.insert(start, from) {
                Some(before) if before <= from => {
                    scanned.insert(start, before);
                    continue;
                }
                Some(before) => end = before,
                None => {}
            }
            if end.offset_from(from) as u64 > LARGEST_STACK {
                return None;
            }
            self.words(from, end, &mut waiting)?;
        }
        Some(())
    }

    fn words(&mut self, from: Addr, end: Addr, waiting: &mut Vec<Addr>) -> Option<()> {
        let mut at = from;
        while at < end {
            let len = (end.offset_from(at) as u64).min(CHUNK);
            let bytes = self.memory.read_vec(at, len as usize).ok()?;
            for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let word = u64::from_le_bytes(*word);
                self.mark(word);
                if self.code.contains(&word) && self.is_restorer(word) {
                    let frame = at + index as u64 * 8;
                    waiting.extend(self.memory.read_u64(frame + FRAME_SP as u64).ok().map(Addr).filter(
                        // What looks like a frame and is none has anything there.
                        |&sp| self.map.find(sp).is_some_and(|m| m.permissions.write),
                    ));
                }
            }
            at = at + len;
        }
        Some(())
    }

    fn is_restorer(&mut self, word: u64) -> bool {
        let (memory, map) = (self.memory, self.map);
        *self.restorers.entry(word).or_insert_with(|| {
            let mut code = [0; RESTORER_CODE.len()];
            map.find(Addr(word)).is_some_and(|mapping| mapping.permissions.execute)
                && memory.read(Addr(word), &mut code).is_ok()
                && code == RESTORER_CODE
        })
    }
}

//! The code of new trampolines, gathered before it is written.

pub(crate) mod generated;
pub(crate) mod literals;
pub(crate) mod lower;
pub(crate) mod sequences;
pub(crate) mod ways;

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::TRAP;

use crate::memory::Memory;
use crate::memory::arena::PAGE;

/// Runs of code with their addresses.
#[derive(Default)]
pub(crate) struct Trampolines {
    bytes: Vec<u8>,
    /// Address, offset in `bytes`, length.
    runs: Vec<(Addr, u32, u32)>,
    /// Used again for each trampoline.
    buffer: Vec<u8>,
}

impl Trampolines {
    pub(crate) fn push(&mut self, at: Addr, code: &[u8]) {
        self.runs.push((at, self.bytes.len() as u32, code.len() as u32));
        self.bytes.extend_from_slice(code);
    }

    /// How many runs there are.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Takes the runs behind the first `len` out, which were pushed last, and tells them.
    pub(crate) fn truncate(&mut self, len: usize) -> Vec<Range<Addr>> {
        let gone = self.runs.split_off(len);
        if let Some((_, offset, _)) = gone.first() {
            self.bytes.truncate(*offset as usize);
        }
        gone.into_iter().map(|(at, _, len)| at.span(u64::from(len))).collect()
    }

    /// Puts the runs in order of their addresses.
    pub(crate) fn sort(&mut self) {
        self.runs.sort_by_key(|run| run.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Addr, &[u8])> {
        self.runs
            .iter()
            .map(|&(at, offset, len)| (at, &self.bytes[offset as usize..offset as usize + len as usize]))
    }

    /// An empty buffer to assemble in.
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn put_buffer(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    /// What to write: trampolines of fresh pages, on which nothing else lies, joined to one run each with the gaps
    /// filled with traps; single runs on pages where threads may be. No run is of two arenas, which are two mappings. The runs must be in
    /// order.
    pub(crate) fn joined(&self, memory: &Memory) -> Vec<(Addr, Vec<u8>)> {
        let fresh = self.fresh_pages(memory);
        let is_fresh = |page: Addr| fresh.binary_search(&page).is_ok();
        let mut joined: Vec<(Addr, Vec<u8>)> = Vec::new();
        for (at, code) in self.iter() {
            match joined.last_mut() {
                Some((start, run))
                    if joins(*start + run.len() as u64, at, is_fresh) && memory.in_one_arena(*start..at) =>
                {
                    run.resize(at.offset_from(*start) as usize, TRAP);
                    run.extend_from_slice(code);
                }
                _ => joined.push((at, code.to_vec())),
            }
        }
        joined
    }

    /// The pages that hold nothing but these runs, ascending.
    fn fresh_pages(&self, memory: &Memory) -> Vec<Addr> {
        let mut ours: Vec<(Addr, u64)> = Vec::new();
        for &(at, _, len) in &self.runs {
            let end = at + u64::from(len);
            let mut start = at;
            while start < end {
                let page = start.align_down(PAGE);
                let stop = end.min(page + PAGE);
                let bytes = stop.offset_from(start) as u64;
                match ours.last_mut() {
                    Some((last, sum)) if *last == page => *sum += bytes,
                    _ => ours.push((page, bytes)),
                }
                start = stop;
            }
        }
        ours.into_iter()
            .filter(|&(page, bytes)| memory.used_in(page) == bytes)
            .map(|(page, _)| page)
            .collect()
    }
}

/// Whether the run that begins at `next` can be written together with that which ends at `end`.
fn joins(end: Addr, next: Addr, is_fresh: impl Fn(Addr) -> bool) -> bool {
    let pages = (end.align_down(PAGE), next.align_down(PAGE));
    next.offset_from(end) < PAGE as i64 && is_fresh(pages.0) && is_fresh(pages.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::arena::Arena;
    use incise_isa::native::Springboard;

    #[test]
    fn trampolines_of_neighbouring_arenas_are_written_one_by_one() {
        let start = Addr(0x7f00_0000_0000);
        let middle = start + PAGE;
        let mut memory = Memory::default();
        memory.arenas.extend([Arena::new(start..middle), Arena::new(middle..middle + PAGE)]);
        let board = Springboard::new(start, 0);
        let mut trampolines = Trampolines::default();
        for len in [PAGE - 8, 16, 16] {
            let arena = memory.arenas.iter_mut().find_map(|arena| arena.allocate_any(&board, len));
            trampolines.push(arena.expect("a page"), &vec![TRAP; len as usize]);
        }
        let joined = trampolines.joined(&memory);
        let runs: Vec<(Addr, usize)> = joined.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        assert_eq!(runs, [(start, PAGE as usize - 8), (middle, 32)]);
    }
}

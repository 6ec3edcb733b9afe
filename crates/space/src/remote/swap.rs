//! The writer for many pages: changed copies of whole pages, moved over the text.
//!
//! While the target runs, for each run of changed pages: map fresh memory (readable and executable, never
//! writable) far away, fill it through /proc/PID/mem with the pages as they will be, and read it back.
//! Then, with all threads stopped: check that the text is still what was copied; `mremap` each run over
//! the text. Each of these replaces a run of pages in one step, and the pages are there already, so the
//! threads take no page fault afterwards. If the tracer is killed between two of them, some edits are
//! made and others not, and each is right alone.
//!
//! Only private mappings that are readable and executable and nothing else are replaced; edits elsewhere, and
//! those on few pages, are poked.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

use super::memory::PAGE;
use super::runtime::far_hole;
use super::tracees::{MemoryId, Tracees};
use crate::{Edit, SpaceError};

/// Runs of fewer changed pages than this are poked.
const WORTHWHILE: usize = 16;

/// Pages between two changed ones that are copied along without asking.
const NEAR: u64 = 16;

/// No more runs than this in one change: each splits mappings.
const MAX_RUNS: usize = 16;

/// Bytes read back at once: what fits into a cache.
const CHUNK: usize = 1 << 18;

/// Page tables are moved whole, not entry by entry, where both addresses agree modulo this.
const TABLE_SPAN: u64 = 2 << 20;

/// Changed copies of pages, waiting to replace them.
#[derive(Default)]
pub(super) struct Swap {
    runs: Vec<Run>,
}

struct Run {
    range: Range<Addr>,
    /// Where the copy is; `None` before it is mapped, and after it was moved.
    staged: Option<Addr>,
    /// The pages as they will be.
    image: Vec<u8>,
    /// The mappings of the range at that time.
    mappings: Vec<Mapping>,
    /// Which pages were the target's own, not the file's, at that time.
    private: Vec<bool>,
    /// The edits in it: index of the first, number.
    edits: Range<usize>,
}

impl Run {
    fn len(&self) -> u64 {
        self.range.end.offset_from(self.range.start) as u64
    }

    /// The bytes of `range` as they were; `edits` are those of the whole change.
    fn original(&self, edits: &[Edit], range: &Range<Addr>) -> Vec<u8> {
        let offset = range.start.offset_from(self.range.start) as usize;
        let len = range.end.offset_from(range.start) as usize;
        let mut bytes = self.image[offset..offset + len].to_vec();
        let edits = &edits[self.edits.clone()];
        let first = edits.partition_point(|edit| edit.at + edit.old.len() as u64 <= range.start);
        for edit in edits[first..].iter().take_while(|edit| edit.at < range.end) {
            for (at, &byte) in (edit.at.0..).map(Addr).zip(edit.old.iter()) {
                if range.contains(&at) {
                    bytes[at.offset_from(range.start) as usize] = byte;
                }
            }
        }
        bytes
    }
}

impl Swap {
    /// Whether an edit is made by this.
    pub(super) fn covers(&self, edit: &Edit) -> bool {
        self.runs.iter().any(|run| run.range.contains(&edit.at))
    }
}

impl Tracees {
    /// Makes the copies, with the target running if nobody holds it.
    ///
    /// # Errors
    /// [`SpaceError::Changed`] if the text is not what the edits expect.
    pub(super) fn prepare_swap(&mut self, memory: MemoryId, edits: &[Edit]) -> Result<Swap, SpaceError> {
        if edits.len() < WORTHWHILE {
            return Ok(Swap::default());
        }
        let map = self.memory_map(memory)?;
        let mut swap = Swap::default();
        for (range, edits_in) in runs(edits, &map) {
            let run = self.copy_run(memory, &map, range, edits, edits_in)?;
            swap.runs.push(run);
        }
        if swap.runs.is_empty() {
            return Ok(swap);
        }
        if let Err(error) = self.stage(memory, &mut swap) {
            self.discard(memory, swap)?;
            return match error {
                // No memory for copies: the edits can still be poked.
                SpaceError::System { .. } | SpaceError::Occupied { .. } => Ok(Swap::default()),
                error => Err(error),
            };
        }
        Ok(swap)
    }

    fn copy_run(
        &self,
        memory: MemoryId,
        map: &MemoryMap,
        range: Range<Addr>,
        all: &[Edit],
        edits: Range<usize>,
    ) -> Result<Run, SpaceError> {
        let private = self.private_pages(memory, &range)?;
        let len = range.end.offset_from(range.start) as usize;
        let mut image = self.target(memory)?.memory.read_vec(range.start, len)?;
        for edit in &all[edits.clone()] {
            let offset = edit.at.offset_from(range.start) as usize;
            let place = &mut image[offset..offset + edit.old.len()];
            if *place != *edit.old {
                let (expected, found) = (edit.old.to_vec(), place.to_vec());
                return Err(SpaceError::Changed { at: edit.at, expected, found });
            }
            place.copy_from_slice(&edit.new);
        }
        let mappings = mappings_of(map, &range);
        Ok(Run { range, staged: None, image, mappings, private, edits })
    }

    fn stage(&mut self, memory: MemoryId, swap: &mut Swap) -> Result<(), SpaceError> {
        // Our own pages first: they would take the same place.
        if self.target(memory)?.runtime.is_none() {
            self.with_caller(memory, |_, _| Ok(()))?;
        }
        // One place for all of them, so that looking for it once is enough.
        let spread: u64 =
            swap.runs.iter().map(|run| run.len().next_multiple_of(TABLE_SPAN) + TABLE_SPAN).sum();
        let map = self.memory_map(memory)?;
        let mut place = far_hole(&map, spread, TABLE_SPAN)?;
        self.with_caller(memory, |caller, _| {
            for run in &mut swap.runs {
                let at = place + run.range.start.0 % TABLE_SPAN;
                caller.map(at, run.len(), libc::PROT_READ | libc::PROT_EXEC)?;
                run.staged = Some(at);
                if run.len() >= TABLE_SPAN {
                    // Large pages are filled, moved and freed in no time. Where there are none: small ones.
                    drop(caller.advise_large_pages(at, run.len()));
                }
                place = (at + run.len()).align_up(TABLE_SPAN);
            }
            Ok(())
        })?;
        let target = Rc::clone(&self.target(memory)?.memory);
        let stopped = self.live_thread(memory)?;
        for run in &swap.runs {
            let Some(staged) = run.staged else { continue };
            target.write(staged, &run.image, Some(stopped))?;
            for (index, wanted) in run.image.chunks(CHUNK).enumerate() {
                let at = staged + (index * CHUNK) as u64;
                let found = target.read_vec(at, wanted.len())?;
                if let Some(offset) = (0..wanted.len()).find(|&i| wanted[i] != found[i]) {
                    let (at, expected, found) =
                        (at + offset as u64, vec![wanted[offset]], vec![found[offset]]);
                    return Err(SpaceError::Changed { at, expected, found });
                }
            }
        }
        Ok(())
    }

    /// Checks, with the threads stopped, that the text is still what was copied.
    ///
    /// A page of a file that the target never wrote to is as it was. Pages of its own are compared,
    /// but for those that an earlier swap put there: they are ours and writable to no one, and reading
    /// thousands of them is what the stop has no time for. They were compared when they were copied.
    pub(super) fn verify_unchanged(
        &self,
        memory: MemoryId,
        swap: &Swap,
        edits: &[Edit],
    ) -> Result<(), SpaceError> {
        if swap.runs.is_empty() {
            return Ok(());
        }
        let map = self.memory_map(memory)?;
        let target = self.target(memory)?;
        for run in &swap.runs {
            if mappings_of(&map, &run.range) != run.mappings {
                let reason = "its mapping changed while the change was prepared";
                return Err(SpaceError::Unsuitable { at: run.range.start, reason });
            }
            let private = self.private_pages(memory, &run.range)?;
            for (index, (was, is)) in run.private.iter().zip(&private).enumerate() {
                let at = run.range.start + index as u64 * PAGE;
                if !was && !is || target.swapped.iter().any(|range| range.contains(&at)) {
                    continue;
                }
                let found = target.memory.read_vec(at, PAGE as usize)?;
                let expected = run.original(edits, &at.span(PAGE));
                if found != expected {
                    return Err(SpaceError::Changed { at, expected, found });
                }
            }
        }
        Ok(())
    }

    /// Moves every copy over its text, or none. Returns by how many mappings the target has grown.
    pub(super) fn swap_all(
        &mut self,
        memory: MemoryId,
        swap: &mut Swap,
        edits: &[Edit],
    ) -> Result<usize, SpaceError> {
        if swap.runs.is_empty() {
            return Ok(0);
        }
        let moved = self.with_caller(memory, |caller, _| {
            for run in &mut swap.runs {
                if let Some(staged) = run.staged {
                    caller.move_over(staged, run.len(), run.range.start)?;
                    run.staged = None;
                }
            }
            Ok(())
        });
        if let Err(error) = moved {
            // What was moved gets its old bytes; nobody ran the new ones.
            let target = Rc::clone(&self.target(memory)?.memory);
            let stopped = self.live_thread(memory)?;
            for run in swap.runs.iter().filter(|run| run.staged.is_none()) {
                target.write(run.range.start, &run.original(edits, &run.range), Some(stopped))?;
            }
            return Err(error);
        }
        let mut grown = 0;
        let target = self.target_mut(memory)?;
        for run in &swap.runs {
            let (first, last) = (run.mappings.first(), run.mappings.last());
            let before = usize::from(first.is_some_and(|m| m.range.start < run.range.start));
            let behind = usize::from(last.is_some_and(|m| m.range.end > run.range.end));
            grown += (before + 1 + behind).saturating_sub(run.mappings.len());
            target.swapped.retain(|range| range.start < run.range.start || range.end > run.range.end);
            target.swapped.push(run.range.clone());
        }
        Ok(grown)
    }

    /// Unmaps copies that were not used.
    pub(super) fn discard(&mut self, memory: MemoryId, swap: Swap) -> Result<(), SpaceError> {
        let staged: Vec<(Addr, u64)> =
            swap.runs.iter().filter_map(|run| Some((run.staged?, run.len()))).collect();
        if staged.is_empty() {
            return Ok(());
        }
        self.with_caller(memory, |caller, _| staged.iter().try_for_each(|&(at, len)| caller.unmap(at, len)))
    }

    /// Which pages of `range` are the target's own: written to since the file was mapped, or of no file
    /// (/proc/PID/pagemap; Documentation/admin-guide/mm/pagemap.rst).
    fn private_pages(&self, memory: MemoryId, range: &Range<Addr>) -> Result<Vec<bool>, SpaceError> {
        const FILE: u64 = 1 << 61;
        const SWAPPED: u64 = 1 << 62;
        const PRESENT: u64 = 1 << 63;
        let tid = self.live_thread(memory)?;
        let pages = (range.end.offset_from(range.start) as u64 / PAGE) as usize;
        let mut entries = vec![0; pages * 8];
        let read = File::open(format!("/proc/{}/pagemap", tid.0))
            .and_then(|file| file.read_exact_at(&mut entries, range.start.0 / PAGE * 8));
        if read.is_err() {
            // Not told: every page has to be compared.
            return Ok(vec![true; pages]);
        }
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        Ok(entries.map(|entry| entry & SWAPPED != 0 || entry & (PRESENT | FILE) == PRESENT).collect())
    }
}

fn mappings_of(map: &MemoryMap, range: &Range<Addr>) -> Vec<Mapping> {
    map.iter().filter(|m| m.range.start < range.end && m.range.end > range.start).cloned().collect()
}

/// Whether a mapping may be replaced by a copy.
fn is_plain_code(mapping: &Mapping) -> bool {
    let permissions = mapping.permissions;
    let plain = permissions.read && permissions.execute && !permissions.write && !permissions.shared;
    plain && !mapping.name.starts_with("[v")
}

/// The runs of pages worth swapping, with the indices of the edits in them.
fn runs(edits: &[Edit], map: &MemoryMap) -> Vec<(Range<Addr>, Range<usize>)> {
    struct Candidate {
        range: Range<Addr>,
        changed: usize,
        edits: Range<usize>,
    }
    let mut found: Vec<Candidate> = Vec::new();
    for (index, edit) in edits.iter().enumerate() {
        let end = (edit.at + edit.old.len() as u64).align_up(PAGE);
        let start = edit.at.align_down(PAGE);
        match found.last_mut() {
            Some(last) if last.range.end > start => {
                last.changed += ((end.0.max(last.range.end.0) - last.range.end.0) / PAGE) as usize;
                last.range.end = last.range.end.max(end);
                last.edits.end = index + 1;
            }
            _ => found.push(Candidate {
                range: start..end,
                changed: (end.offset_from(start) as u64 / PAGE) as usize,
                edits: index..index + 1,
            }),
        }
    }
    let covered = |range: &Range<Addr>| {
        let mut at = range.start;
        while at < range.end {
            match map.find(at).filter(|mapping| is_plain_code(mapping)) {
                Some(mapping) => at = mapping.range.end,
                None => return false,
            }
        }
        true
    };
    found.retain(|candidate| covered(&candidate.range));
    // The closest neighbours are joined until all gaps are wide and few runs are left.
    let mut gap = NEAR;
    loop {
        let mut joined: Vec<Candidate> = Vec::with_capacity(found.len());
        for candidate in found {
            match joined.last_mut() {
                Some(last)
                    if candidate.range.start.offset_from(last.range.end) as u64 <= gap * PAGE
                        && last.edits.end == candidate.edits.start
                        && covered(&(last.range.end..candidate.range.start)) =>
                {
                    last.range.end = candidate.range.end;
                    last.edits.end = candidate.edits.end;
                    last.changed += candidate.changed;
                }
                _ => joined.push(candidate),
            }
        }
        found = joined;
        let worthwhile = found.iter().filter(|candidate| candidate.changed >= WORTHWHILE).count();
        if worthwhile <= MAX_RUNS || gap > 1 << 20 {
            break;
        }
        gap *= 2;
    }
    found.retain(|candidate| candidate.changed >= WORTHWHILE);
    // Regions that cannot be joined: the largest are swapped, the others poked.
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.changed));
    found.truncate(2 * MAX_RUNS);
    found.sort_by_key(|candidate| candidate.range.start);
    found.into_iter().map(|candidate| (candidate.range, candidate.edits)).collect()
}

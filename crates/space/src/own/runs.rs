//! Which pages a swap replaces: as few runs of pages as the budget of mappings allows.

use std::ops::Range;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

use super::PAGE;
use crate::{Edit, SpaceError};

/// Runs closer than this are made one: copying a page costs less than a mapping.
const GAP: u64 = 8 * PAGE;

/// How many runs one swap may have (DESIGN: mappings stay bounded).
pub(super) const MOST_RUNS: usize = 16;

/// Pages to be replaced at once, and the edits in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Whole pages.
    pub(super) pages: Range<Addr>,
    /// Indices of the edits.
    pub(super) edits: Range<usize>,
    /// How many mappings the process has more, once the run is replaced by one mapping.
    pub(super) gained: isize,
}

impl Run {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.pages.end.0 - self.pages.start.0
    }
}

/// Plans the runs for `edits`, which are sorted and do not overlap.
///
/// A gap between two edits is only bridged if it is code of the same file or memory: never a hole, never
/// somebody else's mapping.
pub(super) fn plan(edits: &[Edit], map: &MemoryMap) -> Result<Vec<Run>, SpaceError> {
    let mut runs: Vec<Run> = Vec::new();
    let mut gaps: Vec<u64> = Vec::new(); // before each run but the first; u64::MAX where not bridgeable
    for (index, edit) in edits.iter().enumerate() {
        let end = edit.at + edit.old.len() as u64;
        let pages = edit.at.align_down(PAGE)..end.align_up(PAGE);
        check(&pages, edit, map)?;
        if let Some(last) = runs.last_mut() {
            let gap = pages.start.0.saturating_sub(last.pages.end.0);
            if gap == 0 || gap <= GAP && bridgeable(last.pages.end, pages.start, map) {
                last.pages.end = last.pages.end.max(pages.end);
                last.edits.end = index + 1;
                continue;
            }
            gaps.push(if bridgeable(last.pages.end, pages.start, map) { gap } else { u64::MAX });
        }
        runs.push(Run { pages, edits: index..index + 1, gained: 0 });
    }
    let mut runs = bridge(runs, &gaps, MOST_RUNS);
    for run in &mut runs {
        run.gained = gained(&run.pages, map);
    }
    Ok(runs)
}

/// Joins runs over the smallest gaps until at most `most` are left, or no gap can be bridged.
fn bridge(runs: Vec<Run>, gaps: &[u64], most: usize) -> Vec<Run> {
    let excess = runs.len().saturating_sub(most);
    let mut order: Vec<usize> = (0..gaps.len()).filter(|&i| gaps[i] != u64::MAX).collect();
    order.sort_by_key(|&i| gaps[i]);
    let mut joined = vec![false; runs.len()];
    for &gap in order.iter().take(excess) {
        joined[gap + 1] = true;
    }
    let mut result: Vec<Run> = Vec::new();
    for (run, joined) in runs.into_iter().zip(joined) {
        match result.last_mut() {
            Some(last) if joined => {
                last.pages.end = run.pages.end;
                last.edits.end = run.edits.end;
            }
            _ => result.push(run),
        }
    }
    result
}

/// Checks that a page of code can be replaced by a private copy.
fn check(pages: &Range<Addr>, edit: &Edit, map: &MemoryMap) -> Result<(), SpaceError> {
    let mut at = pages.start;
    while at < pages.end {
        let Some(mapping) = map.find(at).filter(|m| m.permissions.read || m.permissions.execute) else {
            return Err(SpaceError::Unreadable { at: edit.at, len: edit.old.len() });
        };
        let reason = unsuitable(mapping);
        if let Some(reason) = reason {
            return Err(SpaceError::Unsuitable { at: edit.at, reason });
        }
        at = mapping.range.end;
    }
    Ok(())
}

/// Why a mapping cannot be replaced by a private copy that is readable and executable.
fn unsuitable(mapping: &Mapping) -> Option<&'static str> {
    match mapping.permissions {
        p if p.shared => Some("the memory is shared: a copy would miss what others write to it"),
        p if p.write => {
            Some("the memory is writable: a copy that is not would change what the program can do")
        }
        p if !p.execute => Some("the memory is not executable"),
        p if !p.read => Some("the memory is not readable"),
        _ => None,
    }
}

/// Whether everything from `start` to `end` is code of one file, or of one mapping.
fn bridgeable(start: Addr, end: Addr, map: &MemoryMap) -> bool {
    let Some(first) = map.find(start - 1) else { return false };
    let mut at = start;
    while at < end {
        let Some(mapping) = map.find(at) else { return false };
        let same = (mapping.device, mapping.inode) == (first.device, first.inode) && mapping.inode != 0;
        if unsuitable(mapping).is_some() || !(same || mapping.range == first.range) {
            return false;
        }
        at = mapping.range.end;
    }
    map.find(end).is_some_and(|last| {
        (last.device, last.inode) == (first.device, first.inode)
            && (last.inode != 0 || last.range == first.range)
    })
}

/// How many mappings there are more after `pages` became one mapping of its own.
fn gained(pages: &Range<Addr>, map: &MemoryMap) -> isize {
    let (mut before, mut after) = (0, 1);
    let mut at = pages.start;
    while at < pages.end
        && let Some(mapping) = map.find(at)
    {
        before += 1;
        after += isize::from(mapping.range.start < pages.start);
        after += isize::from(mapping.range.end > pages.end);
        at = mapping.range.end;
    }
    after - before
}

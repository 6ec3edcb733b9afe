//! Changing live code page by page: a changed copy takes the place of the original in one system call.
//!
//! # Safety
//! Mappings of code that threads may be running are replaced. That is sound because of the protocol of
//! [`swap`], and because each edit keeps the promise of [`AddressSpace::apply`](crate::AddressSpace::apply).

#![allow(unsafe_code, reason = "replaces mappings of running code")]

use std::collections::HashSet;

use incise_image::MemoryMap;
use incise_isa::Addr;

use super::fragments::Fragments;
use super::pages::{CodeCopy, Pages, Stage, TABLE_SPAN, with_allowed};
use super::runs::{self, Run};
use super::{PAGE, foreign, memory, poke, sync};
use crate::{Edit, SpaceError};

/// Runs of [`fill`] that are closer than this share a mapping.
const GAP: u64 = 64 * PAGE;

/// Changes the code at each edit while any number of threads runs it. Returns the number of mappings gained.
/// `poked` has the numbers of the pages that [`poke::poke`] changed.
///
/// What has to hold at every instant: a thread that fetches an instruction gets old bytes or new bytes,
/// never a mixture of both.
///
/// 1. The pages that hold edits are gathered into runs; every edit lies in one run as a whole.
/// 2. Each run is copied, the old bytes are verified in the copy, and the new bytes are put there. The copy
///    is private, nobody knows its address, and it is never writable.
/// 3. All cores are serialized, so that none holds stale bytes of trampolines written since.
/// 4. Each copy is moved over its run by one mremap(2). The kernel unmaps the old pages and finishes the
///    TLB shootdown before it lets the first new page be seen, all under the write lock on the memory
///    map. A thread that fetches from the run meanwhile faults and waits for the lock. So no
///    instruction is fetched half from old, half from new pages, not even across a page boundary.
/// 5. An edit is right on its own, whatever the state of the others: between two runs nothing more is needed.
/// 6. All cores are serialized, so that none goes on with bytes fetched before (a TLB shootdown by broadcast
///    instruction interrupts nobody).
/// 7. All new bytes are verified.
///
/// Where membarrier(2) is not to be had, 3 and 6 are left to the TLB shootdown: its interrupts serialize as well.
///
/// On failure the runs already replaced are swapped back in the same way; if that fails as well, they are poked
/// back, which needs no new memory: their pages are ours alone by now.
pub(super) fn swap(
    edits: &[Edit],
    map: &MemoryMap,
    fragments: &mut Fragments,
    poked: &HashSet<u64>,
    pages: &mut Pages,
) -> Result<isize, SpaceError> {
    *fragments = fragments.present(map);
    let runs = runs::plan(edits, map, fragments)?;
    foreign::check(&runs, edits, map, fragments, poked)?;
    let copies = with_allowed(pages, |pages| changed_copies(&runs, edits, pages))?;
    let serializes = sync::register().is_ok();
    if serializes {
        let _ = sync::sync_cores();
    }
    let mut done = 0;
    let mut result = Ok(());
    for (run, copy) in runs.iter().zip(copies) {
        // SAFETY: the copy differs by the edits alone.
        result = unsafe { copy.replace(run.pages.start) };
        if result.is_err() {
            break;
        }
        fragments.replaced(run.pages.clone(), run.owner.clone());
        done += 1;
    }
    if serializes {
        let _ = sync::sync_cores();
    }
    let result = result.and_then(|()| memory::verify(edits, |edit| &edit.new));
    match result {
        Ok(()) => Ok(runs.iter().map(|run| run.gained).sum()),
        Err(error) => {
            for run in &runs[..done] {
                swap_back(run, edits, *pages);
            }
            Err(error)
        }
    }
}

/// Puts back the old bytes of a run that was replaced.
fn swap_back(run: &Run, edits: &[Edit], pages: Pages) {
    let inverse: Vec<Edit> = edits[run.edits.clone()].iter().map(Edit::inverse).collect();
    // SAFETY: the copy differs by the edits alone.
    let back = Stage::new(run.pages.start, run.len(), pages)
        .and_then(|mut stage| changed_copy(run, &inverse, &mut stage))
        .and_then(|copy| unsafe { copy.replace(run.pages.start) });
    if back.is_err() {
        let _ = poke::poke(&inverse);
    }
}

/// A copy of each run, changed by the edits in it. Those that are not large share a stage.
fn changed_copies(runs: &[Run], edits: &[Edit], pages: Pages) -> Result<Vec<CodeCopy>, SpaceError> {
    let mut copies = Vec::with_capacity(runs.len());
    for shared in runs.chunk_by(|a, b| a.len() < TABLE_SPAN && b.len() < TABLE_SPAN) {
        let len = shared.iter().map(Run::len).sum();
        let mut stage = Stage::new(shared[0].pages.start, len, pages)?;
        for run in shared {
            copies.push(changed_copy(run, &edits[run.edits.clone()], &mut stage)?);
        }
    }
    Ok(copies)
}

/// A copy of a run, changed by the edits in it.
fn changed_copy(run: &Run, edits: &[Edit], stage: &mut Stage) -> Result<CodeCopy, SpaceError> {
    let mut rest = edits;
    stage.copy(run.pages.start, run.len(), |bytes, at| {
        rest = change(bytes, at, rest)?;
        Ok(())
    })
}

/// Makes the edits in `bytes`, which are those at `at`; an edit may lie there in part. Returns the edits that
/// reach beyond.
fn change<'e>(bytes: &mut [u8], at: Addr, edits: &'e [Edit]) -> Result<&'e [Edit], SpaceError> {
    let end = at + bytes.len() as u64;
    let mut rest = edits;
    for (index, edit) in edits.iter().enumerate() {
        if edit.at >= end {
            break;
        }
        let edit_end = edit.at + edit.old.len() as u64;
        let (from, to) = (edit.at.max(at), edit_end.min(end));
        let within = (from.0 - edit.at.0) as usize..(to.0 - edit.at.0) as usize;
        let place = &mut bytes[(from.0 - at.0) as usize..(to.0 - at.0) as usize];
        if *place != edit.old[within.clone()] {
            let mut found = vec![0; edit.old.len()];
            memory::read(edit.at, &mut found)?;
            return Err(memory::changed(edit, &edit.old, &found));
        }
        place.copy_from_slice(&edit.new[within]);
        if edit_end <= end {
            rest = &edits[index + 1..];
        }
    }
    Ok(rest)
}

/// Writes into code memory that no thread runs, by replacing its pages by those of memory files.
pub(super) fn fill(runs: &[(Addr, &[u8])], pages: &mut Pages) -> Result<(), SpaceError> {
    let pages_of =
        |&(at, bytes): &(Addr, &[u8])| at.align_down(PAGE)..(at + bytes.len() as u64).align_up(PAGE);
    for group in runs.chunk_by(|a, b| pages_of(b).start <= pages_of(a).end + GAP) {
        let Some((first, last)) = group.first().zip(group.last()) else { continue };
        let (start, end) = (pages_of(first).start, pages_of(last).end);
        let copy = with_allowed(pages, |pages| {
            CodeCopy::new(start, end.0 - start.0, pages, |bytes, at| {
                group.iter().for_each(|&(new_at, new)| overlay(bytes, at, new, new_at));
                Ok(())
            })
        })?;
        // SAFETY: nobody runs the memory; all else in it stays as it is.
        unsafe { copy.replace(start) }?;
    }
    Ok(())
}

/// Puts the part of `new`, which belongs at `new_at`, that lies within `bytes`, which are those at `at`, there.
fn overlay(bytes: &mut [u8], at: Addr, new: &[u8], new_at: Addr) {
    let start = new_at.max(at);
    let end = (new_at + new.len() as u64).min(at + bytes.len() as u64);
    if start < end {
        let len = (end.0 - start.0) as usize;
        let (to, from) = ((start.0 - at.0) as usize, (start.0 - new_at.0) as usize);
        bytes[to..to + len].copy_from_slice(&new[from..from + len]);
    }
}

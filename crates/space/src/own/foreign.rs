//! Pages of a program file that somebody else has changed in memory.
//!
//! The kernel's uprobes and debuggers put breakpoints into text. The kernel knows a uprobe by the file its
//! page belongs to: in a copy that belongs to no file the breakpoint would stay, and kill the program.
//! So such pages are not swapped. /proc/self/pagemap tells pages of the file from changed copies.

use std::collections::HashSet;

use incise_image::MemoryMap;
use incise_isa::Addr;

use super::PAGE;
use super::fragments::{Fragments, Owner};
use super::runs::Run;
use crate::sys::File;
use crate::{Edit, SpaceError};

// Documentation/admin-guide/mm/pagemap.rst: bits of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED_OUT: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Checks that every page of the runs that belongs to a file is as the file has it, or was changed by ourselves:
/// `poked` has the numbers of those pages.
pub(super) fn check(
    runs: &[Run],
    edits: &[Edit],
    map: &MemoryMap,
    fragments: &Fragments,
    poked: &HashSet<u64>,
) -> Result<(), SpaceError> {
    // Where it cannot be told it is taken for granted.
    let Ok(pagemap) = File::open(c"/proc/self/pagemap", libc::O_RDONLY) else { return Ok(()) };
    for run in runs {
        let mut at = run.pages.start;
        while at < run.pages.end {
            let Some(mapping) = map.find(at) else { break };
            let end = mapping.range.end.min(run.pages.end);
            let of_file =
                mapping.inode != 0 && fragments.iter().all(|fragment| !fragment.pages.contains(&at));
            if of_file && matches!(run.owner, Owner::File(..)) {
                let foreign = changed_pages(&pagemap, at, end).find(|page| !poked.contains(page));
                if let Some(page) = foreign {
                    let near = edits[run.edits.clone()].iter().find(|edit| edit.at.0 / PAGE >= page);
                    let at = near.map_or(Addr(page * PAGE), |edit| edit.at);
                    let reason = "somebody else changed the page: a debugger, or a probe of the kernel";
                    return Err(SpaceError::Unsuitable { at, reason });
                }
            }
            at = end;
        }
    }
    Ok(())
}

/// Those of some pages, by number, that are as their files have them.
pub(super) fn unchanged(mut pages: Vec<u64>) -> Vec<u64> {
    pages.sort_unstable();
    pages.dedup();
    if let Some(pagemap) =
        (!pages.is_empty()).then(|| File::open(c"/proc/self/pagemap", libc::O_RDONLY).ok()).flatten()
    {
        let at = |page: u64| Addr(page * PAGE);
        pages.retain(|page| changed_pages(&pagemap, at(*page), at(*page + 1)).next().is_none());
    }
    pages
}

/// The numbers of the pages from `start` to `end`, of a private mapping of a file, that are not the file's.
fn changed_pages(pagemap: &File, start: Addr, end: Addr) -> impl Iterator<Item = u64> {
    let first = start.0 / PAGE;
    let mut entries = vec![0u8; 8 * ((end.0 - start.0) / PAGE) as usize];
    let read = pagemap.read_at(&mut entries, 8 * first).unwrap_or(0);
    entries.truncate(read);
    let entries =
        entries.chunks_exact(8).map(|entry| entry.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)));
    let changed = |entry: u64| entry & (PRESENT | SWAPPED_OUT) != 0 && entry & OF_FILE == 0;
    let changed: Vec<u64> =
        (first..).zip(entries).filter(|page| changed(page.1)).map(|page| page.0).collect();
    changed.into_iter()
}

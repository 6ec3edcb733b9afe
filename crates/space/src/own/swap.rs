//! Changing live code page by page: a changed copy takes the place of the original in one system call.
//!
//! # Safety
//! Mappings of code that threads may be running are replaced. That is sound because of the protocol of
//! [`swap`], and because each edit keeps the promise of [`AddressSpace::apply`](crate::AddressSpace::apply).

#![allow(unsafe_code, reason = "replaces mappings of running code")]

use incise_image::MemoryMap;
use incise_isa::Addr;

use super::memory::{self, CodeWriter};
use super::runs::{self, Run};
use super::{PAGE, poke, sync};
use crate::sys::{self, File};
use crate::{Edit, SpaceError};

/// Bytes copied at a time: small enough for the second-level cache.
const CHUNK: u64 = 64 * PAGE;

const CODE: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// Where the changed pages come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pages {
    /// Anonymous memory that was never writable, filled through /proc/self/mem.
    Anonymous,
    /// A memory file that is written to and then mapped. For where /proc/self/mem cannot be written.
    MemoryFile,
}

/// A copy of a run, to take its place.
struct Copy {
    len: u64,
    place: Place,
}

enum Place {
    /// Mapped at an address nobody knows of.
    Memory { at: u64, writer: CodeWriter },
    /// In a file of its own.
    File(File),
}

impl Copy {
    fn new(len: u64, pages: Pages) -> Result<Copy, SpaceError> {
        let place = match pages {
            Pages::Anonymous => {
                let writer = CodeWriter::open()?;
                let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
                // SAFETY: takes unused addresses.
                let at = unsafe { sys::mmap_anonymous(0, len, CODE, flags) }
                    .map_err(|errno| SpaceError::system("mapping memory for changed code", errno))?;
                sys::name_memory(at, len, c"incise changed code");
                Place::Memory { at, writer }
            }
            Pages::MemoryFile => Place::File(
                File::memory(c"incise changed code")
                    .map_err(|errno| SpaceError::system("creating a file for changed code", errno))?,
            ),
        };
        Ok(Copy { len, place })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        match &self.place {
            // SAFETY: nobody runs the copy.
            Place::Memory { at, writer } => unsafe { writer.write(Addr(at + offset), bytes) },
            // SAFETY: the file is mapped nowhere.
            Place::File(file) => match unsafe { file.write_at(bytes, offset) } {
                Ok(written) if written == bytes.len() => Ok(()),
                Ok(_) => Err(SpaceError::system("writing changed code to a file", sys::Errno(libc::ENOSPC))),
                Err(errno) => Err(SpaceError::system("writing changed code to a file", errno)),
            },
        }
    }

    /// Takes the place of what is at `over`.
    ///
    /// # Safety
    /// The copy's bytes must serve whoever uses the memory there.
    unsafe fn replace(mut self, over: Addr) -> Result<(), SpaceError> {
        let result = match &self.place {
            // SAFETY: nobody uses the copy's old place; the rest is the caller's.
            Place::Memory { at, .. } => unsafe { sys::mremap_over(*at, self.len, over.0) },
            Place::File(file) => {
                let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_POPULATE;
                // SAFETY: as the caller says.
                unsafe { sys::mmap_file(over.0, self.len, CODE, flags, file, 0) }.map(drop)
            }
        };
        result.map_err(|errno| SpaceError::system("putting changed code in its place", errno))?;
        self.len = 0;
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Place::Memory { at, .. } = self.place
            && self.len > 0
        {
            // SAFETY: nobody else knows of the memory.
            let _ = unsafe { sys::munmap(at, self.len) };
        }
    }
}

/// Changes the code at each edit while any number of threads runs it. Returns the number of mappings gained.
///
/// What has to hold at every instant: a thread that fetches an instruction gets old bytes or new bytes,
/// never a mixture of both.
///
/// 1. The pages that hold edits are gathered into runs; every edit lies in one run as a whole.
/// 2. Each run is copied, the old bytes are verified in the copy, and the new bytes are put there. The copy
///    is private and was never writable: it is filled through /proc/self/mem, and no thread runs it.
/// 3. Each copy is moved over its run by one mremap(2). The kernel unmaps the old pages and finishes the
///    TLB shootdown before it lets the first new page be seen, all under the write lock on the memory
///    map. A thread that fetches from the run meanwhile faults and waits for the lock. So no
///    instruction is fetched half from old, half from new pages, not even across a page boundary.
/// 4. An edit is right on its own, whatever the state of the others: between two runs nothing more is needed.
/// 5. All cores are serialized, so that none goes on with bytes fetched before (a TLB shootdown by broadcast
///    instruction interrupts nobody).
/// 6. All new bytes are verified.
///
/// On failure the runs already replaced are swapped back in the same way; if that fails as well, they are poked
/// back, which needs no new memory: their pages are ours alone by now.
pub(super) fn swap(edits: &[Edit], map: &MemoryMap, pages: Pages) -> Result<isize, SpaceError> {
    let runs = runs::plan(edits, map)?;
    let mut copies = Vec::with_capacity(runs.len());
    for run in &runs {
        copies.push(changed_copy(run, &edits[run.edits.clone()], pages)?);
    }
    let mut done = 0;
    let mut result = Ok(());
    for (run, copy) in runs.iter().zip(copies) {
        // SAFETY: the copy differs by the edits alone.
        result = unsafe { copy.replace(run.pages.start) };
        if result.is_err() {
            break;
        }
        done += 1;
    }
    // Not everywhere to be had; without it the old bytes, which are as right as the new, may be run for
    // as long as it takes to reach the next interrupt.
    if sync::register().is_ok() {
        let _ = sync::sync_cores();
    }
    let result = result.and_then(|()| memory::verify(edits, |edit| &edit.new));
    match result {
        Ok(()) => Ok(runs.iter().map(|run| run.gained).sum()),
        Err(error) => {
            for run in &runs[..done] {
                swap_back(run, edits, pages);
            }
            Err(error)
        }
    }
}

/// Puts back the old bytes of a run that was replaced.
fn swap_back(run: &Run, edits: &[Edit], pages: Pages) {
    let inverse: Vec<Edit> = edits[run.edits.clone()].iter().map(Edit::inverse).collect();
    // SAFETY: the copy differs by the edits alone.
    let back = changed_copy(run, &inverse, pages).and_then(|copy| unsafe { copy.replace(run.pages.start) });
    if back.is_err() {
        let _ = poke::poke(&inverse);
    }
}

/// A copy of a run, changed by the edits in it.
fn changed_copy(run: &Run, edits: &[Edit], pages: Pages) -> Result<Copy, SpaceError> {
    let copy = Copy::new(run.len(), pages)?;
    let mut chunk = vec![0; CHUNK.min(run.len()) as usize];
    let mut edits = edits;
    for offset in (0..run.len()).step_by(CHUNK as usize) {
        let bytes = &mut chunk[..CHUNK.min(run.len() - offset) as usize];
        let at = run.pages.start + offset;
        memory::read(at, bytes)?;
        edits = change(bytes, at, edits)?;
        copy.write(offset, bytes)?;
    }
    Ok(copy)
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
pub(super) fn fill(runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
    let pages_of =
        |&(at, bytes): &(Addr, &[u8])| at.align_down(PAGE)..(at + bytes.len() as u64).align_up(PAGE);
    // A mapping costs about as much as this many pages.
    for group in runs.chunk_by(|a, b| pages_of(b).start.0 <= pages_of(a).end.0 + CHUNK) {
        let Some((first, last)) = group.first().zip(group.last()) else { continue };
        let (start, end) = (pages_of(first).start, pages_of(last).end);
        let mut bytes = vec![0; (end.0 - start.0) as usize];
        memory::read(start, &mut bytes)?;
        for (at, new) in group {
            let offset = (at.0 - start.0) as usize;
            bytes[offset..offset + new.len()].copy_from_slice(new);
        }
        let copy = Copy::new(bytes.len() as u64, Pages::MemoryFile)?;
        copy.write(0, &bytes)?;
        // SAFETY: nobody runs the memory; all else in it stays as it is.
        unsafe { copy.replace(start) }?;
    }
    Ok(())
}

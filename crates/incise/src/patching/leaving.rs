//! What stays in a process between one run of the tool and the next, and when it goes.
//!
//! Patches stay, so what they need stays: the book they are recorded in, code and memory that belong to one patch each,
//! and the tracer's own pages with the trap handler. Each run takes over what the last one left, through the book. The
//! code and the memory of an undone patch go when no thread is inside; with the last patch everything goes.

use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;
use incise_space::remote::RemoteSpace;
use incise_space::{AddressSpace, SpaceError};

use super::PatchError;
use super::book::{self, Book};

/// How often, a millisecond apart, pages are asked for that a thread is running in for a tracer that was killed.
const RETRIES: usize = 100;

/// Takes over what an earlier run has left, if this one has nothing of its own yet.
pub(super) fn inherit(space: &mut RemoteSpace, books: &[Book]) -> Result<(), PatchError> {
    // Of a run that was killed before it had a book.
    let idle = if books.is_empty() { space.idle_runtimes()? } else { Vec::new() };
    for base in books.iter().filter_map(|book| book.runtime).chain(idle) {
        let mut retries = RETRIES;
        loop {
            match space.adopt_runtime(base) {
                Err(SpaceError::Busy { .. }) if retries > 0 => retries -= 1,
                Ok(true) => return free_blank(space, books),
                Ok(false) => break,
                Err(error) => return Err(error.into()),
            }
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Unmaps what was to be a book, or code of a patch, when a run was killed, and is recorded nowhere.
fn free_blank(space: &mut RemoteSpace, books: &[Book]) -> Result<(), PatchError> {
    let Some(blank) = space.left_blank()? else { return Ok(()) };
    let mut known = books.iter().flat_map(Book::memory);
    if !known.any(|range| range.start < blank.end && blank.start < range.end) {
        space.unmap(blank.start, blank.end.offset_from(blank.start) as u64)?;
    }
    Ok(())
}

/// Writes the record into the process.
pub(super) fn write(space: &mut RemoteSpace, book: &mut Book) -> Result<(), PatchError> {
    Ok(write_record(space, book)?)
}

/// The same.
pub(super) fn write_record(space: &mut RemoteSpace, book: &mut Book) -> Result<(), SpaceError> {
    book.runtime = space.runtime().or(book.runtime);
    let full = SpaceError::Unsuitable { at: book.at, reason: "the record of patches is full: undo some" };
    for (at, bytes) in &book.writes().ok_or(full)? {
        space.write_code(&[(*at, bytes)])?;
    }
    book.written();
    Ok(())
}

/// Gives back what no patch needs and no thread is in.
pub(super) fn tidy(space: &mut RemoteSpace, books: &mut [Book], index: usize) -> Result<(), PatchError> {
    sweep_all(space, books)?;
    if books.iter().all(Book::is_empty) && !space.has_landings()? {
        return close(space, books);
    }
    let book = &books[index];
    let known = books.iter().enumerate().any(|(other, at)| other != index && at.runtime == book.runtime);
    if book.is_empty() && known {
        space.unmap(book.at, book::LEN)?;
    }
    Ok(())
}

/// Frees what undone patches have left, in all books.
pub(super) fn sweep_all(space: &mut RemoteSpace, books: &mut [Book]) -> Result<(), PatchError> {
    for book in books.iter_mut().filter(|book| !book.left.is_empty() || !book.gone.is_empty()) {
        space.adopt_code(book.range())?;
        unmap(space, book)?;
        sweep(space, book)?;
    }
    Ok(())
}

/// Frees what undone patches have left.
fn sweep(space: &mut RemoteSpace, book: &mut Book) -> Result<(), PatchError> {
    let own = book.range();
    let mapped = |range: &&Range<Addr>| !own.contains(&range.start);
    let memory: Vec<Range<Addr>> = book.left.iter().flatten().filter(mapped).cloned().collect();
    // From here on nothing leads there.
    space.drop_landings(&memory)?;
    let mut all: Vec<Range<Addr>> = book.left.iter().flatten().cloned().collect();
    all.sort_by_key(|range| range.start);
    let quiet = if all.is_empty() { Vec::new() } else { space.wait_until_quiescent(&all)? };
    let busy: Vec<Addr> =
        all.iter().zip(quiet).filter(|(_, quiet)| !quiet).map(|(range, _)| range.start).collect();
    let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut book.left)
        .into_iter()
        .partition(|ranges| ranges.iter().any(|range| busy.contains(&range.start)));
    book.left = stay;
    book.recount();
    book.gone = go.iter().flatten().filter(mapped).cloned().collect();
    // Marked, then recorded as gone, then done: what is recorded as gone and has no mark may be the program's by now.
    let map = space.mappings()?;
    for piece in pieces(&map, &book.gone).filter(|piece| piece.code) {
        space.adopt_code(piece.range.clone())?;
        space.write_code(&[(piece.range.start, &GONE)])?;
    }
    write(space, book)?;
    unmap(space, book)
}

/// What the memory of a patch begins with when nothing leads there any more.
const GONE: [u8; 16] = *b"incise has left ";

/// Unmaps what is recorded as gone.
fn unmap(space: &mut RemoteSpace, book: &mut Book) -> Result<(), PatchError> {
    if book.gone.is_empty() {
        return Ok(());
    }
    let map = space.mappings()?;
    for Piece { range, code } in pieces(&map, &book.gone) {
        let mut mark = [0; GONE.len()];
        if !code || space.read(range.start, &mut mark).is_ok() && mark == GONE {
            space.unmap(range.start, range.end.offset_from(range.start) as u64)?;
        }
    }
    book.gone.clear();
    write(space, book)
}

/// A part of a mapping that may be ours.
struct Piece {
    range: Range<Addr>,
    code: bool,
}

/// The parts of `ranges` where memory of our kind is mapped.
fn pieces<'a>(map: &'a MemoryMap, ranges: &'a [Range<Addr>]) -> impl Iterator<Item = Piece> + 'a {
    ranges.iter().flat_map(|range| {
        map.overlapping(range).filter(|mapping| is_ours(mapping)).map(|mapping| Piece {
            range: mapping.range.start.max(range.start)..mapping.range.end.min(range.end),
            code: mapping.permissions.execute,
        })
    })
}

/// Whether memory is of the kind that is mapped for patches: code without a file that is never writable, or data that
/// this tool shared with the process.
fn is_ours(mapping: &Mapping) -> bool {
    let permissions = mapping.permissions;
    let code = permissions.execute && !permissions.write && !permissions.shared && mapping.inode == 0;
    code || permissions.shared && mapping.name.starts_with("/memfd:incise")
}

/// Takes out all that is ours: no patch is left.
fn close(space: &mut RemoteSpace, books: &[Book]) -> Result<(), PatchError> {
    // What was put back is not to be put back once more.
    space.forget(&(Addr(0)..Addr(u64::MAX)))?;
    for book in books {
        space.adopt_code(book.range())?;
    }
    space.remove()?;
    Ok(())
}

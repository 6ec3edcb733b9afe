//! Copies of pages of code, changed and put in the place of the original in one system call.
//!
//! # Safety
//! A [`CodeCopy`] is memory nobody else knows of until it takes the place of other memory, which is what
//! [`CodeCopy::replace`] is unsafe for.

#![allow(unsafe_code, reason = "maps memory and replaces mappings")]

use std::rc::Rc;

use incise_isa::Addr;

use super::PAGE;
use super::memory::{CodeWriter, Reader};
use super::userfault::Userfault;
use crate::SpaceError;
use crate::sys::{self, Errno, File};

const CODE: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// The span of a page table: pages move together with it if old and new place agree in the bits below.
pub(super) const TABLE_SPAN: u64 = 512 * PAGE;

/// Where the pages of changed code come from, the fastest first. None is ever writable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pages {
    /// Made by userfaultfd(2), which fills and maps a page at once.
    Placed,
    /// Written through /proc/self/mem. For where userfaultfd is not allowed.
    Forced,
    /// A memory file that is written to and then mapped. For where /proc/self/mem cannot be written either.
    MemoryFile,
}

/// Memory for copies of pages of code, which nobody knows of. One mapping serves all copies of a change: each system call on
/// mappings waits for the lock on the memory map, which page faults and fork(2) of other threads hold.
pub(super) struct Stage {
    /// What no copy has taken.
    rest: Rest,
    filler: Filler,
}

/// A mapping, or what is left of it; unmapped when it is dropped.
struct Rest {
    at: u64,
    len: u64,
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: nobody else knows of the memory.
            let _ = unsafe { sys::munmap(self.at, self.len) };
        }
    }
}

enum Filler {
    Userfault(Userfault),
    Writer(CodeWriter),
    /// A file that is mapped nowhere yet, and how much of it is taken.
    File(Rc<File>, u64),
}

/// A copy of some pages of code, to take their place.
pub(super) struct CodeCopy {
    len: u64,
    place: Place,
}

enum Place {
    /// At an address nobody knows of.
    Memory(Rest),
    /// In a file, from an offset on.
    File(Rc<File>, u64),
}

impl Stage {
    /// For copies of `len` bytes in all, the first of which stands for the code at `from`.
    pub(super) fn new(from: Addr, len: u64, pages: Pages) -> Result<Stage, SpaceError> {
        let map = || {
            let at = map_alike(from, len)
                .map_err(|errno| SpaceError::system("mapping memory for changed code", errno))?;
            sys::name_memory(at, len, c"incise changed code");
            Ok(Rest { at, len })
        };
        let (rest, filler) = match pages {
            Pages::Placed => {
                let userfault = Userfault::open()?;
                let rest = map()?;
                userfault.register(rest.at, len)?;
                (rest, Filler::Userfault(userfault))
            }
            Pages::Forced => {
                let writer = CodeWriter::open()?;
                (map()?, Filler::Writer(writer))
            }
            Pages::MemoryFile => {
                let file = File::memory(c"incise changed code")
                    .map_err(|errno| SpaceError::system("creating a file for changed code", errno))?;
                (Rest { at: 0, len: 0 }, Filler::File(Rc::new(file), 0))
            }
        };
        Ok(Stage { rest, filler })
    }

    /// Makes a copy of the `len` bytes at `from`, which `change` may change first; it gets them in pieces, each
    /// with its address.
    pub(super) fn copy(
        &mut self,
        from: Addr,
        len: u64,
        mut change: impl FnMut(&mut [u8], Addr) -> Result<(), SpaceError>,
    ) -> Result<CodeCopy, SpaceError> {
        let place = match &mut self.filler {
            Filler::File(file, taken) => {
                *taken += len;
                Place::File(Rc::clone(file), *taken - len)
            }
            Filler::Userfault(_) | Filler::Writer(_) => {
                debug_assert!(len <= self.rest.len);
                let taken = Rest { at: self.rest.at, len };
                (self.rest.at, self.rest.len) = (self.rest.at + len, self.rest.len - len);
                Place::Memory(taken)
            }
        };
        let copy = CodeCopy { len, place };
        let mut reader = Reader::new(len as usize, 1, Reader::MOST);
        for offset in (0..len).step_by(Reader::MOST) {
            let bytes = reader.read(from + offset, (len - offset).min(Reader::MOST as u64) as usize)?;
            change(bytes, from + offset)?;
            self.write(&copy, offset, bytes)?;
        }
        Ok(copy)
    }

    fn write(&self, copy: &CodeCopy, offset: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        match (&self.filler, &copy.place) {
            (Filler::Userfault(userfault), Place::Memory(place)) => userfault.copy(place.at + offset, bytes),
            // SAFETY: nobody runs the copy.
            (Filler::Writer(writer), Place::Memory(place)) => unsafe {
                writer.write(Addr(place.at + offset), bytes)
            },
            // SAFETY: the file is mapped nowhere.
            (_, Place::File(file, start)) => match unsafe { file.write_at(bytes, start + offset) } {
                Ok(written) if written == bytes.len() => Ok(()),
                Ok(_) => Err(SpaceError::system("writing changed code to a file", Errno(libc::ENOSPC))),
                Err(errno) => Err(SpaceError::system("writing changed code to a file", errno)),
            },
            (Filler::File(..), Place::Memory(_)) => Ok(()),
        }
    }
}

impl CodeCopy {
    /// As [`Stage::copy`], for one copy alone.
    pub(super) fn new(
        from: Addr,
        len: u64,
        pages: Pages,
        change: impl FnMut(&mut [u8], Addr) -> Result<(), SpaceError>,
    ) -> Result<CodeCopy, SpaceError> {
        Stage::new(from, len, pages)?.copy(from, len, change)
    }

    /// Takes the place of what is at `over`. The stage it was made in has to be gone.
    ///
    /// # Safety
    /// The copy's bytes must serve whoever uses the memory there.
    pub(super) unsafe fn replace(mut self, over: Addr) -> Result<(), SpaceError> {
        let result = match &mut self.place {
            Place::Memory(place) => {
                // SAFETY: nobody uses the copy's old place; the rest is the caller's.
                let moved = unsafe { sys::mremap_over(place.at, place.len, over.0) };
                if moved.is_ok() {
                    place.len = 0;
                }
                moved
            }
            Place::File(file, start) => {
                let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_POPULATE;
                // SAFETY: as the caller says.
                unsafe { sys::mmap_file(over.0, self.len, CODE, flags, file, *start) }.map(drop)
            }
        };
        result.map_err(|errno| SpaceError::system("putting changed code in its place", errno))
    }
}

/// Maps `len` bytes of code memory anywhere, but for much of it at an address that agrees with `from` below
/// [`TABLE_SPAN`].
fn map_alike(from: Addr, len: u64) -> Result<u64, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    if len < TABLE_SPAN {
        // SAFETY: takes unused addresses.
        return unsafe { sys::mmap_anonymous(0, len, CODE, flags) };
    }
    // SAFETY: as above.
    let start = unsafe { sys::mmap_anonymous(0, len + TABLE_SPAN, CODE, flags) }?;
    let before = from.0.wrapping_sub(start) % TABLE_SPAN;
    for (at, len) in [(start, before), (start + before + len, TABLE_SPAN - before)] {
        // Surplus that cannot be given back does no harm: it is empty.
        if len > 0 {
            // SAFETY: just mapped, nobody knows of it.
            let _ = unsafe { sys::munmap(at, len) };
        }
    }
    Ok(start + before)
}

/// Makes something with `pages`, or with the next kind that this process allows; that one is used from now on.
pub(super) fn with_allowed<T>(
    pages: &mut Pages,
    mut make: impl FnMut(Pages) -> Result<T, SpaceError>,
) -> Result<T, SpaceError> {
    loop {
        match make(*pages) {
            Err(error) if is_denial(&error) => match pages {
                Pages::Placed => *pages = Pages::Forced,
                Pages::Forced => *pages = Pages::MemoryFile,
                Pages::MemoryFile => return Err(error),
            },
            result => return result,
        }
    }
}

/// Whether the error says that the process is not allowed to do it this way.
fn is_denial(error: &SpaceError) -> bool {
    const DENIED: [i32; 6] = [libc::EACCES, libc::EPERM, libc::EIO, libc::ENOENT, libc::ENOSYS, libc::EINVAL];
    matches!(error, SpaceError::System { source, .. } if source.raw_os_error().is_some_and(|n| DENIED.contains(&n)))
}

//! Copies of pages of code, changed and put in the place of the original in one system call.
//!
//! # Safety
//! A [`CodeCopy`] is memory nobody else knows of until it takes the place of other memory, which is what
//! [`CodeCopy::replace`] is unsafe for.

#![allow(unsafe_code, reason = "maps memory and replaces mappings")]

use incise_isa::Addr;

use super::PAGE;
use super::memory::{CodeWriter, Reader};
use super::userfault::Userfault;
use crate::SpaceError;
use crate::sys::{self, Errno, File};

const CODE: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// The span of a page table: pages move together with it if old and new place agree in the bits below.
const TABLE_SPAN: u64 = 512 * PAGE;

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

/// A copy of some pages of code, to take their place.
pub(super) struct CodeCopy {
    len: u64,
    place: Place,
}

enum Place {
    /// At an address nobody knows of.
    Placed(u64, Option<Userfault>),
    /// At an address nobody knows of.
    Forced(u64, CodeWriter),
    /// In a file of its own.
    File(File),
}

impl CodeCopy {
    /// Makes a copy of the `len` bytes at `from`, which `change` may change first; it gets them in pieces, each
    /// with its address.
    pub(super) fn new(
        from: Addr,
        len: u64,
        pages: Pages,
        mut change: impl FnMut(&mut [u8], Addr) -> Result<(), SpaceError>,
    ) -> Result<CodeCopy, SpaceError> {
        let mut copy = CodeCopy::empty(from, len, pages)?;
        let mut reader = Reader::new(len as usize, 1, Reader::MOST);
        for offset in (0..len).step_by(Reader::MOST) {
            let bytes = reader.read(from + offset, (len - offset).min(Reader::MOST as u64) as usize)?;
            change(bytes, from + offset)?;
            copy.write(offset, bytes)?;
        }
        if let Place::Placed(_, userfault) = &mut copy.place {
            *userfault = None;
        }
        Ok(copy)
    }

    fn empty(from: Addr, len: u64, pages: Pages) -> Result<CodeCopy, SpaceError> {
        let failed = |errno| SpaceError::system("mapping memory for changed code", errno);
        let place = match pages {
            Pages::Placed => {
                let userfault = Userfault::open()?;
                let at = map_alike(from, len).map_err(failed)?;
                // From here on `CodeCopy` unmaps it.
                let copy = CodeCopy { len, place: Place::Placed(at, None) };
                userfault.register(at, len)?;
                std::mem::forget(copy);
                Place::Placed(at, Some(userfault))
            }
            Pages::Forced => {
                let writer = CodeWriter::open()?;
                Place::Forced(map_alike(from, len).map_err(failed)?, writer)
            }
            Pages::MemoryFile => Place::File(
                File::memory(c"incise changed code")
                    .map_err(|errno| SpaceError::system("creating a file for changed code", errno))?,
            ),
        };
        if let Place::Placed(at, _) | Place::Forced(at, _) = place {
            sys::name_memory(at, len, c"incise changed code");
        }
        Ok(CodeCopy { len, place })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        match &self.place {
            Place::Placed(at, Some(userfault)) => userfault.copy(at + offset, bytes),
            Place::Placed(..) => Ok(()),
            // SAFETY: nobody runs the copy.
            Place::Forced(at, writer) => unsafe { writer.write(Addr(at + offset), bytes) },
            // SAFETY: the file is mapped nowhere.
            Place::File(file) => match unsafe { file.write_at(bytes, offset) } {
                Ok(written) if written == bytes.len() => Ok(()),
                Ok(_) => Err(SpaceError::system("writing changed code to a file", Errno(libc::ENOSPC))),
                Err(errno) => Err(SpaceError::system("writing changed code to a file", errno)),
            },
        }
    }

    /// Takes the place of what is at `over`.
    ///
    /// # Safety
    /// The copy's bytes must serve whoever uses the memory there.
    pub(super) unsafe fn replace(mut self, over: Addr) -> Result<(), SpaceError> {
        let result = match &self.place {
            // SAFETY: nobody uses the copy's old place; the rest is the caller's.
            Place::Placed(at, _) | Place::Forced(at, _) => unsafe { sys::mremap_over(*at, self.len, over.0) },
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

impl Drop for CodeCopy {
    fn drop(&mut self) {
        if let Place::Placed(at, _) | Place::Forced(at, _) = self.place
            && self.len > 0
        {
            // SAFETY: nobody else knows of the memory.
            let _ = unsafe { sys::munmap(at, self.len) };
        }
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

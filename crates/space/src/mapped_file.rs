//! Files as memory: of a large file only the pages that are looked at are read.
//!
//! # Safety
//! A [`MappedFile`] is a private mapping of its own, read-only, of as many bytes as the file had, and unmapped once, when it is
//! dropped. Others may write to the file meanwhile: what is read is bytes, of which any are valid. A file that is cut short raises
//! SIGBUS, as it does in the program that runs it; the command tells of it.

#![allow(unsafe_code, reason = "maps memory")]

use std::fs;
use std::io;
use std::path::Path;
use std::ptr;

use crate::sys;

/// The contents of a file, mapped to be read.
#[derive(Debug)]
pub struct MappedFile {
    at: *const u8,
    len: usize,
}

// SAFETY: nobody writes to the mapping, and it is not tied to a thread.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What the system says; also where it is no regular file, or an empty one.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = fs::File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = usize::try_from(about.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let file = sys::File::from(file);
        // SAFETY: the kernel chooses unused addresses.
        let at = unsafe { sys::mmap_file(0, len as u64, libc::PROT_READ, libc::MAP_PRIVATE, &file, 0) }?;
        Ok(MappedFile { at: ptr::with_exposed_provenance(at as usize), len })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped in `open`, as long, until it is dropped.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and goes with its last borrow.
        let _ = unsafe { sys::munmap(self.at.addr() as u64, self.len as u64) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_the_file_holds_and_nothing_else_is_mapped() {
        let path = std::env::current_exe().expect("this program");
        let mapped = MappedFile::open(&path).expect("maps");
        assert_eq!(mapped.as_ref(), fs::read(&path).expect("reads"));
        assert!(MappedFile::open(Path::new("/")).is_err());
        assert!(MappedFile::open(Path::new("/dev/zero")).is_err());
        assert!(MappedFile::open(Path::new("/proc/self/maps")).is_err(), "of no length");
    }
}

//! Reading much of this process's own memory, safely and fast: by writing it to a memory file.
//!
//! write(2) copies from the process straight into the file and stops where the memory is not readable, for a
//! third of what process_vm_readv(2) costs, which takes a reference to each page (measured: 0.45 against
//! 0.9 microseconds a page, 0.1 against 0.6 microseconds a short piece).
//!
//! # Safety
//! The file is mapped by its [`Scratch`] alone, writable and not executable; it lives for one operation, so no
//! forked child uses it.

#![allow(unsafe_code, reason = "maps a file and passes addresses to the kernel")]

use crate::sys::{self, Errno, File};

/// Memory to read into.
pub(super) struct Scratch {
    file: File,
    at: u64,
    len: u64,
}

impl Scratch {
    /// The most bytes it holds: each page costs two microseconds to begin with.
    pub(super) const MOST: usize = 16 * super::PAGE as usize;

    /// For reading `len` bytes at once, or [`Scratch::MOST`] if that is less.
    pub(super) fn new(len: usize) -> Result<Scratch, Errno> {
        let len = (len.clamp(1, Scratch::MOST) as u64).next_multiple_of(super::PAGE);
        let file = File::memory(c"incise scratch")?;
        file.set_len(len)?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: takes unused addresses.
        let at = unsafe { sys::mmap_file(0, len, prot, flags, &file, 0) }?;
        Ok(Scratch { file, at, len })
    }

    /// Reads the pieces (address, length), no more bytes together than it holds and no more than `UIO_MAXIOV`, one behind the other. Returns as many bytes as were readable.
    pub(super) fn read(&mut self, pieces: &[[u64; 2]]) -> Result<&mut [u8], Errno> {
        let arguments = [self.file.number() as usize, pieces.as_ptr() as usize, pieces.len(), 0, 0, 0];
        // SAFETY: the pieces are only read from; the kernel checks that they are mapped.
        let len = match unsafe { sys::call(libc::SYS_pwritev, arguments) } {
            Ok(len) => len.min(self.len as usize),
            Err(Errno(libc::EFAULT)) => 0,
            Err(errno) => return Err(errno),
        };
        // SAFETY: mapped, and by nobody else.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, len) })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: no slice is left.
        let _ = unsafe { sys::munmap(self.at, self.len) };
    }
}

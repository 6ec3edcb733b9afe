//! What this process does in its own memory for the sake of the target: views of shared files.
//!
//! # Safety
//! A view is a fresh mapping that no one else in this process knows; it is unmapped exactly once, by the
//! [`DataMapping`] that owns it.

#![allow(unsafe_code, reason = "maps shared memory")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};

use incise_isa::Addr;

use crate::{DataMapping, faults};

/// A file without a name, close-on-exec (memfd_create(2)).
pub(super) fn memory_file() -> io::Result<File> {
    // SAFETY: the name ends in a zero byte; the descriptor is new and owned by the result.
    unsafe {
        let fd = libc::memfd_create(c"incise".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}

/// A view of the first `len` bytes of `file`, which the target has at `at`.
pub(super) fn view(file: &File, at: Addr, len: u64) -> io::Result<DataMapping> {
    faults::trip()?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place the kernel chooses.
    let view = unsafe {
        libc::mmap(ptr::null_mut(), len as usize, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    match NonNull::new(view.cast()) {
        Some(view) if view.as_ptr() as *mut libc::c_void != libc::MAP_FAILED => {
            // SAFETY: mapped above, page-aligned, `len` bytes; the file has them.
            Ok(unsafe { DataMapping::new(at, len, view, unmap) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn unmap(view: NonNull<u8>, len: u64) {
    // SAFETY: the DataMapping that calls this owns the mapping.
    unsafe { libc::munmap(view.as_ptr().cast(), len as usize) };
}

//! What this process does in its own memory for the sake of the target: views of shared files, and scattered
//! reads.
//!
//! # Safety
//! A view is a fresh mapping that no one else in this process knows; it is unmapped exactly once, by the
//! [`DataMapping`] that owns it. Scattered reads write only into the slices given.

#![allow(unsafe_code, reason = "maps shared memory and reads another process")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};

use incise_isa::Addr;

use super::ptrace::Tid;
use crate::DataMapping;

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

/// Reads many short runs of bytes of another process (process_vm_readv(2)); they lie one behind the other
/// in the result.
pub(super) fn read_scattered(tid: Tid, runs: &[(Addr, usize)]) -> io::Result<Vec<u8>> {
    // IOV_MAX of Linux.
    const AT_ONCE: usize = 1024;
    let mut bytes = vec![0u8; runs.iter().map(|&(_, len)| len).sum()];
    let mut rest = bytes.as_mut_slice();
    for runs in runs.chunks(AT_ONCE) {
        let remote: Vec<libc::iovec> = runs
            .iter()
            .map(|&(at, len)| libc::iovec {
                iov_base: ptr::without_provenance_mut(at.0 as usize),
                iov_len: len,
            })
            .collect();
        let len: usize = runs.iter().map(|&(_, len)| len).sum();
        let (these, behind) = rest.split_at_mut(len);
        rest = behind;
        let local = libc::iovec { iov_base: these.as_mut_ptr().cast(), iov_len: len };
        // SAFETY: the local vector is exactly the slice `these`.
        let read = unsafe {
            libc::process_vm_readv(
                tid.0,
                &raw const local,
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        match read {
            -1 => return Err(io::Error::last_os_error()),
            short if (short as usize) < len => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            _ => {}
        }
    }
    Ok(bytes)
}

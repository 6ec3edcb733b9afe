//! Data memory of a file that is being changed: anonymous memory of this process until it is written out.
//!
//! # Safety
//! A view is a fresh mapping of a file without a name; the [`DataMapping`] that owns it unmaps it, once.

#![allow(unsafe_code, reason = "maps memory")]

use std::ptr::{self, NonNull};

use incise_isa::Addr;

use crate::sys::File;
use crate::{DataMapping, SpaceError};

/// Bytes reserved for data, and what is in them.
pub(super) struct Data {
    pub at: Addr,
    pub len: u64,
    file: File,
}

impl Data {
    /// Zeroed memory, and the view of it.
    pub(super) fn new(at: Addr, len: u64) -> Result<(Data, DataMapping), SpaceError> {
        let failed = |error| SpaceError::system("making memory", error);
        let file = File::memory(c"incise").map_err(failed)?;
        file.set_len(len).map_err(failed)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses unused addresses.
        let view = unsafe { crate::sys::mmap_file(0, len, protection, libc::MAP_SHARED, &file, 0) };
        let view = NonNull::new(ptr::with_exposed_provenance_mut(view.map_err(failed)? as usize));
        let view = view.ok_or_else(|| failed(crate::sys::Errno(libc::ENOMEM)))?;
        // SAFETY: mapped above, page-aligned, `len` bytes, which the file has.
        let mapping = unsafe { DataMapping::new(at, len, view, unmap) };
        Ok((Data { at, len, file }, mapping))
    }

    /// What is in the first `len` bytes, without the zeros at the end.
    pub(super) fn contents(&self, len: u64) -> Result<Vec<u8>, SpaceError> {
        let failed = |error| SpaceError::system("reading memory", error);
        let mut bytes = vec![0; usize::try_from(len.min(self.len)).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], done as u64).map_err(failed)? {
                0 => break,
                read => done += read,
            }
        }
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        Ok(bytes)
    }
}

fn unmap(view: NonNull<u8>, len: u64) {
    // SAFETY: the DataMapping that calls this owns the mapping.
    let _ = unsafe { crate::sys::munmap(view.as_ptr().expose_provenance() as u64, len) };
}

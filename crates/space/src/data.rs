//! Data memory shared between the target and this process.
//!
//! # Safety
//! A [`DataMapping`] owns its view: `view` points to `len` readable and writable bytes that stay mapped
//! until the mapping is dropped, and other parties (the target's threads) touch them by atomic
//! instructions only. So handing out `&AtomicU64` for aligned offsets inside is sound.

#![allow(unsafe_code, reason = "gives typed access to memory that another process writes")]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use incise_isa::Addr;

/// Zeroed data memory at `at` in the target, seen in this process through a view of its own.
pub struct DataMapping {
    at: Addr,
    len: u64,
    view: NonNull<u8>,
    release: fn(NonNull<u8>, u64),
}

// SAFETY: the view is plain shared memory that is only reached through atomics.
unsafe impl Send for DataMapping {}
// SAFETY: as above.
unsafe impl Sync for DataMapping {}

impl DataMapping {
    /// Takes over a view.
    ///
    /// # Safety
    /// `view` must point to `len` readable and writable bytes, page-aligned, which stay mapped until
    /// `release` is called with the same pair (once, on drop).
    pub unsafe fn new(at: Addr, len: u64, view: NonNull<u8>, release: fn(NonNull<u8>, u64)) -> DataMapping {
        DataMapping { at, len, view, release }
    }

    /// Address in the target.
    pub fn addr(&self) -> Addr {
        self.at
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the mapping has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, as quadwords.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `len` bytes are mapped, aligned, and everyone touches them by atomic instructions only.
        unsafe { std::slice::from_raw_parts(self.view.as_ptr().cast(), self.len as usize / 8) }
    }

    /// Gives memory to pages that have none yet, those that hold the bytes from `first` to `end`, so that the target does not wait for
    /// the kernel when it touches them first. If there is none, that happens then.
    pub fn populate(&self, first: u64, end: u64) {
        const PAGE: u64 = 4096;
        let (first, end) = (first / PAGE * PAGE, end.min(self.len));
        if first < end {
            // SAFETY: inside the view; contents stay (MADV_POPULATE_WRITE, Linux 5.14).
            unsafe {
                let at = self.view.as_ptr().add(first as usize);
                libc::madvise(at.cast(), (end - first) as usize, libc::MADV_POPULATE_WRITE);
            }
        }
    }

    /// The quadword at target address `at`.
    ///
    /// # Panics
    /// If `at` is not a multiple of 8 inside the mapping.
    pub fn quadword(&self, at: Addr) -> &AtomicU64 {
        let offset = at.offset_from(self.at) as u64;
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "{at} is not a quadword of this mapping");
        // SAFETY: inside the view and aligned (checked above; the view is page-aligned); accessed
        // atomically by everyone.
        unsafe { &*self.view.as_ptr().add(offset as usize).cast::<AtomicU64>() }
    }

    /// The `count` quadwords from target address `at` on.
    ///
    /// # Panics
    /// If they are not inside the mapping, or `at` is not a multiple of 8.
    pub fn quadwords(&self, at: Addr, count: u64) -> &[AtomicU64] {
        let offset = at.offset_from(self.at) as u64;
        let fits = count <= self.len / 8 && offset <= self.len - count * 8;
        assert!(offset.is_multiple_of(8) && fits, "{at} is not in this mapping");
        // SAFETY: inside the view and aligned (checked above; the view is page-aligned); accessed
        // atomically by everyone.
        unsafe { std::slice::from_raw_parts(self.view.as_ptr().add(offset as usize).cast(), count as usize) }
    }
}

impl Drop for DataMapping {
    fn drop(&mut self) {
        (self.release)(self.view, self.len);
    }
}

//! Memory, and code in it.
//!
//! # Safety
//! [`Shared`] owns its mapping and hands it out as atomics. A [`Callable`] is code that was compiled for the type it is called by.

use std::ptr;
use std::sync::atomic::AtomicU64;

use incise_snippet::data::operation::Function;

/// Zeroed memory that forked children share.
pub struct Shared {
    at: *mut AtomicU64,
    bytes: usize,
}

// SAFETY: reached through atomics only.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(bytes: u64) -> Shared {
        Shared { at: map(bytes as usize, libc::MAP_SHARED).cast(), bytes: bytes as usize }
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, aligned, zeroed.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes / 8) }
    }

    pub fn addr(&self) -> u64 {
        self.at as u64
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by us.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

fn map(bytes: usize, flags: i32) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags | libc::MAP_ANONYMOUS, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.cast()
}

/// An operation that can be called.
#[derive(Clone, Copy)]
pub struct Callable(usize);

impl Callable {
    pub fn new(function: Function) -> Callable {
        Callable::of(&function.code())
    }

    pub fn of(code: &[u8]) -> Callable {
        let bytes = code.len().next_multiple_of(4096);
        let at = map(bytes, libc::MAP_PRIVATE);
        // SAFETY: the mapping has room; it is made executable when it is no longer writable.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), at, code.len());
            assert_eq!(libc::mprotect(at.cast(), bytes, libc::PROT_READ | libc::PROT_EXEC), 0);
        }
        Callable(at as usize)
    }

    pub fn call(self, first: u64, second: u64, third: u64) -> u64 {
        // SAFETY: see the crate's.
        let function: extern "C" fn(u64, u64, u64) -> u64 = unsafe { std::mem::transmute(self.0) };
        function(first, second, third)
    }
}

/// Numbers that look like chance, always the same.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

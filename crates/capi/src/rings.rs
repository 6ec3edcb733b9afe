//! Rings of records in shared memory, for C: `patch_ring_*` of `data.h`.
//!
//! # Safety
//! As for [`exports`](crate::exports); a ring comes from `patch_ring_open`, was not closed, and is used by one thread at a time. Its memory is
//! mapped as long as it lives, shared with writers that touch it by atomic instructions only; a file that is cut meanwhile is the
//! caller's fault.

#![allow(unsafe_code, reason = "the boundary to C; maps shared memory")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::AtomicU64;

use incise::data::{RingLayout, RingReader};

use crate::error::Error;
use crate::exports::status;

/// `patch_ring`.
pub struct Ring {
    words: &'static [AtomicU64],
    layout: RingLayout,
    reader: RingReader,
}

/// `patch_take`.
pub type Take = unsafe extern "C" fn(*const u64, usize, *mut c_void);

impl Ring {
    fn open(fd: c_int) -> Result<Ring, Error> {
        let system = |what: &str| Error::Op(format!("{what}: {}", std::io::Error::last_os_error()));
        // SAFETY: writes `file`; maps at a place the kernel chooses.
        let (at, len) = unsafe {
            let mut file: libc::stat = std::mem::zeroed();
            if libc::fstat(fd, &raw mut file) != 0 {
                return Err(system("the file of rings"));
            }
            let len = file.st_size as usize;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0);
            if at == libc::MAP_FAILED {
                return Err(system("mapping rings"));
            }
            (at, len)
        };
        // SAFETY: mapped above, until `close`.
        let words: &'static [AtomicU64] = unsafe { std::slice::from_raw_parts(at.cast(), len / 8) };
        match RingLayout::of(words) {
            Some(layout) => Ok(Ring { words, layout, reader: RingReader::new(layout, words) }),
            None => {
                // SAFETY: nobody has it.
                unsafe { libc::munmap(at, len) };
                Err(Error::Op("the file has no rings of a known version in it".to_owned()))
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { libc::munmap(self.words.as_ptr().cast_mut().cast(), size_of_val(self.words)) };
    }
}

/// Opens rings.
///
/// # Safety
/// See the head of the file; `ring` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_ring_open(fd: c_int, ring: *mut *mut Ring) -> u32 {
    status(|| {
        if ring.is_null() {
            return Err(Error::Null("`ring`"));
        }
        let opened = Box::new(Ring::open(fd)?);
        // SAFETY: the caller's.
        unsafe { ring.write(Box::into_raw(opened)) };
        Ok(())
    })
}

/// Reads what is there.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_ring_read(ring: *mut Ring, take: Option<Take>, data: *mut c_void) -> u32 {
    status(|| {
        // SAFETY: the caller's.
        let Ring { words, reader, .. } = unsafe { ring.as_mut() }.ok_or(Error::Null("`ring`"))?;
        let take = take.ok_or(Error::Null("`take`"))?;
        // SAFETY: the caller's function.
        reader.drain(words, 0, &mut |record| unsafe { take(record.as_ptr(), record.len(), data) });
        Ok(())
    })
}

/// Records that were dropped.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_ring_dropped(ring: *const Ring) -> u64 {
    // SAFETY: the caller's.
    unsafe { ring.as_ref() }.map_or(0, |ring| ring.reader.dropped(ring.words))
}

/// Quadwords of a record.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_ring_words(ring: *const Ring) -> usize {
    // SAFETY: the caller's.
    unsafe { ring.as_ref() }.map_or(0, |ring| ring.layout.words())
}

/// Closes rings.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_ring_close(ring: *mut Ring) {
    if !ring.is_null() {
        // SAFETY: made by `patch_ring_open`; this is the last use.
        drop(unsafe { Box::from_raw(ring) });
    }
}

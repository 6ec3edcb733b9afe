//! The memory of a child.
//!
//! # Safety
//!
//! All addresses are those of [`crate::layout`], mapped with `MAP_FIXED_NOREPLACE`, so nothing that
//! exists is touched. The mappings live until the child exits. Code pages have two views of one
//! memfd: one read and execute, one read and write; no page is both. Code under test may write to
//! data and stack while no Rust reference to them exists: they are made afresh for each use, inside
//! the signal handler, when nothing else runs.

#![allow(unsafe_code, reason = "maps fixed addresses and views them as byte slices")]

use std::ops::Range;
use std::ptr;

use crate::layout::{self, DATA_LEN, Place, READ_ONLY_LEN, STACK_LEN};

/// Address and length of what is filled before each run and compared after it.
pub const MEMORY: [(u64, usize); 4] = [
    (Place::Low.data().start, DATA_LEN),
    (Place::High.data().start, DATA_LEN),
    (Place::Low.stack().start, STACK_LEN),
    (Place::High.stack().start, STACK_LEN),
];

/// Which step of building the address space failed, in the order they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapStep {
    /// memfd_create or its length.
    CodeFile = 1,
    /// The writable view of the code.
    CodeAlias = 2,
    /// An executable area.
    CodeArea = 3,
    /// A data area.
    Data = 4,
    /// A stack.
    Stack = 5,
}

/// The mapped address space.
pub struct Memory {
    areas: Vec<Range<u64>>,
    alias: *mut u8,
}

impl Memory {
    /// The plan of the areas. Made before the fork, because the child must not allocate.
    pub fn plan() -> Memory {
        Memory { areas: layout::executable(), alias: ptr::null_mut() }
    }

    /// Maps everything; called once, in the child.
    pub fn map(&mut self) -> Result<(), MapStep> {
        let total: u64 = self.areas.iter().map(|area| area.end - area.start).sum();
        // SAFETY: plain system calls on a new descriptor; the name is a C string.
        let file = unsafe {
            let file = libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 || libc::ftruncate(file, total as i64) != 0 {
                return Err(MapStep::CodeFile);
            }
            file
        };
        let shared = |at: u64, len: u64, protection, flags, offset: u64| {
            // SAFETY: a fresh mapping; fixed addresses are never replaced.
            let got = unsafe {
                libc::mmap(
                    at as *mut _,
                    len as usize,
                    protection,
                    libc::MAP_SHARED | flags,
                    file,
                    offset as i64,
                )
            };
            (got != libc::MAP_FAILED && (at == 0 || got as u64 == at)).then_some(got.cast::<u8>())
        };
        self.alias = shared(0, total, libc::PROT_READ | libc::PROT_WRITE, 0, 0).ok_or(MapStep::CodeAlias)?;
        // SAFETY: the view is `total` bytes long and ours alone.
        unsafe { ptr::write_bytes(self.alias, 0xcc, total as usize) };
        let mut offset = 0;
        for area in &self.areas {
            let len = area.end - area.start;
            shared(area.start, len, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_FIXED_NOREPLACE, offset)
                .ok_or(MapStep::CodeArea)?;
            offset += len;
        }
        for place in Place::ALL {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            if !anonymous(place.data().start, DATA_LEN, writable)
                || !anonymous(place.data().end, READ_ONLY_LEN, libc::PROT_READ)
            {
                return Err(MapStep::Data);
            }
            if !anonymous(place.stack().start, STACK_LEN, writable) {
                return Err(MapStep::Stack);
            }
        }
        Ok(())
    }

    /// Puts code at an executable address. Out-of-area bytes are ignored.
    pub fn write_code(&mut self, at: u64, bytes: &[u8]) {
        if let Some(to) = self.alias_of(at, bytes.len()) {
            // SAFETY: `alias_of` has checked that the bytes lie in one area's writable view.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    /// Puts landing pads back.
    pub fn erase_code(&mut self, at: u64, len: usize) {
        if let Some(to) = self.alias_of(at, len) {
            // SAFETY: as in `write_code`.
            unsafe { ptr::write_bytes(to, 0xcc, len) };
        }
    }

    fn alias_of(&self, at: u64, len: usize) -> Option<*mut u8> {
        let mut offset = 0;
        for area in &self.areas {
            if area.contains(&at) && at + len as u64 <= area.end {
                // SAFETY: the offset lies within the view, which holds the areas one after another.
                return Some(unsafe { self.alias.add((offset + at - area.start) as usize) });
            }
            offset += area.end - area.start;
        }
        None
    }

    /// Writable data or stack bytes at an address; `None` outside of both.
    pub fn bytes(&mut self, at: u64, len: usize) -> Option<&mut [u8]> {
        let inside = |area: Range<u64>| area.contains(&at) && at + len as u64 <= area.end;
        let known = Place::ALL.iter().any(|place| inside(place.data()) || inside(place.stack()));
        // SAFETY: mapped read-write by `map`; the borrow of `self` keeps the slice the only one.
        known.then(|| unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len) })
    }

    /// Copies what is compared into `image`; see [`MEMORY`].
    pub fn snapshot(&mut self, image: &mut [u8]) {
        let mut rest = image;
        for (at, len) in MEMORY {
            let Some((to, behind)) = rest.split_at_mut_checked(len) else { return };
            if let Some(bytes) = self.bytes(at, len) {
                to.copy_from_slice(bytes);
            }
            rest = behind;
        }
    }
}

fn anonymous(at: u64, len: usize, protection: i32) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a fresh mapping at an address that is refused if anything is there.
    let got = unsafe { libc::mmap(at as *mut _, len, protection, flags, -1, 0) };
    got as u64 == at
}

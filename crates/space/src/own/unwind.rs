//! The unwinder of this process and debuggers know its trampolines.
//!
//! What a transaction writes becomes one or a few *units*, each with one `.eh_frame`, inside an ELF file in memory. The
//! unwinder (libgcc's or LLVM's) is told by `__register_frame`, gdb by its interface for just-in-time compilers. A unit goes
//! when other trampolines take its memory; what is left of it becomes a new one. Its bytes go when no thread can be
//! reading them: as with trampolines, when no register and no stack points into them.
//!
//! # Safety
//! A unit's bytes never move, and outlive its registrations.

#![allow(unsafe_code, reason = "tells the unwinder and debuggers of code")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;

use super::handlers;
use crate::Displaced;
use crate::unwind::{Expressed, Piece, object, table};

/// At most so many displaced instructions in a unit.
const UNIT: usize = 4096;

unsafe extern "C" {
    fn __register_frame(begin: *const u8);
    fn __deregister_frame(begin: *const u8);
}

/// `struct jit_code_entry` (gdb, Registering Code).
#[repr(C)]
struct Entry {
    next: *mut Entry,
    prev: *mut Entry,
    symfile: *const u8,
    len: u64,
}

/// `struct jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

// Weak: a program that makes code by other means has them too, and shares them.
std::arch::global_asm!(
    ".pushsection .text.__jit_debug_register_code,\"ax\",@progbits",
    ".weak __jit_debug_register_code",
    ".hidden __jit_debug_register_code",
    ".type __jit_debug_register_code, @function",
    "__jit_debug_register_code:",
    "ret",
    ".size __jit_debug_register_code, 1",
    ".popsection",
    ".pushsection .data.__jit_debug_descriptor,\"aw\",@progbits",
    ".balign 8",
    ".weak __jit_debug_descriptor",
    ".hidden __jit_debug_descriptor",
    ".type __jit_debug_descriptor, @object",
    "__jit_debug_descriptor:",
    ".long 1, 0",
    ".quad 0, 0",
    ".size __jit_debug_descriptor, 24",
    ".popsection",
);

unsafe extern "C" {
    fn __jit_debug_register_code();
    static mut __jit_debug_descriptor: Descriptor;
}

/// Registered unwind information.
struct Unit {
    /// The ELF file.
    file: Box<[u8]>,
    /// Where `.eh_frame` begins in it.
    frames: usize,
    /// In gdb's list.
    entry: *mut Entry,
    /// Its runs lie here, others may too.
    range: Range<Addr>,
    /// The unwinder knows it.
    registered: bool,
}

// SAFETY: the entry is used under the lock of `UNITS` only.
unsafe impl Send for Unit {}

#[derive(Default)]
struct Units {
    units: BTreeMap<u64, Unit>,
    next: u64,
    /// The described runs of trampolines: where each begins, its end, its unit.
    runs: BTreeMap<Addr, (Addr, u64)>,
    /// Bytes that a thread may still be reading.
    retired: Vec<Box<[u8]>>,
}

static UNITS: Mutex<Option<Units>> = Mutex::new(None);

fn with<R>(work: impl FnOnce(&mut Units) -> R) -> R {
    work(UNITS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// Describes trampolines that were just written, and no longer what was in their memory before.
/// `unwinder` tells whether the unwinder of this process is told, too.
pub(super) fn describe(displaced: &[Displaced], unwinder: bool) {
    let displaced = sorted(displaced);
    with(|units| {
        units.replace(&displaced);
        for chunk in displaced.chunks(UNIT) {
            units.add(chunk, unwinder);
        }
    });
}

/// Trampolines that were just written are not described, and no longer what was in their memory before.
pub(super) fn replace(displaced: &[Displaced]) {
    with(|units| {
        if !units.runs.is_empty() {
            units.replace(&sorted(displaced));
        }
    });
}

fn sorted(displaced: &[Displaced]) -> Vec<Displaced> {
    let mut displaced = displaced.to_vec();
    displaced.sort_unstable_by_key(|displaced| displaced.landing);
    displaced
}

/// What lies in `range` is gone.
pub(super) fn forget(range: Range<Addr>) {
    with(|units| units.forget(range));
}

/// Bytes that are in nobody's way, but may be read by an unwinder.
pub(super) fn retired() -> Vec<Range<Addr>> {
    let range = |bytes: &[u8]| Addr(bytes.as_ptr() as u64).span(bytes.len() as u64);
    with(|units| units.retired.iter().map(|bytes| range(bytes)).collect())
}

/// Frees those that nobody reads: `idle` belongs to what [`retired`] has told.
pub(super) fn free_retired(ranges: &[Range<Addr>], idle: &[bool]) {
    let idle = |bytes: &[u8]| {
        let at = Addr(bytes.as_ptr() as u64);
        ranges.iter().zip(idle).any(|(range, idle)| range.start == at && *idle)
    };
    with(|units| units.retired.retain(|bytes| !idle(bytes)));
}

fn end(displaced: &Displaced) -> Addr {
    displaced.landing + u64::from(displaced.len)
}

impl Units {
    /// Describes no longer what was where these are, which are sorted.
    fn replace(&mut self, displaced: &[Displaced]) {
        for run in displaced.chunk_by(|left, right| end(left) == right.landing) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.forget(first.landing..end(last));
            }
        }
    }

    /// Describes no longer what lies in `range`.
    fn forget(&mut self, range: Range<Addr>) {
        let before = self.runs.range(..range.start).next_back().filter(|(_, (end, _))| *end > range.start);
        let first = before.map_or(range.start, |(start, _)| *start);
        let gone: Vec<(Addr, Addr, u64)> =
            self.runs.range(first..range.end).map(|(start, (end, unit))| (*start, *end, *unit)).collect();
        let mut units: Vec<u64> = gone.iter().map(|(.., unit)| *unit).collect();
        units.sort_unstable();
        units.dedup();
        for (start, ..) in gone {
            self.runs.remove(&start);
        }
        for unit in units {
            let (range, registered) = self.remove(unit);
            let rest = self.runs.extract_if(range, |_, (_, of)| *of == unit);
            let rest: Vec<Range<Addr>> = rest.map(|(start, (end, _))| start..end).collect();
            let displaced = handlers::displaced_in(&rest);
            if !displaced.is_empty() {
                self.add(&displaced, registered);
            }
        }
    }

    /// Adds a unit for these, which are sorted.
    fn add(&mut self, displaced: &[Displaced], registered: bool) {
        let pieces: Vec<Piece> = displaced.iter().map(handlers::piece).collect();
        let table = table(&pieces, Expressed::Absolute);
        let id = self.next;
        self.next += 1;
        let ranges: Vec<Range<Addr>> = table.entries.into_iter().map(|(range, _)| range).collect();
        let names: Vec<(Range<Addr>, &str)> =
            ranges.iter().map(|range| (range.clone(), "incise_trampoline")).collect();
        let Some(all) = ranges.first().zip(ranges.last()).map(|(first, last)| first.start..last.end) else {
            return;
        };
        let (file, frames) = object(std::slice::from_ref(&all), &names, &table.bytes);
        let file = file.into_boxed_slice();
        self.runs.extend(ranges.iter().map(|range| (range.start, (range.end, id))));
        let entry = Box::into_raw(Box::new(Entry {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
            symfile: file.as_ptr(),
            len: file.len() as u64,
        }));
        // SAFETY: a complete table; the entry is new.
        unsafe {
            if registered {
                __register_frame(file.as_ptr().add(frames));
            }
            link(entry);
        }
        self.units.insert(id, Unit { file, frames, entry, range: all, registered });
    }

    /// Returns where its runs lie, and whether the unwinder knew it.
    fn remove(&mut self, id: u64) -> (Range<Addr>, bool) {
        let Some(unit) = self.units.remove(&id) else { return (Addr(0)..Addr(0), false) };
        // SAFETY: registered and linked by `add`.
        unsafe {
            if unit.registered {
                __deregister_frame(unit.file.as_ptr().add(unit.frames));
            }
            unlink(unit.entry);
            drop(Box::from_raw(unit.entry));
        }
        self.retired.push(unit.file);
        (unit.range, unit.registered)
    }
}

/// Tells gdb of an entry.
unsafe fn link(entry: *mut Entry) {
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: under the lock; the other makers of code of a program have the same problem, and no lock is known for it.
    unsafe {
        (*entry).next = (*descriptor).first;
        if !(*entry).next.is_null() {
            (*(*entry).next).prev = entry;
        }
        (*descriptor).first = entry;
        tell(REGISTER, entry);
    }
}

/// Tells gdb that an entry goes.
unsafe fn unlink(entry: *mut Entry) {
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: as in `link`.
    unsafe {
        let (prev, next) = ((*entry).prev, (*entry).next);
        if prev.is_null() {
            (*descriptor).first = next;
        } else {
            (*prev).next = next;
        }
        if !next.is_null() {
            (*next).prev = prev;
        }
        tell(UNREGISTER, entry);
    }
}

unsafe fn tell(action: u32, entry: *mut Entry) {
    // SAFETY: as in `link`.
    unsafe {
        __jit_debug_descriptor.action = action;
        __jit_debug_descriptor.relevant = entry;
        __jit_debug_register_code();
        __jit_debug_descriptor.relevant = ptr::null_mut();
    }
}

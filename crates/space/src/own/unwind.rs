//! The unwinder of this process and debuggers know its trampolines.
//!
//! Each arena has one table, inside an ELF file in memory, that serves whatever trampolines it holds: it reads *slots*
//! (`unwind/slots.rs`), of which those of an arena are written before anybody runs what they are for. The unwinder (libgcc's or
//! LLVM's) is told of the table by `__register_frame`, gdb by its interface for just-in-time compilers, when the arena gets the
//! first trampolines that are described. It goes when the arena does; its memory when no thread can be reading it: as
//! with trampolines, when no register and no stack points into it.
//!
//! # Safety
//! What a table reads never moves, and outlives its registrations. Slots are written by single stores.

#![allow(unsafe_code, reason = "tells the unwinder and debuggers of code")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;

use super::{PAGE, handlers};
use crate::Displaced;
use crate::unwind::{BLOCK, NOWHERE, SHAPES, Shape, arena_table, fits, object, shape, slot};

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

/// The slots of a page of code.
type Block = [AtomicU64; BLOCK];

/// The block of pages that hold nothing described.
static BLANK: Block = [const { AtomicU64::new(0) }; BLOCK];

/// The shapes that slots number. The first is that of blank slots.
static SHAPES_KNOWN: [[AtomicI64; size_of::<Shape>() / 8]; SHAPES] =
    [const { [const { AtomicI64::new(0) }; size_of::<Shape>() / 8] }; SHAPES];

/// An arena that is described.
struct Arena {
    end: Addr,
    /// The ELF file.
    file: Box<[u8]>,
    /// Where `.eh_frame` begins in it.
    frames: usize,
    /// The block of each page.
    index: Box<[AtomicPtr<Block>]>,
    /// In gdb's list.
    entry: *mut Entry,
    /// The unwinder knows it.
    registered: bool,
}

// SAFETY: the entry is used under the lock of `ARENAS` only.
unsafe impl Send for Arena {}

#[derive(Default)]
struct Arenas {
    /// By where they begin.
    present: BTreeMap<Addr, Arena>,
    /// Those in [`SHAPES_KNOWN`].
    shapes: Vec<Shape>,
    /// Arenas that are gone, whose tables a thread may still be reading.
    retired: Vec<Arena>,
}

static ARENAS: Mutex<Option<Arenas>> = Mutex::new(None);

fn with<R>(work: impl FnOnce(&mut Arenas) -> R) -> R {
    work(ARENAS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// Describes trampolines that were just written, and no longer what was in their memory before. `arenas` are the memory they
/// lie in, of whole pages; `unwinder` tells whether the unwinder of this process is told, too.
pub(super) fn describe(displaced: &[Displaced], arenas: &[Range<Addr>], unwinder: bool) {
    with(|known| {
        let mut arena: Option<&Range<Addr>> = None;
        for displaced in displaced {
            if arena.is_none_or(|arena| !arena.contains(&displaced.landing)) {
                arena = arenas.iter().find(|arena| arena.contains(&displaced.landing));
                if let Some(arena) = arena {
                    known.introduce(arena, unwinder);
                }
            }
            if arena.is_some() {
                known.describe(displaced);
            }
        }
    });
}

/// Trampolines that were just written are not described, and no longer what was in their memory before.
pub(super) fn replace(displaced: &[Displaced]) {
    with(|known| {
        if !known.present.is_empty() {
            displaced.iter().for_each(|displaced| known.forget(displaced));
        }
    });
}

/// What lies in `range`, an arena, is gone.
pub(super) fn forget(range: Range<Addr>) {
    with(|known| {
        if let Some(arena) = known.present.remove(&range.start) {
            // SAFETY: registered and linked by `introduce`.
            unsafe {
                if arena.registered {
                    __deregister_frame(arena.file.as_ptr().add(arena.frames));
                }
                unlink(arena.entry);
                drop(Box::from_raw(arena.entry));
            }
            known.retired.push(arena);
        }
    });
}

/// Tables that are in nobody's way, but may be read by an unwinder.
pub(super) fn retired() -> Vec<Range<Addr>> {
    let range = |bytes: &[u8]| Addr(bytes.as_ptr() as u64).span(bytes.len() as u64);
    with(|known| known.retired.iter().map(|arena| range(&arena.file)).collect())
}

/// Frees those that nobody reads: `idle` belongs to what [`retired`] has told.
pub(super) fn free_retired(ranges: &[Range<Addr>], idle: &[bool]) {
    let idle = |arena: &Arena| {
        let at = Addr(arena.file.as_ptr() as u64);
        ranges.iter().zip(idle).any(|(range, idle)| range.start == at && *idle)
    };
    with(|known| known.retired.retain(|arena| !idle(arena)));
}

impl Arenas {
    /// Sees to it that an arena has a table, and that the unwinder knows it if it is to.
    fn introduce(&mut self, range: &Range<Addr>, unwinder: bool) {
        if self.shapes.is_empty() {
            self.number(NOWHERE);
        }
        let arena = self.present.entry(range.start).or_insert_with(|| Arena::new(range));
        if unwinder && !arena.registered {
            arena.registered = true;
            // SAFETY: a complete table, whose arena is nobody else's.
            unsafe { __register_frame(arena.file.as_ptr().add(arena.frames)) };
        }
    }

    fn describe(&mut self, displaced: &Displaced) {
        self.forget(displaced);
        let piece = handlers::piece(displaced);
        for row in &piece.rows {
            // With a shape too many, it is not described there.
            if let Some(original) = row.original.filter(|original| fits(*original))
                && let Some(number) = self.number(shape(row))
            {
                self.set(row.at, slot(original, number));
            }
        }
    }

    /// Describes no longer what was where this is.
    fn forget(&self, displaced: &Displaced) {
        let Some((start, arena)) = self.present.range(..=displaced.landing).next_back() else { return };
        let first = displaced.landing.offset_from(*start) as usize;
        for offset in first..first + displaced.len as usize {
            if let Some(block) = arena.block(offset) {
                block[offset % BLOCK].store(0, Ordering::Relaxed);
            }
        }
    }

    fn set(&mut self, at: Addr, slot: u64) {
        let Some((start, arena)) = self.present.range_mut(..=at).next_back() else { return };
        let offset = at.offset_from(*start) as usize;
        if at < arena.end {
            arena.block_to_write(offset)[offset % BLOCK].store(slot, Ordering::Release);
        }
    }

    /// The number of a shape. `None` if there are too many.
    fn number(&mut self, shape: Shape) -> Option<usize> {
        // There are few, and the last ones are those of the code at hand.
        if let Some(number) = self.shapes.iter().rposition(|known| *known == shape) {
            return Some(number);
        }
        let number = self.shapes.len();
        for (place, value) in SHAPES_KNOWN.get(number)?.iter().zip(shape) {
            place.store(value, Ordering::Release);
        }
        self.shapes.push(shape);
        Some(number)
    }
}

impl Arena {
    /// With its table, of which gdb is told.
    fn new(range: &Range<Addr>) -> Arena {
        let pages = (range.end.offset_from(range.start) as u64).div_ceil(PAGE) as usize;
        let blank = || AtomicPtr::new((&raw const BLANK).cast_mut());
        let index: Box<[AtomicPtr<Block>]> = (0..pages).map(|_| blank()).collect();
        let at = |at: *const ()| Addr(at as u64);
        let table = arena_table(range, at(index.as_ptr().cast()), at((&raw const SHAPES_KNOWN).cast()));
        let code = std::slice::from_ref(range);
        let (file, frames) = object(code, &[(range.clone(), "incise_trampoline")], &table.bytes);
        let file = file.into_boxed_slice();
        let entry = Box::into_raw(Box::new(Entry {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
            symfile: file.as_ptr(),
            len: file.len() as u64,
        }));
        // SAFETY: the entry is new.
        unsafe { link(entry) };
        Arena { end: range.end, file, frames, index, entry, registered: false }
    }

    /// The block of an offset, if there is one.
    fn block(&self, offset: usize) -> Option<&Block> {
        let block = self.index.get(offset / BLOCK)?.load(Ordering::Relaxed);
        // SAFETY: blocks live as long as the arena.
        (!ptr::eq(block, &BLANK)).then(|| unsafe { &*block })
    }

    /// The block of an offset in the arena; a new one if there is none.
    fn block_to_write(&self, offset: usize) -> &Block {
        if self.block(offset).is_none() {
            let slots: Box<[u64]> = vec![0; BLOCK].into_boxed_slice();
            self.index[offset / BLOCK].store(Box::into_raw(slots).cast(), Ordering::Release);
        }
        // SAFETY: as in `block`.
        unsafe { &*self.index[offset / BLOCK].load(Ordering::Relaxed) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for block in self.index.iter().map(|block| block.load(Ordering::Relaxed)) {
            if !ptr::eq(block, &BLANK) {
                // SAFETY: made by `block_to_write`; nobody reads it any more.
                drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(block.cast::<u64>(), BLOCK)) });
            }
        }
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

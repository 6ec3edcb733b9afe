//! Changing live code byte by byte, with a trap on every head in between.
//!
//! # Safety
//! The writes go to code that threads may be running. That is sound because of the protocol of [`poke`]
//! and the promise of [`AddressSpace::apply`](crate::AddressSpace::apply): the landings of all heads are
//! published, and each landing does what the bytes before and after the change do.

#![allow(unsafe_code, reason = "changes running code")]

use std::ptr;

use incise_isa::Addr;
use incise_isa::native::{SPRINGBOARD_LEN, TRAP};

use super::memory::{self, CodeWriter};
use super::signals::BlockedSignals;
use super::sync;
use crate::sys::{self, Errno};
use crate::{Bytes, Edit, SpaceError, faults};

/// The states an edit goes through: old; old with traps on the heads; new with traps on the heads; new.
const STATES: usize = 4;

/// One edit, with its bytes in every state.
#[repr(C)]
struct Steps {
    at: u64,
    len: usize,
    bytes: [[u8; Bytes::MAX]; STATES],
}

impl Steps {
    fn new(edit: &Edit) -> Steps {
        let mut bytes = [[0; Bytes::MAX]; STATES];
        for state in &mut bytes[..2] {
            state[..edit.old.len()].copy_from_slice(&edit.old);
        }
        for state in &mut bytes[2..] {
            state[..edit.new.len()].copy_from_slice(&edit.new);
        }
        for head in edit.head_offsets() {
            bytes[1][head] = TRAP;
            bytes[2][head] = TRAP;
        }
        Steps { at: edit.at.0, len: edit.old.len(), bytes }
    }

    fn differs(&self, from: usize, to: usize) -> bool {
        self.bytes[from] != self.bytes[to]
    }
}

/// Changes the code at each edit while any number of threads runs it.
///
/// What has to hold at every instant: a thread that fetches an instruction at a head gets an instruction
/// whose effect is right, and no thread executes bytes of two states as one instruction.
///
/// 1. All old bytes are verified. Nothing is written if one differs.
/// 2. A trap (`int3`) is written on every head of every edit. Each head is one byte, so a fetch gets the
///    old instruction or the trap; a trapping thread goes to the landing. One write covers all heads of
///    one edit and rewrites the bytes in between with their own values: whichever of its bytes are
///    visible, each head is old or a trap and all else is old.
/// 3. All cores are serialized. From here on no thread executes from the inside of an edit: it would have
///    to have fetched a head before, and those are traps.
/// 4. The other bytes are written, in any order: nobody executes them.
/// 5. All cores are serialized: whoever sees a head of the next step sees the other bytes too.
/// 6. The heads are written. Each is one byte again; a head whose new byte is a trap is left alone.
/// 7. All cores are serialized: after the return no thread runs old bytes.
/// 8. All new bytes are verified.
///
/// A round that changes nothing is left out with its serialization. On failure the same
/// steps are done backwards, from the state reached.
///
/// No signal handler of the calling thread runs meanwhile: it could have SIGTRAP blocked.
pub(super) fn poke(edits: &[Edit]) -> Result<(), SpaceError> {
    memory::verify(edits, |edit| &edit.old)?;
    sync::register()?;
    let writer = CodeWriter::open()?;
    let steps: Vec<Steps> = edits.iter().map(Steps::new).collect();
    let _blocked = BlockedSignals::new();

    let mut result = Ok(());
    let mut reached = 0;
    while reached + 1 < STATES {
        result = round(&writer, &steps, reached, reached + 1);
        reached += 1;
        if result.is_err() {
            break;
        }
    }
    let result = match result {
        Ok(()) => memory::verify(edits, |edit| &edit.new),
        Err(errno) => Err(SpaceError::system("writing code through /proc/self/mem", errno)),
    };
    result.inspect_err(|_| {
        // Each state is right in itself, so if a step back fails too, the threads are still safe.
        while reached > 0 && round(&writer, &steps, reached, reached - 1).is_ok() {
            reached -= 1;
        }
    })
}

/// Brings all edits from state `from`, which some of them may not have reached, to state `to`.
fn round(writer: &CodeWriter, steps: &[Steps], from: usize, to: usize) -> Result<(), Errno> {
    if !steps.iter().any(|step| step.differs(from, to)) {
        return Ok(());
    }
    let (count, injected) = until_failpoint(steps, from, to);
    // SAFETY: the slice gives at least `count` valid elements; the states are 0..STATES; the protocol of `poke`
    // covers the writes.
    let failed = unsafe { write_state(writer.descriptor(), steps.as_ptr(), count, from, to) };
    injected?;
    if failed < 0 {
        return Err(Errno(-failed as i32));
    }
    sync::sync_cores()
}

/// How many of the steps come before a failpoint: [`write_state`] itself has none.
fn until_failpoint(steps: &[Steps], from: usize, to: usize) -> (usize, Result<(), Errno>) {
    if cfg!(feature = "faults") {
        for (index, step) in steps.iter().enumerate() {
            if step.differs(from, to)
                && let Err(errno) = faults::trip()
            {
                return (index, Err(errno));
            }
        }
    }
    (steps.len(), Ok(()))
}

// The linker names the bounds of a section whose name is an identifier.
unsafe extern "C" {
    static __start_incise_poke: u8;
    static __stop_incise_poke: u8;
}

/// Whether an edit changes the code that pokes.
pub(super) fn touches_poke(edits: &[Edit]) -> bool {
    let start = Addr((&raw const __start_incise_poke) as u64);
    let stop = Addr((&raw const __stop_incise_poke) as u64);
    edits.iter().any(|edit| edit.at < stop && edit.at + edit.old.len() as u64 > start)
}

/// Whether a jump or call, before or after the change, has the head of another instruction among its own bytes that is no
/// trap: while that head is a trap, the outer instruction would lead elsewhere. Such code is swapped.
pub(super) fn has_nested_heads(edits: &[Edit]) -> bool {
    let of = |edit: &Edit| {
        let edit = *edit;
        edit.head_offsets().map(move |i| (edit.at + i as u64, edit.old[i], edit.new[i]))
    };
    let mut heads: Vec<(Addr, u8, u8)> = edits.iter().flat_map(of).collect();
    heads.sort_unstable();
    let nests = |outer: u8, inner: u8| matches!(outer, 0xE8 | 0xE9) && inner != TRAP;
    heads.iter().enumerate().any(|(index, &(at, old, new))| {
        let mut inside = heads[index + 1..].iter().take_while(|head| head.0 < at + SPRINGBOARD_LEN as u64);
        inside.any(|inner| nests(old, inner.1) || nests(new, inner.2))
    })
}

/// Writes the differing bytes of every edit. Returns 0, or the negative error number of the write that failed.
///
/// Stands alone in its section, calls nothing, so that it is known which bytes must not be poked.
///
/// # Safety
/// `steps` points to `count` elements; `from` and `to` are below [`STATES`]; the memory written is code under
/// the protocol of [`poke`].
#[unsafe(link_section = "incise_poke")]
#[inline(never)]
unsafe fn write_state(file: i32, steps: *const Steps, count: usize, from: usize, to: usize) -> isize {
    let mut index = 0;
    while index < count {
        // SAFETY: `index < count`; the states are in range.
        let (step, from, to) = unsafe {
            let step = steps.add(index);
            let bytes = (&raw const (*step).bytes).cast::<[u8; Bytes::MAX]>();
            (step, bytes.add(from).cast::<u8>(), bytes.add(to).cast::<u8>())
        };
        // SAFETY: the first and the last differing byte are looked for among `len <= Bytes::MAX`.
        let (first, end) = unsafe {
            let (mut first, mut end) = (0, (*step).len);
            while first < end && ptr::read_volatile(from.add(first)) == ptr::read_volatile(to.add(first)) {
                first += 1;
            }
            while first < end && ptr::read_volatile(from.add(end - 1)) == ptr::read_volatile(to.add(end - 1))
            {
                end -= 1;
            }
            (first, end)
        };
        let mut done = first;
        while done < end {
            // SAFETY: within the element; the kernel checks the place written to.
            let written = unsafe {
                let place = (*step).at.wrapping_add(done as u64) as usize;
                let source = to.add(done) as usize;
                sys::raw(libc::SYS_pwrite64, [file as usize, source, end - done, place, 0, 0])
            };
            if written <= 0 {
                return if written == 0 { -(libc::EIO as isize) } else { written };
            }
            done += written as usize;
        }
        index += 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(old: [u8; 9], new: [u8; 9]) -> Edit {
        Edit { at: Addr(0x1000), old: Bytes::new(&old), new: Bytes::new(&new), heads: 0b1_0001 }
    }

    #[test]
    fn a_jump_into_a_call_is_seen_before_and_after_the_change() {
        let code = [0x90, 0x0f, 0x1f, 0x00, 0xe8, 1, 2, 3, 4];
        let trap = [0xe9, 1, 2, 3, 0xcc, 1, 2, 3, 4];
        let call = [0xe9, 1, 2, 3, 0xe8, 1, 2, 3, 4];
        assert!(!has_nested_heads(&[edit(code, trap)]));
        assert!(has_nested_heads(&[edit(code, call)]));
        assert!(has_nested_heads(&[edit(call, code)]));
    }
}

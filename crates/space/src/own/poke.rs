//! Changing live code byte by byte, with a trap on every head in between.
//!
//! # Safety
//! The writes go to code that threads may be running. That is sound because of the protocol of [`poke`]
//! and the promise of [`AddressSpace::apply`](crate::AddressSpace::apply): the landings of all heads are
//! published, and each landing does what the bytes before and after the change do.

#![allow(unsafe_code, reason = "changes running code")]

use std::ptr;

use incise_isa::Addr;

use super::memory::{self, CodeWriter};
use super::signals::BlockedSignals;
use super::sync;
use crate::sys::{self, Errno};
use crate::{Bytes, Edit, SpaceError, faults, rounds};

/// One edit in one round, with its bytes before and after.
#[repr(C)]
struct Step {
    at: u64,
    len: usize,
    bytes: [[u8; Bytes::MAX]; 2],
}

/// What one round writes.
type Round = Vec<Step>;

/// The writes between each two neighbours of the states that `edits` go through.
fn rounds(edits: &[Edit]) -> Vec<Round> {
    let states = rounds::states(edits);
    let step = |(edit, (before, after)): (&Edit, (&Bytes, &Bytes))| {
        let mut bytes = [[0; Bytes::MAX]; 2];
        for (place, bytes) in bytes.iter_mut().zip([before, after]) {
            place[..bytes.len()].copy_from_slice(bytes);
        }
        (before != after).then_some(Step { at: edit.at.0, len: edit.old.len(), bytes })
    };
    let between =
        |pair: &[rounds::State]| edits.iter().zip(pair[0].iter().zip(&pair[1])).filter_map(step).collect();
    states.windows(2).map(between).collect()
}

/// Changes the code at each edit while any number of threads runs it.
///
/// What has to hold at every instant: a thread that fetches an instruction at a head gets an instruction
/// whose effect is right, and no thread executes bytes of two states as one instruction.
///
/// 1. All old bytes are verified. Nothing is written if one differs.
/// 2. A trap (`int3`) is written on every head of every edit, on those of outer jumps first: see [`rounds`](crate::rounds).
///    Each head is one byte, so a fetch gets the old instruction or the trap; a trapping thread goes to the
///    landing. One write covers all heads of one edit that belong to one round, and rewrites the bytes in between with their
///    own values: whichever of its bytes are visible, each head is old or a trap and all else is old.
/// 3. All cores are serialized. From here on no thread executes from the inside of an edit: it would have
///    to have fetched a head before, and those are traps.
/// 4. The other bytes are written, in any order: nobody executes them.
/// 5. All cores are serialized: whoever sees a head of the next step sees the other bytes too.
/// 6. The heads are written, those of outer jumps last. Each is one byte again; a head whose new byte is a trap is left alone.
/// 7. All cores are serialized: after the return no thread runs old bytes.
/// 8. All new bytes are verified.
///
/// All cores are serialized after each round, of which 2 and 6 have one for each depth of jumps that reach into others. A
/// round that changes nothing is left out with its serialization. On failure the same steps are done backwards, from
/// the state reached.
///
/// No signal handler of the calling thread runs meanwhile: it could have SIGTRAP blocked.
pub(super) fn poke(edits: &[Edit]) -> Result<(), SpaceError> {
    memory::verify(edits, |edit| &edit.old)?;
    sync::register()?;
    let writer = CodeWriter::open()?;
    let rounds = rounds(edits);
    let _blocked = BlockedSignals::new();

    let mut result = Ok(());
    let mut tried = 0;
    while tried < rounds.len() && result.is_ok() {
        result = carry_out(&writer, &rounds[tried], Direction::Forwards);
        tried += 1;
    }
    let result = match result {
        Ok(()) => memory::verify(edits, |edit| &edit.new),
        Err(errno) => Err(SpaceError::system("writing code through /proc/self/mem", errno)),
    };
    result.inspect_err(|_| {
        // Each state is right in itself, so if a step back fails too, the threads are still safe.
        let mut back = rounds[..tried].iter().rev();
        while back.next().is_some_and(|round| carry_out(&writer, round, Direction::Backwards).is_ok()) {}
    })
}

/// Which bytes of a step are written: those after it, or those before it.
#[derive(Clone, Copy)]
enum Direction {
    Backwards = 0,
    Forwards = 1,
}

/// Makes one round, of which some writes may be made already.
fn carry_out(writer: &CodeWriter, round: &[Step], direction: Direction) -> Result<(), Errno> {
    let (count, injected) = until_failpoint(round);
    // SAFETY: the slice gives at least `count` valid elements; the protocol of `poke` covers the writes.
    let failed = unsafe { write_round(writer.descriptor(), round.as_ptr(), count, direction as usize) };
    injected?;
    if failed < 0 {
        return Err(Errno(-failed as i32));
    }
    sync::sync_cores()
}

/// How many of the steps come before a failpoint: [`write_round`] itself has none.
fn until_failpoint(round: &[Step]) -> (usize, Result<(), Errno>) {
    if cfg!(feature = "faults") {
        for index in 0..round.len() {
            if let Err(errno) = faults::trip() {
                return (index, Err(errno));
            }
        }
    }
    (round.len(), Ok(()))
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

/// Writes the differing bytes of every step. Returns 0, or the negative error number of the write that failed.
///
/// Stands alone in its section, calls nothing, so that it is known which bytes must not be poked.
///
/// # Safety
/// `steps` points to `count` elements; `to` is 0 or 1; the memory written is code under the protocol of [`poke`].
#[unsafe(link_section = "incise_poke")]
#[inline(never)]
unsafe fn write_round(file: i32, steps: *const Step, count: usize, to: usize) -> isize {
    let mut index = 0;
    while index < count {
        // SAFETY: `index < count`; `to` is in range.
        let (step, from, to) = unsafe {
            let step = steps.add(index);
            let bytes = (&raw const (*step).bytes).cast::<[u8; Bytes::MAX]>();
            (step, bytes.add(1 - to).cast::<u8>(), bytes.add(to).cast::<u8>())
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

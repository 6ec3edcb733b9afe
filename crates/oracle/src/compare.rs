//! The comparison of two runs.

use iced_x86::Mnemonic;

use crate::case::{Body, Case, Displaced};
use crate::layout::{DATA_LEN, Place, STACK_LEN};
use crate::outcome::{Aspect, CopyVerdict, Ending, Outcome, trap};
use crate::xstate::Xstate;

/// Length of the memory that is compared: both data areas, then both stacks.
pub const IMAGE_LEN: usize = 2 * (DATA_LEN + STACK_LEN);
const RED_ZONE: u64 = 128;
/// All but IF (always set) and RF, which says how an exception was reported.
const FLAGS: u64 = 0x3f_fdff & !(1 << 16);
const RSP: usize = 4;

/// Where control was when a run stopped, in terms of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// At an instruction: it faulted, or has not run.
    At(usize),
    /// In the middle of an instruction's bytes.
    Inside(usize, u64),
    /// Behind the last one.
    End,
    /// Elsewhere.
    Away(u64),
}

impl Stop {
    fn of(pc: u64, body: &Body) -> Stop {
        match body.locate(pc) {
            Some((index, 0)) => Stop::At(index),
            Some((index, offset)) => Stop::Inside(index, offset),
            None if pc == body.end() => Stop::End,
            None => Stop::Away(pc),
        }
    }

    /// A number for reports: small ones are instruction indexes, 0xe.. is the end.
    fn number(self) -> u64 {
        match self {
            Stop::At(index) => index as u64,
            Stop::Inside(index, offset) => (index as u64) << 8 | offset << 16,
            Stop::End => 0xe0d,
            Stop::Away(pc) => pc,
        }
    }
}

/// The address at which a run stopped: an `int3` landing reports the address behind itself.
fn stopped_at(outcome: &Outcome) -> u64 {
    if outcome.trap == trap::BREAKPOINT { outcome.ip.wrapping_sub(1) } else { outcome.ip }
}

/// How a run of the original ended.
pub fn ending(outcome: &Outcome, body: &Body) -> Ending {
    match (outcome.trap, Stop::of(stopped_at(outcome), body)) {
        (trap::UNDEFINED, Stop::At(_)) => Ending::Undefined,
        (trap::BREAKPOINT, Stop::End) => Ending::FellThrough,
        (trap::BREAKPOINT, _) => Ending::Arrived,
        _ => Ending::Faulted,
    }
}

/// Judges a copy by its original. The images are data low and high, stack low and high; `pristine`
/// is the stack of the case before the runs.
pub fn compare(
    case: &Case,
    copy: &Displaced,
    pristine: &[u8],
    (original, original_memory): (&Outcome, &[u8]),
    (actual, actual_memory): (&Outcome, &[u8]),
    verdict: &mut CopyVerdict,
) {
    verdict.run = true;
    let stopped = where_it_went(case, copy, original, actual, verdict);
    let faulted_inside = original.trap != trap::BREAKPOINT && matches!(stopped, Stop::At(_));
    verdict.registers_skipped = faulted_inside && !copy.one_to_one;
    fault(original, actual, verdict);
    if !verdict.registers_skipped {
        for (index, (&expected, &got)) in original.gpr.iter().zip(&actual.gpr).enumerate() {
            differ(verdict, Aspect::Gpr, index as u64, expected, got);
        }
    }
    differ(verdict, Aspect::Flags, 0, original.flags & FLAGS, actual.flags & FLAGS);
    for (index, (&expected, &got)) in original.bases.iter().zip(&actual.bases).enumerate() {
        differ(verdict, Aspect::Base, index as u64, expected, got);
    }
    for (index, (&expected, &got)) in original.selectors.iter().zip(&actual.selectors).enumerate() {
        differ(verdict, Aspect::Selector, index as u64, expected.into(), got.into());
    }
    memory(case, pristine, (original, original_memory), actual_memory, verdict);
    if original.xstate != actual.xstate {
        xstate(&original.xstate, &actual.xstate, verdict);
    }
}

fn differ(verdict: &mut CopyVerdict, aspect: Aspect, at: u64, expected: u64, actual: u64) {
    if expected != actual {
        verdict.add(aspect, at, expected, actual);
    }
}

fn where_it_went(
    case: &Case,
    copy: &Displaced,
    original: &Outcome,
    actual: &Outcome,
    verdict: &mut CopyVerdict,
) -> Stop {
    let expected = match (Stop::of(stopped_at(original), &case.original), copy.moved) {
        (Stop::Away(pc), Some((from, to))) if pc == from => Stop::Away(to),
        (place, _) => place,
    };
    let got = match Stop::of(stopped_at(actual), &copy.body) {
        // A fault anywhere in the sequence that stands for an instruction is that instruction's.
        Stop::Inside(index, _) if !copy.one_to_one && actual.trap != trap::BREAKPOINT => Stop::At(index),
        place => place,
    };
    if expected != got {
        verdict.add(Aspect::Where, 0, expected.number(), got.number());
    }
    expected
}

fn fault(original: &Outcome, actual: &Outcome, verdict: &mut CopyVerdict) {
    let what =
        |outcome: &Outcome| [outcome.signal as u64, outcome.code as u32 as u64, outcome.trap, outcome.error];
    for (index, (expected, got)) in what(original).into_iter().zip(what(actual)).enumerate() {
        differ(verdict, Aspect::Fault, index as u64, expected, got);
    }
    // For these the address is the instruction's own; `where_it_went` has compared it.
    let own_address = [trap::DIVIDE, trap::DEBUG, trap::UNDEFINED, trap::X87, trap::SIMD];
    if !own_address.contains(&original.trap) {
        differ(verdict, Aspect::FaultAddress, 0, original.address, actual.address);
    }
}

/// All data and the other neighbourhood's stack; and this one's stack, from the red zone upwards.
///
/// Bytes that lay below the red zone belonged to nobody (psABI 3.2.2), so there only what the original
/// wrote is compared: the far end of a deep push, such as `enter`'s. A call that faults while it
/// fetches its target may have pushed its return address already; that is noted.
fn memory(
    case: &Case,
    pristine: &[u8],
    (original, original_memory): (&Outcome, &[u8]),
    actual_memory: &[u8],
    verdict: &mut CopyVerdict,
) {
    let own = stack_offset(case.place);
    let stack = case.place.stack();
    let before = case.start.gpr[RSP];
    let after = original.gpr[RSP];
    let top = if stack.contains(&after) { after.min(before) } else { before };
    if original_memory == actual_memory {
        return;
    }
    let returns = case.form.mnemonic() == Mnemonic::Call;
    let (mut data, mut above, mut red_zone) = (true, true, true);
    let lines = original_memory.chunks_exact(64).zip(actual_memory.chunks_exact(64)).enumerate();
    let bytes = lines.filter(|(_, (expected, got))| expected != got).flat_map(|(line, (expected, got))| {
        expected.iter().zip(got).enumerate().map(move |(byte, pair)| (64 * line + byte, pair))
    });
    let (faulted, mut pushed_early) = (verdict.registers_skipped, false);
    for (offset, (&expected, &got)) in bytes.filter(|(_, (expected, got))| expected != got) {
        let mut note = |first: &mut bool, aspect, at| {
            if std::mem::take(first) {
                verdict.add(aspect, at, expected.into(), got.into());
            }
        };
        if !(own..own + STACK_LEN).contains(&offset) {
            note(&mut data, Aspect::Data, address(offset));
            continue;
        }
        let at = stack.start + (offset - own) as u64;
        let nobodys = at < before - RED_ZONE && expected == pristine[offset - own];
        if returns && faulted && (before - 8..before).contains(&at) {
            pushed_early = true;
            continue;
        }
        if at >= top && at >= before - RED_ZONE || at < before - RED_ZONE && !nobodys {
            note(&mut above, Aspect::Stack, at);
        } else if !nobodys {
            note(&mut red_zone, Aspect::RedZone, at);
        }
    }
    verdict.pushed_early = pushed_early;
}

/// Offset in the images of a neighbourhood's stack.
pub const fn stack_offset(place: Place) -> usize {
    2 * DATA_LEN + place.index() * STACK_LEN
}

/// The address of a byte of the images.
fn address(offset: usize) -> u64 {
    if offset < 2 * DATA_LEN {
        return Place::ALL[offset / DATA_LEN].base() + (offset % DATA_LEN) as u64;
    }
    let offset = offset - 2 * DATA_LEN;
    Place::ALL[offset / STACK_LEN].stack().start + (offset % STACK_LEN) as u64
}

fn xstate(original: &Xstate, actual: &Xstate, verdict: &mut CopyVerdict) {
    for (index, (expected, got)) in original.zmm.iter().zip(&actual.zmm).enumerate() {
        if let Some(lane) = (0..8).find(|&lane| quad(expected, lane) != quad(got, lane)) {
            verdict.add(Aspect::Vector, index as u64, quad(expected, lane), quad(got, lane));
        }
    }
    for (index, (&expected, &got)) in original.masks.iter().zip(&actual.masks).enumerate() {
        differ(verdict, Aspect::Mask, index as u64, expected, got);
    }
    differ(verdict, Aspect::Mxcsr, 0, original.mxcsr.into(), actual.mxcsr.into());
    for (index, (expected, got)) in original.st.iter().zip(&actual.st).enumerate() {
        if expected != got {
            let low =
                |st: &[u8; 10]| st.iter().take(8).rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            verdict.add(Aspect::X87, index as u64, low(expected), low(got));
        }
    }
    let words = |state: &Xstate| {
        [state.x87_control.into(), state.x87_status.into(), state.x87_tags.into(), state.x87_data_pointer]
    };
    for (index, (expected, got)) in words(original).into_iter().zip(words(actual)).enumerate() {
        differ(verdict, Aspect::X87, 8 + index as u64, expected, got);
    }
}

fn quad(zmm: &[u8; 64], lane: usize) -> u64 {
    zmm[8 * lane..8 * lane + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

//! Looking through registers and stacks for addresses in given code.
//!
//! What counts is what can become an instruction pointer: every register; every aligned word of the stack that
//! can be a return address, that is, one directly behind a call instruction; and the instruction pointer that a signal
//! frame holds. (Any other word is data. Who plans and frees code has its addresses on the stack.) A thread
//! that handles a signal on an alternate stack has its interrupted stack elsewhere; the signal frame, which is
//! recognised by the segment selectors in it, tells where.
//!
//! Runs in the process that stops threads too: no allocation, no lock, no panic.
//!
//! # Safety
//! Memory is read through a system call, which fails where it is not mapped.

#![allow(unsafe_code, reason = "reads stacks by address")]

use std::ops::Range;

use crate::sys;

/// Bytes below the stack pointer that belong to the function (x86-64 psABI, 3.2.2).
const RED_ZONE: u64 = 128;

/// The longest stack that is looked through.
const LONGEST: u64 = 64 << 20;

/// Stacks of one thread: its own, and those of the signal handlers under it.
const STACKS: usize = 8;

/// Words of a signal frame before the segment selectors that matter: stack pointer, instruction pointer, flags
/// (struct sigcontext; the selectors cs, gs, fs, ss are 16 bits each).
const BEFORE_SELECTORS: usize = 3;

/// The longest call instruction without prefixes, in bytes (`ff /2` with SIB and 32-bit displacement).
const LONGEST_CALL: usize = 7;

/// The code segment selector of 64-bit programs (`__USER_CS`), and the data segment's (`__USER_DS`).
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2B;

/// Addresses that matter: those from `start` to before `end` belong to place number `index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) index: usize,
}

/// What came of looking through one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Everything was seen; what was found is marked.
    Seen,
    /// The thread is no more.
    Gone,
    /// It cannot be told now, but perhaps on another try.
    Again,
    /// It cannot be told.
    Hidden,
}

/// A search: what to look for, where stacks may be, what was found.
pub(super) struct Search<'a> {
    /// Sorted by start; they do not overlap.
    pub(super) spans: &'a [Span],
    /// Readable and writable mappings, sorted.
    pub(super) memory: &'a [Range<u64>],
    /// For each place: an address in it was found.
    pub(super) found: &'a mut [bool],
    /// Where memory is read to.
    pub(super) buffer: &'a mut [u64],
}

impl Search<'_> {
    /// Looks through the registers and every stack of a thread whose stack pointer is `sp`.
    pub(super) fn thread(&mut self, registers: &[u64], sp: u64) -> Verdict {
        for &register in registers {
            self.instruction_pointer(register);
        }
        let mut stacks = [0; STACKS];
        let (mut known, mut next) = (1, 0);
        stacks[0] = sp.wrapping_sub(RED_ZONE) & !7;
        while next < known {
            let Some(&start) = stacks.get(next) else { return Verdict::Hidden };
            next += 1;
            // The red zone may reach below the mapping; the stack pointer itself does not.
            let Some(mapping) = self.mapping(start.wrapping_add(RED_ZONE)) else {
                if next == 1 {
                    return Verdict::Again;
                }
                continue; // not a stack pointer after all
            };
            let stack = start.max(mapping.start)..mapping.end;
            if stack.end - stack.start > LONGEST {
                return Verdict::Hidden;
            }
            if !self.stack(stack, &mut stacks, &mut known) {
                return Verdict::Again;
            }
        }
        Verdict::Seen
    }

    /// Looks through one stack; adds the stacks that signal frames on it lead to. `false` if it
    /// could not be read, or leads to too many.
    fn stack(&mut self, stack: Range<u64>, stacks: &mut [u64; STACKS], known: &mut usize) -> bool {
        let mut before = [0; BEFORE_SELECTORS];
        let mut at = stack.start;
        while at < stack.end {
            let want = ((stack.end - at) / 8).min(self.buffer.len() as u64) as usize;
            if want == 0 {
                break;
            }
            let Some(words) = self.buffer.get_mut(..want) else { return false };
            if !read_own(at, words) {
                return false;
            }
            for index in 0..want {
                let Some(&word) = self.buffer.get(index) else { return false };
                self.return_address(word);
                let [sp, ip, flags] = before;
                before = [ip, flags, word];
                if !is_selectors(word) {
                    continue;
                }
                self.instruction_pointer(ip);
                if self.mapping(sp).is_some() && !covered(stacks, *known, sp, &stack) {
                    let Some(free) = stacks.get_mut(*known) else { return false };
                    *free = sp.wrapping_sub(RED_ZONE) & !7;
                    *known += 1;
                }
            }
            at += 8 * want as u64;
        }
        true
    }

    /// Marks the place that `word` points into.
    fn instruction_pointer(&mut self, word: u64) {
        if let Some(found) = self.span(word).and_then(|span| self.found.get_mut(span.index)) {
            *found = true;
        }
    }

    /// Marks the place that a call which pushed `word` lies in.
    fn return_address(&mut self, word: u64) {
        let Some(span) = self.span(word.wrapping_sub(1)) else { return };
        if self.found.get(span.index) == Some(&false)
            && follows_call(span.start, word)
            && let Some(found) = self.found.get_mut(span.index)
        {
            *found = true;
        }
    }

    fn span(&self, at: u64) -> Option<Span> {
        let after = self.spans.partition_point(|span| span.start <= at);
        after.checked_sub(1).and_then(|index| self.spans.get(index)).filter(|span| at < span.end).copied()
    }

    fn mapping(&self, at: u64) -> Option<Range<u64>> {
        let index = self.memory.partition_point(|mapping| mapping.end <= at);
        self.memory.get(index).filter(|mapping| mapping.contains(&at)).cloned()
    }
}

/// Whether the stack from `sp` on is already among those to look through.
fn covered(stacks: &[u64; STACKS], known: usize, sp: u64, current: &Range<u64>) -> bool {
    let from = sp.wrapping_sub(RED_ZONE) & !7;
    current.contains(&sp) || stacks.iter().take(known).any(|&start| start == from)
}

/// Whether a word can be the segment selectors of a signal frame.
fn is_selectors(word: u64) -> bool {
    word & 0xFFFF == USER_CS && matches!(word >> 48, 0 | USER_DS)
}

/// Whether the bytes from `start` to `at` can end in a call instruction.
fn follows_call(start: u64, at: u64) -> bool {
    let mut buffer = [0u8; LONGEST_CALL];
    let len = (at - start).min(LONGEST_CALL as u64);
    let Some(bytes) = buffer.get_mut(..len as usize) else { return true };
    if !read_own(at - len, bytes) {
        return true;
    }
    let direct = len >= 5 && bytes.get(bytes.len() - 5) == Some(&0xE8); // e8 rel32
    direct || (0..bytes.len()).any(|start| bytes.get(start..).is_some_and(is_indirect_call))
}

/// Whether `bytes` are `ff /2`, not more and not less: opcode, ModRM, SIB and displacement (AMD APM vol. 3, 1.4).
fn is_indirect_call(bytes: &[u8]) -> bool {
    let &[0xFF, modrm, ref rest @ ..] = bytes else { return false };
    let (mode, register, base) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let sib = (mode != 3 && base == 4).then(|| rest.first().copied().unwrap_or_default());
    let displacement = match (mode, sib.map_or(base, |sib| sib & 7)) {
        (0, 5) | (2, _) => 4,
        (1, _) => 1,
        _ => 0,
    };
    register == 2 && rest.len() == usize::from(sib.is_some()) + displacement
}

/// Fills `into` with the memory at `at` of this address space. `false` if not all of it is readable.
pub(super) fn read_own<T: Copy>(at: u64, into: &mut [T]) -> bool {
    let len = size_of_val(into);
    let (local, remote) = ([into.as_mut_ptr() as usize, len], [at as usize, len]);
    let pid = super::super::own_pid() as usize;
    let arguments = [pid, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
    // SAFETY: writes into `into` only; `T` is an integer here, so any bytes will do.
    let read = unsafe { sys::raw(libc::SYS_process_vm_readv, arguments) };
    read == len as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(stack: &[u64], other: &[u64], spans: &[Span]) -> (Verdict, Vec<bool>) {
        let range = |words: &[u64]| {
            let at = words.as_ptr() as u64;
            at..at + size_of_val(words) as u64
        };
        let mut memory = [range(stack), range(other)];
        memory.sort_by_key(|range| range.start);
        let (mut found, mut buffer) = (vec![false; spans.len()], vec![0; 4]);
        let mut search = Search { spans, memory: &memory, found: &mut found, buffer: &mut buffer };
        let verdict = search.thread(&[1, 2, 3], stack.as_ptr() as u64);
        (verdict, found)
    }

    /// Memory that holds a direct and an indirect call, and data.
    const CODE: [u8; 32] = {
        let mut code = [0x90; 32];
        code[3] = 0xE8;
        code[16] = 0xFF;
        code[17] = 0x14;
        code[18] = 0x25;
        code
    };

    fn span(code: &[u8; 32], index: usize) -> Span {
        let start = code.as_ptr() as u64;
        Span { start, end: start + 32, index }
    }

    #[test]
    fn return_addresses_on_the_stack_are_found_and_data_is_not() {
        let code = Box::new(CODE);
        let start = code.as_ptr() as u64;
        let mut stack = vec![0; 100];
        for (offset, expected) in
            [(0, false), (1, false), (2, false), (8, true), (9, false), (18, false), (23, true), (30, false)]
        {
            stack[99] = start + offset;
            assert_eq!(
                search(&stack, &[0; 4], &[span(&code, 0)]),
                (Verdict::Seen, vec![expected]),
                "{offset}"
            );
        }
    }

    #[test]
    fn calls_are_told_by_where_they_end() {
        for call in [&[0xFF, 0xD0][..], &[0xFF, 0x14, 0x25, 0, 0, 0, 0], &[0xFF, 0x15, 1, 2, 3, 4]] {
            assert!(is_indirect_call(call), "{call:x?}");
        }
        for call in
            [&[0xFF, 0x10][..], &[0xFF, 0x50, 8], &[0xFF, 0x54, 0x24, 8], &[0xFF, 0x94, 0x24, 8, 0, 0, 0]]
        {
            assert!(is_indirect_call(call), "{call:x?}");
            assert!(!is_indirect_call(&[call, &[0]].concat()), "{call:x?} and more");
        }
        assert!(!is_indirect_call(&[0xFF, 0xE0]), "a jump");
        assert!(!is_indirect_call(&[0xFF, 0x15, 1]), "a displacement is missing");
    }

    #[test]
    fn code_right_behind_unmapped_memory_is_told_too() {
        // SAFETY: takes unused addresses; the first page stays out of reach.
        let pages =
            unsafe { sys::mmap_anonymous(0, 8192, libc::PROT_NONE, libc::MAP_PRIVATE) }.expect("pages");
        // SAFETY: the second page is ours.
        unsafe { libc::mprotect((pages + 4096) as *mut _, 4096, libc::PROT_READ) };
        let start = pages + 4096;
        let span = Span { start, end: start + 32, index: 0 };
        assert_eq!(search(&[start + 2; 100], &[0; 4], &[span]), (Verdict::Seen, vec![false]));
    }

    #[test]
    fn a_register_counts_whatever_is_before() {
        let spans = [Span { start: 3, end: 4, index: 1 }, Span { start: 4, end: 9, index: 0 }];
        assert_eq!(search(&[0; 100], &[0; 4], &spans), (Verdict::Seen, vec![false, true]));
    }

    #[test]
    fn the_stack_a_signal_frame_interrupted_is_looked_through() {
        let code = Box::new(CODE);
        let returned = code.as_ptr() as u64 + 8;
        let mut interrupted = vec![0; 64];
        interrupted[60] = returned;
        let mut stack = vec![0; 100];
        let spans = [span(&code, 0)];
        stack[20] = interrupted.as_ptr() as u64 + 8 * 30;
        assert_eq!(search(&stack, &interrupted, &spans).1, [false], "a pointer is not enough");
        stack[23] = 0x002B_0000_0000_0033;
        assert_eq!(search(&stack, &interrupted, &spans), (Verdict::Seen, vec![true]));
        stack[20] = interrupted.as_ptr() as u64 + 8 * 62;
        interrupted[40] = returned;
        interrupted[60] = 0;
        assert_eq!(search(&stack, &interrupted, &spans).1, [false], "what is below the red zone is dead");
        stack[21] = code.as_ptr() as u64;
        assert_eq!(search(&stack, &interrupted, &spans).1, [true], "the interrupted instruction");
    }

    #[test]
    fn a_stack_pointer_into_nowhere_is_not_seen() {
        let mut found = [false];
        let mut search = Search { spans: &[], memory: &[], found: &mut found, buffer: &mut [0; 4] };
        assert_eq!(search.thread(&[], 0x1000), Verdict::Again);
    }
}

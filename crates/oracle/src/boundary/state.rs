//! Random machine states: registers that often point to memory, and what is in that memory.

use std::ops::Range;

use super::child::Registers;
use crate::rng::Rng;

/// Memory that pointers lead to.
pub(super) const DATA: Range<u64> = 0x2b00_0000_0000..0x2b00_0001_0000;
/// Memory of the stack.
pub(super) const STACK: Range<u64> = 0x2b10_0000_0000..0x2b10_0000_8000;

/// CF PF AF ZF SF OF.
const FLAGS: u64 = 0x8d5;
const DIRECTION: u64 = 0x400;
const ALWAYS: u64 = 0x202;

/// A value as programs have them: a pointer, a small number, an address of code, anything.
fn value(rng: &mut Rng, heads: &[u64]) -> u64 {
    match rng.below(20) {
        0..=9 => pointer(rng),
        10..=14 => rng.below(64),
        15 | 16 if !heads.is_empty() => heads[rng.below(heads.len() as u64) as usize],
        17 => rng.next() as u32 as i32 as u64,
        _ => rng.next(),
    }
}

/// A pointer into the middle half of the data.
fn pointer(rng: &mut Rng) -> u64 {
    let quarter = (DATA.end - DATA.start) / 4;
    DATA.start + quarter + rng.below(2 * quarter / 16) * 16
}

/// Fills memory with such values.
pub(super) fn fill(rng: &mut Rng, heads: &[u64], bytes: &mut [u8]) {
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&value(rng, heads).to_le_bytes());
    }
}

/// Sets the registers of `blank` to begin at `ip`.
pub(super) fn registers(rng: &mut Rng, heads: &[u64], blank: &Registers, ip: u64) -> Registers {
    let mut regs = *blank;
    let middle = (STACK.start + STACK.end) / 2;
    for register in [
        &mut regs.rax,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rbx,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
    ] {
        *register = value(rng, heads);
    }
    regs.rsp = middle - 0x1800 + rng.below(0x200) * 8;
    // Frames are large: what a function has below its frame pointer is not below the red zone.
    regs.rbp = if rng.one_in(2) { regs.rsp + 0x1800 + rng.below(64) * 8 } else { value(rng, heads) };
    regs.fs_base = pointer(rng);
    regs.gs_base = pointer(rng);
    let direction = if rng.one_in(16) { DIRECTION } else { 0 };
    regs.eflags = rng.next() & FLAGS | direction | ALWAYS;
    regs.rip = ip;
    regs
}

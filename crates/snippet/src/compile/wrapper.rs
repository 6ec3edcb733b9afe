//! The code around the function of a program: it counts the runs that end early, and is where faults lead.
//!
//! ```text
//!         push rdi ; push (registers that the function keeps for its caller) ; call function
//! after:  pop ... ; pop rdi
//!         (mov rcx, [rdi + GUARD] ; test rcx, rcx ; jz 1f ; and qword [rcx], 0 ; 1:)
//!         cmp edx, 16 ; jae early
//!         ret
//! early:  lea rcx, [rip + counts] (or a load of its address) ; lock inc [rcx + rdx*8 - 128]
//!         ret
//! fixup:  lea rsp, [rbp + 16] ; mov rbp, [rbp] ; xor eax, eax ; mov edx, 16 ; jmp after
//! ```
//!
//! Where the function faults `rbp` is its frame pointer: its caller's and the return address lie there. So `fixup` returns from it, and
//! what it would have put back is put back here.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, GprSet};

use super::builder::status;
use super::frame;
use crate::tree::Fault;

/// The code, and places in it.
pub(super) struct Wrapper {
    pub bytes: Vec<u8>,
    /// Where faults lead.
    pub fixup: usize,
    /// The displacement of the call of the function.
    pub call: usize,
    /// The displacement to the counts.
    pub counts: usize,
}

/// General registers that this code changes.
pub(super) const CLOBBERS: GprSet = GprSet::of(&[Gpr::Rax, Gpr::Rcx, Gpr::Rdx]);

/// The code around a function that changes `kept`, which its caller shall not notice. `absolute`: the address of the counts is a
/// literal. `guarded`: it may have marked its thread as inside.
pub(super) fn wrap(kept: GprSet, faults: bool, absolute: bool, guarded: bool) -> Wrapper {
    let mut asm = Assembler::new(Addr(0));
    let mut pushed = vec![Gpr::Rdi];
    if faults {
        pushed.extend(kept.iter().filter(|gpr| !matches!(gpr, Gpr::Rbp | Gpr::Rsp)));
    }
    // The stack is aligned at the call if it was at ours (psABI x86-64, 3.2.2).
    if pushed.len().is_multiple_of(2) {
        pushed.push(Gpr::Rdi);
    }
    pushed.iter().for_each(|&register| asm.push(register));
    asm.raw(&[0xE8, 0, 0, 0, 0]);
    let call = asm.bytes().len() - 4;
    let after = asm.bytes().len();
    pushed.iter().rev().for_each(|&register| asm.pop(register));
    if guarded {
        asm.mov_load(Gpr::Rcx, Gpr::Rdi, frame::GUARD);
        asm.raw(&[0x48, 0x85, 0xC9, 0x74, 4, 0x48, 0x83, 0x21, 0]);
    }
    asm.raw(&[0x83, 0xFA, status::FAULT as u8, 0x73, 1, 0xC3]);
    asm.raw(&[0x48, if absolute { 0x8B } else { 0x8D }, 0x0D, 0, 0, 0, 0]);
    let counts = asm.bytes().len() - 4;
    asm.raw(&[0xF0, 0x48, 0xFF, 0x44, 0xD1, (-8 * status::FAULT) as i8 as u8, 0xC3]);
    let fixup = asm.bytes().len();
    if faults {
        asm.lea(Gpr::Rsp, Gpr::Rbp, 16);
        asm.mov_load(Gpr::Rbp, Gpr::Rbp, 0);
        asm.mov_imm(Gpr::Rax, 0);
        asm.mov_imm(Gpr::Rdx, (status::FAULT + Fault::Memory as i64) as u64);
        asm.jump(Addr(after as u64));
    }
    Wrapper { bytes: asm.into_bytes(), fixup, call, counts }
}

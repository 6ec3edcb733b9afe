//! Conditional branches: `jcc`, `loop`, `loope`, `loopne`, `jrcxz`, `jecxz`.
//!
//! Branch hints (2e, 3e) and `bnd` are dropped: they have no architectural effect. Prefix 67, which
//! chooses the counter, is kept where there is a counter.

use super::RelocateError;
use super::encoding::{ADDRESS_SIZE, Prefixes};
use super::jump::check_operand_size;
use crate::Addr;
use crate::x86_64::{Assembler, Insn};

/// Length of `jcc rel32`.
const JCC_LEN: u64 = 6;
/// Length of `jmp [rip]` with its literal.
const FAR_JUMP_LEN: u8 = 14;

pub(super) fn displace(insn: &Insn, target: Addr, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    let iced = insn.iced();
    let prefixes = Prefixes::of(insn);
    let opcode = &insn.bytes()[prefixes.len..];
    match *opcode {
        [0x0F, second, ..] if iced.is_jcc_near() => jcc(second & 0x0F, target, asm),
        [first, _] if iced.is_jcc_short() => jcc(first & 0x0F, target, asm),
        [first, _] => counted(first, prefixes.contain(insn, ADDRESS_SIZE), target, asm),
        _ => return Err(RelocateError::Encoding { at: insn.addr() }),
    }
    Ok(())
}

/// `jcc rel32` in reach, else the opposite `jcc` over a far jump.
fn jcc(condition: u8, target: Addr, asm: &mut Assembler) {
    if asm.reaches(target, JCC_LEN) {
        asm.relative(&[0x0F, 0x80 | condition], target);
    } else {
        asm.raw(&[0x70 | condition ^ 1, FAR_JUMP_LEN]);
        asm.jump_far(target);
    }
}

/// `loop` and its like have no long form and no opposite: taken goes over a jump that goes over the jump
/// to the target.
fn counted(opcode: u8, narrow: bool, target: Addr, asm: &mut Assembler) {
    if narrow {
        asm.raw(&[ADDRESS_SIZE]);
    }
    asm.raw(&[opcode, 2]);
    let near = asm.reaches(target, 2 + 5);
    asm.raw(&[0xEB, if near { 5 } else { FAR_JUMP_LEN }]);
    if near { asm.jump(target) } else { asm.jump_far(target) }
}

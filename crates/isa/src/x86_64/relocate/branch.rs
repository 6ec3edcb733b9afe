//! Conditional branches: `jcc`, `loop`, `loope`, `loopne`, `jrcxz`, `jecxz`.
//!
//! Before `jcc`, branch hints (2e, 3e) and `bnd` are dropped: they have no architectural effect. Before
//! `loop` and its like all prefixes are kept: 67 chooses the counter, and AMD processors let f2 and f3
//! choose the condition.

use super::RelocateError;
use super::encoding::Prefixes;
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
        [_, _] => counted(&insn.bytes()[..insn.len() - 1], target, asm),
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

/// `loop` and its like (prefixes and opcode in `head`) have no long form and no opposite: taken goes over
/// a jump that goes over the jump to the target.
fn counted(head: &[u8], target: Addr, asm: &mut Assembler) {
    asm.raw(head);
    asm.raw(&[2]);
    let near = asm.reaches(target, 2 + 5);
    asm.raw(&[0xEB, if near { 5 } else { FAR_JUMP_LEN }]);
    if near { asm.jump(target) } else { asm.jump_far(target) }
}

#[cfg(test)]
mod tests {
    use crate::x86_64::relocate::testing::{FAR, NEAR, assert_bytes};

    const TARGET: &str = "ff 25 00 00 00 00 12 10 00 00 00 7f 00 00";

    #[test]
    fn conditional_jumps_become_long_in_reach() {
        assert_bytes("74 10", NEAR, "0f 84 0c 10 00 f0");
        assert_bytes("0f 8f 10 00 00 00", NEAR, "0f 8f 10 10 00 f0");
        assert_bytes("3e 74 10", NEAR, "0f 84 0d 10 00 f0");
        assert_bytes("f2 0f 8f 10 00 00 00", NEAR, "0f 8f 11 10 00 f0");
    }

    #[test]
    fn out_of_reach_the_opposite_condition_goes_over_a_far_jump() {
        for condition in 0..16 {
            let opposite = condition ^ 1;
            assert_bytes(&format!("7{condition:x} 10"), FAR, &format!("7{opposite:x} 0e {TARGET}"));
            assert_bytes(
                &format!("0f 8{condition:x} 0c 00 00 00"),
                FAR,
                &format!("7{opposite:x} 0e {TARGET}"),
            );
        }
    }

    #[test]
    fn counted_branches_go_over_a_jump() {
        for opcode in ["e0", "e1", "e2", "e3"] {
            assert_bytes(&format!("{opcode} 10"), NEAR, &format!("{opcode} 02 eb 05 e9 09 10 00 f0"));
            assert_bytes(&format!("{opcode} 10"), FAR, &format!("{opcode} 02 eb 0e {TARGET}"));
            assert_bytes(&format!("67 {opcode} 0f"), FAR, &format!("67 {opcode} 02 eb 0e {TARGET}"));
        }
        assert_bytes("2e 48 67 e3 0d", FAR, &format!("2e 48 67 e3 02 eb 0e {TARGET}"));
        assert_bytes("f3 e0 0f", FAR, &format!("f3 e0 02 eb 0e {TARGET}"));
        assert_bytes("67 f2 e1 0e", NEAR, "67 f2 e1 02 eb 05 e9 07 10 00 f0");
    }
}

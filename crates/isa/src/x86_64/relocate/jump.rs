//! `jmp rel` and `jmp r/m`.

use super::RelocateError;
use super::encoding::{IpRelative, OPERAND_SIZE, Prefixes, scratch, used_registers};
use crate::Addr;
use crate::x86_64::{Assembler, Gpr, Insn};

/// Refuses a near branch with an operand size prefix.
pub(super) fn check_operand_size(insn: &Insn) -> Result<(), RelocateError> {
    match Prefixes::of(insn).contain(insn, OPERAND_SIZE) {
        true => Err(RelocateError::OperandSize { at: insn.addr() }),
        false => Ok(()),
    }
}

/// `jmp rel8` and `jmp rel32`. Prefixes are dropped: `bnd` has lost its meaning with MPX, the others
/// have none here.
pub(super) fn direct(insn: &Insn, target: Addr, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    asm.jump(target);
    Ok(())
}

/// `jmp r/m`. Only an operand relative to the instruction pointer changes; out of reach, the target goes
/// through the stack below the red zone:
///
/// ```text
/// lea rsp, [rsp-136] ; push s ; mov s, address ; push [s] ; pop [rsp+8] ; pop s ; ret 128
/// ```
pub(super) fn indirect(insn: &Insn, shadow_stack: bool, asm: &mut Assembler) -> Result<(), RelocateError> {
    let Some(target) = insn.ip_relative_target() else {
        asm.raw(insn.bytes());
        return Ok(());
    };
    let operand = IpRelative::of(insn, target)?;
    if let Some(moved) = operand.moved(asm.here()) {
        asm.raw(moved.as_slice());
        return Ok(());
    }
    check_operand_size(insn)?;
    if shadow_stack {
        return Err(RelocateError::ShadowStack { at: insn.addr() });
    }
    asm.lea_rsp(-136);
    push_target(insn, &operand, asm)?;
    asm.raw(&RETURN_OVER_RED_ZONE);
    Ok(())
}

/// ModRM.reg of `push` in the opcode group of `jmp` and `call` (AMD APM vol. 3, table A-6, group 5).
pub(super) const PUSH: u8 = 6;
/// ModRM.reg of `jmp` in the same group.
pub(super) const JMP: u8 = 4;

/// `ret 128`.
pub(super) const RETURN_OVER_RED_ZONE: [u8; 3] = [0xC2, 128, 0];

/// Writes the branch target that `operand` holds to `[rsp]`. The 16 bytes below are overwritten.
pub(super) fn push_target(
    insn: &Insn,
    operand: &IpRelative,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    let [address] = scratch(insn, used_registers(insn))?;
    asm.push(address);
    asm.mov_imm(address, operand.target.0);
    let mut push = operand.through(address);
    operand.set_extension(&mut push, PUSH);
    asm.raw(push.as_slice());
    asm.pop_store(Gpr::Rsp, 8);
    asm.pop(address);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::relocate::testing::{FAR, FROM, NEAR, assert_bytes, assert_code, copy};

    #[test]
    fn direct_jumps_become_long() {
        assert_bytes("eb 10", NEAR, "e9 0d 10 00 f0");
        assert_bytes("e9 10 00 00 00", NEAR, "e9 10 10 00 f0");
        assert_bytes("f2 e9 10 00 00 00", NEAR, "e9 11 10 00 f0");
        assert_bytes("eb 10", FAR, "ff 25 00 00 00 00 12 10 00 00 00 7f 00 00");
    }

    #[test]
    fn indirect_jumps_keep_their_prefixes_in_reach() {
        assert_bytes("3e ff 25 00 01 00 00", NEAR, "3e ff 25 00 11 00 f0");
        assert_bytes("66 ff 25 00 01 00 00", NEAR, "66 ff 25 00 11 00 f0");
        assert_bytes("67 ff 25 00 01 00 00", FAR, "67 ff 25 00 11 00 00");
    }

    #[test]
    fn indirect_jumps_out_of_reach_go_through_the_stack_below_the_red_zone() {
        assert_code(
            "ff 25 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x88]",
                "push rax",
                "mov rax, 0x7f0000001106",
                "push qword [rax]",
                "pop qword [rsp+8]",
                "pop rax",
                "ret 0x80",
            ],
        );
    }

    #[test]
    fn an_operand_size_prefix_is_refused() {
        let refused = Err(RelocateError::OperandSize { at: FROM });
        for bytes in
            ["66 e9 00 00 00 00", "66 eb 00", "66 e8 00 00 00 00", "66 ff d0", "66 74 00", "66 e2 00"]
        {
            assert_eq!(copy(bytes, NEAR), refused, "{bytes}");
        }
        assert_eq!(copy("66 ff 25 00 01 00 00", FAR), refused);
    }
}

//! `call rel32` and `call r/m`: the original return address is pushed, then a jump goes to the target.
//! Under a shadow stack that cannot work, and the caller has refused already.

use iced_x86::{OpKind, Register};

use super::RelocateError;
use super::encoding::{IpRelative, jump_behind_push, with_extension};
use super::jump::{JMP, PUSH, RETURN_OVER_RED_ZONE, check_operand_size, push_target};
use crate::Addr;
use crate::x86_64::{Assembler, Gpr, Insn};

/// `call rel32`. Prefixes are dropped, as in a direct jump.
pub(super) fn direct(insn: &Insn, target: Addr, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    let pushed = ReturnAddress::of(insn);
    if asm.reaches(target, u64::from(pushed.push_len()) + 5) {
        pushed.push(5, asm);
        asm.jump(target);
    } else {
        pushed.push(14, asm);
        asm.jump_far(target);
    }
    pushed.literal(asm);
    Ok(())
}

/// `call r/m`.
pub(super) fn indirect(insn: &Insn, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    let pushed = ReturnAddress::of(insn);
    if let Some(target) = insn.ip_relative_target() {
        return ip_relative(insn, target, &pushed, asm);
    }
    match Operand::of(insn) {
        Operand::Apart => push_and_jump(with_extension(insn, JMP)?.as_slice(), &pushed, asm),
        Operand::Stack(displacement) => match jump_behind_push(insn, displacement) {
            Some(jump) => push_and_jump(jump.as_slice(), &pushed, asm),
            None => read_then_push(insn, &pushed, asm)?,
        },
        Operand::MayBePushedOver => read_then_push(insn, &pushed, asm)?,
    }
    Ok(())
}

/// How the operand of `call r/m` is related to the stack pointer.
enum Operand {
    /// Not at all.
    Apart,
    /// `[rsp + displacement]`, and not in the slot that the call pushes.
    Stack(i32),
    /// It is `rsp`, or may lie in the slot that the call pushes.
    MayBePushedOver,
}

impl Operand {
    fn of(insn: &Insn) -> Operand {
        let iced = insn.iced();
        if iced.op0_kind() == OpKind::Register {
            return match iced.op0_register() {
                Register::RSP => Operand::MayBePushedOver,
                _ => Operand::Apart,
            };
        }
        let displacement = iced.memory_displacement64() as i32;
        match (iced.memory_base(), iced.memory_index()) {
            // Eight bytes are read, and eight are pushed.
            (Register::RSP | Register::ESP, Register::None) if !(-15..0).contains(&displacement) => {
                Operand::Stack(displacement)
            }
            (Register::RSP | Register::ESP, _) => Operand::MayBePushedOver,
            _ => Operand::Apart,
        }
    }
}

fn push_and_jump(jump: &[u8], pushed: &ReturnAddress, asm: &mut Assembler) {
    pushed.push(jump.len() as u8, asm);
    asm.raw(jump);
    pushed.literal(asm);
}

/// Reads the target before anything is pushed, and keeps it below the red zone until `ret` takes it:
///
/// ```text
/// push TARGET ; lea rsp, [rsp-128] ; push [rsp+128] ; push RETURN ; pop [rsp+136] ; ret 128
/// ```
fn read_then_push(insn: &Insn, pushed: &ReturnAddress, asm: &mut Assembler) -> Result<(), RelocateError> {
    asm.raw(with_extension(insn, PUSH)?.as_slice());
    asm.skip_red_zone();
    asm.push_load(Gpr::Rsp, 128);
    return_under_target(pushed, asm);
    Ok(())
}

/// `call [rip + x]`. Out of reach:
///
/// ```text
/// lea rsp, [rsp-144] ; push s ; mov s, address ; push [s] ; pop [rsp+8] ; pop s
/// push RETURN ; pop [rsp+136] ; ret 128
/// ```
fn ip_relative(
    insn: &Insn,
    target: Addr,
    pushed: &ReturnAddress,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    let operand = IpRelative::of(insn, target)?;
    if let Some(mut moved) = operand.moved(asm.here() + u64::from(pushed.push_len())) {
        operand.set_extension(&mut moved, JMP);
        push_and_jump(moved.as_slice(), pushed, asm);
        return Ok(());
    }
    asm.lea_rsp(-144);
    push_target(insn, &operand, asm)?;
    return_under_target(pushed, asm);
    Ok(())
}

/// With the target at `[rsp]`, puts the return address where the call would, 136 bytes above, and goes.
fn return_under_target(pushed: &ReturnAddress, asm: &mut Assembler) {
    /// `pop [rsp+136]`, which is 7 bytes, and `ret 128`.
    const BEHIND: u8 = 7 + RETURN_OVER_RED_ZONE.len() as u8;
    pushed.push(BEHIND, asm);
    asm.pop_store(Gpr::Rsp, 136);
    asm.raw(&RETURN_OVER_RED_ZONE);
    pushed.literal(asm);
}

/// The return address of the original call, and how it is pushed: as an immediate if it fits, else from
/// a literal behind the code.
struct ReturnAddress(Addr);

impl ReturnAddress {
    fn of(insn: &Insn) -> ReturnAddress {
        ReturnAddress(insn.end())
    }

    fn immediate(&self) -> Option<i32> {
        let value = self.0.0 as i32;
        (value as u64 == self.0.0).then_some(value)
    }

    fn push_len(&self) -> u8 {
        if self.immediate().is_some() { 5 } else { 6 }
    }

    /// Pushes it; `behind` bytes of code come before [`ReturnAddress::literal`].
    fn push(&self, behind: u8, asm: &mut Assembler) {
        match self.immediate() {
            Some(value) => {
                asm.raw(&[0x68]);
                asm.raw(&value.to_le_bytes());
            }
            None => asm.raw(&[0xFF, 0x35, behind, 0, 0, 0]),
        }
    }

    fn literal(&self, asm: &mut Assembler) {
        if self.immediate().is_none() {
            asm.raw(&self.0.0.to_le_bytes());
        }
    }
}

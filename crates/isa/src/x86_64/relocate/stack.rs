//! `push [rip + x]` and `pop [rip + x]` out of reach. The value goes through the stack below the red
//! zone, so that one scratch register is enough and both widths work alike.

use super::RelocateError;
use super::encoding::{IpRelative, OPERAND_SIZE, scratch, used_registers};
use crate::x86_64::{Assembler, Gpr, Insn};

/// `push` of `width` bytes (2 or 8).
pub(super) fn push(
    insn: &Insn,
    operand: &IpRelative,
    width: i32,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    let [address] = scratch(insn, used_registers(insn))?;
    asm.lea_rsp(-128 - width);
    asm.push(address);
    asm.mov_imm(address, operand.target.0);
    asm.raw(operand.through(address).as_slice());
    narrow(width, asm);
    asm.pop_store(Gpr::Rsp, 136);
    asm.pop(address);
    asm.unskip_red_zone();
    Ok(())
}

/// `pop` of `width` bytes (2 or 8).
pub(super) fn pop(
    insn: &Insn,
    operand: &IpRelative,
    width: i32,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    let [address] = scratch(insn, used_registers(insn))?;
    asm.skip_red_zone();
    asm.push(address);
    asm.mov_imm(address, operand.target.0);
    narrow(width, asm);
    asm.push_load(Gpr::Rsp, 136);
    asm.raw(operand.through(address).as_slice());
    asm.pop(address);
    asm.lea_rsp(128 + width);
    Ok(())
}

fn narrow(width: i32, asm: &mut Assembler) {
    if width == 2 {
        asm.raw(&[OPERAND_SIZE]);
    }
}

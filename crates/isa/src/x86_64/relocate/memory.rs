//! Memory operands relative to the instruction pointer.
//!
//! In reach, the displacement changes and nothing else. Out of reach, a scratch register holds the
//! address:
//!
//! ```text
//! lea rsp, [rsp-128] ; push s ; mov s, address ; INSN [s] ; pop s ; lea rsp, [rsp+128]
//! ```
//!
//! None of the added instructions touches a flag. If `rsp` is an operand as well, a second register
//! stands for it, and goes back into it through a slot above the saved registers:
//!
//! ```text
//! lea rsp, [rsp-136] ; push s ; push t ; lea t, [rsp+152] ; mov s, address
//! INSN t, [s]
//! mov [rsp+16], t ; pop t ; pop s ; pop rsp
//! ```

use iced_x86::Code;

use super::encoding::{IpRelative, scratch, used_registers};
use super::{RelocateError, stack};
use crate::x86_64::{Assembler, Gpr, Insn};

/// An instruction that goes on behind itself and has an operand relative to the instruction pointer.
pub(super) fn displace(insn: &Insn, asm: &mut Assembler) -> Result<(), RelocateError> {
    let Some(target) = insn.ip_relative_target().filter(|_| !insn.is_nop()) else {
        asm.raw(insn.bytes());
        return Ok(());
    };
    let operand = IpRelative::of(insn, target)?;
    if let Some(moved) = operand.moved(asm.here()) {
        asm.raw(moved.as_slice());
        return Ok(());
    }
    match insn.iced().code() {
        Code::Lea_r64_m => {
            asm.mov_imm(Gpr::ALL[insn.iced().op0_register().number() & 15], target.0);
            Ok(())
        }
        Code::Push_rm16 => stack::push(insn, &operand, 2, asm),
        Code::Push_rm64 => stack::push(insn, &operand, 8, asm),
        Code::Pop_rm16 => stack::pop(insn, &operand, 2, asm),
        Code::Pop_rm64 => stack::pop(insn, &operand, 8, asm),
        _ => through_scratch(insn, &operand, asm),
    }
}

fn through_scratch(insn: &Insn, operand: &IpRelative, asm: &mut Assembler) -> Result<(), RelocateError> {
    let used = used_registers(insn);
    if used.contains(Gpr::Rsp) {
        let [address, stand_in] = scratch(insn, used)?;
        let mut raw = operand.through(address);
        operand.replace_rsp(&mut raw, stand_in)?;
        asm.lea_rsp(-136);
        asm.push(address);
        asm.push(stand_in);
        asm.lea(stand_in, Gpr::Rsp, 152);
        asm.mov_imm(address, operand.target.0);
        asm.raw(raw.as_slice());
        asm.mov_store(Gpr::Rsp, 16, stand_in);
        asm.pop(stand_in);
        asm.pop(address);
        asm.pop(Gpr::Rsp);
    } else {
        let [address] = scratch(insn, used)?;
        asm.skip_red_zone();
        asm.push(address);
        asm.mov_imm(address, operand.target.0);
        asm.raw(operand.through(address).as_slice());
        asm.pop(address);
        asm.unskip_red_zone();
    }
    Ok(())
}

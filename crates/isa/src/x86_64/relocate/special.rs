//! Transactions, system calls, far transfers.

use iced_x86::{FlowControl, Mnemonic};

use super::RelocateError;
use super::encoding::IpRelative;
use super::jump::check_operand_size;
use crate::Addr;
use crate::x86_64::{Assembler, Gpr, Insn};

/// `xbegin`. An abort goes to `target` directly, or by a far jump behind the instruction.
pub(super) fn begin(insn: &Insn, target: Addr, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    if asm.reaches(target, 6) {
        asm.relative(&[0xC7, 0xF8], target);
    } else {
        asm.raw(&[0xC7, 0xF8, 2, 0, 0, 0]);
        asm.raw(&[0xEB, 14]);
        asm.jump_far(target);
    }
    Ok(())
}

/// `syscall` leaves the address behind itself in `rcx` (AMD APM vol. 3, SYSCALL): the original's is put
/// there. `sysenter` has no such address.
pub(super) fn syscall(insn: &Insn, asm: &mut Assembler) -> Result<(), RelocateError> {
    if insn.iced().mnemonic() != Mnemonic::Syscall {
        return Err(RelocateError::Sysenter { at: insn.addr() });
    }
    asm.raw(insn.bytes());
    asm.mov_imm(Gpr::Rcx, insn.end().0);
    Ok(())
}

/// Far jumps and returns depend on their own address only through their operand.
pub(super) fn far(insn: &Insn, asm: &mut Assembler) -> Result<(), RelocateError> {
    let at = insn.addr();
    if insn.iced().flow_control() == FlowControl::IndirectCall {
        return Err(RelocateError::FarCall { at });
    }
    match insn.ip_relative_target() {
        None => asm.raw(insn.bytes()),
        Some(target) => {
            let moved = IpRelative::of(insn, target)?.moved(asm.here());
            asm.raw(moved.ok_or(RelocateError::FarPointer { at, target })?.as_slice());
        }
    }
    Ok(())
}

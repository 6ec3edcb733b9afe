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
pub(super) fn syscall(insn: &Insn, moves: bool, asm: &mut Assembler) -> Result<(), RelocateError> {
    if insn.iced().mnemonic() != Mnemonic::Syscall {
        return Err(RelocateError::Sysenter { at: insn.addr() });
    }
    let (at, target) = (insn.addr(), insn.end());
    if moves && !super::in_reach_of_all(asm, target) {
        return Err(RelocateError::OutOfReach { at, target });
    }
    asm.raw(insn.bytes());
    if moves {
        asm.relative(&[0x48, 0x8D, 0x0D], insn.end()); // lea rcx, [rip + x]
    } else {
        asm.mov_imm(Gpr::Rcx, insn.end().0);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::relocate::testing::{FAR, FROM, NEAR, assert_bytes, copy};

    #[test]
    fn an_abort_goes_to_the_original_target() {
        assert_bytes("c7 f8 10 00 00 00", NEAR, "c7 f8 10 10 00 f0");
        assert_bytes(
            "c7 f8 10 00 00 00",
            FAR,
            "c7 f8 02 00 00 00 eb 0e ff 25 00 00 00 00 16 10 00 00 00 7f 00 00",
        );
    }

    #[test]
    fn a_system_call_leaves_the_original_address_in_rcx() {
        assert_bytes("0f 05", NEAR, "0f 05 48 b9 02 10 00 00 00 7f 00 00");
        assert_eq!(copy("0f 34", NEAR), Err(RelocateError::Sysenter { at: FROM }));
    }

    #[test]
    fn far_transfers_move_only_with_their_pointer_in_reach() {
        assert_bytes("48 ff 2d 00 01 00 00", NEAR, "48 ff 2d 00 11 00 f0");
        let target = FROM + 0x107;
        assert_eq!(copy("48 ff 2d 00 01 00 00", FAR), Err(RelocateError::FarPointer { at: FROM, target }));
        for call in ["ff 1c 24", "48 ff 1d 00 01 00 00"] {
            assert_eq!(copy(call, NEAR), Err(RelocateError::FarCall { at: FROM }), "{call}");
        }
    }
}

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

#[cfg(test)]
mod tests {
    use crate::x86_64::relocate::testing::{FAR, assert_code};

    #[test]
    fn push_out_of_reach() {
        assert_code(
            "ff 35 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x88]",
                "push rax",
                "mov rax, 0x7f0000001106",
                "push qword [rax]",
                "pop qword [rsp+0x88]",
                "pop rax",
                "lea rsp, [rsp+0x80]",
            ],
        );
        assert_code(
            "65 66 ff 35 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x82]",
                "push rax",
                "mov rax, 0x7f0000001108",
                "push word [gs:rax]",
                "pop word [rsp+0x88]",
                "pop rax",
                "lea rsp, [rsp+0x80]",
            ],
        );
    }

    #[test]
    fn pop_out_of_reach() {
        assert_code(
            "8f 05 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x80]",
                "push rax",
                "mov rax, 0x7f0000001106",
                "push qword [rsp+0x88]",
                "pop qword [rax]",
                "pop rax",
                "lea rsp, [rsp+0x88]",
            ],
        );
        assert_code(
            "66 8f 05 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x80]",
                "push rax",
                "mov rax, 0x7f0000001107",
                "push word [rsp+0x88]",
                "pop word [rax]",
                "pop rax",
                "lea rsp, [rsp+0x82]",
            ],
        );
    }
}

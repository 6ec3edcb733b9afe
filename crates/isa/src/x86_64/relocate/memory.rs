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

#[cfg(test)]
mod tests {
    use crate::x86_64::relocate::testing::{FAR, NEAR, assert_bytes, assert_code};

    const ADDRESS: &str = "0x7f0000001107";

    /// The copy of an instruction 7 bytes long, 0x100 bytes before its data, out of reach.
    #[track_caller]
    fn assert_through(original: &str, scratch: &str, expected: &str) {
        assert_code(
            original,
            FAR,
            &[
                "lea rsp, [rsp-0x80]",
                &format!("push {scratch}"),
                &format!("mov {scratch}, {ADDRESS}"),
                expected,
                &format!("pop {scratch}"),
                "lea rsp, [rsp+0x80]",
            ],
        );
    }

    /// The same for an instruction with `rsp` as an operand.
    #[track_caller]
    fn assert_through_stand_in(original: &str, address: u64, [scratch, stand_in]: [&str; 2], expected: &str) {
        assert_code(
            original,
            FAR,
            &[
                "lea rsp, [rsp-0x88]",
                &format!("push {scratch}"),
                &format!("push {stand_in}"),
                &format!("lea {stand_in}, [rsp+0x98]"),
                &format!("mov {scratch}, {address:#x}"),
                expected,
                &format!("mov [rsp+0x10], {stand_in}"),
                &format!("pop {stand_in}"),
                &format!("pop {scratch}"),
                "pop rsp",
            ],
        );
    }

    #[test]
    fn in_reach_only_the_displacement_changes() {
        // The displacement counts from the end of the instruction, behind the immediate.
        assert_bytes("48 8b 05 00 01 00 00", NEAR, "48 8b 05 00 11 00 f0");
        assert_bytes("c7 05 00 01 00 00 78 56 34 12", NEAR, "c7 05 00 11 00 f0 78 56 34 12");
        assert_bytes("f0 40 48 ff 05 00 01 00 00", NEAR, "f0 40 48 ff 05 00 11 00 f0");
        assert_bytes("c5 fc 58 05 00 01 00 00", NEAR, "c5 fc 58 05 00 11 00 f0");
        assert_bytes("62 f1 7c 48 58 05 00 01 00 00", NEAR, "62 f1 7c 48 58 05 00 11 00 f0");
        assert_bytes("0f 0f 05 00 01 00 00 9e", NEAR, "0f 0f 05 00 11 00 f0 9e");
        assert_bytes("64 8b 05 00 01 00 00", NEAR, "64 8b 05 00 11 00 f0");
        assert_bytes("48 8b 25 00 01 00 00", NEAR, "48 8b 25 00 11 00 f0");
        assert_bytes("ff 35 00 01 00 00", NEAR, "ff 35 00 11 00 f0");
        assert_bytes("48 8d 05 00 01 00 00", NEAR, "48 8d 05 00 11 00 f0");
    }

    #[test]
    fn a_32_bit_address_is_in_reach_of_everything() {
        // mov eax, [eip+0x100]: 0x1108 both times.
        assert_bytes("67 48 8b 05 00 01 00 00", FAR, "67 48 8b 05 00 11 00 00");
        // lea of 32 and 16 bits.
        assert_bytes("8d 05 00 01 00 00", FAR, "8d 05 00 11 00 00");
        assert_bytes("66 8d 05 00 01 00 00", FAR, "66 8d 05 00 11 00 00");
    }

    #[test]
    fn lea_out_of_reach_is_a_constant() {
        assert_code("48 8d 05 00 01 00 00", FAR, &["mov rax, 0x7f0000001107"]);
        assert_code("4c 8d 3d 00 01 00 00", FAR, &["mov r15, 0x7f0000001107"]);
        assert_code("48 8d 25 00 01 00 00", FAR, &["mov rsp, 0x7f0000001107"]);
    }

    #[test]
    fn out_of_reach_a_scratch_register_holds_the_address() {
        assert_through("48 8b 05 00 01 00 00", "rcx", "mov rax, [rcx]");
        assert_through("48 8b 0d 00 01 00 00", "rax", "mov rcx, [rax]");
        assert_through("64 8b 15 00 01 00 00", "rax", "mov edx, [fs:rax]");
        assert_through("83 05 00 01 00 00 7f", "rax", "add dword [rax], 0x7f");
        assert_through("0f b0 0d 00 01 00 00", "rdx", "cmpxchg [rdx], cl");
    }

    #[test]
    fn the_scratch_register_is_not_one_used_implicitly() {
        // cmpxchg16b: rax, rbx, rcx, rdx. mulx: rdx. div: rax, rdx. xsave: eax, edx. shl: cl.
        assert_code(
            "f0 48 0f c7 0d 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x80]",
                "push rsi",
                "mov rsi, 0x7f0000001109",
                "lock cmpxchg16b [rsi]",
                "pop rsi",
                "lea rsp, [rsp+0x80]",
            ],
        );
        assert_through("48 f7 35 00 01 00 00", "rcx", "div qword [rcx]");
        assert_through("0f ae 25 00 01 00 00", "rcx", "xsave [rcx]");
        assert_through("48 d3 25 00 01 00 00", "rax", "shl qword [rax], cl");
        assert_through("0f ae 2d 00 01 00 00", "rcx", "xrstor [rcx]");
        assert_through("0f c7 0d 00 01 00 00", "rsi", "cmpxchg8b [rsi]");
    }

    #[test]
    fn a_high_byte_register_stays_one() {
        assert_code(
            "8a 25 00 01 00 00",
            FAR,
            &[
                "lea rsp, [rsp-0x80]",
                "push rcx",
                "mov rcx, 0x7f0000001106",
                "mov ah, [rcx]",
                "pop rcx",
                "lea rsp, [rsp+0x80]",
            ],
        );
    }

    #[test]
    fn extension_bits_of_the_base_are_cleared_in_every_encoding() {
        // Each has its base bit set as if the operand had a base above r7.
        assert_through("49 8b 05 00 01 00 00", "rcx", "mov rax, [rcx]");
        for (original, expected) in [
            ("c4 c1 7c 58 05 00 01 00 00", "vaddps ymm0, ymm0, [rax]"),
            ("62 d1 7c 48 58 05 00 01 00 00", "vaddps zmm0, zmm0, [rax]"),
            ("8f c9 78 81 05 00 01 00 00", "vfrczpd xmm0, [rax]"),
            ("c5 fc 58 05 00 01 00 00", "vaddps ymm0, ymm0, [rax]"),
        ] {
            let end = 0x7f00_0000_1100 + original.split(' ').count();
            assert_code(
                original,
                FAR,
                &[
                    "lea rsp, [rsp-0x80]",
                    "push rax",
                    &format!("mov rax, {end:#x}"),
                    expected,
                    "pop rax",
                    "lea rsp, [rsp+0x80]",
                ],
            );
        }
    }

    #[test]
    fn masks_broadcasts_and_immediates_survive() {
        for (original, expected) in [
            // vaddps zmm1{k2}{z}, zmm3, dword [rip+x]{1to16}
            ("62 f1 64 da 58 0d 00 01 00 00", "vaddps zmm1{k2}{z}, zmm3, [rax]{1to16}"),
            ("c4 e3 75 0f 05 00 01 00 00 07", "vpalignr ymm0, ymm1, [rax], 7"),
        ] {
            let end = 0x7f00_0000_1100 + original.split(' ').count();
            assert_code(
                original,
                FAR,
                &[
                    "lea rsp, [rsp-0x80]",
                    "push rax",
                    &format!("mov rax, {end:#x}"),
                    expected,
                    "pop rax",
                    "lea rsp, [rsp+0x80]",
                ],
            );
        }
    }

    #[test]
    fn another_register_stands_for_rsp() {
        let s = ["rax", "rcx"];
        let end = 0x7f00_0000_1107;
        assert_through_stand_in("48 8b 25 00 01 00 00", end, s, "mov rcx, [rax]");
        assert_through_stand_in("48 89 25 00 01 00 00", end, s, "mov [rax], rcx");
        assert_through_stand_in("48 87 25 00 01 00 00", end, s, "xchg rcx, [rax]");
        assert_through_stand_in("66 03 25 00 01 00 00", end, s, "add cx, [rax]");
        assert_through_stand_in("48 3b 25 00 01 00 00", end, s, "cmp rcx, [rax]");
        assert_through_stand_in("8b 25 00 01 00 00", end - 1, s, "mov ecx, [rax]");
        assert_through_stand_in("40 8a 25 00 01 00 00", end, s, "mov cl, [rax]");
        assert_through_stand_in("48 0f 44 25 00 01 00 00", end + 1, s, "cmove rcx, [rax]");
        assert_through_stand_in("48 6b 25 00 01 00 00 10", end + 1, s, "imul rcx, [rax], 0x10");
        assert_through_stand_in(
            "f0 48 0f b1 25 00 01 00 00",
            end + 2,
            ["rcx", "rdx"],
            "lock cmpxchg [rcx], rdx",
        );
        assert_through_stand_in("66 0f 38 f8 25 00 01 00 00", end + 2, s, "movdir64b rcx, [rax]");
    }

    #[test]
    fn rsp_in_a_vex_or_xop_register_field() {
        let end = 0x7f00_0000_1109;
        let s = ["rax", "rcx"];
        // andn rsp, rsp, [rip+x]; shlx rax, [rip+x], rsp; bextr rbx, [rip+x], rsp; blcfill rsp, [rip+x].
        assert_through_stand_in("c4 e2 d8 f2 25 00 01 00 00", end, s, "andn rcx, rcx, [rax]");
        assert_through_stand_in("c4 e2 d9 f7 05 00 01 00 00", end, ["rcx", "rdx"], "shlx rax, [rcx], rdx");
        assert_through_stand_in("c4 e2 d8 f7 1d 00 01 00 00", end, s, "bextr rbx, [rax], rcx");
        assert_through_stand_in("8f e9 d8 01 0d 00 01 00 00", end, ["rax", "rcx"], "blcfill rcx, [rax]");
        // vcvttsd2si rsp, [rip+x], by VEX in both lengths and by EVEX.
        assert_through_stand_in("c5 fb 2c 25 00 01 00 00", end - 1, s, "vcvttsd2si ecx, [rax]");
        assert_through_stand_in("c4 e1 fb 2c 25 00 01 00 00", end, s, "vcvttsd2si rcx, [rax]");
        assert_through_stand_in("62 f1 ff 08 2c 25 00 01 00 00", end + 1, s, "vcvttsd2si rcx, [rax]");
    }
}

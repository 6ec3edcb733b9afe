//! Code that runs only on one way in or out of an instruction: an indirect jump to one of its targets, a
//! return to behind one call.
//!
//! A guard changes no register, no flag and no memory but the stack below the red zone:
//!
//! ```text
//!     lea rsp, [rsp-128] ; push rcx ; push rdx
//!     mov rcx, value ; lea rdx, [rip+wanted] ; not rdx ; lea rcx, [rcx+rdx+1]
//!     jrcxz same
//!     pop rdx ; pop rcx ; lea rsp, [rsp+128] ; jmp behind
//! same:
//!     pop rdx ; pop rcx ; lea rsp, [rsp+128]
//!     (the guarded code)
//! behind:
//! ```

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, OpKind, Register};

use super::{Assembler, Flow, Gpr, Insn, RelocateError};
use crate::Addr;

/// What a guard lets through.
#[derive(Clone, Copy)]
pub enum Guarded<'a> {
    /// The indirect jump `insn`, when it goes to the address.
    Toward(&'a Insn, Addr),
    /// What comes by the address because a call pushed it and a `ret` (without an operand) popped it: it lies just
    /// below `rsp` then, where signal frames leave it alone. The word there is cleared, so that control which
    /// comes by another way finds nothing.
    Returned(Addr),
}

/// A guard whose code is not complete: [`Guard::close`] it.
#[must_use]
pub struct Guard {
    /// Offset of the displacement of the jump over the guarded code.
    field: usize,
}

/// The most bytes of a guard, without what it guards.
pub const MAX_GUARD_LEN: usize = 96;

/// What the guard's own pushes and the red zone add to `rsp`.
const LOWERED: i64 = 128 + 16;

impl Guard {
    /// Appends the beginning of a guard; what is appended next, up to [`close`](Self::close), runs only on the way
    /// that is wanted. `moves`: the code may be loaded anywhere, so that it holds no address.
    ///
    /// # Errors
    /// The operand of the jump cannot be read here, or something is out of reach of code that may be loaded
    /// anywhere; nothing is appended then.
    pub fn open(asm: &mut Assembler, wanted: Guarded<'_>, moves: bool) -> Result<Guard, RelocateError> {
        let (at, address) = match wanted {
            Guarded::Toward(insn, address) => (insn.addr(), address),
            Guarded::Returned(address) => (address, address),
        };
        let near = asm.reaches(address, 0) && asm.reaches(address, MAX_GUARD_LEN as u64);
        if moves && !near {
            return Err(RelocateError::OutOfReach { at, target: address });
        }
        let load = match wanted {
            Guarded::Toward(insn, _) => load_target(insn, asm.here() + SETUP_LEN, moves)?,
            // mov rcx, [rsp+136]: the word below what rsp was.
            Guarded::Returned(_) => vec![0x48, 0x8B, 0x8C, 0x24, 0x88, 0, 0, 0],
        };
        asm.skip_red_zone();
        asm.push(Gpr::Rcx);
        asm.push(Gpr::Rdx);
        asm.raw(&load);
        if near {
            asm.relative(&[0x48, 0x8D, 0x15], address);
        } else {
            asm.mov_imm(Gpr::Rdx, address.0);
        }
        asm.raw(&[0x48, 0xF7, 0xD2]); // not rdx
        asm.raw(&[0x48, 0x8D, 0x4C, 0x11, 0x01]); // lea rcx, [rcx+rdx+1]
        asm.raw(&[0xE3, 0]); // jrcxz, over the way out
        let behind = asm.bytes().len();
        leave(asm);
        asm.raw(&[0xE9, 0, 0, 0, 0]);
        let field = asm.bytes().len() - 4;
        let over = (asm.bytes().len() - behind) as u8;
        asm.set(behind - 1, &[over]);
        if let Guarded::Returned(_) = wanted {
            asm.mov_store(Gpr::Rsp, LOWERED as i32 - 8, Gpr::Rcx); // rcx is 0
        }
        leave(asm);
        Ok(Guard { field })
    }

    /// Ends what is guarded.
    pub fn close(self, asm: &mut Assembler) {
        let over = (asm.bytes().len() - self.field - 4) as u32;
        asm.set(self.field, &over.to_le_bytes());
    }
}

/// Length of what comes before the value is loaded: `lea rsp, [rsp-128]` and two pushes.
const SETUP_LEN: u64 = 5 + 2;

fn leave(asm: &mut Assembler) {
    asm.pop(Gpr::Rdx);
    asm.pop(Gpr::Rcx);
    asm.unskip_red_zone();
}

/// `mov rcx, target` for an indirect jump, as it stands at `at` with `rsp` lowered.
fn load_target(insn: &Insn, at: Addr, moves: bool) -> Result<Vec<u8>, RelocateError> {
    let refused = RelocateError::Encoding { at: insn.addr() };
    let iced = insn.iced();
    // With prefix 66 processors disagree about how much of the target counts.
    let prefixes = insn.bytes().split(|&byte| byte == 0xFF).next().unwrap_or(&[]);
    if insn.flow() != Flow::IndirectJump || prefixes.contains(&0x66) {
        return Err(refused);
    }
    let encode = |load: Instruction| {
        let mut encoder = Encoder::new(64);
        encoder.encode(&load, at.0).ok().map(|_| encoder.take_buffer())
    };
    if iced.op0_kind() == OpKind::Register {
        let register = iced.op0_register();
        if register.size() != 8 || register == Register::RSP {
            return Err(refused);
        }
        return Instruction::with2(Code::Mov_r64_rm64, Register::RCX, register)
            .ok()
            .and_then(encode)
            .ok_or(refused);
    }
    if iced.code() != Code::Jmp_rm64 {
        return Err(refused);
    }
    if let Some(target) = insn.ip_relative_target() {
        let end = at + 7;
        if target.in_rel32_of(end) && iced.segment_prefix() == Register::None {
            let displacement = target.offset_from(end) as i32;
            return Ok([&[0x48, 0x8B, 0x0D], &displacement.to_le_bytes()[..]].concat());
        }
        if moves || iced.segment_prefix() != Register::None {
            return Err(RelocateError::OutOfReach { at: insn.addr(), target });
        }
        // mov rcx, pointer ; mov rcx, [rcx]
        return Ok([&[0x48, 0xB9], &target.0.to_le_bytes()[..], &[0x48, 0x8B, 0x09]].concat());
    }
    let displacement = iced.memory_displacement64() as i64;
    let displacement = match iced.memory_base() {
        Register::RSP => displacement + LOWERED,
        Register::ESP => return Err(refused),
        _ => displacement,
    };
    let operand = MemoryOperand::new(
        iced.memory_base(),
        iced.memory_index(),
        iced.memory_index_scale(),
        displacement,
        // Four bytes where there is one; none only where there is a base.
        if displacement == 0 && iced.memory_base() != Register::None { 0 } else { 8 },
        false,
        iced.segment_prefix(),
    );
    let load = Instruction::with2(Code::Mov_r64_rm64, Register::RCX, operand).ok();
    load.and_then(encode).ok_or(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    const FROM: Addr = Addr(0x40_1000);
    const NEAR: Addr = Addr(0x50_0000);
    const FAR: Addr = Addr(0x7f00_0000_0000);

    fn open(asm: &mut Assembler, jump: &str, moves: bool) -> Result<Guard, RelocateError> {
        let insn = decode(&hex(jump), FROM).expect("an instruction");
        Guard::open(asm, Guarded::Toward(&insn, Addr(0x40_2000)), moves)
    }

    /// The third instruction of a guard, which loads the target.
    fn load(jump: &str, at: Addr) -> String {
        let mut asm = Assembler::new(at);
        open(&mut asm, jump, false).expect("a guard").close(&mut asm);
        let from = SETUP_LEN as usize;
        decode(&asm.bytes()[from..], at + from as u64).expect("an instruction").text()
    }

    #[test]
    fn the_target_is_read_as_the_jump_would() {
        assert_eq!(load("ff e0", NEAR), "mov rcx, rax");
        assert_eq!(load("3e ff e1", NEAR), "mov rcx, rcx");
        assert_eq!(load("41 ff e4", NEAR), "mov rcx, r12");
        assert_eq!(load("ff 24 c5 00 00 10 00", NEAR), "mov rcx, [rax*8+0x100000]");
        assert_eq!(load("ff 20", NEAR), "mov rcx, [rax]");
        assert_eq!(load("41 ff 65 00", NEAR), "mov rcx, [r13]");
        assert_eq!(load("ff 64 24 08", NEAR), "mov rcx, [rsp+0x98]");
        assert_eq!(load("64 ff 24 25 10 00 00 00", NEAR), "mov rcx, [fs:0x10]");
        assert_eq!(load("ff 25 00 01 00 00", NEAR), "mov rcx, [rel 0x401106]");
        assert_eq!(load("ff 25 00 01 00 00", FAR), "mov rcx, 0x401106");
    }

    #[test]
    fn what_is_guarded_is_jumped_over() {
        let mut asm = Assembler::new(NEAR);
        let guard = open(&mut asm, "ff e0", false).expect("a guard");
        asm.raw(&[0x90; 3]);
        guard.close(&mut asm);
        let expected = "48 8d 64 24 80 51 52 48 8b c8 48 8d 15 ef 1f f0 ff 48 f7 d2 48 8d 4c 11 01 e3 0f \
             5a 59 48 8d a4 24 80 00 00 00 e9 0d 00 00 00 5a 59 48 8d a4 24 80 00 00 00 90 90 90";
        assert_eq!(asm.into_bytes(), hex(expected));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for jump in ["ff e4", "66 ff e0", "ff d0", "e9 00 00 00 00", "67 ff 24 24"] {
            let mut asm = Assembler::new(NEAR);
            assert!(open(&mut asm, jump, false).is_err(), "{jump}");
            assert!(asm.bytes().is_empty(), "{jump}");
        }
        let mut asm = Assembler::new(FAR);
        assert!(open(&mut asm, "ff e0", true).is_err(), "out of reach of code that moves");
    }
}

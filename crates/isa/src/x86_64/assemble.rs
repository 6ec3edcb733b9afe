//! The small emitter: what trampolines and displaced instructions are made of.

use super::{Gpr, abi};
use crate::Addr;

/// An address is not within a signed 32-bit displacement of the code that needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{to} is out of reach of the code at {at}")]
pub struct OutOfReach {
    /// The address of the code.
    pub at: Addr,
    /// The address it cannot reach.
    pub to: Addr,
}

/// Code being written for a known address.
///
/// The length of what a method appends depends only on its operands and, where that is said, on
/// whether an address is in reach.
#[derive(Clone, Debug)]
pub struct Assembler {
    /// The address of `bytes[0]`.
    origin: Addr,
    bytes: Vec<u8>,
}

impl Assembler {
    /// An empty piece of code at `at`.
    pub fn new(at: Addr) -> Assembler {
        Assembler { origin: at, bytes: Vec::new() }
    }

    /// Goes on behind `bytes`, so that the next byte lies at `at`.
    pub fn resume(bytes: Vec<u8>, at: Addr) -> Assembler {
        Assembler { origin: at - bytes.len() as u64, bytes }
    }

    /// The address of the next byte.
    pub fn here(&self) -> Addr {
        self.origin + self.bytes.len() as u64
    }

    /// The code so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The code.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Changes bytes that were appended before.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether a displacement that ends `len` bytes from here reaches `to`.
    pub(crate) fn reaches(&self, to: Addr, len: u64) -> bool {
        to.in_rel32_of(self.here() + len)
    }

    /// Appends `opcode` and the 32-bit displacement to `to`, which must be in reach.
    pub fn relative(&mut self, opcode: &[u8], to: Addr) {
        self.raw(opcode);
        let displacement = to.offset_from(self.here() + 4) as i32;
        self.raw(&displacement.to_le_bytes());
    }

    /// Goes to `to`: `jmp rel32` (5 bytes) in reach, else `jmp [rip]` with the address behind it
    /// (14 bytes). No register, no flag and no stack is touched.
    pub fn jump(&mut self, to: Addr) {
        if self.reaches(to, 5) {
            self.relative(&[0xE9], to);
        } else {
            self.jump_far(to);
        }
    }

    /// Goes to `to`, wherever it is (14 bytes).
    pub(crate) fn jump_far(&mut self, to: Addr) {
        self.raw(&[0xFF, 0x25, 0, 0, 0, 0]);
        self.raw(&to.0.to_le_bytes());
    }

    /// Calls `to`: `call rel32` (5 bytes) in reach, else a call through an address that is jumped over
    /// (16 bytes). It pushes the address behind itself.
    pub fn call(&mut self, to: Addr) {
        if self.reaches(to, 5) {
            self.relative(&[0xE8], to);
        } else {
            self.raw(&[0xFF, 0x15, 2, 0, 0, 0, 0xEB, 8]);
            self.raw(&to.0.to_le_bytes());
        }
    }

    /// `register = value` in the shortest form (5 to 10 bytes). No flag is touched.
    pub fn mov_imm(&mut self, register: Gpr, value: u64) {
        let opcode = 0xB8 | register.low();
        if let Ok(small) = u32::try_from(value) {
            self.rex(false, 0, register.high());
            self.raw(&[opcode]);
            self.raw(&small.to_le_bytes());
        } else if value as i32 as u64 == value {
            self.rex(true, 0, register.high());
            self.raw(&[0xC7, 0xC0 | register.low()]);
            self.raw(&(value as i32).to_le_bytes());
        } else {
            self.rex(true, 0, register.high());
            self.raw(&[opcode]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// `to = from`.
    pub fn mov(&mut self, to: Gpr, from: Gpr) {
        self.rex(true, from.high(), to.high());
        self.raw(&[0x89, 0xC0 | from.low() << 3 | to.low()]);
    }

    /// `push register`.
    pub fn push(&mut self, register: Gpr) {
        self.rex(false, 0, register.high());
        self.raw(&[0x50 | register.low()]);
    }

    /// `pop register`.
    pub fn pop(&mut self, register: Gpr) {
        self.rex(false, 0, register.high());
        self.raw(&[0x58 | register.low()]);
    }

    /// `rsp += displacement`, by `lea`: no flag is touched.
    pub fn lea_rsp(&mut self, displacement: i32) {
        self.lea(Gpr::Rsp, Gpr::Rsp, displacement);
    }

    /// Moves `rsp` below the red zone.
    pub fn skip_red_zone(&mut self) {
        self.lea_rsp(-(abi::RED_ZONE as i32));
    }

    /// Moves `rsp` back from below the red zone.
    pub fn unskip_red_zone(&mut self) {
        self.lea_rsp(abi::RED_ZONE as i32);
    }

    /// `to = base + displacement`.
    pub fn lea(&mut self, to: Gpr, base: Gpr, displacement: i32) {
        self.rex(true, to.high(), base.high());
        self.memory(0x8D, to.low(), base, displacement);
    }

    /// `to = qword [base + displacement]`.
    pub fn mov_load(&mut self, to: Gpr, base: Gpr, displacement: i32) {
        self.rex(true, to.high(), base.high());
        self.memory(0x8B, to.low(), base, displacement);
    }

    /// `qword [base + displacement] = from`.
    pub fn mov_store(&mut self, base: Gpr, displacement: i32, from: Gpr) {
        self.rex(true, from.high(), base.high());
        self.memory(0x89, from.low(), base, displacement);
    }

    /// `push qword [base + displacement]`; with `rsp` as base, of its value before the push.
    pub fn push_load(&mut self, base: Gpr, displacement: i32) {
        self.rex(false, 0, base.high());
        self.memory(0xFF, 6, base, displacement);
    }

    /// `pop qword [base + displacement]`; with `rsp` as base, of its value behind the pop (AMD APM
    /// vol. 3, POP).
    pub fn pop_store(&mut self, base: Gpr, displacement: i32) {
        self.rex(false, 0, base.high());
        self.memory(0x8F, 0, base, displacement);
    }

    /// Puts the status flags into `ax`: `lahf` for CF, PF, AF, ZF, SF, `seto al` for OF. The rest of
    /// `rax` is kept.
    pub fn save_flags(&mut self) {
        self.raw(&[0x9F, 0x0F, 0x90, 0xC0]);
    }

    /// Takes the status flags back from `ax`, where [`Assembler::save_flags`] put them. Clobbers `al`.
    pub fn restore_flags(&mut self) {
        // `add al, 0x7f` overflows if `al` is 1; `sahf` leaves OF alone.
        self.raw(&[0x04, 0x7F, 0x9E]);
    }

    /// `inc qword [at]`, without `lock` (7 bytes): counts may be lost under threads. Writes all status
    /// flags but CF.
    pub fn inc(&mut self, at: Addr) -> Result<(), OutOfReach> {
        self.check_reach(at, 7)?;
        self.relative(&[0x48, 0xFF, 0x05], at);
        Ok(())
    }

    /// `lock inc qword [at]` (8 bytes). Writes all status flags but CF.
    pub fn lock_inc(&mut self, at: Addr) -> Result<(), OutOfReach> {
        self.check_reach(at, 8)?;
        self.relative(&[0xF0, 0x48, 0xFF, 0x05], at);
        Ok(())
    }

    /// `inc qword [base]`, without `lock`. Writes all status flags but CF.
    pub fn inc_at(&mut self, base: Gpr) {
        self.rex(true, 0, base.high());
        self.memory(0xFF, 0, base, 0);
    }

    /// `lock inc qword [base]`. Writes all status flags but CF.
    pub fn lock_inc_at(&mut self, base: Gpr) {
        self.raw(&[0xF0]);
        self.inc_at(base);
    }

    /// `inc qword gs:[at]` (9 bytes), `at` below 2 GiB. Writes all status flags but CF.
    ///
    /// # Errors
    /// If `at` is no displacement.
    pub fn inc_gs(&mut self, at: Addr) -> Result<(), OutOfReach> {
        let far = OutOfReach { at: self.here(), to: at };
        let displacement = i32::try_from(at.0).map_err(|_| far)?;
        // A SIB byte without base and index: mod 0 alone is relative to the instruction pointer.
        self.raw(&[0x65, 0x48, 0xFF, 0x04, 0x25]);
        self.raw(&displacement.to_le_bytes());
        Ok(())
    }

    fn check_reach(&self, to: Addr, len: u64) -> Result<(), OutOfReach> {
        if self.reaches(to, len) { Ok(()) } else { Err(OutOfReach { at: self.here(), to }) }
    }

    /// A REX prefix, if one is needed.
    fn rex(&mut self, wide: bool, reg: u8, base: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | reg << 2 | base;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }

    /// Opcode, ModRM, SIB and displacement for `[base + displacement]` (AMD APM vol. 3, 1.4).
    fn memory(&mut self, opcode: u8, reg: u8, base: Gpr, displacement: i32) {
        // Without a displacement, the encodings of rbp and r13 mean [rip + disp32].
        let mode = match i8::try_from(displacement) {
            Ok(0) if base.low() != Gpr::Rbp.low() => 0x00,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        self.raw(&[opcode, mode | reg << 3 | base.low()]);
        if base.low() == Gpr::Rsp.low() {
            self.bytes.push(0x24);
        }
        match mode {
            0x00 => {}
            0x40 => self.bytes.push(displacement as u8),
            _ => self.raw(&displacement.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    const AT: Addr = Addr(0x10_0000);

    /// What `write` appends at [`AT`], as text.
    fn text(write: impl FnOnce(&mut Assembler)) -> String {
        let mut asm = Assembler::new(AT);
        write(&mut asm);
        let mut lines = Vec::new();
        let mut at = 0;
        while at < asm.bytes().len() {
            let insn = decode(&asm.bytes()[at..], AT + at as u64).expect("an instruction");
            at += insn.len();
            lines.push(insn.text());
        }
        lines.join("; ")
    }

    fn bytes(write: impl FnOnce(&mut Assembler)) -> Vec<u8> {
        let mut asm = Assembler::new(AT);
        write(&mut asm);
        asm.into_bytes()
    }

    #[test]
    fn resume_goes_on_at_the_given_address() {
        let mut asm = Assembler::resume(vec![0x90; 3], AT);
        assert_eq!(asm.here(), AT);
        asm.jump(AT);
        assert_eq!(asm.into_bytes(), hex("90 90 90 e9 fb ff ff ff"));
    }

    #[test]
    fn jumps_and_calls_take_the_short_form_in_reach_only() {
        assert_eq!(bytes(|a| a.jump(AT + 5)), hex("e9 00 00 00 00"));
        assert_eq!(bytes(|a| a.jump(AT + 0x8000_0004)), hex("e9 ff ff ff 7f"));
        assert_eq!(bytes(|a| a.jump(AT + 0x8000_0005)), hex("ff 25 00 00 00 00 05 00 10 80 00 00 00 00"));
        assert_eq!(bytes(|a| a.call(AT)), hex("e8 fb ff ff ff"));
        assert_eq!(
            bytes(|a| a.call(Addr(0x7f00_1234_5678))),
            hex("ff 15 02 00 00 00 eb 08 78 56 34 12 00 7f 00 00")
        );
    }

    #[test]
    fn constants_take_the_shortest_form() {
        assert_eq!(bytes(|a| a.mov_imm(Gpr::Rax, 0)), hex("b8 00 00 00 00"));
        assert_eq!(bytes(|a| a.mov_imm(Gpr::R9, 0xffff_ffff)), hex("41 b9 ff ff ff ff"));
        assert_eq!(bytes(|a| a.mov_imm(Gpr::Rdi, u64::MAX)), hex("48 c7 c7 ff ff ff ff"));
        assert_eq!(bytes(|a| a.mov_imm(Gpr::R8, 1 << 32)), hex("49 b8 00 00 00 00 01 00 00 00"));
    }

    #[test]
    fn every_register_serves_as_base_and_operand() {
        for register in Gpr::ALL {
            let other = Gpr::ALL[(register.number() as usize + 5) % 16];
            assert_eq!(text(|a| a.push(register)), format!("push {register}"));
            assert_eq!(text(|a| a.pop(register)), format!("pop {register}"));
            assert_eq!(text(|a| a.mov(register, other)), format!("mov {register}, {other}"));
            assert_eq!(text(|a| a.inc_at(register)), format!("inc qword [{register}]"));
            assert_eq!(text(|a| a.lock_inc_at(register)), format!("lock inc qword [{register}]"));
            for (displacement, shown) in [
                (0, ""),
                (1, "+1"),
                (-128, "-0x80"),
                (128, "+0x80"),
                (-129, "-0x81"),
                (i32::MAX, "+0x7fffffff"),
            ] {
                let shown = format!("[{register}{shown}]");
                assert_eq!(text(|a| a.lea(other, register, displacement)), format!("lea {other}, {shown}"));
                assert_eq!(
                    text(|a| a.mov_load(other, register, displacement)),
                    format!("mov {other}, {shown}")
                );
                assert_eq!(
                    text(|a| a.mov_store(register, displacement, other)),
                    format!("mov {shown}, {other}")
                );
                assert_eq!(text(|a| a.push_load(register, displacement)), format!("push qword {shown}"));
                assert_eq!(text(|a| a.pop_store(register, displacement)), format!("pop qword {shown}"));
            }
        }
    }

    #[test]
    fn the_red_zone_is_skipped_without_flags() {
        assert_eq!(bytes(|a| a.skip_red_zone()), hex("48 8d 64 24 80"));
        assert_eq!(bytes(|a| a.unskip_red_zone()), hex("48 8d a4 24 80 00 00 00"));
    }

    #[test]
    fn flags_go_through_ax() {
        assert_eq!(text(|a| a.save_flags()), "lahf; seto al");
        assert_eq!(text(|a| a.restore_flags()), "add al, 0x7f; sahf");
    }

    #[test]
    fn counters_out_of_reach_are_refused() {
        assert_eq!(text(|a| a.lock_inc(AT + 0x100).expect("near")), "lock inc qword [rel 0x100100]");
        assert_eq!(text(|a| a.inc(AT - 0x100).expect("near")), "inc qword [rel 0xfff00]");
        assert_eq!(text(|a| a.inc_gs(Addr(0x7f00_0008)).expect("low")), "inc qword [gs:0x7f000008]");
        assert!(Assembler::new(AT).inc_gs(Addr(1 << 31)).is_err());
        let far = Addr(0x1_0000_0000_0000);
        let mut asm = Assembler::new(AT);
        assert_eq!(asm.lock_inc(far), Err(OutOfReach { at: AT, to: far }));
        assert_eq!(asm.inc(far), Err(OutOfReach { at: AT, to: far }));
        assert!(asm.bytes().is_empty());
    }
}

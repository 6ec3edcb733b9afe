//! Where the operands of an instruction lie: the address of its memory operand, and where it goes.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, OpKind, Register};

use super::{Assembler, Flow, Gpr, GprSet, Insn};

/// An address cannot be computed at the point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the address of the operand of the instruction at {0} cannot be computed there")]
pub struct NoAddress(pub crate::Addr);

impl Insn {
    /// How many bytes its memory operand has; 0 without one. (With a repeat prefix, those of one round.)
    pub fn bytes_accessed(&self) -> u32 {
        if self.memory_operand().is_some() { self.iced().memory_size().size() as u32 } else { 0 }
    }

    /// The operand that is memory and is not only an address (as of `lea` and `nop`).
    fn memory_operand(&self) -> Option<OpKind> {
        let insn = self.iced();
        if matches!(insn.code().mnemonic(), iced_x86::Mnemonic::Lea | iced_x86::Mnemonic::Nop) {
            return None;
        }
        (0..insn.op_count()).map(|n| insn.op_kind(n)).find(|kind| {
            matches!(
                kind,
                OpKind::Memory
                    | OpKind::MemorySegSI
                    | OpKind::MemorySegESI
                    | OpKind::MemorySegRSI
                    | OpKind::MemorySegDI
                    | OpKind::MemorySegEDI
                    | OpKind::MemorySegRDI
                    | OpKind::MemoryESDI
                    | OpKind::MemoryESEDI
                    | OpKind::MemoryESRDI
            )
        })
    }

    /// The general registers that tell the address of its memory operand, or where it goes.
    pub fn address_registers(&self) -> GprSet {
        let insn = self.iced();
        let mut used = vec![insn.memory_base(), insn.memory_index()];
        match self.memory_operand() {
            Some(OpKind::MemoryESRDI) => used.push(Register::RDI),
            Some(OpKind::MemorySegRSI) => used.push(Register::RSI),
            _ => {}
        }
        if matches!(self.flow(), Flow::IndirectJump | Flow::IndirectCall)
            && insn.op0_kind() == OpKind::Register
        {
            used.push(insn.op0_register());
        }
        used.into_iter().filter_map(general).collect()
    }
}

impl Assembler {
    /// `to = address of the memory operand of insn`, 0 if it has none. `rsp` is `lowered` bytes below the program's, all other
    /// registers have their values. Changes flags.
    ///
    /// # Errors
    /// [`NoAddress`] if it cannot be computed: several addresses, or a segment whose base is not known.
    pub fn operand_address(&mut self, insn: &Insn, to: Gpr, lowered: i32) -> Result<(), NoAddress> {
        let iced = insn.iced();
        let none = NoAddress(insn.addr());
        match insn.memory_operand() {
            None => self.mov_imm(to, 0),
            Some(OpKind::MemoryESRDI) => self.mov(to, Gpr::Rdi),
            Some(OpKind::MemorySegRSI) => self.mov(to, Gpr::Rsi),
            Some(OpKind::Memory) => {
                if insn.ip_relative_target().is_some_and(|target| target.in_rel32_of(self.here() + 7)) {
                    let target = insn.ip_relative_target().ok_or(none)?;
                    let modrm = 0x05 | (to.number() & 7) << 3;
                    self.relative(&[0x48 | (to.number() >> 3) << 2, 0x8D, modrm], target);
                } else if let Some(target) = insn.ip_relative_target() {
                    self.mov_imm(to, target.0);
                } else {
                    self.lea_of(insn, to, lowered).ok_or(none)?;
                }
                match iced.memory_segment() {
                    // The thread pointer points to itself (psABI x86-64, 3.4.2): add to, fs:[0].
                    Register::FS => {
                        let (rex, modrm) = (0x48 | (to.number() >> 3) << 2, 0x04 | (to.number() & 7) << 3);
                        self.raw(&[0x64, rex, 0x03, modrm, 0x25, 0, 0, 0, 0]);
                    }
                    Register::GS => return Err(none),
                    _ => {}
                }
            }
            Some(_) => return Err(none),
        }
        Ok(())
    }

    /// `to = where insn goes`: the target of a jump, call or branch, the return address of a return, 0 of others. As for
    /// [`operand_address`](Self::operand_address); what it loads may fault where `insn` would.
    ///
    /// # Errors
    /// [`NoAddress`].
    pub fn target_address(&mut self, insn: &Insn, to: Gpr, lowered: i32) -> Result<(), NoAddress> {
        match insn.flow() {
            Flow::IndirectJump | Flow::IndirectCall if insn.iced().op0_kind() == OpKind::Register => {
                let none = NoAddress(insn.addr());
                match general(insn.iced().op0_register()).ok_or(none)? {
                    Gpr::Rsp => self.lea(to, Gpr::Rsp, lowered),
                    register => self.mov(to, register),
                }
            }
            Flow::IndirectJump | Flow::IndirectCall => {
                self.operand_address(insn, to, lowered)?;
                self.mov_load(to, to, 0);
            }
            Flow::Return => self.mov_load(to, Gpr::Rsp, lowered),
            flow => self.mov_imm(to, flow.target().map_or(0, |target| target.0)),
        }
        Ok(())
    }

    fn lea_of(&mut self, insn: &Insn, to: Gpr, lowered: i32) -> Option<()> {
        let iced = insn.iced();
        if iced.is_vsib() {
            return None;
        }
        let stack = iced.memory_base() == Register::RSP;
        let displacement = iced.memory_displacement64() as i64 + if stack { i64::from(lowered) } else { 0 };
        if iced.memory_base() == Register::ESP || i32::try_from(displacement).is_err() {
            return None;
        }
        let memory = MemoryOperand::with_base_index_scale_displ_size(
            iced.memory_base(),
            iced.memory_index(),
            iced.memory_index_scale(),
            displacement,
            if displacement == 0 { 0 } else { 8 },
        );
        let to = Register::RAX + u32::from(to.number());
        let lea = Instruction::with2(Code::Lea_r64_m, to, memory).ok()?;
        let mut encoder = Encoder::new(64);
        encoder.encode(&lea, self.here().0).ok()?;
        self.raw(&encoder.take_buffer());
        Some(())
    }
}

/// The general register that `register` is part of.
fn general(register: Register) -> Option<Gpr> {
    let full = register.full_register();
    full.is_gpr64().then(|| Gpr::ALL[full as usize - Register::RAX as usize])
}

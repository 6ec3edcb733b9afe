//! Builds an instruction of a given form with chosen operands.

use iced_x86::{
    Code, EncodingKind, Instruction, OpCodeOperandKind as Kind, OpKind, Register, RoundingControl,
};

use crate::rng::Rng;
use crate::shapes::{self, Shape, Site};

/// The choices for one instruction.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// How the variable operand is written.
    pub shape: Shape,
    /// Counts up over a form's variants; general registers rotate with it, so that each operand
    /// meets each register.
    pub variant: u32,
}

/// Builds the instruction. The encoder may still find that the choices do not go together.
pub fn build(code: Code, choice: Choice, site: &Site, rng: &mut Rng) -> Option<Instruction> {
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let evex = info.encoding() == EncodingKind::EVEX;
    let mut writer = Writer { insn, choice, site, rng, vectors: if evex { 32 } else { 16 } };
    for (index, &kind) in info.op_kinds().iter().enumerate() {
        writer.operand(index as u32, kind)?;
    }
    let Writer { mut insn, rng, .. } = writer;
    let memory = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::Memory);
    if evex {
        if info.require_op_mask_register() || info.can_use_op_mask_register() && rng.one_in(2) {
            insn.set_op_mask(Register::K1 + rng.below(7) as u32);
            insn.set_zeroing_masking(info.can_use_zeroing_masking() && rng.one_in(2));
        }
        insn.set_is_broadcast(memory && info.can_broadcast() && rng.one_in(2));
        if !memory && info.can_use_rounding_control() && rng.one_in(2) {
            insn.set_rounding_control(rng.pick(&[
                RoundingControl::RoundToNearest,
                RoundingControl::RoundDown,
                RoundingControl::RoundUp,
                RoundingControl::RoundTowardZero,
            ]));
        } else if !memory && info.can_suppress_all_exceptions() && rng.one_in(2) {
            insn.set_suppress_all_exceptions(true);
        }
    }
    insn.set_has_lock_prefix(memory && info.can_use_lock_prefix() && rng.one_in(3));
    if insn.has_lock_prefix() {
        insn.set_has_xacquire_prefix(info.can_use_xacquire_prefix() && rng.one_in(3));
    }
    if info.can_use_xrelease_prefix() && memory && !insn.has_xacquire_prefix() {
        insn.set_has_xrelease_prefix(rng.one_in(4));
    }
    if info.can_use_rep_prefix() && rng.one_in(2) {
        insn.set_has_rep_prefix(true);
    } else if (info.can_use_repne_prefix() || info.can_use_bnd_prefix()) && rng.one_in(3) {
        insn.set_has_repne_prefix(true);
    } else if info.can_use_notrack_prefix() && rng.one_in(3) {
        insn.set_segment_prefix(Register::DS);
    }
    Some(insn)
}

struct Writer<'a> {
    insn: Instruction,
    choice: Choice,
    site: &'a Site,
    rng: &'a mut Rng,
    vectors: u64,
}

impl Writer<'_> {
    fn operand(&mut self, index: u32, kind: Kind) -> Option<()> {
        let registers = self.choice.shape == Shape::Registers;
        match kind {
            Kind::None => return None,
            Kind::mem_offs => {
                self.memory(index, None)?;
                let far = if self.choice.shape.narrow() {
                    crate::layout::Place::Low
                } else {
                    self.rng.pick(&crate::layout::Place::ALL)
                };
                self.insn.set_memory_base(Register::None);
                self.insn.set_memory_index(Register::None);
                self.insn.set_memory_index_scale(1);
                let segment = self.site.segment_base(self.insn.segment_prefix());
                self.insn.set_memory_displacement64(shapes::aim(far, self.rng).wrapping_sub(segment));
                self.insn.set_memory_displ_size(if self.choice.shape.narrow() { 4 } else { 8 });
            }
            Kind::mem | Kind::mem_mpx | Kind::mem_mib | Kind::sibmem => self.memory(index, None)?,
            Kind::mem_vsib32x | Kind::mem_vsib64x => self.memory(index, Some(Register::XMM0))?,
            Kind::mem_vsib32y | Kind::mem_vsib64y => self.memory(index, Some(Register::YMM0))?,
            Kind::mem_vsib32z | Kind::mem_vsib64z => self.memory(index, Some(Register::ZMM0))?,
            _ if is_register_or_memory(kind) && !registers => self.memory(index, None)?,
            _ => {
                if let Some(register) = self.register(index, kind) {
                    self.set_register(index, register)?;
                } else {
                    self.other(index, kind)?;
                }
            }
        }
        Some(())
    }

    fn memory(&mut self, index: u32, vector_index: Option<Register>) -> Option<()> {
        self.insn.try_set_op_kind(index, OpKind::Memory).ok()?;
        shapes::write_memory(&mut self.insn, self.choice.shape, self.site, vector_index, self.rng);
        Some(())
    }

    fn set_register(&mut self, index: u32, register: Register) -> Option<()> {
        self.insn.try_set_op_kind(index, OpKind::Register).ok()?;
        self.insn.try_set_op_register(index, register).ok()
    }

    /// The register for an operand that is, or can be, one.
    fn register(&mut self, index: u32, kind: Kind) -> Option<Register> {
        use Register as R;
        let general = self.choice.variant.wrapping_mul(1 + 4 * index).wrapping_add(7 * index) % 16;
        let vector = self.rng.below(self.vectors) as u32;
        let low = self.rng.below(8) as u32;
        let even = vector & !3;
        Some(match kind {
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
                R::AL + (self.choice.variant.wrapping_mul(1 + 2 * index) + 5 * index) % 20
            }
            Kind::r16_or_mem | Kind::r16_reg | Kind::r16_reg_mem | Kind::r16_rm | Kind::r16_opcode => {
                R::AX + general
            }
            Kind::r32_or_mem
            | Kind::r32_or_mem_mpx
            | Kind::r32_reg
            | Kind::r32_reg_mem
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv => R::EAX + general,
            Kind::r64_or_mem
            | Kind::r64_or_mem_mpx
            | Kind::r64_reg
            | Kind::r64_reg_mem
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv => R::RAX + general,
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => R::MM0 + low,
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv => R::XMM0 + vector,
            Kind::xmm_is4 | Kind::xmm_is5 => R::XMM0 + vector % 16,
            Kind::xmmp3_vvvv => R::XMM0 + even,
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv => R::YMM0 + vector,
            Kind::ymm_is4 | Kind::ymm_is5 => R::YMM0 + vector % 16,
            Kind::zmm_or_mem | Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv => R::ZMM0 + vector,
            Kind::zmmp3_vvvv => R::ZMM0 + even,
            Kind::bnd_or_mem_mpx | Kind::bnd_reg => R::BND0 + low % 4,
            Kind::k_or_mem | Kind::k_reg | Kind::k_rm | Kind::k_vvvv => R::K0 + low,
            Kind::kp1_reg => R::K0 + (low & !1),
            Kind::tmm_reg | Kind::tmm_rm | Kind::tmm_vvvv => R::TMM0 + low,
            Kind::seg_reg => self.rng.pick(&[R::ES, R::CS, R::SS, R::DS, R::FS, R::GS]),
            Kind::cr_reg => R::CR0 + self.rng.pick(&[0, 2, 3, 4, 8]),
            Kind::dr_reg => R::DR0 + low,
            Kind::tr_reg => R::TR0 + low,
            Kind::es => R::ES,
            Kind::cs => R::CS,
            Kind::ss => R::SS,
            Kind::ds => R::DS,
            Kind::fs => R::FS,
            Kind::gs => R::GS,
            Kind::al => R::AL,
            Kind::cl => R::CL,
            Kind::ax => R::AX,
            Kind::dx => R::DX,
            Kind::eax => R::EAX,
            Kind::rax => R::RAX,
            Kind::st0 => R::ST0,
            Kind::sti_opcode => R::ST0 + low,
            _ => return None,
        })
    }

    /// Immediates, branches, and memory that the opcode implies.
    fn other(&mut self, index: u32, kind: Kind) -> Option<()> {
        let (narrow, noise) = (self.choice.shape.narrow(), self.rng.next());
        let byte = self.rng.pick(&[0, 1, 2, 3, 7, 8, 0x1f, 0x3f, 0x7f, 0x80, 0xff, noise as u8]);
        let signed = i64::from(byte as i8);
        let second =
            (0..index).any(|op| matches!(self.insn.op_kind(op), OpKind::Immediate8 | OpKind::Immediate16));
        let insn = &mut self.insn;
        let op_kind = match kind {
            Kind::imm4_m2z => {
                insn.set_immediate8(byte & 0xf);
                OpKind::Immediate8
            }
            Kind::imm8 if second => {
                insn.set_immediate8_2nd(byte);
                OpKind::Immediate8_2nd
            }
            Kind::imm8 => {
                insn.set_immediate8(byte);
                OpKind::Immediate8
            }
            Kind::imm8_const_1 => {
                insn.set_immediate8(1);
                OpKind::Immediate8
            }
            Kind::imm8sex16 => {
                insn.set_immediate8to16(signed as i16);
                OpKind::Immediate8to16
            }
            Kind::imm8sex32 => {
                insn.set_immediate8to32(signed as i32);
                OpKind::Immediate8to32
            }
            Kind::imm8sex64 => {
                insn.set_immediate8to64(signed);
                OpKind::Immediate8to64
            }
            Kind::imm16 => {
                insn.set_immediate16(if byte & 1 == 0 { noise as u16 } else { noise as u16 & 0xff });
                OpKind::Immediate16
            }
            Kind::imm32 => {
                insn.set_immediate32(noise as u32);
                OpKind::Immediate32
            }
            Kind::imm32sex64 => {
                insn.set_immediate32to64(i64::from(noise as i32));
                OpKind::Immediate32to64
            }
            Kind::imm64 => {
                insn.set_immediate64(noise);
                OpKind::Immediate64
            }
            Kind::seg_rSI if narrow => OpKind::MemorySegESI,
            Kind::seg_rSI => OpKind::MemorySegRSI,
            Kind::es_rDI if narrow => OpKind::MemoryESEDI,
            Kind::es_rDI => OpKind::MemoryESRDI,
            Kind::seg_rDI if narrow => OpKind::MemorySegEDI,
            Kind::seg_rDI => OpKind::MemorySegRDI,
            Kind::seg_rBX_al => {
                insn.set_memory_base(if narrow { Register::EBX } else { Register::RBX });
                insn.set_memory_index(Register::AL);
                insn.set_memory_index_scale(1);
                OpKind::Memory
            }
            Kind::br64_1 | Kind::br64_4 | Kind::xbegin_2 | Kind::xbegin_4 => {
                insn.set_near_branch64(branch_target(kind, self.site, self.rng));
                OpKind::NearBranch64
            }
            Kind::br16_1 | Kind::br16_2 => {
                insn.set_near_branch16(self.site.at as u16 & !0xff | 0x20);
                OpKind::NearBranch16
            }
            _ => return None,
        };
        self.insn.try_set_op_kind(index, op_kind).ok()
    }
}

/// A landing pad that the displacement reaches, never inside the instruction itself.
fn branch_target(kind: Kind, site: &Site, rng: &mut Rng) -> u64 {
    let close =
        if rng.one_in(2) { site.at + 0x20 + rng.below(0x50) } else { site.at - 0x10 - rng.below(0x50) };
    match kind {
        Kind::br64_1 => close,
        Kind::xbegin_2 => close,
        _ if rng.one_in(4) => close,
        _ => site.place.pads().start + 0x100 + rng.below(0x1e00),
    }
}

/// Whether an operand of this kind can be memory as well as a register.
pub fn is_register_or_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r32_or_mem_mpx
            | Kind::r64_or_mem
            | Kind::r64_or_mem_mpx
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
            | Kind::zmm_or_mem
            | Kind::bnd_or_mem_mpx
            | Kind::k_or_mem
    )
}

/// Whether an operand of this kind is always memory that the instruction spells out.
pub fn is_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::mem
            | Kind::mem_mpx
            | Kind::mem_mib
            | Kind::sibmem
            | Kind::mem_vsib32x
            | Kind::mem_vsib64x
            | Kind::mem_vsib32y
            | Kind::mem_vsib64y
            | Kind::mem_vsib32z
            | Kind::mem_vsib64z
    )
}

//! What an operand of a form can be.

use iced_x86::{Instruction, OpCodeOperandKind as Kind, OpKind, Register};

/// Whether an operand is memory, spelled out or implied.
pub(super) fn has_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|op| {
        !matches!(
            insn.op_kind(op),
            OpKind::Register
                | OpKind::NearBranch16
                | OpKind::NearBranch32
                | OpKind::NearBranch64
                | OpKind::FarBranch16
                | OpKind::FarBranch32
                | OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    })
}

pub(super) fn is_branch(kind: Kind) -> bool {
    matches!(kind, Kind::br64_1 | Kind::br64_4 | Kind::xbegin_4)
}

pub(super) fn is_only_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::mem
            | Kind::mem_offs
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

pub(super) fn may_be_memory(kind: Kind) -> bool {
    is_only_memory(kind)
        || matches!(
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

/// Whether an operand of this kind can be this register.
pub(super) fn may_be_register(kind: Kind, named: Register) -> bool {
    let fixed = match kind {
        Kind::es => Register::ES,
        Kind::cs => Register::CS,
        Kind::ss => Register::SS,
        Kind::ds => Register::DS,
        Kind::fs => Register::FS,
        Kind::gs => Register::GS,
        Kind::al => Register::AL,
        Kind::cl => Register::CL,
        Kind::ax => Register::AX,
        Kind::dx => Register::DX,
        Kind::eax => Register::EAX,
        Kind::rax => Register::RAX,
        Kind::st0 => Register::ST0,
        _ => Register::None,
    };
    if fixed != Register::None {
        return named == fixed;
    }
    match kind {
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => named.is_gpr8(),
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_reg_mem | Kind::r16_rm | Kind::r16_opcode => {
            named.is_gpr16()
        }
        Kind::r32_or_mem
        | Kind::r32_or_mem_mpx
        | Kind::r32_reg
        | Kind::r32_reg_mem
        | Kind::r32_rm
        | Kind::r32_opcode
        | Kind::r32_vvvv => named.is_gpr32(),
        Kind::r64_or_mem
        | Kind::r64_or_mem_mpx
        | Kind::r64_reg
        | Kind::r64_reg_mem
        | Kind::r64_rm
        | Kind::r64_opcode
        | Kind::r64_vvvv => named.is_gpr64(),
        Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => named.is_mm(),
        Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv => named.is_xmm(),
        Kind::xmm_is4 | Kind::xmm_is5 => named.is_xmm() && named.number() < 16,
        Kind::ymm_is4 | Kind::ymm_is5 => named.is_ymm() && named.number() < 16,
        Kind::xmmp3_vvvv => named.is_xmm() && named.number().is_multiple_of(4),
        Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv => named.is_ymm(),
        Kind::zmm_or_mem | Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv => named.is_zmm(),
        Kind::zmmp3_vvvv => named.is_zmm() && named.number().is_multiple_of(4),
        Kind::k_or_mem | Kind::k_reg | Kind::k_rm | Kind::k_vvvv => named.is_k(),
        Kind::kp1_reg => named.is_k() && named.number().is_multiple_of(2),
        Kind::tmm_reg | Kind::tmm_rm | Kind::tmm_vvvv => named.is_tmm(),
        Kind::bnd_or_mem_mpx | Kind::bnd_reg => named.is_bnd(),
        Kind::seg_reg => named.is_segment_register(),
        Kind::cr_reg => named.is_cr(),
        Kind::dr_reg => named.is_dr(),
        Kind::tr_reg => named.is_tr(),
        Kind::sti_opcode => named.is_st(),
        _ => false,
    }
}

/// Whether memory of this kind can be addressed by these registers.
pub(super) fn may_address(kind: Kind, base: Register, index: Register) -> bool {
    let vector = match kind {
        Kind::mem_vsib32x | Kind::mem_vsib64x => Some(index.is_xmm()),
        Kind::mem_vsib32y | Kind::mem_vsib64y => Some(index.is_ymm()),
        Kind::mem_vsib32z | Kind::mem_vsib64z => Some(index.is_zmm()),
        _ => None,
    };
    let wide = |register: Register| register == Register::None || register.is_gpr64();
    let narrow = |register: Register| register == Register::None || register.is_gpr32();
    if let Some(fits) = vector {
        return fits && (wide(base) || narrow(base));
    }
    let index_fits = !matches!(index, Register::RSP | Register::ESP);
    index_fits && (wide(base) && wide(index) || narrow(base) && narrow(index))
}

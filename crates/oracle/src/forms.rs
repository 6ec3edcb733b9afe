//! The encoding forms, and which of them are not run natively.

use iced_x86::{Code, CpuidFeature, DecoderOptions, Mnemonic, OpCodeOperandKind as Kind};

use crate::operands::{is_memory, is_register_or_memory};
use crate::shapes::Shape;

/// Every form that exists in 64-bit mode.
pub fn listed() -> Vec<Code> {
    Code::values().filter(|code| code.op_code().is_instruction() && code.op_code().mode64()).collect()
}

/// Why a form is only decoded and relocated, never run; `None` if it is run.
pub fn decode_only(code: Code) -> Option<&'static str> {
    if code.op_code().fwait() {
        return Some("is two instructions, fwait and the form without it");
    }
    if code == Code::Montmul_64 {
        return Some("is listed, but its bytes do not decode");
    }
    let option = code.op_code().decoder_option();
    if option != DecoderOptions::NONE {
        return Some("needs a decoder option for processors that are no longer made");
    }
    if !code.op_code().intel_decoder64() {
        return Some("needs the decoder option for AMD's 16-bit near branches");
    }
    match code.mnemonic() {
        Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpru => Some("reads a clock"),
        Mnemonic::Rdpmc => Some("reads a performance counter"),
        Mnemonic::Rdrand | Mnemonic::Rdseed => Some("reads random numbers"),
        Mnemonic::Mwaitx | Mnemonic::Mwait | Mnemonic::Tpause | Mnemonic::Umwait => Some("waits"),
        Mnemonic::Wrpkru => Some("changes the harness's own memory permissions"),
        Mnemonic::Vmcall | Mnemonic::Vmmcall | Mnemonic::Vmgexit | Mnemonic::Tdcall | Mnemonic::Seamcall => {
            Some("calls the hypervisor")
        }
        _ if code.cpuid_features().contains(&CpuidFeature::PADLOCK_RNG) => Some("reads random numbers"),
        _ => None,
    }
}

/// One way to write a form, and how often it is made.
pub type Plan = Vec<(Shape, u32)>;

/// The ways to write a form.
pub fn plan(code: Code) -> Plan {
    let kinds = code.op_code().op_kinds();
    let general = kinds.iter().any(|&kind| is_general(kind));
    let mut plan = Vec::new();
    if kinds.contains(&Kind::mem_offs) {
        return vec![(Shape::Absolute, 4), (Shape::Base32, 2), (Shape::SegmentBase, 2)];
    }
    let implied = [Kind::seg_rSI, Kind::es_rDI, Kind::seg_rDI, Kind::seg_rBX_al];
    if kinds.iter().any(|kind| implied.contains(kind)) {
        return vec![(Shape::Registers, 5), (Shape::Base32, 3)];
    }
    let memory = kinds.iter().any(|&kind| is_memory(kind));
    let either = kinds.iter().any(|&kind| is_register_or_memory(kind));
    if !memory {
        let branches = code.op_code().op_kinds().iter().any(|&kind| is_branch(kind));
        plan.push((
            Shape::Registers,
            if branches {
                8
            } else if general {
                10
            } else {
                4
            },
        ));
    }
    if memory || either {
        plan.extend(Shape::FIXED.map(|shape| (shape, 1)));
        if kinds.iter().all(|&kind| may_be_relative(kind)) {
            let relative =
                [(Shape::Rip, if general { 20 } else { 6 }), (Shape::Eip, 2), (Shape::SegmentRip, 2)];
            plan.extend(relative);
        }
    }
    plan
}

fn is_general(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::r8_reg
            | Kind::r16_reg
            | Kind::r32_reg
            | Kind::r64_reg
            | Kind::r32_vvvv
            | Kind::r64_vvvv
            | Kind::r8_opcode
            | Kind::r16_opcode
            | Kind::r32_opcode
            | Kind::r64_opcode
            | Kind::r16_rm
            | Kind::r32_rm
            | Kind::r64_rm
    )
}

/// Whether an operand is a near branch target.
pub fn is_branch(kind: Kind) -> bool {
    matches!(kind, Kind::br64_1 | Kind::br64_4 | Kind::xbegin_2 | Kind::xbegin_4)
}

/// Gathers, scatters and tile loads need a SIB byte, which has no rip-relative form.
fn may_be_relative(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::mem_vsib32x
            | Kind::mem_vsib64x
            | Kind::mem_vsib32y
            | Kind::mem_vsib64y
            | Kind::mem_vsib32z
            | Kind::mem_vsib64z
            | Kind::sibmem
            | Kind::mem_mib
            | Kind::mem_mpx
    )
}

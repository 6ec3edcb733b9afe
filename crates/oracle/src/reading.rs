//! Judgement by reading, for instructions that this processor does not have.
//!
//! Both runs end in #UD then, whatever the operands say. So the copy of an instruction with a
//! rip-relative operand is decoded: the same instruction must be in it, with the same operands, and
//! its memory operand must be the original's target, directly or through a scratch register that
//! was loaded with it and that the instruction does not use.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use crate::case::{Body, Case};
use crate::mutate::decode;

/// What is wrong with a copy of the case's only instruction; `None` if nothing is.
pub fn fault(case: &Case, copy: &Body, facts: &mut InstructionInfoFactory) -> Option<String> {
    let original = decode(&case.original.bytes, case.original.at)?;
    if case.original.starts.len() != 1 || !original.is_ip_rel_memory_operand() {
        return None;
    }
    if matches!(original.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1) {
        // Undefined on every processor: the operand is never looked at.
        return None;
    }
    let insns = decode_all(copy);
    let same: Vec<usize> = (0..insns.len()).filter(|&at| insns[at].code() == original.code()).collect();
    let &[at] = &same[..] else {
        return Some(format!("the copy holds the instruction {} times", same.len()));
    };
    let moved = &insns[at];
    let target = original.ip_rel_memory_address();
    if moved.is_ip_rel_memory_operand() {
        let there = moved.ip_rel_memory_address();
        if there != target {
            return Some(format!("reads as [{there:#x}], not [{target:#x}]"));
        }
    } else {
        let base = moved.memory_base();
        let spare = moved.memory_index() == Register::None && moved.memory_displacement64() == 0;
        if base.size() != 8 || !spare {
            return Some(format!("its memory operand is not a plain register ({base:?})"));
        }
        let uses = |register: Register| register.full_register() == base;
        if facts.info(&original).used_registers().iter().any(|used| uses(used.register())) {
            return Some(format!("the scratch register {base:?} is the instruction's own"));
        }
        let loaded = insns[..at].iter().rev().find(|insn| {
            insn.mnemonic() == Mnemonic::Mov
                && insn.op0_kind() == OpKind::Register
                && uses(insn.op0_register())
        });
        if loaded.is_none_or(|load| load.immediate(1) != target) {
            return Some(format!("{base:?} does not hold {target:#x}"));
        }
    }
    operands(&original, moved)
}

/// The first operand or attribute that differs, memory apart.
fn operands(original: &Instruction, moved: &Instruction) -> Option<String> {
    for op in 0..original.op_count() {
        let (kind, there) = (original.op_kind(op), moved.op_kind(op));
        if kind != there {
            return Some(format!("operand {op} is {there:?}, not {kind:?}"));
        }
        let equal = match kind {
            OpKind::Register => {
                let (is, was) = (moved.op_register(op), original.op_register(op));
                // A scratch register stands for the stack pointer, which the sequence moves.
                is == was || was.full_register() == Register::RSP && is.size() == was.size()
            }
            OpKind::Memory => original.segment_prefix() == moved.segment_prefix(),
            _ => original.try_immediate(op).ok() == moved.try_immediate(op).ok(),
        };
        if !equal {
            return Some(format!("operand {op} differs"));
        }
    }
    let attributes = |insn: &Instruction| {
        let size = insn.memory_size();
        let prefixes = [insn.has_lock_prefix(), insn.has_rep_prefix(), insn.has_repne_prefix()];
        (insn.op_mask(), insn.zeroing_masking(), insn.is_broadcast(), size, prefixes)
    };
    (attributes(original) != attributes(moved)).then(|| "mask, broadcast, size or prefixes differ".to_owned())
}

fn decode_all(body: &Body) -> Vec<Instruction> {
    let mut insns = Vec::new();
    let mut done = 0;
    while let Some(insn) = decode(&body.bytes[done..], body.at + done as u64) {
        done += insn.len();
        insns.push(insn);
    }
    insns
}

#[cfg(test)]
mod tests {
    use iced_x86::Code;

    use super::*;
    use crate::layout::{FAR, Place};
    use crate::relocator::{Incise, Relocator};
    use crate::rng::Rng;

    /// `vfmaddps xmm1,xmm2,[rip+disp],xmm3` (FMA4) and its copy.
    fn pair(to: u64) -> (Case, Body) {
        let site = crate::generate::site(Place::High, &mut Rng::new(1, 1));
        let bytes = vec![0xc4, 0xe3, 0xe9, 0x68, 0x0d, 0x00, 0x10, 0x00, 0xf0, 0x30];
        let insn = decode(&bytes, site.at).expect("a valid instruction");
        assert_eq!(insn.code(), Code::VEX_Vfmaddps_xmm_xmm_xmm_xmmm128);
        let mut facts = InstructionInfoFactory::new();
        let start = crate::start::solve(&insn, &site, &mut facts, &mut Rng::new(1, 2));
        let mut copy = Body { at: to, bytes: Vec::new(), starts: vec![0] };
        Incise.relocate(&bytes, site.at, to, &|target| target, &mut copy.bytes).expect("it can be moved");
        let original = Body { at: site.at, bytes, starts: vec![0] };
        (Case { form: insn.code(), place: Place::High, original, copies: Vec::new(), start }, copy)
    }

    fn judge(case: &Case, copy: &Body) -> Option<String> {
        fault(case, copy, &mut InstructionInfoFactory::new())
    }

    #[test]
    fn right_copies_pass() {
        for to in [Place::High.near().start, FAR] {
            let (case, copy) = pair(to);
            assert_eq!(judge(&case, &copy), None, "{:02x?}", copy.bytes);
        }
    }

    #[test]
    fn a_changed_target_operand_or_scratch_register_is_seen() {
        let (case, near) = pair(Place::High.near().start);
        let broken = |copy: &Body, at: usize, bit: u8| {
            let mut copy = copy.clone();
            copy.bytes[at] ^= bit;
            judge(&case, &copy)
        };
        assert!(broken(&near, 5, 1).is_some_and(|what| what.starts_with("reads as")));
        assert_eq!(broken(&near, 9, 0x10).as_deref(), Some("operand 2 differs"));
        let (_, far) = pair(FAR);
        let target = decode(&case.original.bytes, case.original.at).expect("valid").ip_rel_memory_address();
        let literal =
            far.bytes.windows(8).position(|bytes| bytes == target.to_le_bytes()).expect("a literal");
        assert!(broken(&far, literal, 1).is_some_and(|what| what.contains("does not hold")));
    }
}

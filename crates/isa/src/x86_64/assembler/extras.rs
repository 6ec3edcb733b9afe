//! Prefixes, what is in braces, and the width of memory: whether they go with an encoding form.

use iced_x86::{Instruction, OpKind, Register};

use super::fit::{Failure, Fitting, Misfit};
use super::kinds::has_memory;
use super::operand::What;

impl Fitting<'_> {
    /// Prefixes, braces, and the width of memory.
    pub(super) fn extras(&mut self, operands: &[Option<usize>]) -> Result<(), Failure> {
        let extra = |what: &str| Failure::from(Misfit::Extra(what.to_owned()));
        let (prefixes, decoration) = (self.written.prefixes, self.written.decoration);
        let info = self.insn.code().op_code();
        if prefixes.encoding.is_some_and(|wanted| wanted != info.encoding()) {
            return Err(extra("it has no such encoding"));
        }
        let memory = operands.iter().flatten().find_map(|place| match &self.written.operands[*place].what {
            What::Memory(memory) => Some((*place, memory)),
            _ => None,
        });
        let insn = &mut self.insn;
        let plain_mask = self.written.operands.iter().find_map(|operand| match operand.what {
            What::Register(named) if named.is_k() && info.require_op_mask_register() => Some(named),
            _ => None,
        });
        if let Some(mask) = decoration.mask.or(plain_mask) {
            if !info.can_use_op_mask_register() {
                return Err(extra("it takes no mask"));
            }
            insn.set_op_mask(mask);
        }
        if decoration.zeroing {
            if !info.can_use_zeroing_masking() {
                return Err(extra("it cannot zero what is masked"));
            }
            insn.set_zeroing_masking(true);
        }
        if let Some(rounding) = decoration.rounding {
            if !info.can_use_rounding_control() || memory.is_some() {
                return Err(extra("it takes no rounding here"));
            }
            insn.set_rounding_control(rounding);
        }
        if decoration.suppress {
            if !info.can_suppress_all_exceptions() || memory.is_some() {
                return Err(extra("it takes no {sae} here"));
            }
            insn.set_suppress_all_exceptions(true);
        }
        if let Some(count) = memory.and_then(|(_, memory)| memory.broadcast) {
            if !info.can_broadcast() {
                return Err(extra("it cannot broadcast"));
            }
            insn.set_is_broadcast(true);
            let elements = elements(insn);
            if count != 0 && elements != count {
                return Err(extra(&format!("it broadcasts to {elements} here")));
            }
        }
        if prefixes.lock {
            if !info.can_use_lock_prefix() || insn.op0_kind() != OpKind::Memory {
                return Err(extra(
                    "`lock` goes with a memory destination of add, inc, xchg, cmpxchg and their like only",
                ));
            }
            insn.set_has_lock_prefix(true);
        }
        // These have the prefix as part of their opcode.
        let implied =
            insn.code().cpuid_features().iter().any(|feature| format!("{feature:?}").starts_with("PADLOCK"));
        let repeatable = info.can_use_rep_prefix() || implied;
        let bound = info.can_use_bnd_prefix() || info.can_use_repne_prefix();
        if prefixes.rep && !repeatable || prefixes.repne && !bound {
            return Err(extra("it takes no such prefix"));
        }
        if prefixes.xacquire && !info.can_use_xacquire_prefix()
            || prefixes.xrelease && !info.can_use_xrelease_prefix()
        {
            return Err(extra("it takes no such prefix"));
        }
        insn.set_has_rep_prefix(prefixes.rep && !implied || prefixes.xrelease);
        insn.set_has_repne_prefix(prefixes.repne || prefixes.xacquire);
        if prefixes.notrack {
            if !info.can_use_notrack_prefix() {
                return Err(extra("`notrack` goes with indirect jumps and calls only"));
            }
            insn.set_segment_prefix(Register::DS);
        }
        if let Some(segment) = prefixes.segment {
            insn.set_segment_prefix(segment);
        }
        let width = insn.memory_size().size() as u32;
        let place = memory.map(|(place, _)| place).or_else(|| {
            let bare = |place: &&usize| matches!(self.written.operands[**place].what, What::Bare(_));
            operands.iter().flatten().find(bare).copied()
        });
        let wanted = memory.and_then(|(_, memory)| memory.size);
        if let (Some(place), Some(wanted)) =
            (place, wanted.or(self.meaning.width.filter(|_| has_memory(&self.insn))))
            && width != 0
            && width != wanted
        {
            return Err(Misfit::Width(place, width).into());
        }
        if let Some(wanted) = self.meaning.destination
            && self.insn.op0_register().size() as u32 != wanted
        {
            return Err(Misfit::Kind(0).into());
        }
        Ok(())
    }
}

/// How many elements a broadcast makes: the width is part of the name of the memory's type.
fn elements(insn: &Instruction) -> u32 {
    let name = format!("{:?}", insn.memory_size());
    let digits = name.strip_prefix("Broadcast").unwrap_or("");
    let bits: u32 = digits.split('_').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    bits / 8 / (insn.memory_size().size() as u32).max(1)
}

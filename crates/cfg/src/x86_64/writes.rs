//! What registers hold at the start of a block, by the writes that may have been the last ones before it.

use iced_x86::Mnemonic;
use incise_isa::native::Insn;

use super::resolve::Resolver;
use super::stack;
use crate::graph::edge::EdgeKind;

/// What an instruction writes to a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    None,
    Address(u64),
    /// Its upper half is zero.
    Short,
    Other,
}

impl Resolver<'_, '_> {
    /// What `register` holds at the start of `block`, if every write that may have been the last one before
    /// gives it the same address.
    pub(super) fn constant_in(&mut self, register: u8, block: usize) -> Option<u64> {
        if let Some(&known) = self.constants.get(&(block, register)) {
            return known;
        }
        let mut found = None;
        let same = self.writes_before(register, block, |write| match write {
            Write::Address(at) => *found.get_or_insert(at) == at,
            _ => false,
        });
        let found = found.filter(|_| same);
        self.constants.insert((block, register), found);
        found
    }

    /// Whether every write of `register` that may have been the last one before `block` cleared its upper
    /// half.
    pub(super) fn is_short(&mut self, register: u8, block: usize) -> bool {
        let short = |write| match write {
            Write::Short => true,
            Write::Address(at) => at <= u64::from(u32::MAX),
            Write::None | Write::Other => false,
        };
        self.writes_before(register, block, short)
    }

    /// Whether all writes of `register` that may have been the last one before `block` are `good`, and it
    /// does not come from outside of the function.
    fn writes_before(&mut self, register: u8, block: usize, mut good: impl FnMut(Write) -> bool) -> bool {
        /// Most blocks looked at.
        const LIMIT: usize = 2000;
        let kept = [3u8, 4, 5, 12, 13, 14, 15].contains(&register);
        let mut seen = vec![false; self.body.blocks.len()];
        let (mut open, mut steps) = (vec![block], 0);
        while let Some(next) = open.pop() {
            let is_start = self.body.blocks.get(next).is_none_or(|b| b.start == self.entry);
            let before = self.before.get(next).cloned().unwrap_or_default();
            if is_start || before.is_empty() || self.body.roots.contains(&(next as u32)) {
                return false;
            }
            for (block, edge) in before {
                let block = block as usize;
                // A call loses it, also where the block behind writes it in another way.
                if matches!(edge, EdgeKind::CallFallThrough | EdgeKind::Catch) && !kept {
                    return false;
                }
                if seen.get(block).is_none_or(|seen| *seen) {
                    continue;
                }
                seen[block] = true;
                steps += 1;
                match self.last_write(block, register) {
                    _ if steps > LIMIT => return false,
                    Write::None => open.push(block),
                    write if good(write) => {}
                    _ => return false,
                }
            }
        }
        true
    }

    fn last_write(&mut self, block: usize, register: u8) -> Write {
        let (body, code) = (self.body, &self.context.code);
        let (Some(slot), Some(data)) = (self.writes.get_mut(block), body.blocks.get(block)) else {
            return Write::Other;
        };
        let writes = slot.get_or_insert_with(|| {
            let mut last = Box::new([Write::None; 16]);
            for insn in code.insns(data.start..data.end) {
                let written = stack::written(&insn);
                for (number, last) in last.iter_mut().enumerate().filter(|(n, _)| written & 1 << n != 0) {
                    let first = insn.iced().op0_register();
                    let own = first.is_gpr() && first.full_register().number() == number;
                    *last = if own { write_of(&insn) } else { Write::Other };
                }
            }
            last
        });
        writes.get(usize::from(register)).copied().unwrap_or(Write::Other)
    }
}

/// What an instruction writes to its first operand, a register.
fn write_of(insn: &Insn) -> Write {
    let first = insn.iced().op0_register();
    match (insn.iced().mnemonic(), insn.ip_relative_target(), immediate(insn)) {
        (Mnemonic::Lea, Some(at), _) if first.is_gpr64() => Write::Address(at.0),
        (Mnemonic::Mov, _, Some(value)) => Write::Address(value),
        _ if first.is_gpr32() && stack::writes_whole(insn) => Write::Short,
        _ => Write::Other,
    }
}

/// `mov r32, imm32` and `mov r64, imm`.
fn immediate(insn: &Insn) -> Option<u64> {
    use iced_x86::Code;
    let code = insn.iced().code();
    let whole = matches!(code, Code::Mov_r32_imm32 | Code::Mov_r64_imm64 | Code::Mov_rm64_imm32);
    whole.then(|| insn.iced().immediate(1))
}

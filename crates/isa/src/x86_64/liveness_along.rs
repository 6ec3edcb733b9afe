//! Liveness along a run of instructions, with the branches from one of them to another.

use super::flags::{STATUS_FLAGS, overwritten_flags, read_flags};
use super::register_use::{RegisterUses, is_opaque};
use super::{Flow, Gpr, GprSet, Insn};
use crate::Addr;

/// Where flags may be handed over to code that is not looked at.
#[derive(Clone, Copy, Debug)]
pub enum Handed<'a> {
    /// At calls, returns and indirect jumps.
    Anywhere,
    /// Only at indirect jumps to these addresses: at calls and returns, which an indirect jump out of a function is one of, no flags are
    /// handed over (psABI x86-64, 3.2.1).
    To(&'a [Addr]),
}

/// For each of `insns`, ascending by address, whether any status flag may be read before it is written from there
/// on. Branches from one of them to another are followed; `live_at` tells the same of addresses outside, `handed` what holds where it
/// is not known where control goes.
pub fn flags_live_along(insns: &[&Insn], live_at: &dyn Fn(Addr) -> bool, handed: Handed<'_>) -> Vec<bool> {
    /// Backward branches are first taken to need every flag; each pass more tells better.
    const PASSES: usize = 2;
    let all = |live: bool| if live { STATUS_FLAGS } else { 0 };
    let index_of = |to: Addr| insns.binary_search_by_key(&to, |insn| insn.addr()).ok();
    let kept = matches!(handed, Handed::Anywhere);
    let tables = match handed {
        Handed::Anywhere => &[],
        Handed::To(tables) => tables,
    };
    // Those that are not among `insns` need every flag.
    let beyond = all(tables.iter().any(|to| index_of(*to).is_none()));
    let tables: Vec<usize> = tables.iter().filter_map(|to| index_of(*to)).collect();
    let mut loops = false;
    let mut step_of = |(index, insn): (usize, &&Insn)| {
        let follows = insns.get(index + 1).is_some_and(|next| next.addr() == insn.end());
        let uses = |outside: u32, target: Option<usize>| FlagStep {
            outside: outside | if follows { 0 } else { all(live_at(insn.end())) },
            kept: !overwritten_flags(insn.iced()),
            read: read_flags(insn.iced()),
            target,
            follows,
            jumps: false,
        };
        // What goes elsewhere for certain.
        let goes = |outside: u32, target| FlagStep {
            outside,
            kept: u32::MAX,
            read: 0,
            target,
            follows: false,
            jumps: false,
        };
        match insn.flow() {
            Flow::Next if is_opaque(insn.iced()) => goes(STATUS_FLAGS, None),
            Flow::Next => uses(0, None),
            flow @ (Flow::Branch(to) | Flow::Jump(to)) => {
                loops |= to <= insn.addr();
                let target = index_of(to);
                let away = if target.is_some() { 0 } else { all(live_at(to)) };
                if matches!(flow, Flow::Jump(_)) { goes(away, target) } else { uses(away, target) }
            }
            Flow::Call(to) => goes(all(kept && live_at(to)), None),
            Flow::Return | Flow::IndirectCall => goes(all(kept), None),
            Flow::IndirectJump if !kept => {
                loops |= !tables.is_empty();
                FlagStep { jumps: true, ..goes(beyond, None) }
            }
            _ => goes(STATUS_FLAGS, None),
        }
    };
    let steps: Vec<FlagStep> = insns.iter().enumerate().map(&mut step_of).collect();
    let mut live = vec![STATUS_FLAGS; insns.len()];
    for _ in 0..if loops { PASSES } else { 1 } {
        let mut next = 0;
        let by_table = tables.iter().fold(0, |flags, &to| flags | live[to]);
        for (index, step) in steps.iter().enumerate().rev() {
            let after = step.outside
                | if step.jumps { by_table } else { 0 }
                | if step.follows { next } else { 0 }
                | step.target.map_or(0, |target| live[target]);
            next = after & step.kept | step.read;
            live[index] = next;
        }
    }
    live.into_iter().map(|flags| flags != 0).collect()
}

/// What an instruction does with the status flags.
struct FlagStep {
    /// Live where control leaves what is looked at.
    outside: u32,
    /// Not overwritten.
    kept: u32,
    read: u32,
    /// Index of the instruction that is branched to.
    target: Option<usize>,
    /// Control may go on to the next instruction.
    follows: bool,
    /// Control may go to any of the addresses that indirect jumps lead to.
    jumps: bool,
}

/// For each of `insns`, ascending by address, the general-purpose registers that may be read before they are written
/// from there on. Branches from one of them to another are followed; outside, all are live.
pub fn gprs_live_along(insns: &[&Insn], uses: &mut RegisterUses) -> Vec<GprSet> {
    /// As for [`flags_live_along`].
    const PASSES: usize = 2;
    let uses: Vec<Option<(u16, u16)>> = insns
        .iter()
        .map(|insn| uses.of(insn).map(|used| (used.read.bits(), used.overwritten.bits())))
        .collect();
    let index_of = |to: Addr| insns.binary_search_by_key(&to, |insn| insn.addr()).ok();
    let targets: Vec<Option<usize>> =
        insns.iter().map(|insn| insn.flow().target().and_then(index_of)).collect();
    let loops = targets.iter().enumerate().any(|(index, target)| target.is_some_and(|to| to <= index));
    let mut live = vec![u16::MAX; insns.len()];
    for _ in 0..if loops { PASSES } else { 1 } {
        for index in (0..insns.len()).rev() {
            let insn = insns[index];
            let next = match insns.get(index + 1) {
                Some(next) if next.addr() == insn.end() => live[index + 1],
                _ => u16::MAX,
            };
            let target = targets[index].map_or(u16::MAX, |target| live[target]);
            let after = match insn.flow() {
                Flow::Next => next,
                Flow::Branch(_) => next | target,
                Flow::Jump(_) => target,
                _ => u16::MAX,
            };
            live[index] = match uses[index] {
                Some((read, overwritten)) => after & !overwritten | read | 1 << Gpr::Rsp.number(),
                None => u16::MAX,
            };
        }
    }
    live.into_iter().map(GprSet::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    const AT: Addr = Addr(0x1000);

    fn flags_along(code: &str, outside: bool, handed: Handed<'_>) -> Vec<bool> {
        let code = hex(code);
        let mut insns = Vec::new();
        let mut offset = 0;
        while offset < code.len() {
            insns.push(decode(&code[offset..], AT + offset as u64).expect("an instruction"));
            offset += insns[insns.len() - 1].len();
        }
        flags_live_along(&insns.iter().collect::<Vec<_>>(), &|_| outside, handed)
    }

    #[test]
    fn flags_end_at_calls_and_returns_that_hand_none_over() {
        let along = |code: &str, tables: &[Addr]| flags_along(code, true, Handed::To(tables));
        // mov ecx, eax; ret. mov ecx, eax; call out. call rax.
        assert_eq!(along("89 c1 c3", &[]), [false, false]);
        assert_eq!(along("89 c1 e8 00 10 00 00", &[]), [false, false]);
        assert_eq!(along("ff d0", &[]), [false]);
        // A system call, an interrupt and an end without a return see all.
        assert_eq!(along("0f 05", &[]), [true]);
        assert_eq!(along("cc", &[]), [true]);
        assert_eq!(along("89 c1 0f 0b", &[]), [true, true]);
        // jmp rax out of the function, or to the cmp, the jc or somewhere else.
        let jump = "ff e0 39 c8 72 fa c3";
        assert_eq!(along(jump, &[]), [false, false, true, false]);
        assert_eq!(along(jump, &[AT + 2]), [false, false, true, false]);
        assert_eq!(along(jump, &[AT + 2, AT + 4]), [true, false, true, false]);
        assert_eq!(along(jump, &[AT + 0x100]), [true, false, true, false]);
    }

    #[test]
    fn flags_are_followed_through_branches_inside() {
        let along = |code: &str, outside| flags_along(code, outside, Handed::Anywhere);
        // mov ecx, eax; cmp eax, ecx; je +2; mov ecx, eax; cmp eax, ecx
        assert_eq!(along("89 c1 39 c8 74 02 89 c1 39 c8", true), [false, false, true, false, false]);
        // The branch leads out, to where flags are needed or not.
        assert_eq!(along("89 c1 74 20 39 c8", true), [true, true, false]);
        assert_eq!(along("eb 20", true), [true]);
        assert_eq!(along("eb 20", false), [false]);
        // A loop: mov; dec ecx; cmp; jne back to the mov.
        assert_eq!(along("89 c2 ff c9 39 c8 75 f8 39 c8", true), [false, false, false, true, false]);
        // Where it returns to is not known.
        assert_eq!(along("89 c1 c3", false), [true, true]);
    }
}

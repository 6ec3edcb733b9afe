//! Liveness along a run of instructions, with the branches from one of them to another.

use super::flags::{STATUS_FLAGS, overwritten_flags, read_flags};
use super::register_use::{RegisterUses, is_opaque};
use super::{Flow, Gpr, GprSet, Insn};
use crate::Addr;

/// For each of `insns`, ascending by address, whether any status flag may be read before it is written from there
/// on. Branches from one of them to another are followed; `live_at` tells the same of addresses outside.
pub fn flags_live_along(insns: &[&Insn], live_at: &dyn Fn(Addr) -> bool) -> Vec<bool> {
    /// Backward branches are first taken to need every flag; each pass more tells better.
    const PASSES: usize = 2;
    let all = |live: bool| if live { STATUS_FLAGS } else { 0 };
    let outside: Vec<u32> = insns
        .iter()
        .enumerate()
        .map(|(index, insn)| {
            let flow = insn.flow();
            let follows = insns.get(index + 1).is_some_and(|next| next.addr() == insn.end());
            let inside = |to: Addr| insns.binary_search_by_key(&to, |insn| insn.addr()).is_ok();
            let behind = match flow {
                Flow::Next | Flow::Branch(_) if !follows => all(live_at(insn.end())),
                _ => 0,
            };
            let away = match flow {
                Flow::Jump(to) | Flow::Branch(to) if !inside(to) => all(live_at(to)),
                Flow::Call(to) => all(live_at(to)),
                _ => 0,
            };
            behind | away
        })
        .collect();
    let mut live = vec![STATUS_FLAGS; insns.len()];
    let loops = insns.iter().any(|insn| insn.flow().target().is_some_and(|to| to <= insn.addr()));
    for _ in 0..if loops { PASSES } else { 1 } {
        for index in (0..insns.len()).rev() {
            let insn = insns[index];
            let next = match insns.get(index + 1) {
                Some(next) if next.addr() == insn.end() => live[index + 1],
                _ => 0,
            };
            let target = |to: Addr| {
                insns.binary_search_by_key(&to, |insn| insn.addr()).map_or(0, |target| live[target])
            };
            let after = match insn.flow() {
                Flow::Next if is_opaque(insn.iced()) => STATUS_FLAGS,
                Flow::Next => outside[index] | next,
                Flow::Branch(to) => outside[index] | next | target(to),
                Flow::Jump(to) => outside[index] | target(to),
                Flow::Call(_) => outside[index],
                _ => STATUS_FLAGS,
            };
            live[index] = match insn.flow() {
                Flow::Next if is_opaque(insn.iced()) => STATUS_FLAGS,
                Flow::Next | Flow::Branch(_) => {
                    after & !overwritten_flags(insn.iced()) | read_flags(insn.iced())
                }
                Flow::Jump(_) | Flow::Call(_) => after,
                _ => STATUS_FLAGS,
            };
        }
    }
    live.into_iter().map(|flags| flags != 0).collect()
}

/// For each of `insns`, ascending by address, the general-purpose registers that may be read before they are written
/// from there on. Branches from one of them to another are followed; outside, all are live.
pub fn gprs_live_along(insns: &[&Insn]) -> Vec<GprSet> {
    /// As for [`flags_live_along`].
    const PASSES: usize = 2;
    let mut uses = RegisterUses::default();
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

    #[test]
    fn flags_are_followed_through_branches_inside() {
        let along = |code: &str, outside: bool| {
            let code = hex(code);
            let mut insns = Vec::new();
            let mut offset = 0;
            while offset < code.len() {
                insns.push(decode(&code[offset..], AT + offset as u64).expect("an instruction"));
                offset += insns[insns.len() - 1].len();
            }
            flags_live_along(&insns.iter().collect::<Vec<_>>(), &|_| outside)
        };
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

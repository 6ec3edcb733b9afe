//! The bytes of a region while springboards into it are chosen, and where control comes in.

use incise_isa::Addr;
use incise_isa::native::{Flow, SPRINGBOARD_LEN, Springboard};

use crate::code::Code;
use crate::entrances::Entrances;
use crate::group::Group;
use crate::plan::edits::cut;
use crate::region::body::Body;
use crate::region::{Kind, Region};
use crate::tactic::Tactic;

/// What becomes of one byte of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Byte {
    /// It stays, or is decided: [`Field::new`] has it.
    Is,
    /// A displaced instruction begins here; the byte may become a trap.
    Head,
    /// Inside a displaced instruction.
    Inner,
    /// Of the displacement of a call, which is not decided yet.
    Displacement,
}

/// The bytes of one region.
pub(crate) struct Field {
    pub original: Vec<u8>,
    /// What they become.
    pub new: Vec<u8>,
    pub bytes: Vec<Byte>,
    /// By member: whether control comes there from elsewhere.
    pub entered: Vec<bool>,
    /// By member: how it was patched, if more than by a cold trap.
    pub tactics: Vec<Option<Tactic>>,
    /// Jumps to the trampoline at places that springboards reach, each with the index of the member it is for.
    pub stubs: Vec<(Addr, u32)>,
    /// Jumps inside displaced instructions, each with the index of the member it is for.
    pub slots: Vec<(Addr, u32)>,
    /// Calls inside which another instruction begins, as far as is known.
    overlapped: Vec<usize>,
    /// Trampolines whose entrances calls lead to.
    calls: Vec<Addr>,
}

/// Whether the code between a member and the one before it goes on to it, as far as can be told.
fn falls_in(code: &Code, region: &Region, index: usize) -> bool {
    let Some(before) = index.checked_sub(1).map(|before| &region.members[before].insn) else { return true };
    let mut falls = before.flow().falls_through();
    let (mut at, end) = (before.end(), region.members[index].insn.addr());
    while at < end {
        let Ok(insn) = code.insn(at) else { return true };
        // Something may lead to what is no padding.
        falls = (falls || !insn.is_nop()) && insn.flow().falls_through();
        at = insn.end();
    }
    // An instruction that reaches into the member: both are to stay what they are.
    falls || at > end
}

impl Field {
    /// The bytes of `region` as they are, and where control comes in: to the addresses that `leads` tells, and where the region
    /// itself shows it.
    pub(crate) fn of(region: &Region, code: &Code, leads: impl Iterator<Item = Addr>) -> Field {
        let len = region.extent.end.offset_from(region.extent.start) as usize;
        let original = code.original(region.extent.start)[..len].to_vec();
        let mut bytes = vec![Byte::Is; len];
        for member in &region.members {
            let at = member.insn.addr().offset_from(region.extent.start) as usize;
            let all = &mut bytes[at..at + member.insn.len()];
            match member.kind {
                Kind::Displaced => {
                    all.fill(if member.rigid { Byte::Is } else { Byte::Inner });
                    all[0] = Byte::Head;
                }
                Kind::Call => all[1..].fill(Byte::Displacement),
            }
        }
        let count = region.members.len();
        let mut field = Field {
            new: original.clone(),
            original,
            bytes,
            entered: vec![false; count],
            tactics: vec![None; count],
            stubs: Vec::new(),
            slots: Vec::new(),
            overlapped: Vec::new(),
            calls: Vec::new(),
        };
        field.mark(region, code, leads);
        field
    }

    fn mark(&mut self, region: &Region, code: &Code, leads: impl Iterator<Item = Addr>) {
        let mut reached = vec![false; region.members.len()];
        for member in &region.members {
            if let Some(target) = member.insn.flow().target().and_then(|to| region.displaced_at(to))
                && member.kind == Kind::Displaced
            {
                reached[target] = true;
            }
        }
        for (index, reached) in reached.iter().enumerate() {
            self.entered[index] = match region.before(index) {
                None => !region.whole || !reached || falls_in(code, region, index),
                Some(before) if before.kind == Kind::Call => true,
                Some(before) => match before.insn.flow() {
                    Flow::Call(_) | Flow::IndirectCall => true,
                    // Behind the end of a path: something has to lead there.
                    flow => !flow.falls_through() && !reached && !region.members[index].insn.is_nop(),
                },
            };
        }
        for at in leads {
            let Some(member) = region.member_at(at) else { continue };
            if region.members[member].insn.addr() == at {
                self.entered[member] = true;
                continue;
            }
            if region.members[member].kind == Kind::Call {
                self.overlapped.push(member);
            }
            // Another instruction begins inside this one: its bytes stay, but for the head.
            let insn = &region.members[member].insn;
            let from = insn.addr().offset_from(region.extent.start) as usize;
            for byte in &mut self.bytes[from + 1..from + insn.len()] {
                if *byte == Byte::Inner {
                    *byte = Byte::Is;
                }
            }
            if let Some(next) = self.entered.get_mut(member + 1) {
                *next = true;
            }
        }
    }

    /// Members that are entered by a trap each time.
    pub(crate) fn trapped(&self) -> impl Iterator<Item = usize> + '_ {
        let trapped = |&index: &usize| self.tactics[index] == Some(Tactic::Trap);
        (0..self.tactics.len()).filter(trapped)
    }

    /// How a member is entered, or that it is part of the run.
    pub(crate) fn tactic(&self, index: usize) -> Tactic {
        self.tactics[index].unwrap_or(Tactic::Group)
    }

    /// Has calls that nothing else was decided about lead to entrances of other copies.
    pub(crate) fn call_copies(&mut self, region: &Region, code: &Code, entrances: &Entrances) {
        for (index, member) in region.members.iter().enumerate() {
            let at = member.insn.addr().offset_from(region.extent.start) as usize;
            let displacement = at + 1..at + SPRINGBOARD_LEN;
            if member.kind != Kind::Call
                || member.probed
                || self.bytes[displacement.clone()].iter().any(|byte| *byte != Byte::Displacement)
                || self.overlapped.contains(&index)
            {
                continue;
            }
            let Some((entrance, trampoline)) = entrances.find(code, &member.insn) else { continue };
            let Some(jump) = Springboard::new(member.insn.addr(), 0).encode(entrance) else { continue };
            self.new[displacement.clone()].copy_from_slice(&jump[1..]);
            self.bytes[displacement].fill(Byte::Is);
            self.calls.push(trampoline);
        }
        self.calls.sort_unstable();
        self.calls.dedup();
    }

    /// The group in place, whose trampoline is `body` at `trampoline`, of which `len` bytes are code.
    pub(crate) fn finish(mut self, region: &Region, (body, trampoline, len): (Body, Addr, usize)) -> Group {
        let start = region.extent.start;
        let mut heads = vec![false; self.original.len()];
        for member in &region.members {
            heads[member.insn.addr().offset_from(start) as usize] = true;
        }
        self.stubs.sort_unstable();
        let edits = cut(start, &self.original, &self.new, &heads);
        Group {
            start,
            extent: region.extent.clone(),
            heads: body.built.heads,
            trampoline,
            len: len as u32,
            stubs: self.stubs.into_iter().collect(),
            slots: self.slots.into_iter().collect(),
            marks: body.built.marks,
            entrance: body.entrance,
            calls: self.calls.into_boxed_slice(),
            faults: body.built.faults,
            switches: body.built.switches,
            edits,
        }
    }
}

//! Springboards into a region: one wherever control comes from elsewhere, from the last entry to the first, so that the
//! bytes an earlier one reaches into are decided.
//!
//! A jump may cover displaced heads that control does not come to: they are trap bytes inside its displacement. Where it
//! reaches into a call or another springboard, those bytes become part of its displacement; the call's own
//! displacement is chosen afterwards, so that both lead somewhere. Where the address is bound, a stub lies there.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Bound, Flow, SPRINGBOARD_LEN, Springboard, TRAP};

use incise_space::Features;

use crate::body::Body;
use crate::code::Code;
use crate::edits::cut;
use crate::group::Group;
use crate::leads::Leads;
use crate::memory::Memory;
use crate::region::{Kind, Region};
use crate::tactic::Tactic;
use crate::trampolines::Trampolines;

/// What becomes of one byte of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Byte {
    /// It stays, or is decided: `Field::new` has it.
    Is,
    /// A displaced instruction begins here; the byte may become a trap.
    Head,
    /// Inside a displaced instruction.
    Inner,
    /// Of the displacement of a call, which is not decided yet.
    Displacement,
}

/// Springboards of one region.
pub(crate) struct Entries<'a> {
    pub region: &'a Region,
    pub body: &'a Body,
    pub trampoline: Addr,
    pub memory: &'a mut Memory,
    pub code: &'a mut Trampolines,
    pub features: Features,
    /// The topmost displacement byte of jumps that are to be reached into: that of an arena.
    top: u8,
    pub original: Vec<u8>,
    pub new: Vec<u8>,
    pub bytes: Vec<Byte>,
    /// By member: whether control comes there from elsewhere.
    pub entered: Vec<bool>,
    /// By member: how it was patched, if more than by a cold trap.
    pub tactics: Vec<Option<Tactic>>,
    stubs: Vec<(Addr, u32)>,
    /// Jumps inside displaced instructions, each with the index of the member it is for.
    pub slots: Vec<(Addr, u32)>,
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

impl<'a> Entries<'a> {
    pub(crate) fn new(
        region: &'a Region,
        body: &'a Body,
        trampoline: Addr,
        (code, memory, trampolines): (&Code, &'a mut Memory, &'a mut Trampolines),
        features: Features,
    ) -> Entries<'a> {
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
        Entries {
            region,
            body,
            trampoline,
            code: trampolines,
            features,
            top: memory.topmost(region.extent.start).unwrap_or(TRAP),
            new: original.clone(),
            original,
            bytes,
            entered: vec![false; count],
            tactics: vec![None; count],
            memory,
            stubs: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Finds where control comes in. `index` is that of the region among those of `leads`.
    pub(crate) fn mark(&mut self, code: &Code, leads: &Leads, index: usize) {
        let region = self.region;
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
        let jumps = region.members.iter().any(|member| member.insn.flow() == Flow::IndirectJump);
        let known = code.facts.leads(region.extent.clone(), jumps);
        for at in leads.into(index, region).chain(known) {
            let Some(member) = region.member_at(at) else { continue };
            if region.members[member].insn.addr() == at {
                self.entered[member] = true;
                continue;
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

    /// Chooses a springboard for every entry, then a thunk for every call, then traps for the other probed heads.
    pub(crate) fn choose(&mut self) {
        for index in (0..self.region.members.len()).rev() {
            if self.entered[index] && self.region.members[index].kind == Kind::Displaced {
                self.enter(index);
            }
        }
        // What an entry without a springboard falls into.
        let mut pushed = true;
        while std::mem::take(&mut pushed) {
            for index in 0..self.region.members.len() {
                if self.entered[index] && self.is_open(index) {
                    pushed |= self.pass_on(index);
                }
            }
        }
        for index in 0..self.body.thunks.len() {
            let call = self.body.thunks[index].0 as usize;
            // Without a probe it stays as it is, unless a springboard reaches into it.
            if self.region.members[call].probed && self.tactics[call].is_none() && !self.retarget(call) {
                let at = self.offset(call);
                self.new[at] = TRAP;
                self.tactics[call] = Some(Tactic::Trap);
            }
        }
        for index in 0..self.region.members.len() {
            let member = &self.region.members[index];
            if self.is_open(index) && (member.probed || self.is_overwritten(index)) {
                self.set_trap(index);
            }
        }
    }

    /// Members that are entered by a trap each time.
    pub(crate) fn trapped(&self) -> impl Iterator<Item = usize> + '_ {
        let trapped = |&index: &usize| self.tactics[index] == Some(Tactic::Trap);
        (0..self.region.members.len()).filter(trapped)
    }

    /// How a member is entered, or that it is part of the run.
    pub(crate) fn tactic(&self, index: usize) -> Tactic {
        self.tactics[index].unwrap_or(Tactic::Group)
    }

    /// The group in place.
    pub(crate) fn finish(mut self) -> Group {
        let start = self.region.extent.start;
        let mut heads = vec![false; self.original.len()];
        for member in &self.region.members {
            heads[member.insn.addr().offset_from(start) as usize] = true;
        }
        self.stubs.sort_unstable();
        let edits = cut(start, &self.original, &self.new, &heads);
        Group {
            start,
            extent: self.region.extent.clone(),
            heads: self.body.built.heads.clone(),
            trampoline: self.trampoline,
            len: self.body.built.code.len() as u32,
            stubs: self.stubs.into_iter().collect(),
            slots: self.slots.into_iter().collect(),
            marks: self.body.built.marks.clone(),
            faults: self.body.built.faults.clone(),
            switches: self.body.built.switches.clone(),
            edits,
        }
    }

    pub(crate) fn offset(&self, index: usize) -> usize {
        self.region.members[index].insn.addr().offset_from(self.region.extent.start) as usize
    }

    /// Whether nothing was decided about the head of a member.
    fn is_open(&self, index: usize) -> bool {
        self.bytes[self.offset(index)] == Byte::Head
    }

    /// Whether any byte of a member was changed.
    fn is_overwritten(&self, index: usize) -> bool {
        let from = self.offset(index);
        let bytes = from..from + self.region.members[index].insn.len();
        self.original[bytes.clone()] != self.new[bytes]
    }

    fn set_trap(&mut self, index: usize) {
        let at = self.offset(index);
        self.new[at] = TRAP;
        self.bytes[at] = Byte::Is;
    }

    /// Puts a springboard at a member, or in the end a trap if it is probed.
    fn enter(&mut self, index: usize) {
        let member = &self.region.members[index];
        if !self.is_open(index) || self.region.whole && !member.probed {
            return;
        }
        let landing = self.trampoline + u64::from(self.body.built.heads[index].entry());
        let jump = self.jump(index, landing);
        if jump.is_some_and(|(jump, tactic)| self.put(index, &jump, tactic)) {
            return;
        }
        if member.probed && !self.evict(index) {
            self.set_trap(index);
            self.tactics[index] = Some(Tactic::Trap);
        }
    }

    /// Puts a jump in place, and gives calls that it reaches into a thunk that suits it. If there is none, nothing is
    /// done.
    pub(crate) fn put(&mut self, index: usize, jump: &[u8; SPRINGBOARD_LEN], tactic: Tactic) -> bool {
        let at = self.offset(index);
        let range = at..at + SPRINGBOARD_LEN;
        let (new, bytes) = (self.new[range.clone()].to_vec(), self.bytes[range.clone()].to_vec());
        self.new[range.clone()].copy_from_slice(jump);
        self.bytes[range.clone()].fill(Byte::Is);
        if !self.retarget_in(range.clone(), index) {
            self.new[range.clone()].copy_from_slice(&new);
            self.bytes[range].copy_from_slice(&bytes);
            return false;
        }
        self.tactics[index] = Some(tactic);
        true
    }

    /// Gives calls behind member `index` whose first byte is in `range`, which is decided, a thunk that suits it. Returns
    /// whether there is one for each.
    pub(crate) fn retarget_in(&mut self, range: Range<usize>, index: usize) -> bool {
        let behind = index + 1..(index + SPRINGBOARD_LEN).min(self.region.members.len());
        for call in behind.filter(|&member| self.region.members[member].kind == Kind::Call) {
            if range.contains(&self.offset(call)) && self.tactics[call].is_none() && !self.retarget(call) {
                return false;
            }
        }
        true
    }

    /// The jump to `landing`, perhaps by a stub.
    pub(crate) fn jump(&mut self, index: usize, landing: Addr) -> Option<([u8; SPRINGBOARD_LEN], Tactic)> {
        let (site, at) = (self.region.members[index].insn.addr(), self.offset(index));
        let (board, tactic) = self.board(index, site, at)?;
        if board.freedom() == 32
            && let Some(jump) = board.encode(landing)
        {
            return Some((jump, tactic));
        }
        let stub = self.stub(&board, landing, index)?;
        Some((board.encode(stub)?, tactic))
    }

    /// What the bytes of a jump at a member have to be.
    fn board(&self, index: usize, site: Addr, at: usize) -> Option<(Springboard, Tactic)> {
        let bounds = self.bounds(site, at)?;
        let mut tactic = Tactic::Jump;
        let own = self.region.members[index].insn.len();
        for bound in &bounds[(own - 1).min(bounds.len())..] {
            tactic = match (*bound, tactic) {
                (Bound::Trap, Tactic::Jump) => Tactic::Group,
                (Bound::Is(_), _) => Tactic::Pun,
                (_, tactic) => tactic,
            };
        }
        Some((Springboard::bound(site, bounds), tactic))
    }

    /// What the displacement of a jump at `site`, `at` bytes behind the beginning, has to be; nothing if none may be there.
    pub(crate) fn bounds(&self, site: Addr, at: usize) -> Option<[Bound; SPRINGBOARD_LEN - 1]> {
        let mut bounds = [Bound::Free; SPRINGBOARD_LEN - 1];
        for (i, bound) in bounds.iter_mut().enumerate() {
            let byte = at + 1 + i;
            *bound = match self.bytes.get(byte)? {
                Byte::Inner | Byte::Displacement => Bound::Free,
                Byte::Is => Bound::Is(self.new[byte]),
                Byte::Head => {
                    let head = self.region.index_of(site + 1 + i as u64)?;
                    if self.entered[head] {
                        return None;
                    }
                    Bound::Trap
                }
            };
        }
        // An entry closely before this one reaches into it: it needs a topmost byte that leads to memory of ours.
        let before = (1..SPRINGBOARD_LEN - 1).find(|before| {
            let entered =
                |member: usize| self.entered[member] && self.region.members[member].kind == Kind::Displaced;
            at >= *before && self.region.index_of(site - *before as u64).is_some_and(entered)
        });
        if let Some(distance) = before {
            let top = &mut bounds[SPRINGBOARD_LEN - 2 - distance];
            if *top == Bound::Free {
                *top = Bound::Is(self.top);
            }
        }
        Some(bounds)
    }

    /// A jump to `target` at a place that `board` reaches.
    pub(crate) fn stub(&mut self, board: &Springboard, target: Addr, index: usize) -> Option<Addr> {
        let len = SPRINGBOARD_LEN as u64;
        let packed = if self.features.packed { self.memory.allocate_packed(board, len) } else { None };
        let at = packed.or_else(|| self.memory.allocate_stub(board, len, target))?;
        match Springboard::new(at, 0).encode(target) {
            Some(jump) => {
                self.code.push(at, &jump);
                self.stubs.push((at, index as u32));
                Some(at)
            }
            None => {
                self.memory.free(at.span(len));
                None
            }
        }
    }

    /// An entry that has no springboard and no probe runs in place: what it goes to is entered as well. Returns whether
    /// that is new.
    fn pass_on(&mut self, index: usize) -> bool {
        let member = &self.region.members[index];
        let flow = member.insn.flow();
        let next = Some(index + 1).filter(|&next| {
            flow.falls_through() && next < self.entered.len() && self.region.before(next).is_some()
        });
        let target = flow.target().and_then(|to| self.region.displaced_at(to));
        let mut new = false;
        for to in next.into_iter().chain(target) {
            if !std::mem::replace(&mut self.entered[to], true)
                && self.region.members[to].kind == Kind::Displaced
            {
                new = true;
                if self.is_open(to) {
                    self.enter(to);
                } else if self.tactics[to].is_none() && self.region.members[to].probed {
                    self.tactics[to] = Some(Tactic::Trap);
                }
            }
        }
        new
    }

    /// Makes a call go to its thunk, or one without snippets to its target, perhaps by a stub that suits a springboard
    /// which reaches into the call. Returns whether that is possible.
    fn retarget(&mut self, index: usize) -> bool {
        let thunk = self.body.thunks.binary_search_by_key(&(index as u32), |(call, _)| *call);
        let thunk = match thunk {
            Ok(found) => self.trampoline + u64::from(self.body.thunks[found].1),
            Err(_) => match self.region.members[index].insn.flow().target() {
                Some(target) => target,
                None => return false,
            },
        };
        let (site, at) = (self.region.members[index].insn.addr(), self.offset(index));
        let mut bounds = [Bound::Free; SPRINGBOARD_LEN - 1];
        for (i, bound) in bounds.iter_mut().enumerate() {
            if self.bytes[at + 1 + i] == Byte::Is {
                *bound = Bound::Is(self.new[at + 1 + i]);
            }
        }
        let board = Springboard::bound(site, bounds);
        let jump = match board.encode(thunk) {
            Some(jump) => Some(jump),
            None => self.stub(&board, thunk, index).and_then(|stub| board.encode(stub)),
        };
        let Some(jump) = jump else { return false };
        self.new[at + 1..at + SPRINGBOARD_LEN].copy_from_slice(&jump[1..]);
        self.bytes[at..at + SPRINGBOARD_LEN].fill(Byte::Is);
        self.tactics[index] = Some(Tactic::Retarget);
        true
    }
}

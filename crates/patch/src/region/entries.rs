//! Springboards into a region: one wherever control comes from elsewhere, from the last entry to the first, so that the
//! bytes an earlier one reaches into are decided.
//!
//! A jump may cover displaced heads that control does not come to: they are trap bytes inside its displacement. Where it
//! reaches into a call or another springboard, those bytes become part of its displacement; the call's own
//! displacement is chosen afterwards, so that both lead somewhere. Where the address is bound, a stub lies there.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Bound, SPRINGBOARD_LEN, Springboard, TRAP};

use incise_space::Features;

use crate::memory::Memory;
use crate::region::body::Body;
use crate::region::field::{Byte, Field};
use crate::region::{Kind, Region};
use crate::tactic::Tactic;
use crate::trampoline::Trampolines;

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
    pub field: &'a mut Field,
    /// All entries have been decided about.
    pub late: bool,
}

impl<'a> Entries<'a> {
    /// Those of `region`, whose trampoline is `body` at `trampoline`.
    pub(crate) fn new(
        region: &'a Region,
        (body, trampoline): (&'a Body, Addr),
        field: &'a mut Field,
        (memory, code): (&'a mut Memory, &'a mut Trampolines),
        features: Features,
    ) -> Entries<'a> {
        let top = memory.topmost(region.extent.start).unwrap_or(TRAP);
        Entries { region, body, trampoline, memory, code, features, top, field, late: false }
    }

    /// Chooses a springboard for every entry, then a thunk for every call, then traps for the other probed heads.
    pub(crate) fn choose(&mut self) {
        for index in (0..self.region.members.len()).rev() {
            if self.field.entered[index] && self.region.members[index].kind == Kind::Displaced {
                self.enter(index);
            }
        }
        // What an entry without a springboard falls into.
        let mut pushed = true;
        while std::mem::take(&mut pushed) {
            for index in 0..self.region.members.len() {
                if self.field.entered[index] && self.is_open(index) {
                    pushed |= self.pass_on(index);
                }
            }
        }
        self.evict_late();
        for index in 0..self.body.thunks.len() {
            let call = self.body.thunks[index].0 as usize;
            // Without a probe it stays as it is, unless a springboard reaches into it.
            if self.region.members[call].probed && self.field.tactics[call].is_none() && !self.retarget(call)
            {
                let at = self.offset(call);
                self.field.new[at] = TRAP;
                self.field.tactics[call] = Some(Tactic::Trap);
            }
        }
        for index in 0..self.region.members.len() {
            let member = &self.region.members[index];
            if self.is_open(index) && (member.probed || self.is_overwritten(index)) {
                self.set_trap(index);
            }
        }
    }

    pub(crate) fn offset(&self, index: usize) -> usize {
        self.region.members[index].insn.addr().offset_from(self.region.extent.start) as usize
    }

    /// Whether nothing was decided about the head of a member.
    fn is_open(&self, index: usize) -> bool {
        self.field.bytes[self.offset(index)] == Byte::Head
    }

    /// Whether any byte of a member was changed.
    fn is_overwritten(&self, index: usize) -> bool {
        let from = self.offset(index);
        let bytes = from..from + self.region.members[index].insn.len();
        self.field.original[bytes.clone()] != self.field.new[bytes]
    }

    pub(crate) fn set_trap(&mut self, index: usize) {
        let at = self.offset(index);
        self.field.new[at] = TRAP;
        self.field.bytes[at] = Byte::Is;
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
            self.field.tactics[index] = Some(Tactic::Trap);
        }
    }

    /// Puts a jump in place, and gives calls that it reaches into a thunk that suits it. If there is none, nothing is
    /// done.
    pub(crate) fn put(&mut self, index: usize, jump: &[u8; SPRINGBOARD_LEN], tactic: Tactic) -> bool {
        let at = self.offset(index);
        let range = at..at + SPRINGBOARD_LEN;
        let (new, bytes) = (self.field.new[range.clone()].to_vec(), self.field.bytes[range.clone()].to_vec());
        self.field.new[range.clone()].copy_from_slice(jump);
        self.field.bytes[range.clone()].fill(Byte::Is);
        if !self.retarget_in(range.clone(), index) {
            self.field.new[range.clone()].copy_from_slice(&new);
            self.field.bytes[range].copy_from_slice(&bytes);
            return false;
        }
        self.field.tactics[index] = Some(tactic);
        true
    }

    /// Gives calls behind member `index` whose first byte is in `range`, which is decided, a thunk that suits it. Returns
    /// whether there is one for each.
    pub(crate) fn retarget_in(&mut self, range: Range<usize>, index: usize) -> bool {
        let behind = index + 1..(index + SPRINGBOARD_LEN).min(self.region.members.len());
        for call in behind.filter(|&member| self.region.members[member].kind == Kind::Call) {
            if range.contains(&self.offset(call))
                && self.field.tactics[call].is_none()
                && !self.retarget(call)
            {
                return false;
            }
        }
        true
    }

    /// The jump to `landing`, perhaps by a stub.
    pub(crate) fn jump(&mut self, index: usize, landing: Addr) -> Option<([u8; SPRINGBOARD_LEN], Tactic)> {
        let (site, at) = (self.region.members[index].insn.addr(), self.offset(index));
        let (board, tactic) = self.board(index, site, at)?;
        if let Some(jump) = board.encode(landing) {
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
            *bound = match self.field.bytes.get(byte)? {
                Byte::Inner | Byte::Displacement => Bound::Free,
                Byte::Is => Bound::Is(self.field.new[byte]),
                Byte::Head => {
                    let head = self.region.index_of(site + 1 + i as u64)?;
                    if self.field.entered[head] {
                        return None;
                    }
                    Bound::Trap
                }
            };
        }
        // An entry closely before this one reaches into it: it needs a topmost byte that leads to memory of ours.
        let before = (1..SPRINGBOARD_LEN - 1).find(|before| {
            let entered = |member: usize| {
                self.field.entered[member] && self.region.members[member].kind == Kind::Displaced
            };
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
                self.field.stubs.push((at, index as u32));
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
            flow.falls_through() && next < self.field.entered.len() && self.region.before(next).is_some()
        });
        let target = flow.target().and_then(|to| self.region.displaced_at(to));
        let mut new = false;
        for to in next.into_iter().chain(target) {
            if !std::mem::replace(&mut self.field.entered[to], true)
                && self.region.members[to].kind == Kind::Displaced
            {
                new = true;
                if self.is_open(to) {
                    self.enter(to);
                } else if self.field.tactics[to].is_none() && self.region.members[to].probed {
                    self.field.tactics[to] = Some(Tactic::Trap);
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
            if self.field.bytes[at + 1 + i] == Byte::Is {
                *bound = Bound::Is(self.field.new[at + 1 + i]);
            }
        }
        let board = Springboard::bound(site, bounds);
        let jump = match board.encode(thunk) {
            Some(jump) => Some(jump),
            None => self.stub(&board, thunk, index).and_then(|stub| board.encode(stub)),
        };
        let Some(jump) = jump else { return false };
        self.field.new[at + 1..at + SPRINGBOARD_LEN].copy_from_slice(&jump[1..]);
        self.field.bytes[at..at + SPRINGBOARD_LEN].fill(Byte::Is);
        self.field.tactics[index] = Some(Tactic::Retarget);
        true
    }
}

//! Springboards of two jumps: a short one at an entry leads to a long one among the bytes of a neighbour, which is displaced.
//!
//! The long jump is the entry's *slot*. Only the short jump leads there:
//!
//! 1. The slot begins inside an instruction of the original code, so that no boundary is lost.
//! 2. That instruction is displaced and its head decided: it is a jump into the trampoline, or a trap with a landing to
//!    which nothing known leads. Other heads that the slot covers are trap bytes of its displacement.
//! 3. So a thread's instruction pointer is in the slot only at its beginning, and only between the two jumps.
//! 4. Where all threads stand still while code changes (`Features::still`), one that stands at a slot that comes or goes is
//!    at no head of the edit: it is let run until it has left. Where they do not, nothing is evicted.

use incise_isa::Addr;
use incise_isa::native::{Bound, Flow, SPRINGBOARD_LEN, Springboard, TRAP, trap_displacements};

use crate::region::Kind;
use crate::region::entries::Entries;
use crate::region::field::Byte;
use crate::tactic::Tactic;

/// `jmp rel8`.
const SHORT: u8 = 0xEB;
const SHORT_LEN: usize = 2;

/// How many slots are tried for one entry.
const TRIES: usize = 24;

/// The bytes of a region as they were before a try.
struct Saved {
    new: Vec<u8>,
    bytes: Vec<Byte>,
    tactics: Vec<Option<Tactic>>,
}

impl Entries<'_> {
    /// Makes a short jump at a member lead to a slot. Returns whether there is one.
    pub(crate) fn evict(&mut self, index: usize) -> bool {
        if !self.features.still {
            return false;
        }
        let at = self.offset(index);
        let Some(bound) = self.distance_bound(index, at) else { return false };
        for (slot, host) in self.slots(index, at, bound).into_iter().take(TRIES) {
            let saved = self.clear(host);
            if self.take_slot(index, at, slot, host) {
                self.field.slots.push((self.region.extent.start + slot as u64, index as u32));
                return true;
            }
            self.restore(saved);
        }
        false
    }

    /// What the displacement of a short jump at a member may be.
    fn distance_bound(&self, index: usize, at: usize) -> Option<Bound> {
        match self.field.bytes.get(at + 1)? {
            Byte::Inner => Some(Bound::Free),
            Byte::Is => Some(Bound::Is(self.field.new[at + 1])),
            Byte::Head if self.field.entered[index + 1] => None,
            Byte::Head => Some(Bound::Trap),
            Byte::Displacement => None,
        }
    }

    /// Where slots may begin, each with the member it begins in: those first in which nothing is bound.
    fn slots(&self, index: usize, at: usize, bound: Bound) -> Vec<(usize, usize)> {
        let end = at + SHORT_LEN;
        let allowed = |distance: i8| match bound {
            Bound::Free => true,
            Bound::Is(byte) => byte == distance as u8,
            Bound::Trap => trap_displacements().any(|trap| trap == distance),
        };
        let start = self.region.extent.start;
        let mut found = Vec::new();
        for host in 0..self.region.members.len() {
            let member = &self.region.members[host];
            let from = self.offset(host);
            if host == index || member.kind != Kind::Displaced || member.rigid || !self.is_host(host) {
                continue;
            }
            for slot in from + 1..from + member.insn.len() {
                let distance = i8::try_from(slot as i64 - end as i64).ok();
                let apart = slot >= end || slot + SPRINGBOARD_LEN <= at;
                if apart
                    && distance.is_some_and(allowed)
                    && slot + SPRINGBOARD_LEN <= self.field.original.len()
                {
                    let inside = slot + SPRINGBOARD_LEN <= from + member.insn.len();
                    let covers = self.region.member_at(start + (slot + SPRINGBOARD_LEN - 1) as u64);
                    if inside || covers.is_some() {
                        found.push((!inside, slot, host));
                    }
                }
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, slot, host)| (slot, host)).collect()
    }

    /// Whether bytes of a member may become a slot: nothing was decided about it, or it is a jump of its own that nothing
    /// reaches into.
    fn is_host(&self, host: usize) -> bool {
        let from = self.offset(host);
        if self.region.whole && !self.region.members[host].probed && !self.is_idle(host) {
            return false;
        }
        if self.field.bytes[from] == Byte::Head {
            return true;
        }
        let alone = || {
            (1..SPRINGBOARD_LEN as u64).all(|back| {
                let before = self.region.index_of(self.region.members[host].insn.addr() - back);
                before.is_none_or(|before| self.field.bytes[self.offset(before)] == Byte::Head)
            })
        };
        let own = self.region.extent.start + from as u64;
        let end = self.region.members[host].insn.end();
        let holds = |&(slot, _): &(Addr, u32)| own < slot + SPRINGBOARD_LEN as u64 && slot < end;
        self.field.tactics[host] == Some(Tactic::Jump)
            && !self.field.slots.iter().any(holds)
            && self.region.members[host].insn.len() > SPRINGBOARD_LEN
            && alone()
    }

    /// Whether a member without a probe certainly is code, as a probed one goes on to it, and nothing is known to come to it in place
    /// (which is known once all entries have been decided about).
    fn is_idle(&self, host: usize) -> bool {
        if !self.late || self.field.entered[host] {
            return false;
        }
        let mut here = host;
        while let Some(before) = self.region.before(here) {
            let flow = before.insn.flow();
            if before.kind == Kind::Call || !matches!(flow, Flow::Next | Flow::Branch(_)) {
                return false;
            }
            if before.probed {
                return true;
            }
            here -= 1;
        }
        false
    }

    /// Tries again where only traps fitted: there may be room among what is not probed.
    pub(crate) fn evict_late(&mut self) {
        self.late = true;
        for index in 0..self.region.members.len() {
            let at = self.offset(index);
            let is_trap = self.field.tactics[index] == Some(Tactic::Trap) && self.field.new[at] == TRAP;
            if !is_trap || self.region.members[index].kind != Kind::Displaced || self.is_relied_on(at) {
                continue;
            }
            self.field.new[at] = self.field.original[at];
            self.field.bytes[at] = Byte::Head;
            self.field.tactics[index] = None;
            if !self.evict(index) {
                self.set_trap(index);
                self.field.tactics[index] = Some(Tactic::Trap);
            }
        }
    }

    /// Whether the byte at `at` is part of the displacement of a springboard, or of a slot.
    fn is_relied_on(&self, at: usize) -> bool {
        let start = self.region.extent.start;
        let mut before = (1..SPRINGBOARD_LEN.min(at + 1)).filter_map(|back| {
            let member = self.region.index_of(start + (at - back) as u64)?;
            Some((back, self.field.tactics[member]?))
        });
        let reaches = |(back, tactic): (usize, Tactic)| match tactic {
            Tactic::Trap => false,
            Tactic::Evict => back < SHORT_LEN,
            _ => true,
        };
        let mut slots = self.field.slots.iter().map(|(slot, _)| slot.offset_from(start) as usize);
        before.any(reaches) || slots.any(|slot| (slot..slot + SPRINGBOARD_LEN).contains(&at))
    }

    /// Takes the jump of a host back.
    fn clear(&mut self, host: usize) -> Saved {
        let from = self.offset(host);
        let saved = Saved {
            new: self.field.new.clone(),
            bytes: self.field.bytes.clone(),
            tactics: self.field.tactics.clone(),
        };
        if self.field.bytes[from] != Byte::Head {
            let own = from..from + self.region.members[host].insn.len();
            self.field.new[own.clone()].copy_from_slice(&self.field.original[own.clone()]);
            self.field.bytes[own].fill(Byte::Inner);
            self.field.bytes[from] = Byte::Head;
            self.field.tactics[host] = None;
        }
        saved
    }

    fn restore(&mut self, saved: Saved) {
        self.field.new = saved.new;
        self.field.bytes = saved.bytes;
        self.field.tactics = saved.tactics;
    }

    /// Puts both jumps in place, and that of the host.
    fn take_slot(&mut self, index: usize, at: usize, slot: usize, host: usize) -> bool {
        if self.field.bytes[slot] != Byte::Inner {
            // Part of another springboard.
            return false;
        }
        let landing = self.trampoline + u64::from(self.body.built.heads[index].entry());
        let site = self.region.extent.start + slot as u64;
        self.field.new[at] = SHORT;
        self.field.new[at + 1] = (slot as i64 - (at + SHORT_LEN) as i64) as u8;
        self.field.bytes[at..at + SHORT_LEN].fill(Byte::Is);
        let Some(jump) = self.slot_jump(site, slot, landing, index) else { return false };
        let range = slot..slot + SPRINGBOARD_LEN;
        self.field.new[range.clone()].copy_from_slice(&jump);
        self.field.bytes[range.clone()].fill(Byte::Is);
        if !self.retarget_in(range, host) {
            return false;
        }
        if self.field.entered[host] {
            let landing = self.trampoline + u64::from(self.body.built.heads[host].entry());
            let jump = self.jump(host, landing);
            if !jump.is_some_and(|(jump, tactic)| self.put(host, &jump, tactic)) {
                return false;
            }
        }
        self.field.tactics[index] = Some(Tactic::Evict);
        true
    }

    fn slot_jump(
        &mut self,
        site: Addr,
        slot: usize,
        landing: Addr,
        index: usize,
    ) -> Option<[u8; SPRINGBOARD_LEN]> {
        let board = self.bounds(site, slot).map(|bounds| Springboard::bound(site, bounds))?;
        if let Some(jump) = board.encode(landing) {
            return Some(jump);
        }
        let stub = self.stub(&board, landing, index)?;
        board.encode(stub)
    }
}

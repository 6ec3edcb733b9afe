//! A group: a run of displaced instructions that share one springboard and one trampoline.

pub(crate) mod assemble;
pub(crate) mod shape;

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;
use incise_space::{Displaced, Edit, Landing};
use smallvec::SmallVec;

use crate::engine::report::InstanceId;
use crate::entrances::Entrance;
use crate::trampoline::literals::{Faults, Switches};

/// An instruction head of a group and the places that stand for it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Head {
    /// The original address.
    pub at: Addr,
    /// Offset of its landing in the trampoline: snippets, then the instruction. Springboards, traps and branches lead
    /// there, unless snippets run where control enters.
    pub landing: u32,
    /// Bytes from the landing to the copy of the instruction; `u16::MAX` if there are more.
    pub copy: u16,
    /// Length of the copy in bytes.
    pub copied: u8,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// Offset of the snippets that run only where control enters, which lead to the landing; 0 if there are none.
    pub entered: u32,
}

impl Head {
    /// Offset of where springboards, traps and branches lead.
    pub(crate) fn entry(&self) -> u32 {
        if self.entered == 0 { self.landing } else { self.entered }
    }
}

/// From an offset in a trampoline on, its code belongs to a head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark {
    pub offset: u32,
    /// The head's index in the group.
    pub head: u32,
}

/// The marks of a trampoline, ascending.
pub(crate) type Marks = SmallVec<[Mark; 2]>;

/// The heads of a group, ascending.
pub(crate) type Heads = SmallVec<[Head; 2]>;

/// A group that is in place.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub start: Addr,
    /// The bytes that are displaced or overwritten, or that the springboard relies on.
    pub extent: Range<Addr>,
    pub heads: Heads,
    /// Instructions of the trampoline that may fault.
    pub faults: Faults,
    /// Switches of instances.
    pub switches: Switches,
    /// Where the trampoline's code begins, and its length.
    pub trampoline: Addr,
    pub len: u32,
    /// Jumps into the trampoline at places that springboards reach, ascending, each with the index of the head it is
    /// for.
    pub stubs: SmallVec<[(Addr, u32); 1]>,
    /// Jumps into the trampoline inside displaced instructions, each with the index of the head it is for.
    pub slots: SmallVec<[(Addr, u32); 1]>,
    pub marks: Marks,
    /// Where calls of other groups come in.
    pub entrance: Option<Entrance>,
    /// Where the trampolines begin whose entrances calls of this group lead to, each once.
    pub calls: Box<[Addr]>,
    /// Ascending.
    pub edits: SmallVec<[Edit; 1]>,
}

impl Group {
    /// The trampoline and the stubs, each with its length.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        let stubs = self.stubs.iter().map(|(stub, _)| stub.span(SPRINGBOARD_LEN as u64));
        std::iter::once(self.trampoline.span(u64::from(self.len))).chain(stubs)
    }

    /// The original address that stands behind `offset` in the trampoline or stub at `place`.
    pub(crate) fn original_of(&self, place: Addr, offset: u64) -> Option<Addr> {
        let (len, head) = if place == self.trampoline {
            let index = self.marks.partition_point(|mark| u64::from(mark.offset) <= offset);
            (u64::from(self.len), index.checked_sub(1).map_or(0, |index| self.marks[index].head))
        } else {
            let index = self.stubs.binary_search_by_key(&place, |(stub, _)| *stub).ok()?;
            (SPRINGBOARD_LEN as u64, self.stubs[index].1)
        };
        (offset < len).then(|| self.heads.get(head as usize).map_or(self.start, |head| head.at))
    }

    /// Where each head leads, and each instruction of snippets that may fault.
    pub(crate) fn landings(&self) -> impl Iterator<Item = Landing> + '_ {
        let place = |offset: u32| self.trampoline + u64::from(offset);
        let heads =
            self.heads.iter().map(move |head| Landing { trap: head.at, landing: place(head.entry()) });
        let faults = self.faults.iter().map(move |&(at, to)| Landing::fault(place(at), place(to)));
        heads.chain(faults)
    }

    /// Where the switch of an instance is.
    pub(crate) fn switch_of(&self, instance: InstanceId) -> Option<Addr> {
        let (_, offset) = self.switches.iter().find(|(of, _)| *of == instance)?;
        Some(self.trampoline + u64::from(*offset))
    }

    /// What lies where in the trampoline and the stubs.
    pub(crate) fn displaced(&self) -> impl Iterator<Item = Displaced> + '_ {
        let ends = self.marks.iter().skip(1).map(|mark| mark.offset).chain([self.len]);
        let inside = self.marks.iter().zip(ends).map(|(mark, end)| {
            let head = &self.heads[mark.head as usize];
            let whole = if head.landing == mark.offset { *head } else { Head { copied: 0, len: 0, ..*head } };
            Displaced {
                landing: self.trampoline + u64::from(mark.offset),
                len: end.saturating_sub(mark.offset),
                original: head.at,
                original_len: whole.len,
                copy: whole.copy,
                copied: whole.copied,
            }
        });
        let detour = |landing, len, original| Displaced { landing, len, original, ..Displaced::default() };
        let first = self.marks.first().map_or(0, |mark| mark.offset);
        // The snippets of a retargeted call.
        let thunk = (first > 0).then(|| detour(self.trampoline, first, self.start));
        let stubs = self
            .stubs
            .iter()
            .chain(self.slots.iter().filter(|(slot, _)| self.is_inside_head(*slot)))
            .map(move |&(stub, head)| detour(stub, SPRINGBOARD_LEN as u32, self.heads[head as usize].at));
        stubs.chain(thunk).chain(inside)
    }

    /// Whether a jump at `at` lies inside one instruction, so that its bytes are no place of the original code.
    fn is_inside_head(&self, at: Addr) -> bool {
        let end = at + SPRINGBOARD_LEN as u64;
        self.heads.iter().any(|head| head.at < at && end <= head.at + u64::from(head.len))
    }

    /// The address that stands for the original instruction at `at`.
    pub(crate) fn landing_of(&self, at: Addr) -> Option<Addr> {
        let head = self.heads.binary_search_by_key(&at, |head| head.at).ok()?;
        Some(self.trampoline + u64::from(self.heads[head].entry()))
    }
}

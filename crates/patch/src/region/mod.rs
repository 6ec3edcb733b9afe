//! A region: a run of densely probed instructions, up to a whole function, displaced into one trampoline.
//!
//! Every displaced head has a landing. Branches from one to another stay inside; only where control comes from elsewhere
//! is a springboard needed (`entries.rs`). All other probed heads become single traps, which nothing that is known of leads
//! to: they keep every boundary right without trusting what is known. Calls stay where they are and are retargeted, so
//! that return addresses, the unwinder and the processor's return predictor see what they always saw.

mod alone;
pub(crate) mod body;
mod entries;
mod evict;
mod field;
mod leads;
mod places;
mod whole;

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Bound, Flow, Insn, MAX_INSN_LEN, SPRINGBOARD_LEN, Springboard, TRAP};

use crate::code::Code;
use crate::code::reader::Reader;
use crate::form::wanted::Wanted;
use crate::group::shape::overlapping;
use crate::snippet::placement::Placement;
use crate::trampoline::lower::Ready;
use crate::trampoline::sequences::Snippets;

/// Fewer probed heads than this are no region.
const PROBED_MIN: usize = 2;
/// So many bytes of instructions without probes may lie between two with.
pub(crate) const GAP: u64 = 32;
/// The most instructions of a region: taking one probe out builds all of it anew.
pub(crate) const INSNS_MAX: usize = 8192;

/// What becomes of an instruction of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It runs in the trampoline.
    Displaced,
    /// A direct call, which stays and goes to a thunk in the trampoline: its snippets, then its target. Without snippets
    /// it changes only where a springboard reaches into it.
    Call,
}

/// An instruction of a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub insn: Insn,
    pub kind: Kind,
    pub probed: bool,
    /// A branch leads behind its prefixes: only its first byte may change.
    pub rigid: bool,
}

/// A region before its trampoline has a place.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Ascending; there may be gaps.
    pub members: Vec<Member>,
    /// From the first to behind the last.
    pub extent: Range<Addr>,
    /// It is all of a function: only its probed members are entered from outside, as what lies between was found by
    /// branches, and may be data to others.
    pub whole: bool,
    /// What its trampoline hardly exceeds, in bytes.
    pub room: u64,
}

impl Region {
    /// Whether any of its members is probed.
    pub(crate) fn is_probed(&self) -> bool {
        self.members.iter().any(|member| member.probed)
    }

    /// The member that begins at `at`.
    pub(crate) fn index_of(&self, at: Addr) -> Option<usize> {
        self.members.binary_search_by_key(&at, |member| member.insn.addr()).ok()
    }

    /// The member that holds the byte at `at`.
    pub(crate) fn member_at(&self, at: Addr) -> Option<usize> {
        let index = self.members.partition_point(|member| member.insn.addr() <= at).checked_sub(1)?;
        (at < self.members[index].insn.end()).then_some(index)
    }

    /// The displaced member that begins at `at`.
    pub(crate) fn displaced_at(&self, at: Addr) -> Option<usize> {
        self.index_of(at).filter(|&index| self.members[index].kind == Kind::Displaced)
    }

    /// The member before `index`, if they lie in a row.
    pub(crate) fn before(&self, index: usize) -> Option<&Member> {
        let before = &self.members[index.checked_sub(1)?];
        (before.insn.end() == self.members[index].insn.addr()).then_some(before)
    }

    /// Springboards that would reach into a call of this region with their topmost byte: any trampoline of theirs
    /// has to be where that leads.
    pub(crate) fn boards_before_calls(&self) -> Option<Springboard> {
        const CALL: u8 = 0xE8;
        let before_call = |pair: &[Member]| {
            pair[1].kind == Kind::Call && pair[0].insn.addr() + SPRINGBOARD_LEN as u64 > pair[1].insn.addr()
        };
        let free = Bound::Free;
        let board = || Springboard::bound(self.extent.start, [free, free, free, Bound::Is(CALL)]);
        self.members.windows(2).any(before_call).then(board)
    }

    /// Whether the member before `index` always goes on to it, in the trampoline, and is probed.
    pub(crate) fn runs_into(&self, index: usize) -> bool {
        let displaced = self.members[index].kind == Kind::Displaced;
        displaced
            && self.before(index).is_some_and(|before| {
                before.probed && before.kind == Kind::Displaced && before.insn.flow() == Flow::Next
            })
    }

    /// Where control comes into each of `regions` by ways that code does not show.
    pub(crate) fn leads_hidden(regions: &[Region], code: &Code) -> Vec<Vec<Addr>> {
        let jumps = |member: &Member| member.insn.flow() == Flow::IndirectJump;
        let asked = |region: &Region| (region.extent.clone(), region.members.iter().any(jumps));
        code.facts.leads(&regions.iter().map(asked).collect::<Vec<_>>())
    }

    /// The region that begins at `head`, if enough is probed there.
    pub(crate) fn gather(code: &Code, head: Addr, wanted: &Wanted) -> Option<Region> {
        Region::gather_with(code, head, wanted, (PROBED_MIN, SPRINGBOARD_LEN as u64, Addr(u64::MAX)))
    }

    /// A region with at least so many probed heads, and so many bytes from the last one on, that ends somewhere.
    pub(crate) fn gather_with(
        code: &Code,
        head: Addr,
        wanted: &Wanted,
        (least, room, last): (usize, u64, Addr),
    ) -> Option<Region> {
        if least > 1 {
            // Most lone heads can be told without decoding.
            let second = wanted.first_in(head + 1..head + (MAX_INSN_LEN as u64 + GAP + 1))?;
            if code.entry_in(head + 1..second + 1).is_some() {
                return None;
            }
        }
        let limit = code.facts.function(head).map_or(last, |function| function.end.min(last));
        let mut members: Vec<Member> = Vec::new();
        // Instructions without probes since the last with one; they come along if they are few.
        let mut gap = Gap::default();
        let mut probed = 0;
        let mut at = head;
        let read = head + code.original(head).len() as u64;
        let mut reader = Reader::new(code);
        while at < limit && members.len() < INSNS_MAX {
            // In one piece with the first.
            let Some(insn) = reader.insn(at).ok().filter(|insn| at < insn.end() && insn.end() <= read) else {
                break;
            };
            if at != head && code.entry_in(at..at + 1).is_some() {
                break;
            }
            let snippets = wanted.get(at);
            // Whether a branch leads behind a prefix is only looked for around probes.
            let movable =
                is_movable(code, &insn) && (snippets.is_some() || insn.behind_prefixes().next().is_none());
            match snippets {
                Some(snippets) if movable && !snippets.is_gate() => {
                    gap.join(&mut members);
                    gap = Gap { ended: !insn.flow().falls_through(), ..Gap::default() };
                    let kind = kind(&insn, snippets);
                    let rigid = overlapping(code, &insn).is_some();
                    members.push(Member { insn, kind, probed: true, rigid });
                    probed += 1;
                }
                Some(_) => break,
                None => {
                    // Not in step with what is probed: these bytes are no such instructions.
                    if wanted.any_in(at + 1..insn.end()) {
                        break;
                    }
                    gap.push(insn, movable);
                    if gap.len > GAP {
                        break;
                    }
                }
            }
            at = insn.end();
        }
        if probed < least {
            return None;
        }
        let end = append_room(&mut members, gap, code, wanted, (room, last));
        let extent = members.first()?.insn.addr()..end;
        Some(Region { members, extent, whole: false, room: 0 })
    }
}

/// Instructions without probes, behind one with.
#[derive(Default)]
pub(crate) struct Gap {
    /// Those before the first that has to stay, and that one if it is a call.
    insns: Vec<Member>,
    len: u64,
    /// One of them has to stay: then only those come along that a springboard before them covers.
    stays: bool,
    /// A path has ended: what is behind may be data.
    ended: bool,
}

impl Gap {
    fn push(&mut self, insn: Insn, movable: bool) {
        self.len += insn.len() as u64;
        let call = matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall);
        if !movable || self.ended && !insn.is_nop() {
            self.stays = true;
        }
        if !self.stays {
            let kind = if is_retargetable(&insn) { Kind::Call } else { Kind::Displaced };
            self.insns.push(Member { insn, kind, probed: false, rigid: false });
        }
        self.stays |= call;
        self.ended |= !insn.flow().falls_through();
    }

    /// Appends what comes along to the members before it.
    fn join(&mut self, members: &mut Vec<Member>) {
        if !self.stays {
            return members.append(&mut self.insns);
        }
        let Some(last) = members.last() else { return };
        let covered = last.insn.addr() + SPRINGBOARD_LEN as u64;
        let count = self.insns.partition_point(|member| member.insn.addr() < covered);
        members.extend(self.insns.drain(..count));
    }
}

/// The instruction at `at`, if all bytes from `first` to behind it were read in one piece.
fn insn_behind(code: &Code, first: Addr, at: Addr) -> Option<Insn> {
    let insn = code.insn(at).ok()?;
    let len = usize::try_from(insn.end().offset_from(first)).ok()?;
    (insn.end() > at && len <= code.original(first).len()).then_some(insn)
}

/// Appends what of the instructions behind the last probed one a springboard there may cover, padding behind the end of
/// a path included. Returns the end of what is covered.
pub(crate) fn append_room(
    members: &mut Vec<Member>,
    gap: Gap,
    code: &Code,
    wanted: &Wanted,
    (room, limit): (u64, Addr),
) -> Addr {
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return Addr(0) };
    let first = first.insn.addr();
    let needed = last.insn.addr() + room;
    let mut end = last.insn.end();
    let mut ended = !last.insn.flow().falls_through();
    for member in gap.insns {
        if end >= needed {
            return end;
        }
        end = member.insn.end();
        ended = !member.insn.flow().falls_through();
        members.push(member);
    }
    while ended && end < needed && !wanted.contains(end) {
        let Some(insn) = insn_behind(code, first, end).filter(|insn| insn.end() <= limit) else { break };
        if code.entry_in(end..insn.end()).is_some() || !is_movable(code, &insn) && insn.bytes() != [TRAP] {
            break;
        }
        if insn.is_nop() {
            members.push(Member { insn, kind: Kind::Displaced, probed: false, rigid: false });
        } else if insn.bytes() != [TRAP] {
            break;
        }
        // A trap behind the end of a path is padding; what it does when run stays the same.
        end = insn.end();
    }
    end
}

pub(crate) fn kind(insn: &Insn, snippets: &Snippets) -> Kind {
    // A thunk runs behind the push of the return address: only what does not look at the stack may.
    let before = snippets.ways().all(|(way, _)| way == Placement::Entered);
    let blind = before && snippets.iter().all(Ready::is_counter);
    if blind && is_retargetable(insn) { Kind::Call } else { Kind::Displaced }
}

/// Whether `insn` is a direct call whose displacement can be changed.
fn is_retargetable(insn: &Insn) -> bool {
    insn.bytes()[0] == 0xE8 && insn.len() == SPRINGBOARD_LEN
}

/// Whether `insn` may be changed, and run elsewhere as far as can be told without trying.
pub(crate) fn is_movable(code: &Code, insn: &Insn) -> bool {
    let at = insn.addr();
    let facts = code.facts;
    !facts.is_restartable(at)
        && !facts.is_relocated(at)
        && !facts.is_machinery(at)
        && !facts.is_copied(at)
        && !insn.is_endbr()
        && !matches!(insn.flow(), Flow::Trap | Flow::Far)
}

//! Regions that are whole functions, for the in-line engine: whatever is probed of them.
//!
//! What is known to be code comes along: what can be reached from probes by branches and by falling through. Behind a call
//! nothing is known, as it may not return: from there the program runs in place up to the next probe. That a function
//! begins somewhere is no proof either.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Insn, SPRINGBOARD_LEN};

use crate::code::Code;
use crate::code::reader::Reader;
use crate::entrances::{called, head_of};
use crate::form::wanted::Wanted;
use crate::group::shape::overlapping;
use crate::region::{Gap, INSNS_MAX, Kind, Member, Region, append_room, is_movable, kind};

impl Region {
    /// The region that is the function at `range`, from `from` on, of which `probed` are wanted; `decoded` are instructions of it, as
    /// far as they are known. Nothing if it cannot be:
    /// it is too large, not all of it was read, a probe is not in step with its instructions, or has to be a trap.
    ///
    /// Calls without probes stay as they are, and are not part of it unless a springboard may have to reach into them, or copies are
    /// `entered` by calls of others and this one may be of a copy: indirect
    /// ones then run elsewhere, which costs the processor's return predictor its balance, but less than a trap. What else
    /// cannot move stays as well.
    pub(crate) fn whole(
        code: &Code,
        range: &Range<Addr>,
        from: Addr,
        probed: &[Addr],
        (decoded, wanted, entered): (&[Insn], &Wanted, bool),
    ) -> Option<Region> {
        let end = ends(code, range, from);
        let probed = probed.iter().filter(|&&at| from <= at && at < end);
        if probed.clone().any(|&at| wanted.get(at).is_none_or(|here| here.is_gate())) {
            return None;
        }
        let mut members: Vec<Member> = Vec::new();
        for insn in reached(code, range.start, from..end, probed.copied().collect(), decoded)? {
            let snippets = wanted.get(insn.addr());
            if members.last().is_some_and(|last| last.insn.end() > insn.addr()) {
                // It begins inside another one, as behind a prefix that is jumped over.
                match snippets {
                    Some(_) => return None,
                    None => continue,
                }
            }
            if wanted.any_in(insn.addr() + 1..insn.end()) {
                return None;
            }
            let is_call = matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall);
            let kind = match snippets {
                _ if !is_movable(code, &insn) => continue,
                Some(snippets) => kind(&insn, snippets),
                None if is_call && insn.len() == SPRINGBOARD_LEN && insn.bytes()[0] == 0xE8 => {
                    let changes =
                        is_short_behind(&members, &insn) || entered && calls_copy(code, &insn, wanted);
                    if !changes {
                        continue;
                    }
                    Kind::Call
                }
                None if is_call && !is_in_the_way(&members, &insn) => continue,
                None => Kind::Displaced,
            };
            let rigid = insn.behind_prefixes().next().is_some() && overlapping(code, &insn).is_some();
            members.push(Member { insn, kind, probed: snippets.is_some(), rigid });
        }
        pad(code, &mut members, wanted);
        let start = members.first()?.insn.addr();
        let extent = start
            ..append_room(
                &mut members,
                Gap::default(),
                code,
                wanted,
                (SPRINGBOARD_LEN as u64, Addr(u64::MAX)),
            );
        members.iter().any(|member| member.probed).then_some(Region { members, extent, whole: true, room: 0 })
    }
}

/// Where the function ends, or another one begins in it.
fn ends(code: &Code, range: &Range<Addr>, from: Addr) -> Addr {
    let inside = from.max(range.start) + 1..range.end;
    if inside.start >= inside.end {
        return range.end;
    }
    code.entry_in(inside).unwrap_or(range.end)
}

/// The instructions inside `part` that can be reached from `roots` without a call, ascending; nothing if they are too many or not
/// all bytes from `first` on were read. Those that were `decoded` before, ascending, are not decoded again.
fn reached(
    code: &Code,
    first: Addr,
    part: Range<Addr>,
    roots: Vec<Addr>,
    decoded: &[Insn],
) -> Option<Vec<Insn>> {
    let read = first + code.original(first).len() as u64;
    let mut reader = Reader::new(code);
    let mut others: Vec<Insn> = Vec::new();
    let mut seen = vec![false; part.end.offset_from(part.start).max(0) as usize];
    let offset = |at: Addr| at.offset_from(part.start) as usize;
    let (mut work, mut count, mut next) = (roots, 0, 0);
    work.reverse();
    while let Some(mut at) = work.pop() {
        while part.contains(&at) && !std::mem::replace(&mut seen[offset(at)], true) {
            if decoded.get(next).is_none_or(|insn| insn.addr() != at) {
                next = decoded.partition_point(|insn| insn.addr() < at);
            }
            let known = decoded.get(next).filter(|insn| insn.addr() == at);
            let insn = match known {
                Some(insn) => *insn,
                None => reader.insn(at).ok()?,
            };
            if insn.end() > read || insn.end() <= at {
                return None;
            }
            if insn.end() > part.end {
                seen[offset(at)] = false;
                break;
            }
            match known {
                Some(_) => next += 1,
                None => others.push(insn),
            }
            count += 1;
            if count > INSNS_MAX {
                return None;
            }
            let flow = insn.flow();
            match flow {
                Flow::Jump(to) | Flow::Branch(to) | Flow::Begin(to) => work.push(to),
                _ => {}
            }
            let call = matches!(flow, Flow::Call(_) | Flow::IndirectCall);
            if call || !flow.falls_through() {
                break;
            }
            at = insn.end();
        }
    }
    others.sort_unstable_by_key(Insn::addr);
    let mut others = others.into_iter().peekable();
    let mut found = Vec::with_capacity(count);
    for insn in decoded.iter().filter(|insn| part.contains(&insn.addr()) && seen[offset(insn.addr())]) {
        while let Some(other) = others.next_if(|other| other.addr() < insn.addr()) {
            found.push(other);
        }
        found.push(*insn);
    }
    found.extend(others);
    Some(found)
}

/// Whether what `call` leads to is probed where it begins: it may become a copy.
fn calls_copy(code: &Code, call: &Insn, wanted: &Wanted) -> bool {
    call.flow().target().is_some_and(|target| wanted.contains(head_of(code, called(code, target))))
}

/// Whether a springboard at the instruction before `call` would cover part of it.
fn is_short_behind(members: &[Member], call: &Insn) -> bool {
    let short = |before: &Member| before.insn.end() == call.addr() && before.insn.len() < SPRINGBOARD_LEN;
    members.last().is_some_and(short)
}

/// Whether a springboard at a probe that control comes to from outside would cover part of `call`.
fn is_in_the_way(members: &[Member], call: &Insn) -> bool {
    let mut behind = call.addr();
    for (index, member) in members.iter().enumerate().rev().take(SPRINGBOARD_LEN - 1) {
        let insn = &member.insn;
        if insn.end() != behind || insn.addr() + SPRINGBOARD_LEN as u64 <= call.addr() {
            return false;
        }
        let before = index.checked_sub(1).map(|before| &members[before]);
        let outside = before.is_none_or(|before| {
            before.insn.end() != insn.addr()
                || matches!(before.insn.flow(), Flow::Call(_) | Flow::IndirectCall)
        });
        if member.probed && outside {
            return true;
        }
        behind = insn.addr();
    }
    false
}

/// Adds padding behind the ends of paths inside the function, as far as a springboard there could cover it.
fn pad(code: &Code, members: &mut Vec<Member>, wanted: &Wanted) {
    let mut padding = Vec::new();
    for pair in members.windows(2) {
        let (insn, next) = (&pair[0].insn, pair[1].insn.addr());
        let mut at = insn.end();
        while !insn.flow().falls_through() && at < next && at < insn.addr() + SPRINGBOARD_LEN as u64 {
            let Ok(nop) = code.insn(at) else { break };
            let entered = code.entry_in(at..nop.end()).is_some();
            if !nop.is_nop() || nop.end() > next || entered || wanted.contains(at) {
                break;
            }
            at = nop.end();
            padding.push(Member { insn: nop, kind: Kind::Displaced, probed: false, rigid: false });
        }
    }
    if !padding.is_empty() {
        members.append(&mut padding);
        members.sort_by_key(|member| member.insn.addr());
    }
}

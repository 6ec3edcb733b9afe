//! Regions for lone probes where no springboard fits at the site itself: what surrounds it comes along without probes.
//!
//! Behind the site so that branches among it stay inside; before it so that it need not be entered by a springboard of its
//! own; and an instruction long enough to host its springboard (`evict.rs`).

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Insn, SPRINGBOARD_LEN};
use rustc_hash::FxHashSet;

use crate::code::Code;
use crate::form::wanted::Wanted;
use crate::region::{GAP, Kind, Member, Region, is_movable};

/// So many bytes before the site come along.
const LEAD: u64 = 48;
/// Functions are decoded from their beginning no further than this.
const DECODED: i64 = 1 << 16;
/// A short jump leads so far.
const REACH: u64 = 120;

impl Region {
    /// The region around the probed `head`, inside of `within`, if what is there can be displaced.
    pub(crate) fn alone(code: &Code, head: Addr, wanted: &Wanted, within: Range<Addr>) -> Option<Region> {
        let mut region = Region::gather_with(code, head, wanted, (1, GAP, within.end))?;
        let mut scan = Scan::new(code, wanted);
        let function = code.facts.function(head).unwrap_or(head..region.extent.end);
        let mut members = scan.lead_up(&function, head, within.start);
        members.append(&mut region.members);
        let hosts = |member: &Member| {
            member.kind == Kind::Displaced && !member.rigid && member.insn.len() > SPRINGBOARD_LEN
        };
        if !members.iter().any(|member| member.insn.addr() != head && hosts(member)) {
            let end = function.end.min(within.end).min(head + REACH);
            members.iter().for_each(|member| scan.pass(&member.insn));
            members.extend(scan.host(region.extent.end, end));
        }
        let extent = members.first()?.insn.addr()..members.last()?.insn.end().max(region.extent.end);
        Some(Region { members, extent, whole: false, room: 0 })
    }
}

/// Instructions one after the other, and whether they are code.
struct Scan<'a> {
    code: &'a Code<'a>,
    wanted: &'a Wanted,
    /// Where direct branches lead.
    targets: FxHashSet<Addr>,
    /// Control comes here: not only behind the end of a path, where data may be.
    sure: bool,
}

impl<'a> Scan<'a> {
    fn new(code: &'a Code<'a>, wanted: &'a Wanted) -> Scan<'a> {
        Scan { code, wanted, targets: FxHashSet::default(), sure: true }
    }

    /// Takes note of an instruction.
    fn pass(&mut self, insn: &Insn) {
        self.sure |= self.targets.contains(&insn.addr());
        if self.sure {
            self.targets.extend(insn.flow().target());
        }
        self.sure &= insn.flow().falls_through();
    }

    /// Whether an instruction may come along.
    fn is_movable(&self, insn: &Insn) -> bool {
        is_movable(self.code, insn)
            && !self.wanted.contains(insn.addr())
            && insn.behind_prefixes().next().is_none()
            && !matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall)
    }

    /// The instructions before `head` from which control always goes on to it, from `from` on.
    fn lead_up(&mut self, function: &Range<Addr>, head: Addr, from: Addr) -> Vec<Member> {
        let from = from.max(Addr(head.0.saturating_sub(LEAD)));
        let mut row = Vec::new();
        if head.offset_from(function.start) > DECODED || !self.code.facts.begins(function.start) {
            return row;
        }
        let mut at = function.start;
        while at < head {
            let Some(insn) = self.code.insn(at).ok().filter(|insn| insn.end() <= head) else {
                // Not in step with the site.
                self.targets.clear();
                return Vec::new();
            };
            self.sure |= self.targets.contains(&at);
            let comes = at >= from && self.sure && insn.flow().falls_through() && self.is_movable(&insn);
            if comes && (at == function.start || self.code.entry_in(at..at + 1).is_none()) {
                row.push(Member { insn, kind: Kind::Displaced, probed: false, rigid: false });
            } else {
                row.clear();
            }
            self.pass(&insn);
            at = insn.end();
        }
        // The site itself is code.
        self.sure = true;
        row
    }

    /// The first instruction from `at` on that is long enough to host a springboard.
    fn host(&mut self, mut at: Addr, end: Addr) -> Option<Member> {
        while at < end {
            let insn = self.code.insn(at).ok().filter(|insn| insn.end() <= end)?;
            let inside = self.wanted.any_in(at..insn.end());
            if inside || self.code.entry_in(at..insn.end()).is_some() {
                return None;
            }
            self.sure |= self.targets.contains(&at);
            if self.sure && insn.len() > SPRINGBOARD_LEN && self.is_movable(&insn) {
                return Some(Member { insn, kind: Kind::Displaced, probed: false, rigid: false });
            }
            self.pass(&insn);
            at = insn.end();
        }
        None
    }
}

//! Where control comes into regions from elsewhere: direct branches and calls from code that is not of the region.
//!
//! Instructions of regions and the rest of their functions are decoded; other code that was read is looked through byte by
//! byte. What is missed costs traps, never correctness.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::Flow;

use crate::code::Code;
use crate::code::hazard::{SHORT_REACH, near_branches, short_branches};
use crate::region::Region;

/// Targets of direct branches inside regions.
pub(crate) struct Leads {
    /// Ascending; each with the region it comes from, or [`ELSEWHERE`].
    targets: Vec<(Addr, u32)>,
}

/// No region.
const ELSEWHERE: u32 = u32::MAX;

impl Leads {
    /// Looks for what leads into `regions`, which ascend.
    pub(crate) fn find(code: &Code, regions: &[Region]) -> Leads {
        let mut leads = Leads { targets: Vec::new() };
        let mut looked_at: Vec<Range<Addr>> = Vec::new();
        let mut near: Vec<Range<Addr>> = Vec::new();
        for (index, region) in regions.iter().enumerate() {
            for member in &region.members {
                let insn = &member.insn;
                match looked_at.last_mut() {
                    Some(last) if last.end == insn.addr() => last.end = insn.end(),
                    _ => looked_at.push(insn.addr()..insn.end()),
                }
                if let Some(target) = insn.flow().target() {
                    match insn.flow() {
                        // A call comes from outside, wherever it is.
                        Flow::Call(_) => leads.push(regions, target, ELSEWHERE),
                        _ if region.extent.contains(&target) && region.index_of(target).is_some() => {}
                        _ => leads.push(regions, target, index as u32),
                    }
                }
            }
            match code.facts.function(region.extent.start) {
                Some(function) if near.last() != Some(&function) => near.push(function),
                Some(_) => {}
                None => {
                    let before = code.before(region.extent.start).len() as u64;
                    near.push(region.extent.start - before.min(SHORT_REACH)..region.extent.end + SHORT_REACH);
                }
            }
        }
        let known: Vec<bool> =
            near.iter().map(|range| code.facts.function(range.start).as_ref() == Some(range)).collect();
        for (range, known) in near.iter().zip(known) {
            for piece in without(range, &looked_at) {
                if known {
                    decode(code, &piece, |target| leads.push(regions, target, ELSEWHERE));
                } else if let Some(bytes) = slice(code, &piece) {
                    short_branches(bytes, piece.start, |target| leads.push(regions, target, ELSEWHERE));
                }
            }
        }
        for (start, bytes) in code.stretches() {
            for piece in without(&start.span(bytes.len() as u64), &looked_at) {
                let from = piece.start.offset_from(start) as usize;
                // An instruction may reach into what is displaced.
                let to = (piece.end.offset_from(start) as usize + 5).min(bytes.len());
                near_branches(&bytes[from..to], piece.start, |target| leads.push(regions, target, ELSEWHERE));
            }
        }
        leads.targets.sort_unstable();
        leads.targets.dedup();
        leads
    }

    fn push(&mut self, regions: &[Region], target: Addr, from: u32) {
        let index = regions.partition_point(|region| region.extent.end <= target);
        if regions.get(index).is_some_and(|region| region.extent.contains(&target)) {
            self.targets.push((target, from));
        }
    }

    /// The addresses in the region with this index to which control comes from elsewhere, and those inside its
    /// instructions to which it comes at all.
    pub(crate) fn into(&self, index: usize, region: &Region) -> impl Iterator<Item = Addr> + '_ {
        let from = self.targets.partition_point(|(target, _)| *target < region.extent.start);
        let end = region.extent.end;
        let inside = self.targets[from..].iter().take_while(move |(target, _)| *target < end);
        let is_head = |at: Addr| region.index_of(at).is_some();
        let found: Vec<Addr> = inside
            .filter(|(target, source)| *source != index as u32 || !is_head(*target))
            .map(|(target, _)| *target)
            .collect();
        found.into_iter()
    }
}

/// The parts of `range` that are in none of `covered`, which ascend.
fn without(range: &Range<Addr>, covered: &[Range<Addr>]) -> Vec<Range<Addr>> {
    let mut pieces = Vec::new();
    let mut at = range.start;
    let from = covered.partition_point(|covered| covered.end <= range.start);
    for covered in covered[from..].iter().take_while(|covered| covered.start < range.end) {
        if at < covered.start {
            pieces.push(at..covered.start);
        }
        at = at.max(covered.end);
    }
    if at < range.end {
        pieces.push(at..range.end);
    }
    pieces
}

fn decode(code: &Code, piece: &Range<Addr>, mut found: impl FnMut(Addr)) {
    let mut at = piece.start;
    while at < piece.end {
        match code.insn(at) {
            Ok(insn) => {
                insn.flow().target().into_iter().for_each(&mut found);
                at = insn.end();
            }
            Err(_) => at = at + 1,
        }
    }
}

fn slice<'c>(code: &'c Code, piece: &Range<Addr>) -> Option<&'c [u8]> {
    let bytes = code.original(piece.start);
    let len = usize::try_from(piece.end.offset_from(piece.start)).ok()?.min(bytes.len());
    (len > 0).then(|| &bytes[..len])
}

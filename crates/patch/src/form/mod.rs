//! Forming groups: which instructions share a springboard, before any trampoline has a place.

pub(crate) mod formed;
pub(crate) mod instrumentation;
pub(crate) mod wanted;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;
use rustc_hash::FxHashSet;

use crate::code::{AROUND, Code};
use crate::form::formed::Formed;
use crate::form::instrumentation::{Layout, ProbedFunction};
use crate::form::wanted::{PART, Wanted};
use crate::group::Group;
use crate::group::shape::{Board, shape, trap};
use crate::parallel::each;
use crate::plan::Input;
use crate::region::Region;
use crate::region::body::estimate;
use crate::tactic::{Obstacle, Refusal, TrapPolicy};
use crate::trampoline::lower::Ready;

/// Forms the region that a head is in, which begins at it or before.
type Gather<'g> = &'g dyn Fn(&Code, Addr, &Wanted) -> Option<Region>;

/// So many dirty heads make a chunk, up to the next function.
const CHUNK: usize = 4096;
/// Groups so near to dirty heads may have to be formed anew with them.
const CHUNK_APART: u64 = 1 << 16;

/// Forms groups around the dirty heads. Existing groups they touch are taken apart and formed anew.
///
/// Where there are none, chunks are formed by themselves, perhaps by several threads; what a chunk is depends on the
/// heads alone. One that what was formed before it reaches into is formed anew behind that.
pub(crate) fn form(input: &Input) -> Formed {
    let chunks = chunks(input);
    let snippets = |(chunk, heads): (usize, &[Addr])| {
        let numbered = (chunk * PART..).zip(heads);
        numbered.map(|(index, &head)| (head, (input.dirty_snippets)(index))).collect()
    };
    let parts = input.dirty.chunks(PART).enumerate().collect();
    let wanted = Wanted::of(each(parts, input.threads, snippets));
    let alone = |dirty: &[Addr]| {
        let mut former = Former::new(input, wanted.clone());
        former.run(dirty);
        former.formed
    };
    let mut former = Former::new(input, wanted.clone());
    match &chunks[..] {
        [all] => former.run(all),
        _ => {
            let formed = each(chunks.clone(), input.threads, alone);
            for (dirty, formed) in chunks.iter().zip(formed) {
                match former.formed.end().zip(formed.start()) {
                    Some((end, start)) if start < end => former.run(dirty),
                    _ => former.formed.append(formed),
                }
            }
        }
    }
    let Former { gone, mut formed, .. } = former;
    formed.removed = gone.into_iter().collect();
    formed.removed.sort_unstable();
    formed
}

/// Heads to look at, lowest first: most are known at the start and in order.
#[derive(Default)]
struct Work {
    /// Descending.
    known: Vec<Addr>,
    late: BTreeSet<Addr>,
}

impl Work {
    fn first(&self) -> Option<Addr> {
        self.known.last().copied().into_iter().chain(self.late.first().copied()).min()
    }

    fn pop_first(&mut self) -> Option<Addr> {
        let first = self.first()?;
        if self.known.last() == Some(&first) {
            self.known.pop();
        }
        self.late.remove(&first);
        Some(first)
    }
}

struct Former<'i, 'a> {
    input: &'i Input<'a>,
    work: Work,
    /// Starts of groups that were taken apart.
    gone: FxHashSet<Addr>,
    /// The last function that stays out of line.
    out_of_line: Range<Addr>,
    formed: Formed,
}

/// The dirty heads in chunks, each from where a function begins.
fn chunks<'a>(input: &Input<'a>) -> Vec<&'a [Addr]> {
    let all = input.dirty;
    let near = |group: &Group| {
        all.first().is_some_and(|first| group.extent.end + CHUNK_APART > *first)
            && all.last().is_some_and(|last| group.extent.start < *last + CHUNK_APART)
    };
    if all.len() < 2 * CHUNK || input.groups.values().any(|group| near(group)) {
        return vec![all];
    }
    let begins = |at: Addr| input.code.entry_in(at..at + 1).is_some();
    let (mut chunks, mut rest) = (Vec::new(), all);
    while rest.len() > CHUNK {
        let behind = rest[CHUNK..].iter().position(|at| begins(*at));
        let Some(behind) = behind else { break };
        let (chunk, others) = rest.split_at(CHUNK + behind);
        chunks.push(chunk);
        rest = others;
    }
    chunks.push(rest);
    chunks
}

impl<'i, 'a> Former<'i, 'a> {
    fn new(input: &'i Input<'a>, wanted: Wanted) -> Former<'i, 'a> {
        Former {
            input,
            work: Work::default(),
            gone: FxHashSet::default(),
            out_of_line: Addr(0)..Addr(0),
            formed: Formed { wanted, ..Formed::default() },
        }
    }

    /// Forms groups around `dirty` heads, which are behind all that was formed before.
    fn run(&mut self, dirty: &[Addr]) {
        let mut known = Vec::with_capacity(dirty.len());
        for &head in dirty {
            if self.look_up(head) {
                known.push(head);
            }
            if let Some(group) = self.touching(head..head + 1) {
                self.take_apart(group);
            }
        }
        known.reverse();
        self.work.known = known;
        while let Some(head) = self.work.pop_first() {
            self.form_at(head);
        }
    }

    fn form_at(&mut self, head: Addr) {
        // A head inside the run before it belongs to that group.
        if let Some(last) = self.formed.shapes.last()
            && head < last.extent().end
        {
            let Some(inside) = last.insns.iter().rev().find(|insn| insn.addr() <= head) else { return };
            if inside.addr() == head {
                return;
            }
            if matches!(last.board, Board::Pun(_)) && head >= inside.end() {
                // It relies on the bytes that are to be changed here.
                self.demote();
            } else {
                let refusal = Refusal::NotABoundary { at: head, head: inside.addr() };
                return self.formed.refused.push((head, refusal));
            }
        }
        if let Some(last) = self.formed.regions.last()
            && head < last.extent.end
        {
            let inside =
                last.member_at(head).map_or(last.extent.start, |index| last.members[index].insn.addr());
            if inside != head {
                self.formed.refused.push((head, Refusal::NotABoundary { at: head, head: inside }));
            }
            return;
        }
        if self.input.policy != TrapPolicy::Force
            && (self.form_whole(head) || self.form_region(head, &Region::gather))
        {
            return;
        }
        let Some(snippets) = self.formed.wanted.get(head) else { return };
        let retargetable = snippets.iter().all(Ready::is_counter);
        let gate = snippets.is_gate();
        let policy = if gate { TrapPolicy::Force } else { self.input.policy };
        let mut formed = shape(self.input.code, head, policy, retargetable);
        let shapes = self.formed.shapes.last().map(|last| last.extent().end);
        let regions = self.formed.regions.last().map(|last| last.extent.end);
        if let (Some(end), Ok(shape)) = (shapes.max(regions), &formed)
            && shape.extent().start < end
        {
            // Padding that the run before it covers: fall back to the site's own byte.
            formed = trap(shape, self.input.policy, Obstacle::NoPlace);
        }
        let is_trap = match &formed {
            Ok(shape) => shape.board == Board::Trap,
            Err(refusal) => matches!(refusal, Refusal::TrapForbidden { .. }),
        };
        let within = shapes.max(regions).unwrap_or(Addr(0))..Addr(u64::MAX);
        let around =
            |code: &Code, head: Addr, wanted: &Wanted| Region::alone(code, head, wanted, within.clone());
        if is_trap && policy != TrapPolicy::Force && self.form_region(head, &around) {
            return;
        }
        let shape = match formed {
            Ok(shape) => shape,
            Err(refusal) => return self.formed.refused.push((head, refusal)),
        };
        let extent = shape.extent();
        let is_before = |work: &Work| work.first().is_some_and(|first| first < head);
        while let Some(group) = self.touching(extent.clone()) {
            self.take_apart(group);
            // Heads before this one would have been formed already.
            if is_before(&self.work) {
                break;
            }
        }
        if is_before(&self.work) {
            self.work.late.insert(head);
        } else {
            self.formed.shapes.push(Box::new(shape));
        }
    }

    /// Forms the region that is all of the function around `head`, if its engine says so. Returns whether `head` is done
    /// with, at least for now.
    fn form_whole(&mut self, head: Addr) -> bool {
        let (code, instrumentation) = (self.input.code, self.input.instrumentation);
        let least = instrumentation.probes_min();
        if least == usize::MAX || self.out_of_line.contains(&head) {
            return false;
        }
        let Some(mut range) = code.facts.function(head) else { return false };
        let probed = self.probed_in(&range, least);
        let insns = OnceCell::new();
        let entered = self.input.features.bytes;
        let function = ProbedFunction { code, range: &range, probed: &probed, insns: &insns, entered };
        if probed.len() < least || instrumentation.layout(&function) == Layout::OutOfLine {
            self.out_of_line = range;
            return false;
        }
        let unread = self.unread_in(&range);
        if !unread.is_empty() {
            self.formed.unread.extend(unread);
            return false;
        }
        for &at in &probed {
            self.look_up(at);
        }
        // Another function may begin inside this one.
        while let Some(entry) = code.entry_in(range.start + 1..head + 1) {
            range.start = entry;
        }
        let shapes = self.formed.shapes.last().map(|last| last.extent().end);
        let regions = self.formed.regions.last().map(|last| last.extent.end);
        let from = shapes.max(regions).unwrap_or(range.start).max(range.start);
        let decoded = insns.get().map_or(&[][..], |insns| insns);
        self.form_region(head, &|code, head, wanted| {
            let region = Region::whole(code, &range, from, &probed, (decoded, wanted, entered))?;
            region.index_of(head).is_some().then_some(region)
        })
    }

    /// The probed heads in `range`: those that change, and those of groups in place. Nothing if they are clearly fewer than
    /// `least`.
    fn probed_in(&self, range: &Range<Addr>, least: usize) -> Vec<Addr> {
        let dirty = self.input.dirty;
        let dirty = &dirty[dirty.partition_point(|at| *at < range.start)..];
        let mut probed: Vec<Addr> = dirty.iter().take_while(|at| **at < range.end).copied().collect();
        let groups = self.input.groups.range(..range.end).rev().map(|(_, group)| group);
        let near = groups.take_while(|group| range.start < group.extent.end);
        probed.extend(near.flat_map(|group| &group.heads).map(|head| head.at));
        if probed.len() < least {
            return Vec::new();
        }
        let is_wanted = |at| self.formed.wanted.contains(at) || !(self.input.snippets)(at).is_empty();
        probed.retain(|at| range.contains(at) && is_wanted(*at));
        probed.sort_unstable();
        probed.dedup();
        probed
    }

    /// Addresses that have to be read for, so that all of `range` is.
    fn unread_in(&self, range: &Range<Addr>) -> Vec<Addr> {
        let code = self.input.code;
        let len = range.end.offset_from(range.start) as usize;
        if code.original(range.start).len() >= len {
            return Vec::new();
        }
        let all = (range.start.0..range.end.0).step_by(AROUND as usize).map(Addr);
        all.filter(|at| !code.was_read_for(*at)).collect()
    }

    /// Forms the region that `head` is in, which begins at it or before, if one does. Returns whether `head` is done
    /// with, at least for now.
    fn form_region(&mut self, head: Addr, gather: Gather<'_>) -> bool {
        loop {
            let Some(mut region) = gather(self.input.code, head, &self.formed.wanted) else { return false };
            let mut same = true;
            while let Some(group) = self.touching(region.extent.clone()) {
                self.take_apart(group);
                same = false;
            }
            if self.work.first().is_some_and(|first| first < head) {
                self.work.late.insert(head);
                return true;
            }
            if same {
                region.room = estimate(&region, &|at| self.formed.wanted.get(at));
                self.formed.regions.push(region);
                return true;
            }
        }
    }

    /// Looks the snippets at `head` up. Returns whether there are any.
    fn look_up(&mut self, head: Addr) -> bool {
        if self.formed.wanted.contains(head) {
            return true;
        }
        let snippets = (self.input.snippets)(head);
        let any = !snippets.is_empty();
        if any {
            self.formed.wanted.insert(head, snippets);
        }
        any
    }

    /// Makes the last shape a trap, or drops it as the policy says.
    fn demote(&mut self) {
        let Some(last) = self.formed.shapes.pop() else { return };
        match trap(&last, self.input.policy, Obstacle::NoPlace) {
            Ok(trap) => self.formed.shapes.push(Box::new(trap)),
            Err(refusal) => self.formed.refused.push((last.start, refusal)),
        }
    }

    /// A group whose extent overlaps `range`, other than those already taken apart.
    fn touching(&self, range: Range<Addr>) -> Option<&'a Group> {
        // Extents do not overlap, so that their ends ascend as their starts do; one may begin with padding before its
        // start.
        let near = ..range.end + SPRINGBOARD_LEN as u64;
        let groups = self.input.groups.range(near).rev().map(|(_, group)| &**group);
        groups
            .take_while(|group| range.start < group.extent.end)
            .find(|group| group.extent.start < range.end && !self.gone.contains(&group.start))
    }

    fn take_apart(&mut self, group: &Group) {
        self.gone.insert(group.start);
        for head in &group.heads {
            if self.look_up(head.at) {
                self.work.late.insert(head.at);
                if !self.input.code.was_read_for(head.at) {
                    self.formed.unread.push(head.at);
                }
            }
        }
    }
}

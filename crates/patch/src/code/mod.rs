//! The program's own code, as it is without our patches: what planning reads.

pub(crate) mod hazard;
pub(crate) mod reader;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use incise_image::{MemoryMap, MemoryReader};
use incise_isa::Addr;
use incise_isa::native::{
    Insn, MAX_INSN_LEN, SPRINGBOARD_LEN, decode, flags_live_before, flags_live_before_call,
};
use incise_space::{Bytes, Edit, SpaceError};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::code::hazard::{SHORT_REACH, near_branches, short_branches};
use crate::group::Group;
use crate::memory::arena::PAGE;
use crate::parallel::each;
use crate::tactic::Refusal;

/// Facts about the program that planning cannot see in the bytes. All but [`begins`](Self::begins) only help: a wrong
/// one costs speed, never correctness.
pub trait Facts: Sync {
    /// The function that holds `at`, as far as it is known.
    fn function(&self, at: Addr) -> Option<Range<Addr>>;
    /// The function that ends closest before `at`, or at it.
    fn function_before(&self, at: Addr) -> Option<Range<Addr>>;
    /// The addresses in `range` at which functions begin, in any order, perhaps more than once.
    fn entries(&self, range: Range<Addr>) -> Vec<Addr>;
    /// Whether `at` belongs to a restartable sequence (rseq(2)).
    fn is_restartable(&self, at: Addr) -> bool;
    /// Whether the dynamic linker writes to the instruction at `at`, or to one so close behind it that a springboard there
    /// would cover or rely on it.
    fn is_relocated(&self, _at: Addr) -> bool {
        false
    }
    /// Whether the program copies the code at `at` and runs the copy.
    fn is_copied(&self, at: Addr) -> bool;
    /// Whether an instruction of the program certainly begins at `at`. Unlike all other facts this one is relied on: code behind
    /// it may be displaced that nobody asked for.
    fn begins(&self, _at: Addr) -> bool {
        false
    }
    /// For each range that is `asked` for, addresses in it to which control comes in ways that the code does not show: targets of
    /// jumps through tables, and where exceptions are caught. In any order, perhaps more than once. With each range goes
    /// whether there are indirect jumps in it, so that it is worth while to find out.
    fn leads(&self, asked: &[(Range<Addr>, bool)]) -> Vec<Vec<Addr>> {
        vec![Vec::new(); asked.len()]
    }
    /// What the linkage stub at `stub` leads to, if it is one that leads to a function of its own module unless another module has
    /// one of the same name. It is relied on that the stub does nothing but jump to what its slot holds.
    fn linkage(&self, _stub: Addr) -> Option<Linkage> {
        None
    }
    /// The slot of the linkage stub by which the function at `function` is called in its own module.
    fn linkage_to(&self, _function: Addr) -> Option<Addr> {
        None
    }
    /// Whether a linkage stub is at `at`. A call through one may change flags on its way (psABI x86-64, 3.2.1 and 5.2): it is
    /// relied on that no callee wants them.
    fn is_linkage_stub(&self, _at: Addr) -> bool {
        false
    }
    /// Whether the module of the code at `at` may hand status flags over at calls and returns, which the convention does not know of (psABI
    /// x86-64, 3.2.1): code behind a call looks at what that has left of them, or that of a function at what its caller has. It is
    /// relied on that none does if not.
    fn hands_flags_over(&self, _at: Addr) -> bool {
        true
    }
    /// Whether the code at `at` is that which runs snippets: a snippet there would run itself.
    fn is_machinery(&self, _at: Addr) -> bool {
        false
    }
}

/// What a linkage stub leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linkage {
    /// The quadword that holds the address of what is called.
    pub slot: Addr,
    /// The function of the same module that this is, unless something took its place.
    pub function: Addr,
}

/// Knows nothing.
pub struct NoFacts;

impl Facts for NoFacts {
    fn function(&self, _: Addr) -> Option<Range<Addr>> {
        None
    }
    fn function_before(&self, _: Addr) -> Option<Range<Addr>> {
        None
    }
    fn entries(&self, _: Range<Addr>) -> Vec<Addr> {
        Vec::new()
    }
    fn is_restartable(&self, _: Addr) -> bool {
        false
    }
    fn is_copied(&self, _: Addr) -> bool {
        false
    }
}

/// Stretches closer than this many pages are read at once: branches from one into another are not seen.
const MERGE: u64 = 4;
/// The same where planning has time.
const MERGE_WIDELY: u64 = 4096;

/// Snapshots of the code around the sites of one transaction, with our own patches taken back.
pub(crate) struct Code<'a> {
    stretches: Vec<Stretch>,
    /// What of it the program may write to.
    writable: Vec<Range<Addr>>,
    /// What was read for, ascending.
    sites: Vec<Addr>,
    /// Heads of groups whose bytes are no longer ours: their code was unmapped or replaced.
    pub(crate) lost: FxHashSet<Addr>,
    pub(crate) facts: &'a dyn Facts,
    /// How many threads may look at it.
    threads: usize,
}

struct Stretch {
    start: Addr,
    original: Vec<u8>,
    /// The bytes in place where they differ from the original: patched ranges.
    patched: Vec<(Addr, Bytes)>,
    /// Where functions begin. Found when first asked for, as the next: what only goes needs none of it.
    entries: OnceLock<Marks>,
    /// Where, just behind a site, a direct branch may lead.
    branch_targets: OnceLock<Marks>,
}

impl<'a> Code<'a> {
    /// Whether any status flag may be read from `at` on before it is written.
    pub(crate) fn flags_live(&self, at: Addr) -> bool {
        let bytes = self.original(at);
        let bytes = &bytes[..bytes.len().min(LOOKAHEAD as usize)];
        flags_live_before(bytes, at) && (flags_live_before_call(bytes, at) || self.facts.hands_flags_over(at))
    }

    /// Reads the pages around `sites` (ascending) and takes `groups` back in the copy; `widely` the code between sites
    /// far apart as well.
    ///
    /// # Errors
    /// [`SpaceError::Unreadable`] if code cannot be read that groups are in: they are not gone, so nothing can be planned.
    pub(crate) fn read(
        memory: &dyn MemoryReader,
        map: &MemoryMap,
        sites: &[Addr],
        groups: &BTreeMap<Addr, Box<Group>>,
        (facts, threads): (&'a dyn Facts, usize),
        widely: bool,
    ) -> Result<Code<'a>, SpaceError> {
        let merge = PAGE * if widely { MERGE_WIDELY } else { MERGE };
        let mut wanted: Vec<Range<Addr>> = Vec::new();
        for &site in sites {
            let low = Addr(site.0.saturating_sub(AROUND)).align_down(PAGE);
            let high = (site + AROUND).align_up(PAGE);
            match wanted.last_mut() {
                Some(last) if low <= last.end + merge => last.end = last.end.max(high),
                _ => wanted.push(low..high),
            }
        }
        let (mut stretches, mut writable) = (Vec::new(), Vec::new());
        for range in wanted {
            for mapping in map.iter().filter(|m| m.permissions.execute) {
                let start = range.start.max(mapping.range.start);
                let end = range.end.min(mapping.range.end);
                if start >= end {
                    continue;
                }
                if mapping.permissions.write {
                    writable.push(start..end);
                }
                let mut original = vec![0; end.offset_from(start) as usize];
                if !memory.read(start, &mut original) {
                    let before = groups.range(..end).next_back();
                    if before.is_some_and(|(_, group)| group.extent.end > start) {
                        return Err(SpaceError::Unreadable { at: start, len: original.len() });
                    }
                    continue;
                }
                // A patched page is a mapping of its own: keep neighbours together.
                match stretches.last_mut() {
                    Some(Stretch { start: first, original: bytes, .. })
                        if *first + bytes.len() as u64 == start =>
                    {
                        bytes.append(&mut original);
                    }
                    _ => stretches.push(Stretch::new(start, original)),
                }
            }
        }
        let mut lost = FxHashSet::default();
        for stretch in &mut stretches {
            stretch.take_back(groups, &mut lost);
        }
        Ok(Code { stretches, writable, sites: sites.to_vec(), lost, facts, threads })
    }

    /// Whether the code around `site` was read, and looked through for branches to it.
    pub(crate) fn was_read_for(&self, site: Addr) -> bool {
        self.sites.binary_search(&site).is_ok()
    }

    /// The first head in `targets`, just behind a site, that a direct branch may lead to: a short one, or a near one
    /// from the code that was read.
    pub(crate) fn branch_into(&self, targets: Range<Addr>, is_head: impl Fn(Addr) -> bool) -> Option<Addr> {
        let stretch = self.stretch(targets.start)?;
        let marks = stretch.branch_targets.get_or_init(|| stretch.find_branches(&self.sites, self.threads));
        stretch.marked(marks, targets).find(|at| is_head(*at))
    }

    /// The first address in `range` at which a function begins.
    pub(crate) fn entry_in(&self, range: Range<Addr>) -> Option<Addr> {
        let stretch = self.stretch(range.start)?;
        let marks = stretch.entries.get_or_init(|| stretch.find_entries(self.facts));
        stretch.marked(marks, range).next()
    }

    /// The code that was read.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (Addr, &[u8])> {
        self.stretches.iter().map(|stretch| (stretch.start, &*stretch.original))
    }

    /// Original bytes from `at` on, as many as were read.
    pub(crate) fn original(&self, at: Addr) -> &[u8] {
        self.stretch(at).map_or(&[], |s| &s.original[at.offset_from(s.start) as usize..])
    }

    /// Original bytes that end before `at`.
    pub(crate) fn before(&self, at: Addr) -> &[u8] {
        self.stretch(at).map_or(&[], |s| &s.original[..at.offset_from(s.start) as usize])
    }

    /// The bytes that are at `at` now, our patches included.
    pub(crate) fn current(&self, at: Addr, len: usize) -> Option<Vec<u8>> {
        let stretch = self.stretch(at)?;
        let offset = at.offset_from(stretch.start) as usize;
        let mut bytes = stretch.original.get(offset..offset + len)?.to_vec();
        let from = stretch.patched.partition_point(|(start, patch)| *start + patch.len() as u64 <= at);
        for (start, patch) in &stretch.patched[from..] {
            if *start >= at + len as u64 {
                break;
            }
            for (i, &byte) in patch.iter().enumerate() {
                let offset = (*start + i as u64).offset_from(at);
                if let Some(slot) = usize::try_from(offset).ok().and_then(|o| bytes.get_mut(o)) {
                    *slot = byte;
                }
            }
        }
        Some(bytes)
    }

    /// Whether `bytes` are at `at` now.
    pub(crate) fn is_current(&self, at: Addr, bytes: &[u8]) -> bool {
        let Some(stretch) = self.stretch(at) else { return false };
        let end = at + bytes.len() as u64;
        let index = stretch.patched.partition_point(|(start, patch)| *start + patch.len() as u64 <= at);
        match stretch.patched.get(index).filter(|(start, ..)| *start < end) {
            None => self.original(at).starts_with(bytes),
            Some((start, patch)) => *start == at && **patch == *bytes,
        }
    }

    /// The original instruction at `at`.
    pub(crate) fn insn(&self, at: Addr) -> Result<Insn, Refusal> {
        let bytes = self.original(at);
        if bytes.is_empty() {
            return Err(Refusal::NotExecutable(at));
        }
        if self.is_writable(at) {
            return Err(Refusal::Writable(at));
        }
        decode(&bytes[..bytes.len().min(MAX_INSN_LEN)], at).map_err(|_| Refusal::Undecodable(at))
    }

    /// Whether the program may write to the code at `at`.
    pub(crate) fn is_writable(&self, at: Addr) -> bool {
        self.writable.iter().any(|range| range.contains(&at))
    }

    /// The piece of code around `at` that was read, and where it begins.
    pub(crate) fn piece(&self, at: Addr) -> Option<(Addr, &[u8])> {
        self.stretch(at).map(|stretch| (stretch.start, &*stretch.original))
    }

    fn stretch(&self, at: Addr) -> Option<&Stretch> {
        let index = self.stretches.partition_point(|s| s.start <= at);
        let stretch = &self.stretches[index.checked_sub(1)?];
        (at < stretch.start + stretch.original.len() as u64).then_some(stretch)
    }
}

/// A set of offsets.
struct Marks(Vec<u64>);

impl Marks {
    fn new(len: usize) -> Marks {
        Marks(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, offset: usize) {
        if let Some(word) = self.0.get_mut(offset / 64) {
            *word |= 1 << (offset % 64);
        }
    }

    fn contains(&self, offset: usize) -> bool {
        self.0.get(offset / 64).is_some_and(|word| word & (1 << (offset % 64)) != 0)
    }
}

impl Stretch {
    fn new(start: Addr, original: Vec<u8>) -> Stretch {
        Stretch {
            start,
            original,
            patched: Vec::new(),
            entries: OnceLock::new(),
            branch_targets: OnceLock::new(),
        }
    }

    fn offset(&self, at: Addr) -> Option<usize> {
        usize::try_from(at.offset_from(self.start)).ok().filter(|&offset| offset < self.original.len())
    }

    fn marked(&self, marks: &Marks, range: Range<Addr>) -> impl Iterator<Item = Addr> {
        let is_marked = |at: &Addr| self.offset(*at).is_some_and(|offset| marks.contains(offset));
        (range.start.0..range.end.0).map(Addr).filter(is_marked)
    }

    /// Finds where functions begin.
    fn find_entries(&self, facts: &dyn Facts) -> Marks {
        let end = self.start + self.original.len() as u64;
        let mut entries = Marks::new(self.original.len());
        for offset in facts.entries(self.start..end).into_iter().filter_map(|at| self.offset(at)) {
            entries.insert(offset);
        }
        entries
    }

    /// Finds which bytes that a springboard at any of `sites` may cover are targets of direct branches.
    fn find_branches(&self, sites: &[Addr], threads: usize) -> Marks {
        /// So many bytes or sites are looked at by one thread at a time.
        const BYTES: usize = 1 << 16;
        const SITES: usize = 4096;
        /// The longest near branch, less one byte.
        const ACROSS: usize = 5;
        let end = self.start + self.original.len() as u64;
        let from = sites.partition_point(|site| *site + COVERED < self.start);
        let sites = &sites[from..from + sites[from..].partition_point(|site| *site < end)];
        let mut covered = Marks::new(self.original.len());
        for site in sites {
            (1..COVERED).filter_map(|i| self.offset(*site + i)).for_each(|offset| covered.insert(offset));
        }
        let covered = |target: Addr| self.offset(target).filter(|&offset| covered.contains(offset));
        let near = |from: usize| {
            let mut found = Vec::new();
            let bytes = &self.original[from..self.original.len().min(from + BYTES + ACROSS)];
            near_branches(bytes, self.start + from as u64, |target| found.extend(covered(target)));
            found
        };
        let short = |sites: &[Addr]| {
            let mut found = Vec::new();
            // Short ones are near; windows of neighbours are looked through once.
            let mut looked = 0;
            for site in sites {
                let at = site.offset_from(self.start);
                let low = (at - SHORT_REACH as i64).max(looked) as usize;
                let high =
                    (at + (COVERED + SHORT_REACH) as i64).clamp(0, self.original.len() as i64) as usize;
                if low < high {
                    let bytes = &self.original[low..high];
                    short_branches(bytes, self.start + low as u64, |target| found.extend(covered(target)));
                    // A branch may begin at the last byte that was looked at.
                    looked = high as i64 - 1;
                }
            }
            found
        };
        let mut targets = Marks::new(self.original.len());
        let all = each((0..self.original.len()).step_by(BYTES).collect(), threads, near);
        let all = all.into_iter().chain(each(sites.chunks(SITES).collect(), threads, short));
        all.flatten().for_each(|offset| targets.insert(offset));
        targets
    }

    fn take_back(&mut self, groups: &BTreeMap<Addr, Box<Group>>, lost: &mut FxHashSet<Addr>) {
        let end = self.start + self.original.len() as u64;
        // Extents do not overlap, but may begin before their group does: the last group before the stretch may reach
        // into it, and one behind it as well.
        let before = groups.range(..self.start).next_back().into_iter();
        let inside = groups.range(self.start..end + SPRINGBOARD_LEN as u64);
        for group in before.chain(inside).map(|(_, group)| group) {
            let edits =
                || group.edits.iter().filter_map(|edit| self.part_inside(edit).map(|part| (edit, part)));
            let is_whole = |part: &Range<usize>, edit: &Edit| part.len() == edit.new.len();
            // Our bytes are gone: the module was unloaded or replaced. What is there now is the original.
            if edits().any(|(edit, (part, _))| is_whole(&part, edit) && self.original[part] != *edit.new) {
                lost.extend(group.heads.iter().map(|head| head.at));
                continue;
            }
            let parts: SmallVec<[_; 1]> = edits().map(|(edit, part)| (*edit, part)).collect();
            for (edit, (part, within)) in parts {
                let mut now = edit.new.to_vec();
                now[within.clone()].copy_from_slice(&self.original[part.clone()]);
                self.original[part].copy_from_slice(&edit.old[within]);
                self.patched.push((edit.at, Bytes::new(&now)));
            }
        }
    }

    /// The bytes of an edit that lie in the stretch, as offsets in the stretch and in the edit.
    fn part_inside(&self, edit: &Edit) -> Option<(Range<usize>, Range<usize>)> {
        let end = self.start + self.original.len() as u64;
        let (from, to) = (edit.at.max(self.start), (edit.at + edit.old.len() as u64).min(end));
        let part = |base: Addr| from.offset_from(base) as usize..to.offset_from(base) as usize;
        (from < to).then(|| (part(self.start), part(edit.at)))
    }
}

/// Bytes around a site that are read, and looked through for branches to it.
pub(crate) const AROUND: u64 = 8192;
/// Bytes behind a site that planning may look at.
pub(crate) const LOOKAHEAD: u64 = 192;
/// Bytes from a site that a springboard may cover, an `endbr64` before it included.
const COVERED: u64 = 9;

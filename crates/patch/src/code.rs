//! The program's own code, as it is without our patches: what planning reads.

use std::collections::BTreeMap;
use std::ops::Range;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_isa::native::{Insn, MAX_INSN_LEN, decode};
use incise_space::AddressSpace;
use rustc_hash::FxHashSet;

use crate::arena::PAGE;
use crate::group::Group;
use crate::hazard::{near_branches, short_branch_into};
use crate::tactic::Refusal;

/// Facts about the program that planning cannot see in the bytes. All of them only help: a wrong one costs
/// speed, never correctness.
pub trait Facts {
    /// The function that holds `at`, as far as it is known.
    fn function(&self, at: Addr) -> Option<Range<Addr>>;
    /// The function that ends closest before `at`, or at it.
    fn function_before(&self, at: Addr) -> Option<Range<Addr>>;
    /// Whether a function begins at `at`.
    fn is_entry(&self, at: Addr) -> bool;
    /// Whether `at` belongs to a restartable sequence (rseq(2)).
    fn is_restartable(&self, at: Addr) -> bool;
    /// Whether the program copies the code at `at` and runs the copy.
    fn is_copied(&self, at: Addr) -> bool;
    /// Whether the code at `at` is that which runs snippets: a snippet there would run itself.
    fn is_machinery(&self, _at: Addr) -> bool {
        false
    }
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
    fn is_entry(&self, _: Addr) -> bool {
        false
    }
    fn is_restartable(&self, _: Addr) -> bool {
        false
    }
    fn is_copied(&self, _: Addr) -> bool {
        false
    }
}

/// Stretches closer than this many pages are read at once.
const MERGE: u64 = 4;

/// Snapshots of the code around the sites of one transaction, with our own patches taken back.
pub(crate) struct Code<'a> {
    stretches: Vec<Stretch>,
    /// What was read for, ascending.
    sites: Vec<Addr>,
    /// Addresses just behind a site that a near branch may lead to.
    branch_targets: FxHashSet<Addr>,
    /// Heads of groups whose bytes are no longer ours: their code was unmapped or replaced.
    pub(crate) lost: FxHashSet<Addr>,
    pub(crate) facts: &'a dyn Facts,
}

struct Stretch {
    start: Addr,
    original: Vec<u8>,
    /// The bytes in place where they differ from the original: patched ranges.
    patched: Vec<(Addr, [u8; Group::EDIT_MAX], usize)>,
}

impl<'a> Code<'a> {
    /// Reads the pages around `sites` (ascending) and takes `groups` back in the copy.
    pub(crate) fn read(
        space: &dyn AddressSpace,
        map: &MemoryMap,
        sites: &[Addr],
        groups: &BTreeMap<Addr, Group>,
        facts: &'a dyn Facts,
    ) -> Code<'a> {
        let mut wanted: Vec<Range<Addr>> = Vec::new();
        for &site in sites {
            let low = Addr(site.0.saturating_sub(AROUND)).align_down(PAGE);
            let high = (site + AROUND).align_up(PAGE);
            match wanted.last_mut() {
                Some(last) if low <= last.end + MERGE * PAGE => last.end = last.end.max(high),
                _ => wanted.push(low..high),
            }
        }
        let mut stretches = Vec::new();
        for range in wanted {
            for mapping in map.iter().filter(|m| m.permissions.execute) {
                let start = range.start.max(mapping.range.start);
                let end = range.end.min(mapping.range.end);
                if start >= end {
                    continue;
                }
                let mut original = vec![0; end.offset_from(start) as usize];
                if space.read(start, &mut original).is_err() {
                    continue;
                }
                // A patched page is a mapping of its own: keep neighbours together.
                match stretches.last_mut() {
                    Some(Stretch { start: first, original: bytes, .. })
                        if *first + bytes.len() as u64 == start =>
                    {
                        bytes.append(&mut original);
                    }
                    _ => stretches.push(Stretch { start, original, patched: Vec::new() }),
                }
            }
        }
        let mut lost = FxHashSet::default();
        for stretch in &mut stretches {
            stretch.take_back(groups, &mut lost);
        }
        let branch_targets = branch_targets(&stretches, sites);
        Code { stretches, sites: sites.to_vec(), branch_targets, lost, facts }
    }

    /// Whether the code around `site` was read, and looked through for branches to it.
    pub(crate) fn was_read_for(&self, site: Addr) -> bool {
        self.sites.binary_search(&site).is_ok()
    }

    /// The first address in `targets`, just behind a site, that a direct branch may lead to: a short one, or a
    /// near one from the code that was read.
    pub(crate) fn branch_into(&self, targets: Range<Addr>, is_head: impl Fn(Addr) -> bool) -> Option<Addr> {
        let mut addrs = (targets.start.0..targets.end.0).map(Addr);
        if let Some(at) = addrs.find(|at| is_head(*at) && self.branch_targets.contains(at)) {
            return Some(at);
        }
        let stretch = self.stretch(targets.start)?;
        short_branch_into(&stretch.original, stretch.start, targets, is_head)
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
        let from = stretch.patched.partition_point(|(start, _, n)| *start + *n as u64 <= at);
        for (start, patch, n) in &stretch.patched[from..] {
            if *start >= at + len as u64 {
                break;
            }
            for (i, &byte) in patch[..*n].iter().enumerate() {
                let offset = (*start + i as u64).offset_from(at);
                if let Some(slot) = usize::try_from(offset).ok().and_then(|o| bytes.get_mut(o)) {
                    *slot = byte;
                }
            }
        }
        Some(bytes)
    }

    /// The original instruction at `at`.
    pub(crate) fn insn(&self, at: Addr) -> Result<Insn, Refusal> {
        let bytes = self.original(at);
        if bytes.is_empty() {
            return Err(Refusal::NotExecutable(at));
        }
        decode(&bytes[..bytes.len().min(MAX_INSN_LEN)], at).map_err(|_| Refusal::Undecodable(at))
    }

    fn stretch(&self, at: Addr) -> Option<&Stretch> {
        let index = self.stretches.partition_point(|s| s.start <= at);
        let stretch = &self.stretches[index.checked_sub(1)?];
        (at < stretch.start + stretch.original.len() as u64).then_some(stretch)
    }
}

/// Targets of near branches among the bytes a springboard at any of `sites` may cover.
fn branch_targets(stretches: &[Stretch], sites: &[Addr]) -> FxHashSet<Addr> {
    let mut targets = FxHashSet::default();
    for stretch in stretches {
        let mut covered = vec![0u64; stretch.original.len() / 64 + 1];
        let inside = |at: Addr| usize::try_from(at.offset_from(stretch.start)).ok();
        let inside = |at: Addr| inside(at).filter(|&offset| offset < stretch.original.len());
        let from = sites.partition_point(|site| *site + COVERED < stretch.start);
        let end = stretch.start + stretch.original.len() as u64;
        for site in sites[from..].iter().take_while(|site| **site < end) {
            for offset in (1..COVERED).filter_map(|i| inside(*site + i)) {
                covered[offset / 64] |= 1 << (offset % 64);
            }
        }
        near_branches(&stretch.original, stretch.start, |target| {
            if let Some(offset) = inside(target)
                && covered[offset / 64] & (1 << (offset % 64)) != 0
            {
                targets.insert(target);
            }
        });
    }
    targets
}

impl Stretch {
    fn take_back(&mut self, groups: &BTreeMap<Addr, Group>, lost: &mut FxHashSet<Addr>) {
        let end = self.start + self.original.len() as u64;
        // A group that begins before the stretch may reach into it.
        let from = Addr(self.start.0.saturating_sub(Group::EDIT_MAX as u64));
        for group in groups.range(from..end).map(|(_, group)| group) {
            let edit = group.edit();
            let mut now = [0; Group::EDIT_MAX];
            let mut whole = true;
            for (i, &byte) in edit.old.iter().enumerate() {
                match usize::try_from((edit.at + i as u64).offset_from(self.start)) {
                    Ok(offset) if offset < self.original.len() => {
                        now[i] = std::mem::replace(&mut self.original[offset], byte);
                    }
                    _ => {
                        whole = false;
                        now[i] = edit.new[i];
                    }
                }
            }
            // Our bytes are gone: the module was unloaded or replaced. What is there now is the original.
            if whole && now[..edit.new.len()] != *edit.new {
                for (i, &byte) in now[..edit.new.len()].iter().enumerate() {
                    self.original[(edit.at + i as u64).offset_from(self.start) as usize] = byte;
                }
                lost.extend(group.heads.iter().map(|head| head.at));
                continue;
            }
            self.patched.push((edit.at, now, edit.new.len()));
        }
    }
}

/// Bytes around a site that are read, and looked through for branches to it.
const AROUND: u64 = 8192;
/// Bytes behind a site that planning may look at.
pub(crate) const LOOKAHEAD: u64 = 192;
/// Bytes from a site that a springboard may cover, an `endbr64` before it included.
const COVERED: u64 = 9;

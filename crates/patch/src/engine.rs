//! The engine: instances at points, and the transactions that make them so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use incise_image::{MemoryMap, MemoryReader};
use incise_isa::Addr;
use incise_space::{AddressSpace, Displaced, Features, Landing, SpaceError, ThreadCells};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::arena::PAGE;
use crate::code::{Code, Facts};
use crate::draft::{Draft, Instance, Instances};
use crate::form::form;
use crate::group::Group;
use crate::instrumentation::{Instrumentation, Layout};
use crate::lower::{self, Ready, Snippets};
use crate::memory::{Memory, Reservations};
use crate::placement::{Place, Placement};
use crate::placer::{Placer, Shared};
use crate::plan::{Input, Plan, place};
use crate::report::{CommitError, InstanceId, Report};
use crate::snippet::{CounterId, CounterPlace, Generated, Snippet};
use crate::tactic::TrapPolicy;

/// Whether a transaction may succeed in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Atomicity {
    /// One refusal, and nothing is changed.
    #[default]
    AllOrNothing,
    /// What can be patched is; the rest is reported.
    BestEffort,
}

/// How a transaction is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Whether it may succeed in part.
    pub atomicity: Atomicity,
    /// What to do where only a trap fits.
    pub traps: TrapPolicy,
}

/// Where among the snippets of a point a new one runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Position {
    /// Before all others.
    First,
    /// After all others.
    #[default]
    Last,
}

/// A set of insertions and removals that becomes visible at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) insertions: Vec<(InstanceId, Place, Snippet, Position)>,
    pub(crate) removals: Vec<InstanceId>,
    /// Whether it runs, and whether its trampoline is to have a switch for it.
    pub(crate) switches: Vec<(InstanceId, bool, bool)>,
}

/// Instances are numbered as they are inserted, over all engines.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

impl Batch {
    /// Notes an insertion; nothing happens before [`Engine::commit`].
    pub fn insert(&mut self, at: impl Into<Place>, snippet: Snippet, position: Position) -> InstanceId {
        let id = InstanceId(INSTANCES.fetch_add(1, Ordering::Relaxed) + 1);
        self.insertions.push((id, at.into(), snippet, position));
        id
    }

    /// Notes that `instance` shall go.
    pub fn remove(&mut self, instance: InstanceId) {
        self.removals.push(instance);
    }

    /// Notes that `instance` shall rest, or run again.
    pub fn switch(&mut self, instance: InstanceId, enabled: bool) {
        self.switches.push((instance, enabled, false));
    }

    /// Notes that `instance` shall be switched off or on in place: see [`Engine::switch`].
    pub fn give_switch(&mut self, instance: InstanceId, on: bool) {
        self.switches.push((instance, on, true));
    }

    /// One that removes `instances`.
    pub fn removal(instances: Vec<InstanceId>) -> Batch {
        Batch { removals: instances, ..Batch::default() }
    }
}

/// Trampolines that nothing leads to any more, but a thread may still be in.
type Retired = SmallVec<[Range<Addr>; 1]>;

/// All patches in one address space.
#[derive(Default)]
pub struct Engine {
    pub(crate) instances: BTreeMap<Addr, Instances>,
    pub(crate) heads: FxHashMap<InstanceId, Addr>,
    groups: BTreeMap<Addr, Group>,
    /// Where each trampoline and each stub begins, and the start of its group.
    places: BTreeMap<Addr, Addr>,
    memory: Memory,
    shared: Shared,
    counters: Vec<Option<Addr>>,
    /// Where counters are of which each thread has its own.
    cells: Option<ThreadCells>,
    /// Threads share their counters all the same.
    sharing: bool,
    /// What each counter had counted when its memory was given back.
    counted: Vec<u64>,
    retired: Vec<Retired>,
    /// Traps of retired trampolines that a thread may just have run, each with the landing it had last.
    retired_landings: BTreeMap<Addr, Addr>,
    retired_bytes: u64,
    /// From this many retired bytes on another look at all threads is worth it.
    reclaim_at: u64,
    /// How many threads may plan; 0 means one.
    threads: usize,
    /// How functions are laid out: out of line if nothing is said.
    instrumentation: Option<Arc<dyn Instrumentation>>,
}

/// So many more bytes of retired trampolines are worth a look at all threads.
const RECLAIM_BYTES: u64 = 1 << 20;

/// From so many bytes of trampolines without constraints on, they get an arena of their own.
const BULK: u64 = 1 << 20;

impl Engine {
    /// An engine without patches.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// Lets so many threads plan large transactions. The plan is the same for any number; one by default.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
    }

    /// Sets which engine lays functions out, from the next transaction on; what is in place stays until it is touched. By
    /// default all are out of line.
    pub fn set_instrumentation(&mut self, instrumentation: impl Instrumentation + 'static) {
        self.instrumentation = Some(Arc::new(instrumentation));
    }

    /// A new counter, zero. It gets memory when a probe first uses it.
    pub fn counter(&mut self) -> CounterId {
        self.counters.push(None);
        self.counted.push(0);
        CounterId(self.counters.len() as u32 - 1)
    }

    /// A counter's value. It stays when the probes are removed and the memory is given back.
    pub fn read(&self, counter: CounterId) -> u64 {
        let index = counter.0 as usize;
        let now = self.counters.get(index).copied().flatten().and_then(|at| {
            if let Some(cells) = self.cells.as_ref().filter(|cells| cells.range().contains(&at)) {
                return Some(cells.sum(at));
            }
            let value = self.memory.mapping_of(at)?.quadword(at);
            Some(value.load(Ordering::Relaxed))
        });
        self.counted.get(index).copied().unwrap_or(0).wrapping_add(now.unwrap_or(0))
    }

    /// Places what a snippet needs beside its code at points (see [`Generate::place`](crate::Generate::place)), near an address,
    /// without inserting it anywhere: for code that is reached in another way.
    ///
    /// # Errors
    /// [`SpaceError`] if there is no room or it cannot be written.
    pub fn place(
        &mut self,
        space: &mut dyn AddressSpace,
        snippet: &Generated,
        near: Addr,
    ) -> Result<(), SpaceError> {
        let map = space.mappings()?;
        let missing = self.memory.missing(&map, &[near], 0);
        self.memory.reserve(space, &missing)?;
        let (memory, shared) = (&mut self.memory, &mut self.shared);
        snippet.0.place(&mut Placer { space, memory, shared, near })?;
        let landings = self.landings(&[]);
        space.publish_landings(&landings)
    }

    /// From now on, each thread counts in its own of these cells, without `lock`, where snippets are counters alone.
    pub fn count_by_thread(&mut self, cells: ThreadCells) {
        (self.cells, self.sharing) = (Some(cells), false);
    }

    /// Whether each thread counts by itself.
    pub fn counts_by_thread(&self) -> bool {
        self.cells.is_some() && !self.sharing
    }

    /// From the commit of the returned batch on, no code counts by thread; what was counted stays.
    pub fn share_counters(&mut self) -> Batch {
        self.sharing = true;
        let mut batch = Batch::default();
        for instance in self.instances.values().flatten() {
            batch.switches.push((instance.id, instance.enabled, instance.switch));
        }
        batch
    }

    /// Switches an instance on or off by one byte of its trampoline, while threads run it: those that come by later find
    /// it so. `Ok(false)` if it has no switch; it gets one by the commit of [`Batch::give_switch`].
    ///
    /// # Errors
    /// [`SpaceError`]: then nothing was changed.
    pub fn switch(
        &mut self,
        space: &mut dyn AddressSpace,
        instance: InstanceId,
        on: bool,
    ) -> Result<bool, SpaceError> {
        let Some(head) = self.heads.get(&instance).copied() else { return Ok(false) };
        // A group may begin before its first head.
        let around =
            self.groups.range(..=head).next_back().into_iter().chain(self.groups.range(head..).next());
        let Some(at) = around.filter_map(|(_, group)| group.switch_of(instance)).next() else {
            return Ok(false);
        };
        space.write_byte(at, if on { lower::ON } else { lower::OFF })?;
        let list = self.instances.get_mut(&head).into_iter().flatten();
        list.filter(|one| one.id == instance).for_each(|one| one.enabled = on);
        Ok(true)
    }

    /// Where a counter is, once a probe uses it.
    pub fn address(&self, counter: CounterId) -> Option<Addr> {
        self.counters.get(counter.0 as usize).copied().flatten()
    }

    /// Keeps the values of counters and other data, whose memory goes.
    fn forget_data(&mut self) {
        let shared = std::mem::take(&mut self.shared);
        shared.data.iter().for_each(|data| data.take_back(shared.generation.0));
        self.counted = (0..self.counters.len() as u32).map(|index| self.read(CounterId(index))).collect();
        self.counters.fill(None);
        self.cells = None;
    }

    /// The instances at a point, in the order they run.
    pub fn instances_at(&self, at: Addr) -> impl Iterator<Item = InstanceId> + '_ {
        let behind = self.instances.range(at..=Addr(at.0.saturating_add(4))).flat_map(|(_, list)| list);
        behind.filter(move |instance| instance.at == at).map(|instance| instance.id)
    }

    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Whether the instance is there.
    pub fn contains(&self, instance: InstanceId) -> bool {
        self.heads.contains_key(&instance)
    }

    /// Every instance.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.heads.keys().copied()
    }

    /// The instruction before that of `instance`, if it runs into that one in their trampoline: then a snippet at
    /// [`Placement::Entered`] does not run when control comes from there. It runs whenever else the instruction does. As
    /// groups are planned anew near each change, this may be another one after each transaction.
    pub fn runs_into(&self, instance: InstanceId) -> Option<Addr> {
        let at = *self.heads.get(&instance)?;
        let mut here = self.instances.get(&at)?.iter();
        here.find(|one| one.id == instance && one.enabled && one.placement == Placement::Entered)?;
        let (_, group) = self.groups.range(..=at).next_back()?;
        let index = group.heads.binary_search_by_key(&at, |head| head.at).ok()?;
        let before = group.heads.get(index.checked_sub(1)?)?;
        (group.heads[index].entered != 0).then_some(before.at)
    }

    /// The original address a trampoline address stands for: that of the instruction whose snippets or
    /// displaced copy lie there, of the first one for what leads to them.
    pub fn translate(&self, ip: Addr) -> Option<Addr> {
        let (place, start) = self.places.range(..=ip).next_back()?;
        let group = self.groups.get(start)?;
        group.original_of(*place, ip.offset_from(*place) as u64)
    }

    /// The trampolines and stubs in place, each with the site it is for (one of them, if there are several).
    pub fn trampolines(&self) -> impl Iterator<Item = (Range<Addr>, Addr)> + '_ {
        self.groups.values().flat_map(|group| group.places().map(|place| (place, group.start)))
    }

    /// Takes a group out of what is in place.
    fn take_group(&mut self, start: Addr) -> Option<Group> {
        let group = self.groups.remove(&start)?;
        for place in group.places() {
            self.places.remove(&place.start);
        }
        Some(group)
    }

    /// The memory reserved for trampolines.
    pub fn arenas(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        self.memory.arenas.iter().map(crate::arena::Arena::range)
    }

    /// Whether `at` is in memory for trampolines.
    pub(crate) fn is_trampoline(&self, at: Addr) -> bool {
        self.memory.arenas.iter().any(|arena| arena.range().contains(&at))
    }

    /// Carries out `batch`: all of it becomes visible at once, or nothing does.
    ///
    /// 1. Plan: groups, trampolines, edits; nothing is touched.
    /// 2. Reserve memory, write the trampolines; no thread can reach them yet.
    /// 3. Publish the landings of the old and the new groups: every head that is or will be a trap is handled.
    /// 4. Apply the edits.
    /// 5. Retire what is no longer reachable; free it when no thread is inside.
    ///
    /// # Errors
    /// [`CommitError::Refused`] under [`Atomicity::AllOrNothing`]; [`CommitError::Space`] if a system call
    /// failed. In both cases the target is as it was.
    pub fn commit(
        &mut self,
        space: &mut dyn AddressSpace,
        facts: &dyn Facts,
        batch: &Batch,
        policy: Policy,
    ) -> Result<Report, CommitError> {
        let map = space.mappings()?;
        self.commit_in(space, &map, facts, batch, policy)
    }

    /// As [`commit`](Self::commit), with the memory map as it was read just now.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    pub fn commit_in(
        &mut self,
        space: &mut dyn AddressSpace,
        map: &MemoryMap,
        facts: &dyn Facts,
        batch: &Batch,
        policy: Policy,
    ) -> Result<Report, CommitError> {
        let features = space.features();
        let (next, plan, mappings) = self.prepare(&mut Live(space), map, facts, batch, policy, features)?;
        let mut report = next.report(self, batch, &plan);
        if policy.atomicity == Atomicity::AllOrNothing && report.refusals().next().is_some() {
            plan.give_back(&mut self.memory);
            return Err(CommitError::Refused(report.refusals().map(|(entry, _)| entry.clone()).collect()));
        }
        let applied = match self.carry_out(space, &plan) {
            Ok(applied) => applied,
            Err((reached, error)) => {
                // Once edits were tried a thread may have entered a new trampoline.
                if reached {
                    self.retire_unborn(&plan);
                    // Traps that were there before lead where they led before. If this fails too, they lead to
                    // the new trampolines until the next transaction.
                    let _ = space.publish_landings(&self.landings(&[]));
                } else {
                    plan.give_back(&mut self.memory);
                }
                return Err(error.into());
            }
        };
        let refused: BTreeSet<Addr> = plan.refused.iter().map(|(at, _)| *at).collect();
        self.adopt(next, plan, &refused);
        if self.retired_bytes >= self.reclaim_at.max(RECLAIM_BYTES) {
            // The transaction is done, whatever comes of this; the next one tries again.
            let _ = self.reclaim(space);
        }
        report.stop = applied.stop;
        report.mappings = mappings + applied.mappings;
        report.trampoline_bytes = self.memory.used() - self.retired_bytes;
        report.retired_bytes = self.retired_bytes;
        Ok(report)
    }

    /// What [`commit`](Self::commit) would do, planned on `memory` and `map` alone: nothing is reserved or changed but
    /// what this engine notes of memory in use, so that it should be one for planning only.
    ///
    /// The report tells every site's tactic or refusal, the bytes of trampolines, and in `mappings` the mappings that
    /// trampolines and data would take.
    ///
    /// # Errors
    /// [`CommitError::Refused`] under [`Atomicity::AllOrNothing`].
    pub fn plan(
        &mut self,
        memory: &dyn MemoryReader,
        map: &MemoryMap,
        facts: &dyn Facts,
        batch: &Batch,
        policy: Policy,
        features: Features,
    ) -> Result<Report, CommitError> {
        let (next, plan, mappings) = self.prepare(&mut Dry(memory), map, facts, batch, policy, features)?;
        let mut report = next.report(self, batch, &plan);
        report.mappings = mappings;
        report.trampoline_bytes = self.memory.used();
        plan.give_back(&mut self.memory);
        if policy.atomicity == Atomicity::AllOrNothing && report.refusals().next().is_some() {
            return Err(CommitError::Refused(report.refusals().map(|(entry, _)| entry.clone()).collect()));
        }
        Ok(report)
    }

    /// Steps 1 and 2, up to the writing: the wanted instances, the plan, and how many mappings it took.
    fn prepare(
        &mut self,
        source: &mut dyn Source,
        map: &MemoryMap,
        facts: &dyn Facts,
        batch: &Batch,
        policy: Policy,
        features: Features,
    ) -> Result<(Draft, Plan, usize), SpaceError> {
        let mut sites = self.sites(batch);
        let mut code =
            Code::read(&|at, into: &mut [u8]| source.read(at, into), map, &sites, &self.groups, facts);
        let next = Draft::new(self, batch, &code);
        let counters = self.unplaced(&next);
        let counters = self.place_in_cells(counters);
        let missing = self.memory.missing(map, &sites, counters.len());
        let mut mappings = source.reserve(&mut self.memory, &missing)?;
        for (counter, near) in counters {
            self.counters[counter.0 as usize] = self.memory.quadword(near);
        }
        if let Some(space) = source.space() {
            for (_, place, snippet, _) in &batch.insertions {
                if let Snippet::Generated(snippet) = snippet {
                    let (memory, shared) = (&mut self.memory, &mut self.shared);
                    snippet.0.place(&mut Placer { space, memory, shared, near: place.at })?;
                }
            }
        }
        let dirty: Vec<Addr> = next.lists.iter().map(|(head, _)| *head).collect();
        let mut widened = 0;
        let plan = loop {
            let (instances, counters) = (&self.instances, &self.counters);
            let cells = self.cells.as_ref().filter(|_| !self.sharing).map(ThreadCells::range);
            let input = Input {
                code: &code,
                groups: &self.groups,
                snippets: &|head| {
                    let present = || instances.get(&head).filter(|_| !code.lost.contains(&head));
                    let list = next.at(head).or_else(|| present().map(|list| &**list));
                    let begins = |at: Addr| code.entry_in(at..at + 1).is_some();
                    ready(list.unwrap_or_default(), counters, cells.as_ref(), &begins)
                },
                dirty: &dirty,
                policy: policy.traps,
                instrumentation: self.instrumentation.as_deref().unwrap_or(&Layout::OutOfLine),
                features,
                threads: self.threads.max(1),
            };
            let formed = form(&input);
            if !formed.unread.is_empty() {
                // Groups further and further away have to be formed anew.
                self.widen(&mut sites, &formed.unread, widened);
                widened += 1;
                let read = |at: Addr, into: &mut [u8]| source.read(at, into);
                code = Code::read(&read, map, &sites, &self.groups, facts);
                continue;
            }
            let lacking = formed.lacking(&self.memory);
            if !lacking.is_empty() {
                let code = self.memory.scattered(map, lacking);
                // Without it there are traps instead: no reason to fail.
                let wanted = Reservations { code, ..Reservations::default() };
                mappings += source.reserve(&mut self.memory, &wanted).unwrap_or(0);
            }
            if let Some((near, bytes)) = formed.bulk().filter(|(_, bytes)| *bytes > BULK) {
                let code = self.memory.bulk(map, near, bytes).into_iter().collect();
                let wanted = Reservations { code, ..Reservations::default() };
                mappings += source.reserve(&mut self.memory, &wanted).unwrap_or(0);
            }
            break place(&input, formed, &mut self.memory);
        };
        Ok((next, plan, mappings))
    }

    /// Frees retired trampolines that no thread is in.
    ///
    /// # Errors
    /// [`SpaceError`] if the landings could not be published or the threads not be looked at; what is retired
    /// stays so.
    pub fn reclaim(&mut self, space: &mut dyn AddressSpace) -> Result<(), SpaceError> {
        self.reclaim_at = self.retired_bytes + RECLAIM_BYTES;
        let mut ranges: Vec<Range<Addr>> = self.retired.iter().flatten().cloned().collect();
        if ranges.is_empty() {
            return Ok(());
        }
        // From here on nothing leads into them; a thread inside may still fault.
        self.retired_landings.retain(|trap, _| trap.0 & Landing::FAULT != 0);
        space.publish_landings(&self.landings(&[]))?;
        ranges.sort_by_key(|range| range.start);
        let quiet = space.quiescent(&ranges)?;
        let busy: BTreeSet<Addr> =
            ranges.iter().zip(&quiet).filter(|(_, quiet)| !**quiet).map(|(range, _)| range.start).collect();
        let (stay, go): (Vec<Retired>, Vec<Retired>) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(|retired| retired.iter().any(|range| busy.contains(&range.start)));
        self.retired = stay;
        for range in go.into_iter().flatten() {
            self.retired_bytes -= range.end.offset_from(range.start) as u64;
            let faults =
                Landing::fault(range.start, range.start).trap..Landing::fault(range.end, range.end).trap;
            self.retired_landings.extract_if(faults, |_, _| true).for_each(drop);
            self.memory.free(range);
        }
        self.reclaim_at = self.retired_bytes + RECLAIM_BYTES;
        Ok(())
    }

    /// Gives all memory in the target back, if nothing is patched and no thread is in a trampoline.
    /// Returns the bytes of trampolines that had to stay.
    ///
    /// # Errors
    /// As for [`reclaim`](Self::reclaim), or if memory could not be unmapped; it stays ours then.
    pub fn release(&mut self, space: &mut dyn AddressSpace) -> Result<u64, SpaceError> {
        self.reclaim(space)?;
        if self.groups.is_empty() && self.retired.is_empty() && !self.shared.lasting {
            space.publish_landings(&[])?;
            self.forget_data();
            self.memory.release(space)?;
        }
        Ok(self.retired_bytes)
    }

    /// What this engine knows, for a forked child: its patches are the child's too, and its counters are
    /// shared. New counters of the child get memory of their own.
    pub fn for_child(&self) -> Engine {
        Engine {
            instances: self.instances.clone(),
            heads: self.heads.clone(),
            groups: self.groups.clone(),
            places: self.places.clone(),
            memory: self.memory.for_child(),
            shared: Shared { data: Vec::new(), faults: self.shared.faults.clone(), ..self.shared },
            counters: self.counters.clone(),
            cells: self.cells.clone(),
            sharing: self.sharing,
            counted: self.counted.clone(),
            retired: self.retired.clone(),
            retired_landings: self.retired_landings.clone(),
            retired_bytes: self.retired_bytes,
            reclaim_at: self.reclaim_at,
            threads: self.threads,
            instrumentation: self.instrumentation.clone(),
        }
    }

    /// As [`for_child`](Self::for_child), for the child itself, in which this engine is not used any more.
    pub fn into_child(mut self) -> Engine {
        let data = std::mem::take(&mut self.shared.data);
        let child = self.for_child();
        Engine { shared: Shared { data, ..child.shared }, ..child }
    }

    /// Forgets what lies in `range` without touching it: its module was unloaded.
    pub fn forget(&mut self, range: Range<Addr>) {
        let starts: Vec<Addr> = self.groups.range(range.clone()).map(|(start, _)| *start).collect();
        for start in &starts {
            if let Some(group) = self.take_group(*start) {
                self.retire(&group);
            }
        }
        let heads: Vec<Addr> = self.instances.range(range).map(|(head, _)| *head).collect();
        for instance in heads.iter().filter_map(|head| self.instances.remove(head)).flatten() {
            self.heads.remove(&instance.id);
        }
    }

    /// Forgets everything without touching the target: its image is gone (exec), or it is another's now.
    pub fn abandon(&mut self) {
        self.forget_data();
        let (counters, counted) = (std::mem::take(&mut self.counters), std::mem::take(&mut self.counted));
        let (threads, instrumentation) = (self.threads, self.instrumentation.take());
        *self = Engine { counters, counted, threads, instrumentation, ..Engine::default() };
    }

    /// The heads a batch touches, as far as they are known without the code, and those near them; ascending.
    fn sites(&self, batch: &Batch) -> Vec<Addr> {
        const NEAR: u64 = 64;
        let removed = batch.removals.iter().chain(batch.switches.iter().map(|(id, ..)| id));
        let mut sites: Vec<Addr> = removed.filter_map(|id| self.heads.get(id).copied()).collect();
        sites.extend(batch.insertions.iter().map(|(_, place, ..)| place.at));
        sites.sort();
        sites.dedup();
        let near = sites.iter().flat_map(|&site| self.heads_in(site - NEAR..site + NEAR));
        let near: Vec<Addr> = near.collect();
        sites.extend(near);
        sites.sort();
        sites.dedup();
        sites
    }

    /// Adds the heads behind `unread` to `sites`, further in each round.
    fn widen(&self, sites: &mut Vec<Addr>, unread: &[Addr], round: u32) {
        let reach = PAGE << round.min(16);
        sites.extend(unread);
        sites.extend(unread.iter().flat_map(|&at| self.heads_in(at - reach..at + reach)));
        sites.sort();
        sites.dedup();
    }

    /// The probed heads in `range`, which may wrap around.
    fn heads_in(&self, range: Range<Addr>) -> impl Iterator<Item = Addr> + '_ {
        let range = if range.start < range.end { range } else { Addr(0)..Addr(0) };
        self.instances.range(range).map(|(head, _)| *head)
    }

    /// Counters of the draft that have no memory yet, with a head that uses each, and whether snippets that are counters
    /// do alone.
    fn unplaced(&self, next: &Draft) -> Vec<(CounterId, bool, Addr)> {
        let mut counters: Vec<(CounterId, bool, Addr)> = Vec::new();
        for (head, list) in &next.lists {
            let used = list.iter().flat_map(|instance| {
                let (alone, ids) = match &instance.snippet {
                    Snippet::Counter(id) => (true, std::slice::from_ref(id)),
                    Snippet::Generated(snippet) => (snippet.0.only_counts(), snippet.0.counters()),
                    _ => (false, &[][..]),
                };
                ids.iter().map(move |id| (*id, alone, *head))
            });
            counters.extend(used.filter(|(id, ..)| self.counters.get(id.0 as usize) == Some(&None)));
        }
        counters.sort();
        counters.dedup_by_key(|(id, ..)| *id);
        counters
    }

    /// Gives counters cells, if there are any and snippets that are counters use them alone. Returns the others, each with
    /// a head that uses it.
    fn place_in_cells(&mut self, counters: Vec<(CounterId, bool, Addr)>) -> Vec<(CounterId, Addr)> {
        let cells = self.cells.as_ref().filter(|_| !self.sharing);
        let mut others = Vec::new();
        for (id, alone, head) in counters {
            match cells.filter(|_| alone).and_then(ThreadCells::take) {
                Some(cell) => self.counters[id.0 as usize] = Some(cell),
                None => others.push((id, head)),
            }
        }
        others
    }

    /// Steps 2 to 4. The error tells whether any edit was tried.
    fn carry_out(
        &self,
        space: &mut dyn AddressSpace,
        plan: &Plan,
    ) -> Result<incise_space::Applied, (bool, SpaceError)> {
        let early = |error| (false, error);
        if !plan.code.is_empty() {
            if space.features().packed {
                let runs: Vec<(Addr, &[u8])> = plan.code.iter().collect();
                space.write_code(&runs).map_err(early)?;
            } else {
                let joined = plan.code.joined(&self.memory);
                let runs: Vec<(Addr, &[u8])> = joined.iter().map(|(at, bytes)| (*at, &**bytes)).collect();
                space.write_code(&runs).map_err(early)?;
            }
            let displaced: Vec<Displaced> = plan.added.iter().flat_map(Group::displaced).collect();
            space.note_displaced(&displaced);
        }
        if !plan.added.is_empty() {
            space.publish_landings(&self.landings(&plan.added)).map_err(early)?;
        }
        if plan.edits.is_empty() {
            return Ok(incise_space::Applied::default());
        }
        let landing_of = |at: Addr| {
            let from = plan.added.partition_point(|group| group.extent.end + 8 < at);
            let near = plan.added[from..].iter().take_while(|group| group.start <= at + 8);
            near.filter_map(|group| group.landing_of(at)).next()
        };
        space.apply(&plan.edits, &landing_of).map_err(|error| (true, error))
    }

    /// The landings of all groups, of the retired ones and of `added`, which win.
    fn landings(&self, added: &[Group]) -> Vec<Landing> {
        let live = landings(added.iter().chain(self.groups.values()));
        let mut retired =
            self.retired_landings.iter().map(|(&trap, &landing)| Landing { trap, landing }).peekable();
        let mut all = Vec::with_capacity(live.len() + retired.len());
        for landing in live {
            while let Some(before) = retired.next_if(|retired| retired.trap < landing.trap) {
                all.push(before);
            }
            retired.next_if(|retired| retired.trap == landing.trap);
            all.push(landing);
        }
        all.extend(retired);
        if !self.shared.faults.is_empty() {
            all.extend(&self.shared.faults);
            all.sort_unstable();
        }
        all
    }

    fn adopt(&mut self, next: Draft, plan: Plan, refused: &BTreeSet<Addr>) {
        for start in &plan.removed {
            if let Some(group) = self.take_group(*start) {
                self.retire(&group);
            }
        }
        let place = |group: &Group| {
            let start = group.start;
            group.places().map(move |place| (place.start, start)).collect::<SmallVec<[_; 2]>>()
        };
        let mut places: Vec<(Addr, Addr)> = plan.added.iter().flat_map(place).collect();
        places.sort_unstable();
        extend(&mut self.places, places.into_iter());
        extend(&mut self.groups, plan.added.into_iter().map(|group| (group.start, group)));
        let mut lists = next.lists;
        for (head, _) in &lists {
            if let Some(old) = self.instances.remove(head) {
                old.iter().for_each(|instance| {
                    self.heads.remove(&instance.id);
                });
            }
        }
        lists.retain(|(head, list)| !list.is_empty() && !refused.contains(head));
        let of = |(head, list): &(Addr, Instances)| {
            let head = *head;
            list.iter().map(move |instance| (instance.id, head)).collect::<SmallVec<[_; 1]>>()
        };
        self.heads.reserve(lists.len());
        self.heads.extend(lists.iter().flat_map(of));
        extend(&mut self.instances, lists.into_iter());
        for head in refused {
            for instance in self.instances.remove(head).into_iter().flatten() {
                self.heads.remove(&instance.id);
            }
        }
    }

    /// Keeps the trampoline of `group`, which goes, until no thread is inside.
    fn retire(&mut self, group: &Group) {
        self.keep(group.places().collect(), group.landings());
    }

    /// Keeps the trampolines of a plan that never came to be until no thread is inside.
    fn retire_unborn(&mut self, plan: &Plan) {
        let ranges = plan.code.iter().map(|(at, bytes)| at.span(bytes.len() as u64)).collect();
        self.keep(ranges, landings(plan.added.iter()).into_iter());
    }

    fn keep(&mut self, retired: Retired, landings: impl Iterator<Item = Landing>) {
        let len = |range: &Range<Addr>| range.end.offset_from(range.start) as u64;
        self.retired_bytes += retired.iter().map(len).sum::<u64>();
        self.retired.push(retired);
        self.retired_landings.extend(landings.map(|landing| (landing.trap, landing.landing)));
    }
}

/// What a plan is made from.
trait Source {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool;
    fn reserve(&mut self, memory: &mut Memory, wanted: &Reservations) -> Result<usize, SpaceError>;
    /// Where code and data of snippets are placed.
    fn space(&mut self) -> Option<&mut dyn AddressSpace>;
}

/// Memory is reserved as it is planned.
struct Live<'a>(&'a mut dyn AddressSpace);

impl Source for Live<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool {
        self.0.read(at, into).is_ok()
    }
    fn reserve(&mut self, memory: &mut Memory, wanted: &Reservations) -> Result<usize, SpaceError> {
        memory.reserve(self.0, wanted)
    }
    fn space(&mut self) -> Option<&mut dyn AddressSpace> {
        Some(self.0)
    }
}

/// Nothing is done.
struct Dry<'a>(&'a dyn MemoryReader);

impl Source for Dry<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool {
        self.0.read(at, into)
    }
    fn reserve(&mut self, memory: &mut Memory, wanted: &Reservations) -> Result<usize, SpaceError> {
        Ok(memory.assume(wanted))
    }
    fn space(&mut self) -> Option<&mut dyn AddressSpace> {
        None
    }
}

/// Adds ascending entries: all at once where that is quicker than one by one.
fn extend<V>(map: &mut BTreeMap<Addr, V>, entries: impl ExactSizeIterator<Item = (Addr, V)>) {
    if entries.len() > map.len() / 8 {
        map.append(&mut entries.collect());
    } else {
        map.extend(entries);
    }
}

/// The snippets of the instances that run; `counters` tells where each counter is, and `cells` where those are of which
/// each thread has its own, and `begins` whether a function begins somewhere.
fn ready(
    instances: &[Instance],
    counters: &[Option<Addr>],
    cells: Option<&Range<Addr>>,
    begins: &dyn Fn(Addr) -> bool,
) -> Snippets {
    let mut snippets = Snippets::default();
    let is_cell = |at: &Addr| cells.is_some_and(|cells| cells.contains(at));
    for instance in instances.iter().filter(|instance| instance.enabled || instance.switch) {
        let ready = match &instance.snippet {
            Snippet::Counter(id) => counters
                .get(id.0 as usize)
                .copied()
                .flatten()
                .map(|at| if is_cell(&at) { Ready::ThreadCounter(at) } else { Ready::Counter(at) }),
            Snippet::Code(code) => Some(Ready::Code(code.clone())),
            Snippet::Gate => Some(Ready::Gate),
            Snippet::Callback { entry, at_functions, payload } => {
                let first = instance.placement == Placement::Before && begins(instance.at);
                Some(Ready::Callback { entry: if first { *at_functions } else { *entry }, payload: *payload })
            }
            Snippet::Generated(snippet) => {
                let place = |id: &CounterId| {
                    let at = counters.get(id.0 as usize).copied().flatten()?;
                    Some(CounterPlace { id: *id, at, by_thread: is_cell(&at) })
                };
                let placed: Option<_> = snippet.0.counters().iter().map(place).collect();
                placed.map(|counters| Ready::Generated(snippet.clone(), counters))
            }
        };
        let ready = ready.map(|ready| match ready {
            // A tracer looks for them by where they are.
            Ready::Gate => Ready::Gate,
            ready if instance.switch => Ready::Switched(instance.id, instance.enabled, Box::new(ready)),
            ready => ready,
        });
        if let Some(ready) = ready {
            snippets.push(instance.placement, ready);
        }
    }
    snippets
}

/// The landings of `groups`, sorted by trap; where two groups have the same, the first wins.
fn landings<'g>(groups: impl Iterator<Item = &'g Group>) -> Vec<Landing> {
    let mut landings: Vec<Landing> = groups.flat_map(Group::landings).collect();
    landings.sort_by_key(|landing| landing.trap);
    landings.dedup_by_key(|landing| landing.trap);
    landings
}

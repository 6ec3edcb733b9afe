//! The engine: instances at points, and the transactions that make them so.

mod draft;
pub(crate) mod report;

mod batch;
mod counters;
mod entrances;
mod leave;
mod prepare;
mod present;
mod retire;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use incise_image::{MemoryMap, MemoryReader};
use incise_isa::Addr;
use incise_space::{AddressSpace, Displaced, Features, Landing, SpaceError, ThreadCells};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::code::Facts;
use crate::engine::draft::{Draft, Instances};
use crate::engine::prepare::{Dry, Live};
use crate::engine::report::{CommitError, InstanceId, Report};
use crate::form::instrumentation::Instrumentation;
use crate::group::Group;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::snippet::placer::Shared;
use crate::trampoline::lower;

pub use batch::{Atomicity, Batch, Policy, Position};

/// Trampolines that nothing leads to any more, but a thread may still be in.
type Retired = SmallVec<[Range<Addr>; 1]>;

/// All patches in one address space.
#[derive(Default)]
pub struct Engine {
    pub(crate) instances: BTreeMap<Addr, Instances>,
    pub(crate) heads: FxHashMap<InstanceId, Addr>,
    groups: BTreeMap<Addr, Box<Group>>,
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
    /// Where trampolines begin whose entrances calls lead to, and of how many groups.
    callers: FxHashMap<Addr, u32>,
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

/// How often a transaction is planned again whose memory the program took in the meantime.
const TRIES_AGAIN: usize = 3;

/// So many more bytes of retired trampolines are worth a look at all threads.
const RECLAIM_BYTES: u64 = 1 << 20;

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

    /// Carries out `batch`: all of it becomes visible at once, or nothing does.
    ///
    /// 1. Plan: groups, trampolines, edits; nothing is touched.
    /// 2. Reserve memory, write the trampolines; no thread can reach them yet.
    /// 3. Publish the landings of the old and the new groups: every head that is or will be a trap is handled.
    /// 4. Close the entrances of copies that go, where calls stay that lead to them; apply the edits.
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
        let mut done = self.commit_once(space, map, facts, batch, policy);
        // Threads of the program may have mapped memory where ours was to go since the map was read.
        for _ in 0..TRIES_AGAIN {
            if !matches!(done, Err(CommitError::Space(SpaceError::Occupied { .. }))) {
                break;
            }
            let map = space.mappings()?;
            done = self.commit_once(space, &map, facts, batch, policy);
        }
        done
    }

    fn commit_once(
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
                self.reopen(space, &plan);
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
            let displaced: Vec<Displaced> = plan.added.iter().flat_map(|group| group.displaced()).collect();
            space.note_displaced(&displaced);
        }
        if !plan.added.is_empty() {
            space.publish_landings(&self.landings(&plan.added)).map_err(early)?;
        }
        self.close(space, plan).map_err(early)?;
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
    fn landings(&self, added: &[Box<Group>]) -> Vec<Landing> {
        let live = landings(added.iter().chain(self.groups.values()).map(|group| &**group));
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
        for group in &plan.added {
            self.count_calls(group);
        }
        let place = |group: &Group| {
            let start = group.start;
            group.places().map(move |place| (place.start, start)).collect::<SmallVec<[_; 2]>>()
        };
        let mut places: Vec<(Addr, Addr)> = plan.added.iter().flat_map(|group| place(group)).collect();
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
}

/// Adds ascending entries: all at once where that is quicker than one by one.
fn extend<V>(map: &mut BTreeMap<Addr, V>, entries: impl ExactSizeIterator<Item = (Addr, V)>) {
    if map.is_empty() {
        *map = entries.collect();
    } else if entries.len() > map.len() / 8 {
        map.append(&mut entries.collect());
    } else {
        map.extend(entries);
    }
}

/// The landings of `groups`, sorted by trap; where two groups have the same, the first wins.
fn landings<'g>(groups: impl Iterator<Item = &'g Group>) -> Vec<Landing> {
    let mut landings: Vec<Landing> = groups.flat_map(Group::landings).collect();
    landings.sort_by_key(|landing| landing.trap);
    landings.dedup_by_key(|landing| landing.trap);
    landings
}

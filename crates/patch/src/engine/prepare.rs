//! Planning a transaction: what has to be known first, and the memory it takes.

use std::ops::Range;

use incise_image::{MemoryMap, MemoryReader};
use incise_isa::Addr;
use incise_space::{AddressSpace, Features, SpaceError, ThreadCells};

use crate::code::{Code, Facts};
use crate::engine::counters::ready;
use crate::engine::draft::{Draft, Instance};
use crate::engine::{Batch, Engine, Policy};
use crate::form::form;
use crate::form::instrumentation::Layout;
use crate::memory::arena::PAGE;
use crate::memory::{Memory, Reservations};
use crate::plan::{Input, Plan, place};
use crate::snippet::placer::Placer;
use crate::snippet::{Generated, Snippet};

/// From so many bytes of trampolines without constraints on, they get an arena of their own.
const BULK: u64 = 1 << 20;

impl Engine {
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

    /// Steps 1 and 2, up to the writing: the wanted instances, the plan, and how many mappings it took.
    pub(super) fn prepare(
        &mut self,
        source: &mut dyn Source,
        map: &MemoryMap,
        facts: &dyn Facts,
        batch: &Batch,
        policy: Policy,
        features: Features,
    ) -> Result<(Draft, Plan, usize), SpaceError> {
        let mut sites = self.sites(batch);
        let seen = (facts, self.threads.max(1));
        let read = |at: Addr, into: &mut [u8]| source.read(at, into);
        let mut code = Code::read(&read, map, &sites, &self.groups, seen, features.packed)?;
        let next = Draft::new(self, batch, &code);
        let counters = self.unplaced(&next);
        let counters = self.place_in_cells(counters);
        let missing = self.memory.missing(map, &sites, counters.len());
        let mut mappings = source.reserve(&mut self.memory, &missing)?;
        for (counter, near) in counters {
            self.counters[counter.0 as usize] = self.memory.data.quadword(near);
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
            let begins = |at: Addr| code.entry_in(at..at + 1).is_some();
            let ready = |list: &[Instance]| ready(list, counters, cells.as_ref(), &begins);
            let input = Input {
                code: &code,
                groups: &self.groups,
                snippets: &|head| {
                    let present = || instances.get(&head).filter(|_| !code.lost.contains(&head));
                    let list = next.at(head).or_else(|| present().map(|list| &**list));
                    ready(list.unwrap_or_default())
                },
                dirty: &dirty,
                dirty_snippets: &|index| ready(&next.lists[index].1),
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
                code = Code::read(&read, map, &sites, &self.groups, seen, features.packed)?;
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
                let code = self.memory.bulk(map, near, bytes, !features.packed).into_iter().collect();
                let wanted = Reservations { code, ..Reservations::default() };
                mappings += source.reserve(&mut self.memory, &wanted).unwrap_or(0);
            }
            break place(&input, formed, &mut self.memory);
        };
        Ok((next, plan, mappings))
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
}

/// What a plan is made from.
pub(super) trait Source {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool;
    fn reserve(&mut self, memory: &mut Memory, wanted: &Reservations) -> Result<usize, SpaceError>;
    /// Where code and data of snippets are placed.
    fn space(&mut self) -> Option<&mut dyn AddressSpace>;
}

/// Memory is reserved as it is planned.
pub(super) struct Live<'a>(pub(super) &'a mut dyn AddressSpace);

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
pub(super) struct Dry<'a>(pub(super) &'a dyn MemoryReader);

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

//! Trampolines that nothing leads to any more, until no thread is in one.

use std::collections::BTreeSet;
use std::ops::Range;

use incise_isa::Addr;
use incise_space::{AddressSpace, Landing, SpaceError};

use crate::engine::{Engine, RECLAIM_BYTES, Retired, landings};
use crate::group::Group;
use crate::plan::Plan;

impl Engine {
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
        let busy = ranges.iter().zip(&quiet).filter(|(_, quiet)| !**quiet).map(|(range, _)| range.start);
        // A call that leads to an entrance may come at any time.
        let busy: BTreeSet<Addr> = busy.chain(self.callers.keys().copied()).collect();
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

    /// Trampolines that nothing leads to any more; threads may still be in them.
    pub fn retired(&self) -> Vec<Range<Addr>> {
        self.retired.iter().flatten().cloned().collect()
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

    /// Keeps the trampoline of `group`, which goes, until no thread is inside.
    pub(super) fn retire(&mut self, group: &Group) {
        self.keep(group.places().collect(), group.landings());
    }

    /// Keeps the trampolines of a plan that never came to be until no thread is inside.
    pub(super) fn retire_unborn(&mut self, plan: &Plan) {
        let ranges = plan.code.iter().map(|(at, bytes)| at.span(bytes.len() as u64)).collect();
        self.keep(ranges, landings(plan.added.iter().map(|group| &**group)).into_iter());
    }

    fn keep(&mut self, retired: Retired, landings: impl Iterator<Item = Landing>) {
        let len = |range: &Range<Addr>| range.end.offset_from(range.start) as u64;
        self.retired_bytes += retired.iter().map(len).sum::<u64>();
        self.retired.push(retired);
        self.retired_landings.extend(landings.map(|landing| (landing.trap, landing.landing)));
    }
}

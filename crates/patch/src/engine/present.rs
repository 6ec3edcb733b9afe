//! What an engine has in place.

use std::ops::Range;

use incise_isa::Addr;

use crate::engine::Engine;
use crate::engine::report::InstanceId;
use crate::group::Group;
use crate::snippet::placement::Placement;

impl Engine {
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
    pub(super) fn take_group(&mut self, start: Addr) -> Option<Box<Group>> {
        let group = self.groups.remove(&start)?;
        for place in group.places() {
            self.places.remove(&place.start);
        }
        self.uncount_calls(&group);
        Some(group)
    }

    /// The memory reserved for trampolines.
    pub fn arenas(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        self.memory.arenas.iter().map(crate::memory::arena::Arena::range)
    }

    /// Whether `at` is in memory for trampolines.
    pub(crate) fn is_trampoline(&self, at: Addr) -> bool {
        self.memory.arenas.iter().any(|arena| arena.range().contains(&at))
    }
}

//! Which entrances of copies calls lead to, and closing those of copies that go while the calls stay.

use incise_isa::Addr;
use incise_space::{AddressSpace, SpaceError};
use rustc_hash::FxHashMap;

use crate::engine::Engine;
use crate::entrances::{CLOSED, OPEN};
use crate::group::Group;
use crate::plan::Plan;

impl Engine {
    /// Notes the calls of a group that is in place now.
    pub(super) fn count_calls(&mut self, group: &Group) {
        for trampoline in &group.calls {
            *self.callers.entry(*trampoline).or_default() += 1;
        }
    }

    /// Forgets the calls of a group that goes.
    pub(super) fn uncount_calls(&mut self, group: &Group) {
        for trampoline in &group.calls {
            if let Some(count) = self.callers.get_mut(trampoline) {
                *count -= 1;
                if *count == 0 {
                    self.callers.remove(trampoline);
                }
            }
        }
    }

    /// Has calls that stay go to the original functions, where their copies are about to go: whatever is there, until the edits
    /// are applied and behind that.
    pub(super) fn close(&self, space: &mut dyn AddressSpace, plan: &Plan) -> Result<(), SpaceError> {
        self.closing(plan).into_iter().try_for_each(|at| space.write_byte(at, CLOSED))
    }

    /// Takes [`close`](Self::close) back. Where that fails calls take the longer way.
    pub(super) fn reopen(&self, space: &mut dyn AddressSpace, plan: &Plan) {
        for at in self.closing(plan) {
            let _ = space.write_byte(at, OPEN);
        }
    }

    /// The switches of entrances of groups that go, which groups that stay lead to.
    fn closing(&self, plan: &Plan) -> Vec<Addr> {
        let removed = || plan.removed.iter().filter_map(|start| self.groups.get(start).map(|group| &**group));
        let mut going: FxHashMap<Addr, u32> = FxHashMap::default();
        removed().flat_map(|group| &group.calls).for_each(|to| *going.entry(*to).or_default() += 1);
        let is_called = |group: &&Group| {
            let callers = self.callers.get(&group.trampoline).copied().unwrap_or(0);
            callers > going.get(&group.trampoline).copied().unwrap_or(0)
        };
        let switch = |group: &Group| Some(group.trampoline + u64::from(group.entrance?.switch));
        removed().filter(is_called).filter_map(switch).collect()
    }
}

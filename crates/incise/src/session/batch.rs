//! Transactions of a session.

use incise_patch::{
    Atomicity, Batch as Draft, InstanceId, Outcome, Place, Policy, Position, Report, Snippet, TrapPolicy,
};
use incise_space::AddressSpace;
use incise_space::own::OwnSpace;

use super::{Error, Session};
use crate::point::Point;

/// A transaction: insertions and removals that become visible at once.
///
/// All or nothing, with a trap where only a trap fits, unless told otherwise.
pub struct Batch<S: AddressSpace = OwnSpace> {
    pub(super) session: Session<S>,
    pub(super) draft: Draft,
    pub(super) removed: Vec<InstanceId>,
    pub(super) policy: Policy,
}

impl<S: AddressSpace> Batch<S> {
    /// What can be patched is, the rest is reported.
    pub fn best_effort(mut self) -> Batch<S> {
        self.policy.atomicity = Atomicity::BestEffort;
        self
    }

    /// What to do where only a trap fits.
    pub fn traps(mut self, traps: TrapPolicy) -> Batch<S> {
        self.policy.traps = traps;
        self
    }

    /// Runs `snippet` at `point`, after those that are there.
    pub fn push_back(&mut self, point: &Point, snippet: impl Into<Snippet>) -> InstanceId {
        self.insert(point.place(), snippet, Position::Last)
    }

    /// Runs `snippet` at `point`, before those that are there.
    pub fn push_front(&mut self, point: &Point, snippet: impl Into<Snippet>) -> InstanceId {
        self.insert(point.place(), snippet, Position::First)
    }

    /// Runs `snippet` before the instruction at an address, or on another way in or out of it: see [`Placement`].
    ///
    /// [`Placement`]: incise_patch::Placement
    pub fn insert(
        &mut self,
        at: impl Into<Place>,
        snippet: impl Into<Snippet>,
        position: Position,
    ) -> InstanceId {
        self.draft.insert(at, snippet.into(), position)
    }

    /// Takes an instance out.
    pub fn remove(&mut self, instance: InstanceId) {
        self.draft.remove(instance);
        self.removed.push(instance);
    }

    /// Lets an instance rest, or run again.
    pub fn enable(&mut self, instance: InstanceId, enabled: bool) {
        self.draft.switch(instance, enabled);
    }

    /// Makes it so.
    ///
    /// # Errors
    /// [`Error::Commit`]: then nothing was changed.
    pub fn commit(self) -> Result<Report, Error> {
        let state = &mut *self.session.state();
        let map = state.refresh()?;
        let report =
            state.engine.commit_in(&mut state.space, &map, &state.program, &self.draft, self.policy)?;
        for instance in &self.removed {
            state.owners.remove(instance);
        }
        state.owners.reserve(report.entries.len());
        for entry in &report.entries {
            match entry.outcome {
                Outcome::Installed(_) => state.owners.insert(entry.instance, self.session.owner),
                Outcome::Refused(_) => state.owners.remove(&entry.instance),
            };
        }
        Ok(report)
    }
}

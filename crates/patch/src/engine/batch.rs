//! What a transaction is asked to do, and how far it may fail.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::report::InstanceId;
use crate::snippet::Snippet;
use crate::snippet::placement::Place;
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
    /// Notes an insertion; nothing happens before [`Engine::commit`](crate::Engine::commit).
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

    /// Notes that `instance` shall be switched off or on in place: see [`Engine::switch`](crate::Engine::switch).
    pub fn give_switch(&mut self, instance: InstanceId, on: bool) {
        self.switches.push((instance, on, true));
    }

    /// One that removes `instances`.
    pub fn removal(instances: Vec<InstanceId>) -> Batch {
        Batch { removals: instances, ..Batch::default() }
    }
}

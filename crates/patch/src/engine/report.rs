//! What a transaction did, site by site.

use std::time::Duration;

use incise_isa::Addr;
use incise_space::SpaceError;

use crate::tactic::{Refusal, Tactic};

/// One snippet inserted at one point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstanceId(pub(crate) u64);

/// What became of an insertion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The snippet runs at the point.
    Installed(Tactic),
    /// It does not, and why.
    Refused(Refusal),
}

/// The result of a transaction for one insertion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The instance.
    pub instance: InstanceId,
    /// The point's address, as it was asked for.
    pub at: Addr,
    /// What became of it.
    pub outcome: Outcome,
}

/// The result of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Every insertion of the transaction, in the order they were asked for.
    pub entries: Vec<Entry>,
    /// How long threads of the target stood still.
    pub stop: Duration,
    /// Mappings the target gained.
    pub mappings: usize,
    /// Bytes of trampolines in use now, in all.
    pub trampoline_bytes: u64,
    /// Bytes of trampolines that are no longer reachable but may still be running.
    pub retired_bytes: u64,
}

impl Report {
    /// The insertions that were refused.
    pub fn refusals(&self) -> impl Iterator<Item = (&Entry, &Refusal)> {
        self.entries.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Refused(refusal) => Some((entry, refusal)),
            Outcome::Installed(_) => None,
        })
    }

    /// How many insertions run.
    pub fn installed(&self) -> usize {
        self.entries.len() - self.refusals().count()
    }

    /// How many of them are traps.
    pub fn trapped(&self) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == Outcome::Installed(Tactic::Trap)).count()
    }
}

/// Why a transaction changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The policy is all or nothing, and these insertions were refused.
    #[error("{} of the insertions were refused, the first at {}: {}", .0.len(), .0[0].at, first(.0))]
    Refused(Vec<Entry>),
    /// The address space could not do it; nothing was changed.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

fn first(entries: &[Entry]) -> String {
    match &entries[0].outcome {
        Outcome::Refused(refusal) => refusal.to_string(),
        Outcome::Installed(tactic) => tactic.to_string(),
    }
}

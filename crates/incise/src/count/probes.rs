//! What is put in at points, if it is no counter.

use std::time::Duration;

use incise_patch::Snippet;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::tally::Key;
use crate::point::{Point, PointKind};
use crate::session::Error;

/// Snippets of another kind than counters, and the memory they work on.
pub(crate) trait Probes {
    /// Where in each function that a pattern names.
    fn kinds(&self) -> Vec<PointKind>;

    /// A process runs a program nothing is in yet.
    ///
    /// # Errors
    /// If memory could not be had.
    fn begin(&mut self, pid: ProcessId, space: &mut RemoteSpace) -> Result<(), Error>;

    /// Probes are about to be put into a process: its modules changed, or it has just begun.
    fn ready(&mut self, pid: ProcessId, space: &mut RemoteSpace);

    /// A process made a copy of itself.
    fn forked(&mut self, parent: ProcessId, child: ProcessId);

    /// A process ended, or runs another program.
    fn ended(&mut self, pid: ProcessId);

    /// What to put in at a point of process `pid`. `function` is the same for one function in all processes.
    fn snippet(&mut self, pid: ProcessId, function: Key, point: &Point) -> Option<Snippet>;

    /// Looks at what was left, from time to time. Returns when to come again at the latest.
    ///
    /// # Errors
    /// If it cannot be passed on.
    fn tick(&mut self) -> Result<Duration, Error>;

    /// Functions whose probes are to be switched off or on now.
    fn switches(&mut self) -> Vec<(Key, bool)> {
        Vec::new()
    }
}

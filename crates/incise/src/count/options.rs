//! What to count, and what a count tells.

use std::time::Duration;

use incise_image::PatternError;
use incise_patch::{Layout, TrapPolicy};
use incise_snippet::tree::Fault;

use super::condition::Condition;
use super::tally::{Counted, NotCounted};
use crate::filter::Filter;
use crate::point::{Incomplete, PointKind};

/// What to count, and where.
#[derive(Clone, Debug, Default)]
pub struct CountOptions {
    /// Patterns of functions and places; see [`Query::functions`](crate::Query::functions).
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    pub module: Option<String>,
    /// Which points of the functions.
    pub points: PointKind,
    /// Only those of them that this accepts.
    pub filter: Option<Filter>,
    /// Probes do what they do only when this holds, as a thread comes by. Where it can be evaluated at one kind of points only (an
    /// argument at entries), probes at other kinds do not depend on it.
    pub condition: Option<Condition>,
    /// Keep the probes in forked children, and put them into programs these execute.
    pub follow: bool,
    /// Leave the probes in place when detaching.
    pub keep: bool,
    /// Name the trampolines in /tmp/perf-PID.map, for perf(1).
    pub perf_map: bool,
    /// Put the trampolines with their code into /tmp/jit-PID.dump, for `perf inject --jit`; the process maps that file.
    pub jit_dump: bool,
    /// Describe the trampolines in /tmp/incise-PID.debug, for gdb's `add-symbol-file FILE -o 0`.
    pub debug_file: bool,
    /// What to do where only a trap fits.
    pub traps: TrapPolicy,
    /// Gets each pattern that names nothing once a launched program is loaded, but may later: a module that is loaded while it runs.
    /// Whether it ever did is told in the end ([`CountResult::unmatched`]).
    pub awaiting: Option<fn(&PatternError)>,
    /// How probed functions are laid out; by what it is likely to cost if nothing is given.
    pub layout: Option<Layout>,
    /// A counter at each point that counts whenever a thread comes by. Otherwise those of blocks and instructions whose counts follow
    /// from others have none, in programs that are seen from their start, and instructions of a run share one.
    pub exact: bool,
}

impl CountOptions {
    /// Whether what a pattern names may be there later: a module that is loaded while the program runs, or a
    /// program that a child executes.
    pub(super) fn may_come(&self, error: &PatternError) -> bool {
        match error {
            PatternError::NoModule { .. } => true,
            PatternError::NoFunction { .. } => self.follow,
            _ => false,
        }
    }
}

/// How the counted process ended, for the counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It runs on without us.
    Detached,
}

/// The result of a count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountResult {
    /// The functions that were counted.
    pub counted: Vec<Counted>,
    /// Those that could not be.
    pub refused: Vec<NotCounted>,
    /// Mappings that probes added, in the process that got the most.
    pub mappings: usize,
    /// How long threads stood still, over all transactions.
    pub stop: Duration,
    /// Trampoline bytes that had to stay in processes that run on: a thread was inside.
    pub left_behind: u64,
    /// Runs of patched bytes that the program has overwritten or unmapped itself: there its own bytes stay.
    pub overwritten: usize,
    /// Functions that may have more points of the kind that was asked for.
    pub incomplete: Vec<Incomplete>,
    /// Why patterns matched nothing to the end.
    pub unmatched: Vec<PatternError>,
    /// How often the condition could not be evaluated, by reason.
    pub faults: Vec<(Fault, u64)>,
    /// How it ended.
    pub ending: Ending,
}

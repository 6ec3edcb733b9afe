//! What is put in at points, if it is no counter.

use std::time::Duration;

use incise_image::MemoryReader;
use incise_patch::Snippet;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::CountOptions;
use super::tally::Key;
use crate::point::{Point, PointKind, Query};
use crate::program::Program;
use crate::session::Error;

/// Points to look for.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// A pattern of functions and places.
    pub pattern: String,
    /// Only in modules that fit this.
    pub module: Option<String>,
    /// Which points of functions.
    pub kind: PointKind,
    /// Points of one group that are at one place are the same point.
    pub group: usize,
    /// Whether places that are no function are wanted.
    pub places: bool,
    /// What is meant where nothing fits the pattern.
    pub otherwise: Option<Box<Search>>,
}

impl Search {
    /// The points of `kinds` of what the options name, a group for each kind.
    pub fn each(options: &CountOptions, kinds: &[PointKind]) -> Vec<Search> {
        let of = |(group, kind): (usize, &PointKind)| {
            let (kind, module) = (*kind, options.module.clone());
            let search = move |pattern: &String| Search {
                pattern: pattern.clone(),
                module: module.clone(),
                kind,
                group,
                // They are the same for every kind.
                places: group == 0,
                otherwise: None,
            };
            options.patterns.iter().map(search).collect::<Vec<_>>()
        };
        kinds.iter().enumerate().flat_map(of).collect()
    }

    pub(super) fn query(&self) -> Query {
        let query = Query::functions(&self.pattern);
        self.module.iter().fold(query, |query, module| query.module(module))
    }
}

/// A point that was found.
pub(crate) struct Found<'a> {
    /// The process.
    pub pid: ProcessId,
    /// The same for one function in all processes.
    pub function: Key,
    /// The point.
    pub point: &'a Point,
    /// That of the search.
    pub group: usize,
    /// The program.
    pub program: &'a Program,
    /// Its memory.
    pub memory: &'a dyn MemoryReader,
}

/// Snippets of another kind than counters, and the memory they work on.
pub(crate) trait Probes {
    /// What to look for.
    fn searches(&self, options: &CountOptions) -> Vec<Search>;

    /// Whether to wait until all that the program is linked with is mapped.
    fn wait_for_libraries(&self) -> bool {
        false
    }

    /// A process runs a program nothing is in yet.
    ///
    /// # Errors
    /// If memory could not be had.
    fn begin(&mut self, pid: ProcessId, space: &mut RemoteSpace) -> Result<(), Error>;

    /// Probes are about to be put into a process, which runs `program` now: its modules changed, or it has just begun.
    fn ready(&mut self, pid: ProcessId, space: &mut RemoteSpace, program: &Program);

    /// A process made a copy of itself.
    fn forked(&mut self, parent: ProcessId, child: ProcessId);

    /// A process ended, or runs another program.
    fn ended(&mut self, pid: ProcessId);

    /// What to put in at a point.
    fn snippet(&mut self, found: &Found<'_>) -> Option<Snippet>;

    /// All points of a process that can be found now were offered. `whole`: the program is loaded, for the first time.
    ///
    /// # Errors
    /// Why the program shall not go on.
    fn offered(&mut self, _pid: ProcessId, _whole: bool) -> Result<(), Error> {
        Ok(())
    }

    /// Whether the program shall go on without us.
    fn is_over(&self) -> bool {
        false
    }

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

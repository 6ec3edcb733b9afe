//! Histograms of what functions of other processes do: how long calls take, what they are given, what they return.

mod snippet;
mod state;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_snippet::data::operation::HistogramLayout;
pub use incise_snippet::data::{Buckets, Log};

use crate::count::{CountOptions, CountResult, Counting};
use crate::session::Error;
use crate::trace::{Clock, TracedFunction};
use state::{State, Watch};

/// The most functions that are measured at a time; fewer where there are very many CPUs.
pub const FUNCTIONS: usize = 1 << 17;
/// Into how many parts each power of two is split, as a power of two.
const SPLIT: u8 = 2;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// How long calls take, in nanoseconds.
    Duration,
    /// An argument that is passed in a general register, 0 to 5.
    Argument(u8),
    /// What is returned, in `rax`.
    Return,
}

/// The values of one function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Values {
    /// The function.
    pub function: TracedFunction,
    /// How many values there were in each bucket.
    pub counts: Vec<u64>,
    /// Their sum, wrapping.
    pub sum: i64,
    /// Whether its probes are on.
    pub enabled: bool,
}

impl Values {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// All values at some time.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// How long values were taken.
    pub elapsed: Duration,
    /// For each function, in the order they were found; functions keep their places. One that was not called since an earlier snapshot
    /// has the same values, in the same memory.
    pub functions: Vec<Arc<Values>>,
    /// Calls that were not timed, because there was no room for them in the table of calls.
    pub untimed: u64,
    /// Calls that ended whose begin was not seen.
    pub unpaired: u64,
    /// Functions that are not measured: there were too many.
    pub left_out: usize,
    /// What the buckets stand for.
    pub buckets: Buckets,
}

impl Snapshot {
    fn new(buckets: Buckets) -> Snapshot {
        Snapshot {
            elapsed: Duration::ZERO,
            functions: Vec::new(),
            untimed: 0,
            unpaired: 0,
            left_out: 0,
            buckets,
        }
    }
}

/// The values, for who looks at them.
pub struct Look<'a>(&'a mut State);

impl Look<'_> {
    /// How long values were taken.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// All values now. What that costs is a look at two quadwords of each function on each CPU, and reading the histograms of those that were
    /// called since the last time.
    pub fn snapshot(&mut self) -> Snapshot {
        self.0.snapshot(false)
    }
}

/// What who watches wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Next {
    /// To look again after this time.
    pub pause: Duration,
    /// Functions to switch off or on, by their place.
    pub switches: Vec<(usize, bool)>,
}

/// The result.
#[derive(Clone, PartialEq, Debug)]
pub struct TimingResult {
    /// How the probes went in, and how the program ended. Nothing is counted.
    pub probes: CountResult,
    /// All values.
    pub values: Snapshot,
}

/// Measuring that is going on.
pub struct Timing {
    counting: Counting,
    state: Rc<RefCell<State>>,
}

impl Timing {
    /// Starts `program` with `arguments`; it is searched for in PATH. `watch` may look at the values from time to time.
    ///
    /// # Errors
    /// If it cannot be run, is no x86-64 program, or a pattern is malformed. The program has not run then.
    pub fn launch(
        program: &OsString,
        arguments: &[OsString],
        functions: CountOptions,
        of: Measure,
        watch: impl FnMut(&mut Look<'_>) -> io::Result<Next> + 'static,
    ) -> Result<Timing, Error> {
        let state = state(of, Box::new(watch));
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::launch_with(program, arguments, functions, Some(probes))?;
        Ok(Timing { counting, state })
    }

    /// Attaches to process `pid` and puts the probes in.
    ///
    /// # Errors
    /// If the process cannot be traced, or a pattern is malformed or matches nothing; it runs on unchanged then.
    pub fn attach(
        pid: i32,
        functions: CountOptions,
        of: Measure,
        watch: impl FnMut(&mut Look<'_>) -> io::Result<Next> + 'static,
    ) -> Result<Timing, Error> {
        let state = state(of, Box::new(watch));
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::attach_with(pid, functions, Some(probes))?;
        Ok(Timing { counting, state })
    }

    /// How many functions are measured so far.
    pub fn installed(&self) -> usize {
        self.counting.installed()
    }

    /// How long threads stood still so far.
    pub fn stop(&self) -> Duration {
        self.counting.stop()
    }

    /// Lets the program run until it ends, or until `interrupted` is set: then the probes are taken out and it runs on without us.
    ///
    /// # Errors
    /// As for [`Counting::run`], and [`Error::Output`] if `watch` failed.
    pub fn run(self, interrupted: &AtomicBool) -> Result<TimingResult, Error> {
        let probes = self.counting.run(interrupted)?;
        let values = self.state.borrow_mut().snapshot(true);
        Ok(TimingResult { probes, values })
    }
}

fn state(of: Measure, watch: Watch) -> Rc<RefCell<State>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let log = Log::split(SPLIT).unwrap_or(Log::PLAIN);
    let layout = HistogramLayout::new(cpus.min(64), log);
    let rate = match of {
        Measure::Duration => Clock::start().nanos_per_tick(),
        _ => 1.0,
    };
    Rc::new(RefCell::new(State::new(of, layout, rate, watch)))
}

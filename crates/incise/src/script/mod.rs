//! Scripts of the language in other processes: their probes become points, their clauses code there, and what that leaves is
//! shown.

mod debug;
mod frames;
mod memory;
mod names;
mod probes;
mod scope;
mod slips;
mod state;
mod texts;
mod tool;
mod usdt;
mod wanted;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use incise_image::PatternError;
use incise_patch::TrapPolicy;
use incise_snippet::data::Aggregate;
use incise_snippet::language::ast::ProbeKind;
use incise_snippet::language::{Diagnostics, Type, check_maps, parse_script};
use incise_snippet::show::{Entry, Shown, Symbols};
use incise_snippet::tree::{Fault, Program};

use crate::count::{CountOptions, CountResult, Counting};
use crate::point::Point;
use crate::session::Error;
pub(crate) use frames::Frames;
pub(crate) use names::{Symbols as Names, shown};
pub(crate) use scope::{PointScope, Shared};
use state::State;
pub(crate) use texts::Texts;
pub(crate) use wanted::place_of;

/// Why a script cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// It is wrong, in itself or at all points it names.
    #[error(transparent)]
    Source(Diagnostics),
    /// A clause could not be made code.
    #[error("cannot compile: {0}")]
    Compile(String),
    /// A dry run has shown all there is.
    #[error("nothing was changed")]
    Shown,
    /// It probes something, but there is no process.
    #[error("the script probes functions: a program to run, or a process to attach to, is needed")]
    NoProcess,
}

/// A script, and how to run it.
#[derive(Clone, Debug)]
pub struct ScriptOptions {
    /// What it is called in messages.
    pub name: String,
    /// Its text.
    pub source: String,
    /// Its arguments, `$1` and on.
    pub arguments: Vec<String>,
    /// Also in forked children, and the programs they execute.
    pub follow: bool,
    /// What to do where only a trap fits.
    pub traps: TrapPolicy,
    /// Room for so many records on each CPU.
    pub records: usize,
    /// Room for so many keys in each map, and a quarter of them in one of histograms.
    pub keys: u32,
    /// Room for so many rows of unwind tables of libraries that are loaded later.
    pub rows: usize,
    /// Tell which points there are and what would run there, and change nothing.
    pub dry_run: bool,
    /// Gets probes that name nothing yet; see [`CountOptions::awaiting`].
    pub awaiting: Option<fn(&PatternError)>,
}

/// A point of a script.
#[derive(Clone, Debug)]
pub struct ScriptPoint<'a> {
    /// The point.
    pub point: &'a Point,
    /// File and line of its source, if they are known.
    pub line: Option<(String, u32)>,
}

/// Something a script tells.
#[non_exhaustive]
pub enum ScriptEvent<'a> {
    /// What `printf`, `print` of a value, or `time` shows.
    Printf {
        /// The text.
        text: &'a str,
        /// What is in it.
        values: &'a [Shown],
    },
    /// A map is shown.
    Map {
        /// Its name, without `@`.
        name: &'a str,
        /// The type of its plain values.
        ty: &'a Type,
        /// What its values are.
        kind: Aggregate,
        /// Its entries, the largest last.
        entries: &'a [Entry],
        /// The same for people.
        text: &'a str,
        /// Names of addresses.
        symbols: &'a dyn Symbols,
    },
    /// A point, in a dry run.
    Point {
        /// The first probe of its clause.
        probe: &'a str,
        /// The point.
        point: &'a ScriptPoint<'a>,
        /// What would run there.
        program: &'a Program,
    },
    /// A clause that runs in the tool, in a dry run.
    Clause {
        /// Its first probe.
        probe: &'a str,
        /// What would run.
        program: &'a Program,
    },
    /// Nothing comes for now.
    Pause,
}

/// What became of what a script left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScriptTotals {
    /// Records that found no room, or were not finished.
    pub lost: u64,
    /// Values that found no room in maps.
    pub dropped: u64,
    /// Runs that ended early, by reason.
    pub faults: Vec<(Fault, u64)>,
    /// Points at which a clause could not be compiled.
    pub left_out: usize,
    /// Rows of unwind tables that found no room: stacks end in the libraries they are of.
    pub rows_left_out: usize,
    /// Probes of programmers that no program had, as they are written.
    pub not_found: Vec<String>,
}

/// The result of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptResult {
    /// How the probes went in, and how the program ended; nothing without a program. Nothing is counted.
    pub probes: Option<CountResult>,
    /// What became of what it left.
    pub totals: ScriptTotals,
}

/// A script that is running.
pub struct Scripting {
    counting: Option<Counting>,
    state: Rc<RefCell<State>>,
}

impl Scripting {
    fn state(
        options: &ScriptOptions,
        sink: impl FnMut(&ScriptEvent<'_>) -> io::Result<()> + 'static,
    ) -> Result<Rc<RefCell<State>>, Error> {
        let script = parse_script(&options.name, &options.source).map_err(ScriptError::Source)?;
        check_maps(&options.name, &options.source, &script).map_err(ScriptError::Source)?;
        let arguments = options.arguments.clone();
        let rows = options.rows;
        let shared = Shared { arguments, rows, ..Shared::new(options.records, options.keys) };
        let mut state =
            State::new(&options.name, &options.source, script, shared, options.dry_run, Box::new(sink));
        state.run_tool(&ProbeKind::Begin)?;
        Ok(Rc::new(RefCell::new(state)))
    }

    fn counting(options: &ScriptOptions) -> CountOptions {
        let ScriptOptions { follow, traps, awaiting, .. } = *options;
        CountOptions { follow, traps, awaiting, ..CountOptions::default() }
    }

    /// Starts `program` with `arguments`; it is searched for in PATH. `sink` gets what the script tells.
    ///
    /// # Errors
    /// If the script is wrong, or the program cannot be run or is no x86-64 program. It has not run then.
    pub fn launch(
        program: &OsString,
        arguments: &[OsString],
        options: &ScriptOptions,
        sink: impl FnMut(&ScriptEvent<'_>) -> io::Result<()> + 'static,
    ) -> Result<Scripting, Error> {
        let state = Scripting::state(options, sink)?;
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::launch_with(program, arguments, Scripting::counting(options), Some(probes))?;
        Ok(Scripting { counting: Some(counting), state })
    }

    /// Attaches to process `pid` and puts the probes in.
    ///
    /// # Errors
    /// If the script is wrong, names nothing in the process, or that cannot be traced; it runs on unchanged then.
    pub fn attach(
        pid: i32,
        options: &ScriptOptions,
        sink: impl FnMut(&ScriptEvent<'_>) -> io::Result<()> + 'static,
    ) -> Result<Scripting, Error> {
        let state = Scripting::state(options, sink)?;
        state.borrow_mut().attached = !options.follow;
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::attach_with(pid, Scripting::counting(options), Some(probes));
        let slip = state.borrow_mut().slip.take();
        let counting =
            counting.map_err(|error| slip.map_or(error, |wrong| ScriptError::Source(wrong).into()))?;
        Ok(Scripting { counting: Some(counting), state })
    }

    /// Without a process: only what runs in the tool.
    ///
    /// # Errors
    /// If the script is wrong, or probes something.
    pub fn alone(
        options: &ScriptOptions,
        sink: impl FnMut(&ScriptEvent<'_>) -> io::Result<()> + 'static,
    ) -> Result<Scripting, Error> {
        let state = Scripting::state(options, sink)?;
        if state.borrow().has_points() {
            return Err(ScriptError::NoProcess.into());
        }
        Ok(Scripting { counting: None, state })
    }

    /// How many points have probes so far.
    pub fn installed(&self) -> usize {
        self.counting.as_ref().map_or(0, Counting::installed)
    }

    /// How long threads stood still so far.
    pub fn stop(&self) -> Duration {
        self.counting.as_ref().map_or(Duration::ZERO, Counting::stop)
    }

    /// Lets the program run until it ends, or the script asks for it, or `interrupted` is set: then the probes are taken out and it runs
    /// on without us.
    ///
    /// # Errors
    /// As for [`Counting::run`], and [`Error::Output`] if something could not be passed on.
    pub fn run(self, interrupted: &AtomicBool) -> Result<ScriptResult, Error> {
        let probes = match self.counting {
            Some(counting) => Some(counting.run(interrupted)?),
            None => {
                alone(&self.state, interrupted)?;
                None
            }
        };
        let totals = self.state.borrow_mut().finish()?;
        Ok(ScriptResult { probes, totals })
    }
}

/// Intervals without a process, until the script ends.
fn alone(state: &Rc<RefCell<State>>, interrupted: &AtomicBool) -> Result<(), Error> {
    use crate::count::Probes;
    let mut state = Rc::clone(state);
    let waits = state.borrow().has_intervals() && !state.borrow().dry_run;
    while waits && !state.is_over() && !interrupted.load(Ordering::Relaxed) {
        let pause = state.tick()?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// The time by the clock on the wall, with a format of strftime(3).
fn local_time(format: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    crate::wall::format(now.map_or(0, |now| now.as_secs() as i64), format)
}

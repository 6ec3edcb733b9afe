//! Tracing functions of other processes: a record at each entry and, if wanted, each exit, in rings that the program shares with us.

mod callers;
mod clock;
mod order;
mod owners;
mod record;
mod region;
mod stacks;
mod state;
pub(crate) mod template;
mod threads;
mod value;

pub(crate) use callers::return_addresses;
pub use callers::{Caller, Callers};
pub use clock::{Clock, ticks};
pub(crate) use region::place;
pub use stacks::{CallStacks, Frame};
pub use state::Totals;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_isa::Addr;
use incise_snippet::data::RingLayout;

use crate::count::{CountOptions, CountResult, Counting};
use crate::point::{Point, PointKind};
use crate::session::Error;
use record::Shape;
use state::State;

/// What to trace.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// Which functions, and how; `points` and `keep` do not matter.
    pub functions: CountOptions,
    /// How many arguments to record (up to six).
    pub arguments: usize,
    /// Whether to record exits too.
    pub exits: bool,
    /// Room for so many records on each CPU.
    pub records: usize,
    /// Record the callers of each function that is entered, as far as a copy of so many bytes of the stack shows them (up to 65,000);
    /// none if it is 0.
    pub stack: usize,
}

/// A function that is traced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracedFunction {
    /// File name of the module.
    pub module: String,
    /// The function as its programmer wrote it.
    pub name: String,
    /// Its address, in the process that had it last.
    pub addr: Addr,
}

impl TracedFunction {
    /// The function that a point is in: the name of an exit says how far it is from the entry.
    pub(crate) fn of(point: &Point) -> TracedFunction {
        let name = &point.display_name;
        let offset = point.addr.offset_from(point.function);
        let sign = if offset < 0 { '-' } else { '+' };
        let behind = format!("{sign}{:#x}", offset.unsigned_abs());
        let name = match point.kind {
            PointKind::FunctionExit => name.strip_suffix(&behind).unwrap_or(name),
            _ => name,
        };
        TracedFunction { module: point.module.clone(), name: name.to_owned(), addr: point.function }
    }
}

/// A function was entered or left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceRecord {
    /// When, in nanoseconds since the trace began.
    pub time: u64,
    /// The process's id, as that of the thread.
    pub process: u32,
    /// The thread's id in the program's own namespace; 0 before the program has set its first thread up.
    pub thread: u32,
    /// Which function: an index.
    pub function: usize,
    /// Whether it was left.
    pub exit: bool,
    /// The stack pointer: the address of the return address.
    pub stack: u64,
    /// At an entry the arguments, at an exit what it returns.
    pub values: Vec<u64>,
    /// At an entry who called it, if that is recorded.
    pub callers: Option<Callers>,
}

/// The result of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceResult {
    /// How the probes went in, and how the program ended. Nothing is counted.
    pub probes: CountResult,
    /// What became of the records.
    pub totals: Totals,
}

/// A trace that is going on.
pub struct Tracing {
    counting: Counting,
    state: Rc<RefCell<State>>,
}

impl TraceOptions {
    fn state(
        &self,
        sink: impl FnMut(Option<&TraceRecord>, &[TracedFunction]) -> io::Result<()> + 'static,
    ) -> State {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let arguments = self.arguments.min(6);
        let words = match self.stack {
            0 => record::FIXED + arguments.max(1),
            bytes => Shape::before_stack(arguments) - 1 + bytes.min(65_000).div_ceil(8),
        };
        let layout = RingLayout::new(cpus.min(256), self.records.clamp(16, 1 << 20), words);
        // Within these bounds there is one.
        let layout = layout.unwrap_or_else(|| unreachable!("a layout of bounded size"));
        let kinds = [PointKind::FunctionEntry, PointKind::FunctionExit];
        let kinds = kinds[..1 + usize::from(self.exits)].to_vec();
        State::new(Shape { layout, arguments, stack: self.stack > 0 }, kinds, Box::new(sink))
    }
}

impl Tracing {
    /// Starts `program` with `arguments`; it is searched for in PATH. `sink` gets each record, in the order of time, with the
    /// functions that are known by then; and nothing when no more are there for now.
    ///
    /// # Errors
    /// If it cannot be run, is no x86-64 program, or a pattern is malformed. The program has not run then.
    pub fn launch(
        program: &OsString,
        arguments: &[OsString],
        options: &TraceOptions,
        sink: impl FnMut(Option<&TraceRecord>, &[TracedFunction]) -> io::Result<()> + 'static,
    ) -> Result<Tracing, Error> {
        let state = Rc::new(RefCell::new(options.state(sink)));
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::launch_with(program, arguments, options.functions.clone(), Some(probes))?;
        Ok(Tracing { counting, state })
    }

    /// Attaches to process `pid` and puts the probes in.
    ///
    /// # Errors
    /// If the process cannot be traced, or a pattern is malformed or matches nothing; it runs on unchanged then.
    pub fn attach(
        pid: i32,
        options: &TraceOptions,
        sink: impl FnMut(Option<&TraceRecord>, &[TracedFunction]) -> io::Result<()> + 'static,
    ) -> Result<Tracing, Error> {
        let state = Rc::new(RefCell::new(options.state(sink)));
        let probes = Box::new(Rc::clone(&state));
        let counting = Counting::attach_with(pid, options.functions.clone(), Some(probes))?;
        Ok(Tracing { counting, state })
    }

    /// How many functions are traced so far.
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
    /// As for [`Counting::run`], and [`Error::Output`] if a record could not be passed on.
    pub fn run(self, interrupted: &AtomicBool) -> Result<TraceResult, Error> {
        let probes = self.counting.run(interrupted)?;
        let state = &mut *self.state.borrow_mut();
        state.drain(true)?;
        Ok(TraceResult { probes, totals: state.totals })
    }
}

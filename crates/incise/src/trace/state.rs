//! What a trace knows while it goes on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;

use incise_patch::Snippet;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::clock::{Clock, ticks};
use super::order::Order;
use super::record::Shape;
use super::region::Region;
use super::{TraceRecord, TracedFunction};
use crate::count::{CountOptions, Found, Key, Probes, Search};
use crate::point::PointKind;
use crate::program::Program;
use crate::session::Error;

/// Where records go.
pub(crate) type Sink = Box<dyn FnMut(Option<&TraceRecord>, &[TracedFunction]) -> io::Result<()>>;

/// How long a record that is not finished holds younger ones up.
const PATIENCE: f64 = 0.5e9;
/// The time between two looks at the rings, if little comes.
const PAUSE: Duration = Duration::from_millis(10);
/// A time stamp may be taken this many ticks before the instruction in front of it has run.
const SLACK: u64 = 10_000;

/// The state of a trace.
pub(crate) struct State {
    pub shape: Shape,
    pub kinds: Vec<PointKind>,
    pub functions: Vec<TracedFunction>,
    index: HashMap<Key, u32>,
    regions: BTreeMap<usize, Region>,
    of: HashMap<ProcessId, usize>,
    made: usize,
    order: Order,
    clock: Clock,
    sink: Sink,
    pub totals: Totals,
    /// Where not every call is recorded.
    open: Option<Open>,
}

/// What became of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Read.
    pub records: u64,
    /// Dropped by the program, because a ring was full.
    pub dropped: u64,
    /// Begun and never finished: the writer was killed.
    pub unfinished: u64,
}

/// Calls that were passed on and go on, by thread, stack and function.
type Open = HashSet<(u32, u64, usize)>;

/// Whether a record is passed on: where entries depend on a condition, exits are only if their entries were.
fn passes(open: &mut Option<Open>, record: &TraceRecord) -> bool {
    let Some(open) = open else { return true };
    let call = (record.thread, record.stack, record.function);
    if record.exit {
        return open.remove(&call);
    }
    open.insert(call);
    true
}

impl State {
    pub(crate) fn new(shape: Shape, kinds: Vec<PointKind>, sink: Sink) -> State {
        State {
            shape,
            kinds,
            functions: Vec::new(),
            index: HashMap::new(),
            regions: BTreeMap::new(),
            of: HashMap::new(),
            made: 0,
            order: Order::default(),
            clock: Clock::start(),
            sink,
            totals: Totals::default(),
            open: None,
        }
    }

    fn region(&mut self, pid: ProcessId) -> Option<&mut Region> {
        self.regions.get_mut(self.of.get(&pid)?)
    }

    /// Reads all rings, and passes on what nothing can precede any more; at the `end`, everything. Returns how many records came.
    pub(crate) fn drain(&mut self, end: bool) -> Result<u64, Error> {
        let now = ticks();
        let nanos = if end || !self.regions.is_empty() { self.clock.nanos_per_tick() } else { 1.0 };
        let mut until = now.saturating_sub(SLACK);
        let mut came = 0;
        let order = &mut self.order;
        for region in self.regions.values_mut() {
            came += region.drain(now, &mut |record| order.push(record));
            let since = region.reader.unfinished_since();
            let held = since.filter(|since| now.wrapping_sub(*since) as f64 * nanos < PATIENCE);
            until = until.min(held.unwrap_or(u64::MAX));
        }
        let gone = |(id, _): &(&usize, &Region)| end || !self.of.values().any(|used| used == *id);
        let gone: Vec<usize> = self.regions.iter().filter(gone).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(region) = self.regions.remove(&id) {
                self.totals.records += region.reader.read();
                self.totals.dropped += region.dropped();
                self.totals.unfinished += region.reader.unfinished() as u64;
            }
        }
        let origin = self.clock.origin();
        let mut passed = Ok(());
        for mut record in self.order.take(if end { u64::MAX } else { until }) {
            record.time = (record.time.saturating_sub(origin) as f64 * nanos) as u64;
            if passes(&mut self.open, &record) {
                passed = passed.and_then(|()| (self.sink)(Some(&record), &self.functions));
            }
        }
        passed.and_then(|()| (self.sink)(None, &self.functions)).map_err(Error::Output)?;
        Ok(came)
    }
}

impl Probes for std::rc::Rc<std::cell::RefCell<State>> {
    fn searches(&self, options: &CountOptions) -> Vec<Search> {
        let state = &mut *self.borrow_mut();
        if options.condition.is_some() {
            state.open.get_or_insert_default();
        }
        Search::each(options, &state.kinds)
    }

    fn begin(&mut self, pid: ProcessId, space: &mut RemoteSpace) -> Result<(), Error> {
        let state = &mut *self.borrow_mut();
        let region = Region::new(pid, space, state.shape)?;
        state.made += 1;
        state.regions.insert(state.made, region);
        state.of.insert(pid, state.made);
        Ok(())
    }

    fn ready(&mut self, pid: ProcessId, space: &mut RemoteSpace, program: &Program) {
        if let Some(region) = self.borrow_mut().region(pid) {
            region.find_threads(space);
            region.unwinder.set(program.modules());
        }
    }

    fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let state = &mut *self.borrow_mut();
        if let Some(&region) = state.of.get(&parent) {
            state.of.insert(child, region);
            if let Some(region) = state.regions.get_mut(&region) {
                region.owners.add(child);
            }
        }
    }

    fn ended(&mut self, pid: ProcessId) {
        self.borrow_mut().of.remove(&pid);
    }

    fn snippet(&mut self, found: &Found<'_>) -> Option<Snippet> {
        let state = &mut *self.borrow_mut();
        let (pid, point, function) = (found.pid, found.point, found.function.clone());
        let next = state.functions.len() as u32;
        let index = *state.index.entry(function).or_insert(next);
        if index == next {
            state.functions.push(TracedFunction::of(point));
        } else if point.kind != PointKind::FunctionExit {
            state.functions[index as usize] = TracedFunction::of(point);
        }
        let region = state.region(pid)?;
        if point.kind != PointKind::FunctionExit {
            region.unwinder.points.insert(index as usize, point.addr);
        }
        Some(Snippet::generated(region.recorder.snippet(index, point.kind == PointKind::FunctionExit)))
    }

    fn tick(&mut self) -> Result<Duration, Error> {
        let state = &mut *self.borrow_mut();
        let came = state.drain(false)?;
        // Look again soon if a ring may fill up in a pause.
        let many = (state.shape.layout.slots() / 8) as u64;
        Ok(if came > many { Duration::ZERO } else { PAUSE })
    }
}

//! What is known while values are taken.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use incise_patch::Snippet;
use incise_snippet::data::Words;
use incise_snippet::data::operation::{CallsLayout, HistogramLayout};
use incise_space::remote::{ProcessId, RemoteSpace};
use incise_space::{AddressSpace, DataMapping};

use super::snippet::{HISTOGRAMS, Measurer, Places, UNPAIRED, UNTIMED};
use super::{FUNCTIONS, Look, Measure, Next, Snapshot, Values};
use crate::count::{CountOptions, Found, Key, Probes, Search};
use crate::point::PointKind;
use crate::program::Program;
use crate::session::Error;
use crate::trace::{TracedFunction, place};

/// Who looks at the values from time to time.
pub(crate) type Watch = Box<dyn FnMut(&mut Look<'_>) -> io::Result<Next>>;

/// Pages of stack on which calls can be timed.
const STACK_PAGES: usize = 1 << 15;

/// The memory in one program and its forked children.
struct Region {
    shared: DataMapping,
    measurer: Measurer,
    /// The marks of each function's histogram, as they were when it was read.
    seen: Vec<Vec<u64>>,
}

pub(crate) struct State {
    of: Measure,
    layout: HistogramLayout,
    rate: f64,
    /// As they were read last.
    functions: Vec<Arc<Values>>,
    index: HashMap<Key, u32>,
    keys: Vec<Key>,
    /// How often each function was switched on.
    rounds: Vec<Arc<AtomicU32>>,
    regions: BTreeMap<usize, Region>,
    processes: HashMap<ProcessId, usize>,
    made: usize,
    /// What programs left that are gone.
    past: Snapshot,
    /// When the program first went on with probes in it.
    began: Option<Instant>,
    /// Nothing while it looks.
    watch: Option<Watch>,
    next: Instant,
    switches: Vec<(Key, bool)>,
    /// Functions for which there is no room.
    left_out: HashSet<Key>,
    /// Not every call is to be measured.
    conditional: bool,
}

impl State {
    pub(crate) fn new(of: Measure, layout: HistogramLayout, rate: f64, watch: Watch) -> State {
        State {
            of,
            layout,
            rate,
            functions: Vec::new(),
            index: HashMap::new(),
            keys: Vec::new(),
            rounds: Vec::new(),
            regions: BTreeMap::new(),
            processes: HashMap::new(),
            made: 0,
            past: Snapshot::new(layout.buckets()),
            began: None,
            watch: Some(watch),
            next: Instant::now(),
            switches: Vec::new(),
            left_out: HashSet::new(),
            conditional: false,
        }
    }

    /// The most functions there is room for: code refers to their places by displacements of 31 bits.
    fn most(&self) -> usize {
        FUNCTIONS.min((((1 << 31) - HISTOGRAMS) / self.layout.bytes()) as usize - 1)
    }

    fn at(&self, function: usize) -> u64 {
        HISTOGRAMS + function as u64 * self.layout.bytes()
    }

    /// The quadwords of a function's histogram.
    fn words<'a>(&self, region: &'a Region, number: usize) -> &'a Words {
        let from = (self.at(number) / 8) as usize;
        &region.shared.words()[from..from + (self.layout.bytes() / 8) as usize]
    }

    /// Adds what a region holds.
    fn add(&self, region: &Region, into: &mut Snapshot) {
        self.add_counters(region, into);
        for (number, values) in self.functions.iter().enumerate() {
            if into.functions.len() <= number {
                into.functions.push(Arc::new(empty(values)));
            }
            add_values(
                self.layout.read(self.words(region, number)),
                Arc::make_mut(&mut into.functions[number]),
            );
        }
    }

    fn add_counters(&self, region: &Region, into: &mut Snapshot) {
        let words = region.shared.words();
        let word = |offset: u64| words[(offset / 8) as usize].load(Ordering::Relaxed);
        into.untimed += word(UNTIMED);
        // Where entries depend on a condition, most exits have none.
        if !self.conditional {
            into.unpaired += word(UNPAIRED);
        }
    }

    /// Whether a function has other marks than when it was read, which are noted.
    fn changed(&mut self, number: usize) -> bool {
        let (layout, from) = (self.layout, (self.at(number) / 8) as usize);
        let mut changed = false;
        for region in self.regions.values_mut() {
            let words = &region.shared.words()[from..from + (layout.bytes() / 8) as usize];
            if region.seen.len() <= number {
                region.seen.resize(number + 1, Vec::new());
            }
            let seen = &mut region.seen[number];
            if !layout.marks(words).eq(seen.iter().copied()) {
                *seen = layout.marks(words).collect();
                changed = true;
            }
        }
        changed
    }

    /// All that was taken so far: of functions that were not called since the last time, what was read then, unless `everything` is read.
    pub(crate) fn snapshot(&mut self, everything: bool) -> Snapshot {
        for number in 0..self.functions.len() {
            if !self.changed(number) && !everything {
                continue;
            }
            let mut values = empty(&self.functions[number]);
            if let Some(past) = self.past.functions.get(number) {
                add_values((past.sum, past.counts.clone()), &mut values);
            }
            let regions = self.regions.values();
            regions.for_each(|region| {
                add_values(self.layout.read(self.words(region, number)), &mut values);
            });
            self.functions[number] = Arc::new(values);
        }
        let mut all = Snapshot { functions: self.functions.clone(), ..self.past.clone() };
        self.regions.values().for_each(|region| self.add_counters(region, &mut all));
        all.left_out = self.left_out.len();
        all.elapsed = self.elapsed();
        all
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Keeps what programs left that are gone.
    fn retire(&mut self) {
        let unused = |id: &&usize| !self.processes.values().any(|used| used == *id);
        let gone: Vec<usize> = self.regions.keys().filter(unused).copied().collect();
        for id in gone {
            if let Some(region) = self.regions.remove(&id) {
                let mut past = std::mem::replace(&mut self.past, Snapshot::new(self.layout.buckets()));
                self.add(&region, &mut past);
                self.past = past;
                // What it added last is to be read with the others.
                self.regions.values_mut().for_each(|region| region.seen.clear());
            }
        }
    }
}

/// A function without values.
fn empty(values: &Values) -> Values {
    Values {
        function: values.function.clone(),
        counts: vec![0; values.counts.len()],
        sum: 0,
        enabled: values.enabled,
    }
}

fn add_values((sum, counts): (i64, Vec<u64>), into: &mut Values) {
    into.sum = into.sum.wrapping_add(sum);
    into.counts.iter_mut().zip(counts).for_each(|(into, from)| *into += from);
}

impl Probes for Rc<RefCell<State>> {
    fn searches(&self, options: &CountOptions) -> Vec<Search> {
        self.borrow_mut().conditional = options.condition.is_some();
        let kinds: &[PointKind] = match self.borrow().of {
            Measure::Duration => &[PointKind::FunctionEntry, PointKind::FunctionExit],
            Measure::Argument(_) => &[PointKind::FunctionEntry],
            Measure::Return => &[PointKind::FunctionExit],
        };
        Search::each(options, kinds)
    }

    fn begin(&mut self, pid: ProcessId, space: &mut RemoteSpace) -> Result<(), Error> {
        let state = &mut *self.borrow_mut();
        let table = CallsLayout::new(STACK_PAGES);
        let timed = state.of == Measure::Duration;
        let calls = if timed { place(space, table.bytes())?.0 } else { 0 };
        if timed {
            space.map_private(incise_isa::Addr(calls), table.bytes())?;
        }
        let len = state.at(state.most()).next_multiple_of(4096);
        let at = place(space, len)?;
        let shared = space.map_data(at, len)?;
        let places = Places { calls, shared: at.0 };
        let measurer = Measurer::new(state.of, places, table, state.layout, state.rate);
        state.retire();
        state.made += 1;
        state.regions.insert(state.made, Region { shared, measurer, seen: Vec::new() });
        state.processes.insert(pid, state.made);
        Ok(())
    }

    fn ready(&mut self, _: ProcessId, _: &mut RemoteSpace, _: &Program) {}

    fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let state = &mut *self.borrow_mut();
        if let Some(&region) = state.processes.get(&parent) {
            state.processes.insert(child, region);
        }
    }

    fn ended(&mut self, pid: ProcessId) {
        self.borrow_mut().processes.remove(&pid);
    }

    fn snippet(&mut self, found: &Found<'_>) -> Option<Snippet> {
        let state = &mut *self.borrow_mut();
        let (pid, point, function) = (found.pid, found.point, found.function.clone());
        let exit = point.kind == PointKind::FunctionExit;
        let number = match state.index.get(&function) {
            Some(&number) => number as usize,
            None if state.functions.len() == state.most() => {
                state.left_out.insert(function);
                return None;
            }
            None => {
                let number = state.functions.len();
                state.index.insert(function.clone(), number as u32);
                state.keys.push(function);
                state.rounds.push(Arc::default());
                let counts = vec![0; state.layout.buckets().count() as usize];
                let function = TracedFunction::of(point);
                state.functions.push(Arc::new(Values { function, counts, sum: 0, enabled: true }));
                number
            }
        };
        if !exit {
            Arc::make_mut(&mut state.functions[number]).function = TracedFunction::of(point);
        }
        let region = state.regions.get(state.processes.get(&pid)?)?;
        let snippet =
            region.measurer.snippet(number as u32, &state.rounds[number], state.at(number), exit)?;
        Some(Snippet::generated(snippet))
    }

    fn tick(&mut self) -> Result<Duration, Error> {
        let state = &mut *self.borrow_mut();
        let now = Instant::now();
        state.began.get_or_insert(now);
        if let Some(rest) = state.next.checked_duration_since(now).filter(|rest| !rest.is_zero()) {
            return Ok(rest);
        }
        let Some(mut watch) = state.watch.take() else { return Ok(Duration::ZERO) };
        let next = watch(&mut Look(state));
        state.watch = Some(watch);
        let next = next.map_err(Error::Output)?;
        for (function, enabled) in next.switches {
            if let (Some(key), Some(values)) = (state.keys.get(function), state.functions.get_mut(function)) {
                Arc::make_mut(values).enabled = enabled;
                // Before the code of its probes is made again.
                state.rounds[function].fetch_add(u32::from(enabled), Ordering::Relaxed);
                state.switches.push((key.clone(), enabled));
            }
        }
        state.next = now + next.pause;
        Ok(next.pause)
    }

    fn switches(&mut self) -> Vec<(Key, bool)> {
        std::mem::take(&mut self.borrow_mut().switches)
    }
}

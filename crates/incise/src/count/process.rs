//! One traced process: its modules, the probes in it and the counters they add to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use incise_image::{Pattern, PatternError};
use incise_isa::Addr;
use incise_patch::{
    Atomicity, Batch, CommitError, CounterId, Engine, InstanceId, MachineCode, Place, Placement, Policy,
    Position, Snippet, Tactic,
};
use incise_space::AddressSpace;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::condition::{Condition, Guards};
use super::following::{Following, Gets};
use super::ledger::{self, Ledger};
use super::left;
use super::probes::{Found, Search};
use super::resolvers::{Passage, Passed, Resolvers, head_of};
use super::tally::{Key, Tally};
use super::{CountOptions, Probes};
use crate::flow::{Implied, inside};
use crate::images::Images;
use crate::perf_map::{self, PerfMap};
use crate::point::{Point, PointKind, Unresolved};
use crate::program::Program;
use crate::script::ScriptError;
use crate::session::Error;

pub(super) struct Process {
    pid: ProcessId,
    engine: Engine,
    program: Program,
    /// Counters of this process and, shared with its forked children, those it inherited: the last one to end reads them.
    ledgers: Vec<Rc<Ledger>>,
    own: Ledger,
    /// What is in each function that is no counter.
    inside: HashMap<Key, Vec<InstanceId>>,
    installed: HashSet<(Place, usize)>,
    /// Where the process reports that modules came or went.
    gate: Option<Addr>,
    /// Where it reports once that the program is put together.
    early: Option<(Addr, InstanceId)>,
    /// The dynamic linker's `_r_debug`, if it has one.
    debug: Option<Addr>,
    /// Modules that the patterns were looked for in, by path and bias.
    searched: HashSet<(String, u64)>,
    /// Indirect functions that nothing refers to yet.
    unresolved: Vec<(Wanted, Unresolved)>,
    resolvers: Resolvers,
    /// It was seen before its first instruction: no thread was inside of a function when probes were put in.
    pub from_start: bool,
    /// All that is mapped at the start is mapped.
    pub loaded: bool,
    perf_map: Option<PerfMap>,
    /// What probes depend on.
    guards: Option<Guards>,
}

/// A point, its counter if it has one, and what it gets.
type Placed = (Point, Option<CounterId>, Gets);

/// The group of a point, and its kind.
type Wanted = (usize, PointKind);

/// Offset of `r_state` in `struct r_debug` (System V gABI, dynamic linking; glibc's link.h): version, map, brk.
const STATE: u64 = 24;

/// What glibc's dynamic linker calls in itself when it has relocated the program, just before libc's first code
/// runs (rtld.c, `dl_main`), and later for each new thread.
const RELOCATED: &str = "_dl_allocate_tls_init";

/// Refuses malformed patterns before anything is started.
pub(super) fn check_patterns(options: &CountOptions) -> Result<(), PatternError> {
    options.patterns.iter().try_for_each(|text| Pattern::parse(text).map(drop))
}

impl Process {
    pub(super) fn begin(
        pid: ProcessId,
        space: &mut RemoteSpace,
        images: &mut Images,
        condition: Option<&Condition>,
    ) -> Result<Process, Error> {
        let program = Program::read(&*space, &pid.to_string(), images)?;
        left::restore(space, pid, &program)?;
        let mut engine = Engine::new();
        engine.set_threads(std::thread::available_parallelism().map_or(1, usize::from));
        Ok(Process {
            pid,
            engine,
            program,
            ledgers: Vec::new(),
            own: Ledger::default(),
            installed: HashSet::new(),
            inside: HashMap::new(),
            gate: None,
            early: None,
            debug: None,
            searched: HashSet::new(),
            unresolved: Vec::new(),
            resolvers: Resolvers::default(),
            from_start: false,
            loaded: false,
            perf_map: None,
            guards: condition.cloned().map(Guards::new),
        })
    }

    /// What it runs.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Lets each thread count by itself, where no code of the program uses gs for something else.
    pub(super) fn count_by_thread(
        &mut self,
        space: &mut RemoteSpace,
        images: &mut Images,
    ) -> Result<(), Error> {
        if !self.program.modules().iter().any(|module| images.use_gs(module))
            && let Some(cells) = space.thread_cells()?
        {
            self.engine.count_by_thread(cells);
        }
        Ok(())
    }

    /// Puts gates where the process has its modules mapped and relocated. Without one (a static program without
    /// symbols) everything is there from the start.
    pub(super) fn set_gates(&mut self, space: &mut dyn AddressSpace, tally: &mut Tally) -> Result<(), Error> {
        let fixed = self.program.modules().first().filter(|module| module.image.is_static());
        // A static program has a copy of the linker's functions, but starts without them.
        let linker = self.program.modules().iter().filter(|_| fixed.is_none()).find_map(|module| {
            let state = module.to_addr(module.image.debug_state()?);
            let debug = module.image.r_debug().map(|debug| module.to_addr(debug));
            let relocated = module.image.function(RELOCATED).map(|link| module.to_addr(link));
            Some((state, debug, relocated))
        });
        let mut early = None;
        let gate = match linker {
            Some((state, debug, relocated)) => {
                self.debug = debug;
                // Attached to a running program: its modules are there.
                self.loaded =
                    self.program.modules().iter().any(|module| {
                        !module.main && module.image.debug_state().is_none() && !module.is_vdso()
                    });
                early = relocated.filter(|_| !self.loaded);
                Some(state)
            }
            // In a static program indirect functions are resolved just before this.
            None => fixed.and_then(|module| {
                let of = |name| module.image.function(name).map(|link| module.to_addr(link));
                of("__libc_setup_tls").or_else(|| of("main"))
            }),
        };
        let Some(gate) = gate else {
            self.loaded = true;
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.insert(gate, Snippet::Gate, Position::First);
        self.early = early.map(|at| (at, batch.insert(at, Snippet::Gate, Position::First)));
        let report = self.engine.commit(space, &self.program, &batch, Policy::default())?;
        tally.note(&report);
        self.gate = Some(gate);
        Ok(())
    }

    /// Where the process reports.
    pub(super) fn gates(&self) -> impl Iterator<Item = Addr> + '_ {
        self.gate.into_iter().chain(self.early.map(|(at, _)| at)).chain(self.resolvers.gates())
    }

    /// Where it reported and does not any more, since this was asked last.
    pub(super) fn gates_gone(&mut self) -> Vec<Addr> {
        self.resolvers.take_gone()
    }

    /// Takes the gate at `at` away, if it is the early one: then it is told, and the program is put together.
    pub(super) fn open_early_gate(&mut self, space: &mut dyn AddressSpace, at: Addr) -> Result<bool, Error> {
        let Some((_, gate)) = self.early.take_if(|(early, _)| *early == at) else { return Ok(false) };
        self.engine.commit(space, &self.program, &Batch::removal(vec![gate]), Policy::default())?;
        Ok(true)
    }

    /// Whether the dynamic linker's list of modules is whole.
    pub(super) fn is_consistent(&self, space: &dyn AddressSpace) -> bool {
        let Some(debug) = self.debug else { return true };
        let mut state = [0; 4];
        space.read(debug + STATE, &mut state).is_err() || u32::from_le_bytes(state) == 0
    }

    /// Reads the modules again, and forgets what was in those that are gone.
    pub(super) fn refresh(&mut self, space: &mut RemoteSpace, images: &mut Images) -> Result<(), Error> {
        let program = Program::read(&*space, &self.pid.to_string(), images)?;
        for old in self.program.gone_in(&program) {
            self.engine.forget(old.range.clone());
            space.forget(&old.range)?;
            self.installed.retain(|(place, _)| !old.range.contains(&place.at));
            self.searched.remove(&(old.path.clone(), old.bias));
            self.unresolved.retain(|(_, ifunc)| !old.range.contains(&ifunc.resolver));
        }
        let by_thread = self.engine.counts_by_thread();
        let uses_gs = by_thread && program.gone_in(&self.program).any(|module| images.use_gs(module));
        self.program = program;
        if uses_gs {
            // None of its code has run yet.
            self.share_counters(space)?;
        }
        Ok(())
    }

    /// From now on all threads count in the same places, with `lock`.
    pub(super) fn share_counters(&mut self, space: &mut RemoteSpace) -> Result<(), Error> {
        let batch = self.engine.share_counters();
        let policy = Policy { atomicity: Atomicity::BestEffort, ..Policy::default() };
        self.engine.commit(space, &self.program, &batch, policy)?;
        Ok(space.give_up_areas(&self.engine.retired())?)
    }

    /// Puts counters where the patterns match and none is yet. `strict`: a pattern that matches nothing is an
    /// error, unless what it names may still be loaded.
    pub(super) fn put_in(
        &mut self,
        space: &mut dyn AddressSpace,
        options: &CountOptions,
        probes: &mut Option<Box<dyn Probes>>,
        tally: &mut Tally,
        strict: bool,
    ) -> Result<(), Error> {
        if !self.loaded && probes.as_ref().is_some_and(|probes| probes.wait_for_libraries()) {
            return Ok(());
        }
        let searches = match probes {
            Some(probes) => probes.searches(options),
            None => Search::each(options, &[options.points]),
        };
        let several = searches.iter().any(|search| search.kind != PointKind::FunctionExit);
        let kinds = searches.iter().any(|search| search.kind != searches[0].kind);
        let infers = !options.exact && self.from_start && probes.is_none() && self.guards.is_none();
        let mut implied = Vec::new();
        let points = self.find(space, options, &searches, tally, strict, infers.then_some(&mut implied))?;
        if points.iter().any(|(group, point)| self.installed.contains(&(point.place(), *group))) {
            implied.clear();
        }
        let mut following = Following::new(implied);
        let mut batch = Batch::default();
        let mut placed = Vec::new();
        let mut before: Option<Point> = None;
        // How many probes depend on the condition, and why others cannot.
        let (mut guarded, mut wrong) = (0, None);
        for (group, point) in points {
            if !self.installed.insert((point.place(), group)) {
                continue;
            }
            let gets = following.offer(&point);
            if let Gets::Way | Gets::Nothing = gets {
                if let Gets::Way = gets {
                    batch.insert(point.place(), Snippet::Code(MachineCode::default()), Position::Last);
                    placed.push((point, None, gets));
                }
                before = None;
                continue;
            }
            let function = self.key(Place::from(point.function));
            let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
            let (pid, program) = (self.pid, &self.program);
            let (function_of, point_of) = (function.clone(), &point);
            let found =
                Found { pid, function: function_of, point: point_of, group, program, memory: &memory };
            let (mut snippet, counter) = match probes {
                Some(probes) => match probes.snippet(&found) {
                    Some(snippet) => (snippet, None),
                    None => continue,
                },
                None => {
                    let counter = self.engine.counter();
                    (Snippet::Counter(counter), Some(counter))
                }
            };
            if let Some(guards) = &mut self.guards {
                match guards.guard(&found, snippet.clone()) {
                    Ok(guard) => (snippet, guarded) = (guard, guarded + 1),
                    Err(error) => {
                        wrong.get_or_insert(error);
                        if !kinds {
                            let (key, addr) = (self.key(point.place()), point.addr);
                            let reason = "the condition has no meaning there".to_owned();
                            tally.refuse(key, &point.module, &point.display_name, addr, reason);
                            continue;
                        }
                    }
                }
            }
            let place = match counter {
                // One that is not always incremented says nothing about the next.
                Some(_) if self.guards.is_none() && !options.exact && matches!(gets, Gets::Counter) => {
                    ledger::place(&point, before.as_ref())
                }
                _ => point.place(),
            };
            let instance = batch.insert(place, snippet, Position::Last);
            if counter.is_none() {
                self.inside.entry(function).or_default().push(instance);
            }
            before = Some(point.clone()).filter(|_| matches!(gets, Gets::Counter));
            placed.push((point, counter, gets));
        }
        if let Some(wrong) = wrong.filter(|_| guarded == 0 && strict) {
            return Err(ScriptError::Source(wrong).into());
        }
        if let Some(probes) = probes {
            probes.offered(self.pid, strict)?;
        }
        self.engine.set_instrumentation(options.layout);
        self.commit_points(space, options, (&batch, &placed), tally, &mut following, several)?;
        let mut tell = |point: &Point| tally.entry(self.key(point.place()), point, Tactic::Inferred);
        let (inferred, others) = following.finish(&mut tell);
        inferred.into_iter().for_each(|inferred| self.own.infer(inferred));
        // What would follow from a counter that could not be put in.
        let (mut batch, mut placed) = (Batch::default(), Vec::new());
        for point in others {
            let counter = self.engine.counter();
            batch.insert(point.place(), Snippet::Counter(counter), Position::Last);
            placed.push((point, Some(counter), Gets::Counter));
        }
        self.commit_points(space, options, (&batch, &placed), tally, &mut Following::default(), several)
    }

    /// Puts in what each point gets.
    fn commit_points(
        &mut self,
        space: &mut dyn AddressSpace,
        options: &CountOptions,
        (batch, placed): (&Batch, &[Placed]),
        tally: &mut Tally,
        following: &mut Following,
        several: bool,
    ) -> Result<(), Error> {
        if placed.is_empty() {
            return Ok(());
        }
        let policy = Policy { atomicity: Atomicity::BestEffort, traps: options.traps };
        let report = self.engine.commit(space, &self.program, batch, policy)?;
        tally.note(&report);
        tally.mappings = tally.mappings.max(report.mappings);
        for ((point, counter, gets), entry) in placed.iter().zip(&report.entries) {
            if let Gets::Way = gets {
                continue;
            }
            let key = self.key(point.place());
            match Tally::outcome(&entry.outcome) {
                Ok(tactic) => {
                    tally.accept(&key);
                    let aside = point.kind == PointKind::FunctionExit && several;
                    if !aside {
                        let index = tally.entry(key, point, tactic);
                        if let Some(counter) = counter {
                            let index = self.own.push(index, entry.instance, *counter, point.addr);
                            if let Gets::BlockCounter(block) = gets {
                                following.is_counted(*block, index);
                            }
                        }
                    }
                }
                Err(reason) => tally.refuse(key, &point.module, &point.display_name, point.addr, reason),
            }
        }
        self.own.renew(&self.engine, &mut |entry, hits| tally.add(entry, hits));
        Ok(())
    }

    /// The points in modules that were not looked at before, and those of indirect functions decided since. `implied` gets which need no
    /// counter.
    fn find(
        &mut self,
        space: &dyn AddressSpace,
        options: &CountOptions,
        searches: &[Search],
        tally: &mut Tally,
        strict: bool,
        mut implied: Option<&mut Vec<Implied>>,
    ) -> Result<Vec<(usize, Point)>, Error> {
        let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
        let modules = self.program.modules();
        let finds = |search: &Search| search.query().run(&self.program, &memory);
        // Every pattern has to name something, wherever it was found before.
        for search in searches.iter().filter(|_| strict) {
            let Err(error) = finds(search) else { continue };
            match search.otherwise.as_deref().map(finds) {
                Some(Ok(_)) => {}
                _ if options.may_come(&error) => tally.await_match(&search.pattern, error),
                _ => return Err(error.into()),
            }
        }
        let mut points: Vec<(Wanted, Point)> = Vec::new();
        self.unresolved.retain(|(wanted, ifunc)| {
            let mut used = ifunc.resolve(&self.program, &memory);
            if used.is_empty() {
                used.extend(ifunc.decided(&self.program, self.resolvers.chosen(ifunc.resolver)));
            }
            let stays = used.is_empty();
            points.extend(used.into_iter().map(|point| (*wanted, point)));
            stays
        });
        let fresh =
            |index: &usize| self.searched.insert((modules[*index].path.clone(), modules[*index].bias));
        let fresh: Vec<usize> = (0..modules.len()).filter(fresh).collect();
        for search in searches.iter().filter(|_| !fresh.is_empty()) {
            let other = search.otherwise.as_deref().filter(|_| finds(search).is_err());
            let chosen = other.unwrap_or(search);
            let Ok(found) = chosen.query().run_in(&self.program, &fresh, &memory) else { continue };
            tally.matched(&search.pattern);
            let wanted = (chosen.group, chosen.kind);
            let of = |point: &Point| chosen.places || point.kind == PointKind::FunctionEntry;
            points.extend(found.points.into_iter().filter(of).map(|point| (wanted, point)));
            tally.incomplete.extend(found.incomplete);
            self.unresolved.extend(found.unresolved.into_iter().map(|ifunc| (wanted, ifunc)));
        }
        let mut by_kind: Vec<(Wanted, Vec<Point>)> = Vec::new();
        for (wanted, point) in points {
            match by_kind.iter_mut().find(|(known, _)| *known == wanted) {
                Some((_, points)) => points.push(point),
                None => by_kind.push((wanted, vec![point])),
            }
        }
        let mut all = Vec::new();
        for ((group, kind), points) in by_kind {
            let filter = options.filter.as_ref();
            let implied = implied.as_deref_mut();
            let found = inside(points, kind, filter, &self.program, &mut tally.incomplete, implied);
            all.extend(found.into_iter().map(|point| (group, point)));
        }
        Ok(all)
    }

    /// Puts a gate at the resolver of each indirect function whose implementation is not known: a slot that is bound lazily
    /// names it only when the first call is made. Takes those away of functions that are known by now.
    pub(super) fn watch_resolvers(
        &mut self,
        space: &mut dyn AddressSpace,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let wanted: BTreeSet<Addr> = self.unresolved.iter().map(|(_, ifunc)| ifunc.resolver).collect();
        let Some(batch) = self.resolvers.watch(&wanted, &|at| head_of(space, at)) else { return Ok(()) };
        self.commit_gates(space, &batch, tally)
    }

    fn commit_gates(
        &mut self,
        space: &mut dyn AddressSpace,
        batch: &Batch,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let policy = Policy { atomicity: Atomicity::BestEffort, ..Policy::default() };
        let report = self.engine.commit(space, &self.program, batch, policy)?;
        tally.note(&report);
        Ok(())
    }

    /// Whether the gate at `at` is one of [`watch_resolvers`](Self::watch_resolvers).
    pub(super) fn is_of_resolvers(&self, at: Addr) -> bool {
        self.resolvers.gates().any(|gate| gate == at)
    }

    /// A thread has come to a resolver, or behind the call of one. Whether an implementation is known now.
    pub(super) fn pass_resolver(
        &mut self,
        space: &mut dyn AddressSpace,
        passage: &Passage,
        tally: &mut Tally,
    ) -> Result<bool, Error> {
        let mut bytes = [0; 8];
        let back = space.read(passage.rsp, &mut bytes).map(|()| Addr(u64::from_le_bytes(bytes)));
        match self.resolvers.pass(passage, back.ok()) {
            Passed::Enters(Some(batch)) => self.commit_gates(space, &batch, tally).map(|()| false),
            Passed::Enters(None) => Ok(false),
            Passed::Returns(decided) => Ok(decided),
        }
    }

    fn key(&self, Place { at, placement }: Place) -> Key {
        let Some(module) = self.program.module_at(at) else { return (String::new(), at.0, placement) };
        let link = |at: Addr| at.0.wrapping_sub(module.bias);
        let placement = match placement {
            Placement::Toward(to) => Placement::Toward(Addr(link(to))),
            other => other,
        };
        (module.path.clone(), link(at), placement)
    }

    /// Names the trampolines for perf. `running`: the process was there before us, and may have named code of its own.
    pub(super) fn write_perf_map(&mut self, running: bool) -> Result<(), Error> {
        let path = perf_map::path(self.pid.0);
        let failed = |error: io::Error| {
            Error::Output(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let map = match &mut self.perf_map {
            Some(map) => map,
            none => none.insert(PerfMap::open(self.pid.0, running).map_err(failed)?),
        };
        map.add(&self.engine, &self.program).map_err(failed)
    }

    /// Describes the trampolines for gdb.
    pub(super) fn write_debug_file(&self, space: &RemoteSpace) -> Result<(), Error> {
        let name = |site| format!("incise:{}", perf_map::name(&self.program, site));
        let bytes = space.debug_file(&name)?;
        let path = PathBuf::from(format!("/tmp/incise-{}.debug", self.pid.0));
        perf_map::create(&path)
            .and_then(|mut file| {
                file.set_len(0)?;
                file.write_all(&bytes)
            })
            .map_err(|error| {
                Error::Output(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            })
    }

    /// What a forked child has: the same patches, the same counters.
    pub(super) fn for_child(&mut self, pid: ProcessId) -> Process {
        if !self.own.is_empty() {
            self.ledgers.push(Rc::new(std::mem::take(&mut self.own)));
        }
        Process {
            pid,
            engine: self.engine.for_child(),
            program: self.program.clone(),
            ledgers: self.ledgers.clone(),
            own: Ledger::default(),
            installed: self.installed.clone(),
            inside: self.inside.clone(),
            gate: self.gate,
            early: self.early,
            debug: self.debug,
            searched: self.searched.clone(),
            unresolved: self.unresolved.clone(),
            resolvers: self.resolvers.clone(),
            from_start: self.from_start,
            loaded: self.loaded,
            perf_map: None,
            guards: self.guards.as_ref().map(Guards::again),
        }
    }

    /// Switches what is in some functions off or on: entry and exits of each together, in one transaction, or not at all.
    pub(super) fn switch(
        &mut self,
        space: &mut dyn AddressSpace,
        switches: &[(Key, bool)],
    ) -> Result<(), Error> {
        for (function, enabled) in switches {
            let mut batch = Batch::default();
            let inside = self.inside.get(function).into_iter().flatten();
            let inside = inside.filter(|instance| self.engine.contains(**instance));
            inside.for_each(|instance| batch.switch(*instance, *enabled));
            match self.engine.commit(space, &self.program, &batch, Policy::default()) {
                // What took its place meanwhile leaves no room: it stays off.
                Err(CommitError::Refused(_)) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes every probe; no byte of the program's code differs then.
    pub(super) fn take_out(&mut self, space: &mut dyn AddressSpace) -> Result<(), Error> {
        let batch = Batch::removal(self.engine.instances().collect());
        self.engine.commit(space, &self.program, &batch, Policy::default())?;
        Ok(())
    }

    /// Gives the memory back, as far as no thread is inside. Returns the bytes of trampolines that had to stay.
    pub(super) fn release(&mut self, space: &mut RemoteSpace) -> Result<u64, Error> {
        let left = self.engine.release(space)?;
        space.remove()?;
        Ok(left)
    }

    /// Adds what this process counted, unless another one still adds to the same counters.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        let ledgers = std::mem::take(&mut self.ledgers).into_iter().filter_map(Rc::into_inner);
        for mut ledger in ledgers.chain([std::mem::take(&mut self.own)]) {
            ledger.take(&self.engine, &mut |entry, hits| tally.add(entry, hits));
        }
        if let Some(guards) = &self.guards {
            guards.faults(&mut tally.faults);
        }
        for (_, ifunc) in &self.unresolved {
            let key = (ifunc.module.clone(), ifunc.resolver.0, Placement::Before);
            let reason = "indirect function: the program never chose an implementation".to_owned();
            tally.refuse(key, &ifunc.module, &ifunc.name, ifunc.resolver, reason);
        }
    }
}

//! One traced process: its modules, the probes in it and the counters they add to.

mod gates;
mod placing;

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use incise_image::{Pattern, PatternError};
use incise_isa::Addr;
use incise_patch::{Atomicity, Batch, CommitError, Engine, InstanceId, Place, Placement, Policy};
use incise_space::AddressSpace;
use incise_space::remote::{ProcessId, RemoteSpace};

use crate::count::CountOptions;
use crate::count::condition::{Condition, Guards};
use crate::count::ledger::Ledger;
use crate::count::left;
use crate::count::resolvers::Resolvers;
use crate::count::tally::{Key, Tally};
use crate::images::Images;
use crate::jit_dump::JitDump;
use crate::perf_map::{self, PerfMap};
use crate::point::{PointKind, Unresolved};
use crate::program::Program;
use crate::session::Error;

pub(in crate::count) struct Process {
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
    jit_dump: Option<JitDump>,
    /// What probes depend on.
    guards: Option<Guards>,
}

/// The group of a point, and its kind.
type Wanted = (usize, PointKind);

/// Refuses malformed patterns before anything is started.
pub(in crate::count) fn check_patterns(options: &CountOptions) -> Result<(), PatternError> {
    options.patterns.iter().try_for_each(|text| Pattern::parse(text).map(drop))
}

impl Process {
    pub(in crate::count) fn begin(
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
            jit_dump: None,
            guards: condition.cloned().map(Guards::new),
        })
    }

    /// What it runs.
    pub(in crate::count) fn program(&self) -> &Program {
        &self.program
    }

    /// Lets each thread count by itself, where no code of the program uses gs for something else.
    pub(in crate::count) fn count_by_thread(
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

    /// Reads the modules again, and forgets what was in those that are gone.
    pub(in crate::count) fn refresh(
        &mut self,
        space: &mut RemoteSpace,
        images: &mut Images,
    ) -> Result<(), Error> {
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
    pub(in crate::count) fn share_counters(&mut self, space: &mut RemoteSpace) -> Result<(), Error> {
        let batch = self.engine.share_counters();
        let policy = Policy { atomicity: Atomicity::BestEffort, ..Policy::default() };
        self.engine.commit(space, &self.program, &batch, policy)?;
        Ok(space.give_up_areas(&self.engine.retired())?)
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
    pub(in crate::count) fn write_perf_map(&mut self, running: bool) -> Result<(), Error> {
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

    /// Puts the trampolines into a dump for perf.
    pub(in crate::count) fn write_jit_dump(&mut self, space: &mut RemoteSpace) -> Result<(), Error> {
        let dump = match &mut self.jit_dump {
            Some(dump) => dump,
            none => none.insert(JitDump::open(space)?),
        };
        dump.add(&self.engine, &self.program, space)
    }

    /// Describes the trampolines for gdb.
    pub(in crate::count) fn write_debug_file(&self, space: &RemoteSpace) -> Result<(), Error> {
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
    pub(in crate::count) fn for_child(&mut self, pid: ProcessId) -> Process {
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
            jit_dump: None,
            guards: self.guards.as_ref().map(Guards::again),
        }
    }

    /// Switches what is in some functions off or on: entry and exits of each together, in one transaction, or not at all.
    pub(in crate::count) fn switch(
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
    pub(in crate::count) fn take_out(&mut self, space: &mut dyn AddressSpace) -> Result<(), Error> {
        let batch = Batch::removal(self.engine.instances().collect());
        self.engine.commit(space, &self.program, &batch, Policy::default())?;
        Ok(())
    }

    /// Gives the memory back, as far as no thread is inside. Returns the bytes of trampolines that had to stay, and how many
    /// runs of changed bytes the program has overwritten.
    pub(in crate::count) fn release(&mut self, space: &mut RemoteSpace) -> Result<(u64, usize), Error> {
        let left = self.engine.release(space)?;
        Ok((left, space.remove()?.overwritten))
    }

    /// Adds what this process counted, unless another one still adds to the same counters.
    pub(in crate::count) fn settle(&mut self, tally: &mut Tally) {
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

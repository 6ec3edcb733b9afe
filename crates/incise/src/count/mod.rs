//! Counting in other processes: a program is launched or attached to, probes go in wherever the patterns
//! match, it runs at native speed, and in the end the counters are read.
//!
//! Modules come and go while a program runs. The dynamic linker calls `_dl_debug_state` when it has mapped and
//! relocated new ones, before any of their code runs: a *gate* there is where probes are put into them.
//! At the start it has called some functions of libc by then, so that a gate comes before these: where it has just
//! relocated the program, and fills the first thread's thread-local storage.

mod condition;
mod following;
mod ledger;
mod left;
mod options;
mod probes;
mod process;
mod resolvers;
mod tally;

pub use condition::{Condition, ConditionError};
pub use options::{CountOptions, CountResult, Ending};
pub(crate) use probes::{Found, Probes, Search};
pub(crate) use tally::Key;
pub use tally::{Counted, NotCounted};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use incise_patch::CommitError;
use incise_space::SpaceError;
use incise_space::remote::{Event, LaunchOptions, ProcessId, Tracer};

use crate::images::Images;
use crate::session::Error;
use process::Process;
use resolvers::Passage;
use tally::Tally;

/// A count that is going on.
pub struct Counting {
    tracer: Tracer,
    main: ProcessId,
    options: CountOptions,
    processes: BTreeMap<ProcessId, Process>,
    tally: Tally,
    images: Images,
    launched: bool,
    left_behind: u64,
    overwritten: usize,
    /// What is put in instead of counters.
    probes: Option<Box<dyn Probes>>,
}

impl Counting {
    /// Starts `program` with `arguments`; it is searched for in PATH.
    ///
    /// # Errors
    /// If it cannot be run, is no x86-64 program, or a pattern is malformed. The program has not run then.
    pub fn launch(
        program: &OsString,
        arguments: &[OsString],
        options: CountOptions,
    ) -> Result<Counting, Error> {
        Counting::launch_with(program, arguments, options, None)
    }

    /// The same with other snippets than counters.
    pub(crate) fn launch_with(
        program: &OsString,
        arguments: &[OsString],
        options: CountOptions,
        probes: Option<Box<dyn Probes>>,
    ) -> Result<Counting, Error> {
        process::check_patterns(&options)?;
        let (tracer, main) = Tracer::launch(program, arguments, &LaunchOptions::default())?;
        let mut counting = Counting { probes, ..Counting::new(tracer, main, options, true) };
        counting.begin(main, true).or_else(|error| counting.give_up(error))?;
        counting.tracer.resume(main)?;
        Ok(counting)
    }

    /// Attaches to process `pid` and puts the probes in.
    ///
    /// # Errors
    /// If the process cannot be traced, or a pattern is malformed or matches nothing; it runs on unchanged then.
    pub fn attach(pid: i32, options: CountOptions) -> Result<Counting, Error> {
        Counting::attach_with(pid, options, None)
    }

    /// The same with other snippets than counters.
    pub(crate) fn attach_with(
        pid: i32,
        options: CountOptions,
        probes: Option<Box<dyn Probes>>,
    ) -> Result<Counting, Error> {
        process::check_patterns(&options)?;
        let (tracer, main) = Tracer::attach(ProcessId(pid))?;
        let mut counting = Counting { probes, ..Counting::new(tracer, main, options, false) };
        if let Err(error) = counting.begin(main, false) {
            counting.let_go()?;
            return Err(error);
        }
        Ok(counting)
    }

    fn new(tracer: Tracer, main: ProcessId, options: CountOptions, launched: bool) -> Counting {
        let (processes, images) = (BTreeMap::new(), Images::default());
        Counting {
            tracer,
            main,
            options,
            processes,
            tally: Tally::default(),
            images,
            launched,
            left_behind: 0,
            overwritten: 0,
            probes: None,
        }
    }

    /// How long threads stood still so far.
    pub fn stop(&self) -> Duration {
        self.tally.stop
    }

    /// How many functions are counted so far.
    pub fn installed(&self) -> usize {
        self.tally.installed()
    }

    /// Lets the program run until it ends, or until `interrupted` is set: then the probes are taken out and
    /// the program runs on without us.
    ///
    /// # Errors
    /// If a pattern matched nothing once the program was loaded (a launched program is killed then, before it
    /// ran), or the processes cannot be traced any more.
    pub fn run(mut self, interrupted: &AtomicBool) -> Result<CountResult, Error> {
        let mut ending = Ending::Detached;
        loop {
            let pause = match self.probes.as_mut().map(|probes| probes.tick()).transpose() {
                Ok(pause) => pause,
                Err(error) => {
                    self.let_go()?;
                    return Err(error);
                }
            };
            self.switch()?;
            if self.probes.as_ref().is_some_and(|probes| probes.is_over()) {
                self.let_go()?;
                break;
            }
            match self.tracer.next_event(pause, interrupted)? {
                Event::Exec { pid } => {
                    self.end(pid);
                    if pid == self.main || self.options.follow {
                        self.survive(pid, |counting| counting.begin(pid, true))?;
                        self.resume(pid)?;
                    } else {
                        self.survive(pid, |counting| Ok(counting.tracer.detach(pid)?))?;
                    }
                }
                Event::Fork { parent, child, vfork: false } => {
                    self.survive(child, |counting| counting.fork(parent, child))?;
                }
                Event::Fork { .. } => {}
                Event::Gate { pid, at, thread, rax, rsp } => {
                    self.survive(pid, |counting| counting.gate(pid, &Passage { at, thread, rax, rsp }))?;
                    self.resume(pid)?;
                }
                Event::NoAreas { pid } => {
                    self.survive(pid, |counting| {
                        let Some(process) = counting.processes.get_mut(&pid) else { return Ok(()) };
                        process.share_counters(&mut counting.tracer.space(pid)?)
                    })?;
                    self.resume(pid)?;
                }
                Event::Exited { pid, code } => {
                    self.end(pid);
                    if pid == self.main {
                        ending = Ending::Exited(code);
                    }
                }
                Event::Killed { pid, signal, .. } => {
                    self.end(pid);
                    if pid == self.main {
                        ending = Ending::Killed(signal);
                    }
                }
                Event::Interrupted => {
                    self.let_go()?;
                    break;
                }
                Event::Idle => break,
                _ => {}
            }
            if self.processes.is_empty() && ending != Ending::Detached {
                break;
            }
        }
        let unmatched = self.tally.unmatched();
        let (counted, refused) = self.tally.finish();
        Ok(CountResult {
            counted,
            refused,
            mappings: self.tally.mappings,
            stop: self.tally.stop,
            left_behind: self.left_behind,
            overwritten: self.overwritten,
            incomplete: std::mem::take(&mut self.tally.incomplete),
            unmatched,
            faults: std::mem::take(&mut self.tally.faults).into_iter().collect(),
            ending,
        })
    }

    /// Switches functions off and on that are to be.
    fn switch(&mut self) -> Result<(), Error> {
        let switches = self.probes.as_mut().map(|probes| probes.switches()).unwrap_or_default();
        if switches.is_empty() {
            return Ok(());
        }
        let pids: Vec<ProcessId> = self.processes.keys().copied().collect();
        for pid in pids {
            self.survive(pid, |counting| {
                let Some(process) = counting.processes.get_mut(&pid) else { return Ok(()) };
                process.switch(&mut counting.tracer.space(pid)?, &switches)
            })?;
        }
        Ok(())
    }

    /// Does something to process `pid`. One that dies under our hands is no error, whatever fails for that: its end is the next event.
    fn survive(
        &mut self,
        pid: ProcessId,
        step: impl FnOnce(&mut Counting) -> Result<(), Error>,
    ) -> Result<(), Error> {
        step(self).or_else(|error| if self.is_gone(pid, &error) { Ok(()) } else { Err(error) })
    }

    /// Whether something failed because the process ends, or is not traced any more because it did.
    fn is_gone(&self, pid: ProcessId, error: &Error) -> bool {
        match error {
            Error::Space(error) | Error::Commit(CommitError::Space(error)) => {
                matches!(error, SpaceError::Gone { .. } | SpaceError::NoProcess { .. })
                    || self.tracer.is_ending(pid)
            }
            // What we end a process for.
            _ => false,
        }
    }

    /// Lets a process go on that an event has reported stopped.
    fn resume(&mut self, pid: ProcessId) -> Result<(), Error> {
        self.survive(pid, |counting| Ok(counting.tracer.resume(pid)?))
    }

    /// A process runs a program we have not seen yet: it stands before its first instruction, or runs on if we
    /// just attached. `starts`: the former.
    fn begin(&mut self, pid: ProcessId, starts: bool) -> Result<(), Error> {
        let mut space = self.tracer.space(pid)?;
        let mut process = Process::begin(pid, &mut space, &mut self.images, self.options.condition.as_ref())?;
        process.from_start = starts;
        // Left behind, the probes would count for threads that nobody gives areas.
        if !self.options.keep {
            process.count_by_thread(&mut space, &mut self.images)?;
        }
        process.set_gates(&mut space, &mut self.tally)?;
        self.processes.insert(pid, process);
        self.keep_gates(pid)?;
        if let Some(probes) = &mut self.probes {
            probes.begin(pid, &mut space)?;
        }
        self.put_in(pid)
    }

    /// The process has come by its gate.
    fn gate(&mut self, pid: ProcessId, passage: &Passage) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        let mut space = self.tracer.space(pid)?;
        let at = passage.at;
        if process.is_of_resolvers(at) {
            let decided = process.pass_resolver(&mut space, passage, &mut self.tally)?;
            return if decided { self.put_in(pid) } else { self.keep_gates(pid) };
        }
        let early = process.open_early_gate(&mut space, at)?;
        if early {
            self.tracer.remove_gate(pid, at)?;
        } else if !process.is_consistent(&space) {
            return Ok(());
        }
        // The process stands still already, from its report on.
        let stopped = Instant::now();
        let before = self.tally.stop;
        process.refresh(&mut space, &mut self.images)?;
        process.loaded = true;
        let result = self.put_in(pid);
        self.tally.stop = before + stopped.elapsed();
        result
    }

    /// Puts in the probes that can be put in now.
    fn put_in(&mut self, pid: ProcessId) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        // Once the program is loaded, a pattern that matches nothing is a mistake.
        let strict = pid == self.main && !self.tally.started && process.loaded;
        let mut space = self.tracer.space(pid)?;
        if let Some(probes) = &mut self.probes {
            probes.ready(pid, &mut space, process.program());
        }
        let mut result = process.put_in(&mut space, &self.options, &mut self.probes, &mut self.tally, strict);
        result = result.and_then(|()| process.watch_resolvers(&mut space, &mut self.tally));
        if self.options.perf_map {
            result = result.and_then(|()| process.write_perf_map(!self.launched));
        }
        if self.options.jit_dump {
            result = result.and_then(|()| process.write_jit_dump(&mut space));
        }
        if self.options.debug_file {
            result = result.and_then(|()| process.write_debug_file(&space));
        }
        // A process that runs already has what it has: better to say so than to wait for ever.
        if strict && !self.launched && !self.options.follow && result.is_ok() {
            result = self.tally.unmatched().into_iter().next().map_or(Ok(()), |error| Err(error.into()));
        }
        if let Some(awaiting) = self.options.awaiting.filter(|_| strict && self.launched && result.is_ok()) {
            self.tally.awaited().for_each(awaiting);
        }
        self.tally.started |= strict;
        result = result.and_then(|()| self.keep_gates(pid));
        match result {
            Err(error) if strict => self.give_up(error),
            other => other,
        }
    }

    /// Lets the tracer know the gates of a process.
    fn keep_gates(&mut self, pid: ProcessId) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        for gate in process.gates_gone() {
            self.tracer.remove_gate(pid, gate)?;
        }
        for gate in process.gates() {
            self.tracer.add_gate(pid, gate)?;
        }
        Ok(())
    }

    /// Ends a launched program that has not run yet.
    fn give_up(&mut self, error: Error) -> Result<(), Error> {
        if self.launched {
            let pid = rustix::process::Pid::from_raw(self.main.0);
            pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        Err(error)
    }

    /// A child with a copy of its parent's memory: it keeps the probes, or loses them.
    fn fork(&mut self, parent: ProcessId, child: ProcessId) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&parent) else { return Ok(self.tracer.resume(child)?) };
        let mut copy = process.for_child(child);
        if let Some(probes) = &mut self.probes {
            probes.forked(parent, child);
        }
        if self.options.follow {
            for gate in copy.gates() {
                self.tracer.add_gate(child, gate)?;
            }
            self.processes.insert(child, copy);
            return Ok(self.tracer.resume(child)?);
        }
        let mut space = self.tracer.space(child)?;
        copy.take_out(&mut space)?;
        copy.release(&mut space)?;
        Ok(self.tracer.detach(child)?)
    }

    /// A process, or the program it ran, is gone.
    fn end(&mut self, pid: ProcessId) {
        if let Some(probes) = &mut self.probes {
            probes.ended(pid);
        }
        if let Some(mut process) = self.processes.remove(&pid) {
            process.settle(&mut self.tally);
        }
    }

    /// Takes the probes out of every process (unless they are to be kept), and lets it run on. One that cannot
    /// be rid of them keeps no other from it: the first error is told in the end.
    fn let_go(&mut self) -> Result<(), Error> {
        let keep = self.options.keep;
        let mut told = Ok(());
        for (pid, mut process) in std::mem::take(&mut self.processes) {
            let result = self.take_out(pid, &mut process, keep);
            process.settle(&mut self.tally);
            let result = result.and_then(|()| self.release(pid, &mut process, keep));
            let result = result.and_then(|()| Ok(self.tracer.detach(pid)?));
            told =
                told.and(result.or_else(|error| if self.is_gone(pid, &error) { Ok(()) } else { Err(error) }));
        }
        told
    }

    fn take_out(&mut self, pid: ProcessId, process: &mut Process, keep: bool) -> Result<(), Error> {
        if keep { Ok(()) } else { process.take_out(&mut self.tracer.space(pid)?) }
    }

    fn release(&mut self, pid: ProcessId, process: &mut Process, keep: bool) -> Result<(), Error> {
        let mut space = self.tracer.space(pid)?;
        if keep {
            return Ok(space.secure_handlers()?);
        }
        let (left_behind, overwritten) = process.release(&mut space)?;
        self.left_behind += left_behind;
        self.overwritten += overwritten;
        Ok(())
    }
}

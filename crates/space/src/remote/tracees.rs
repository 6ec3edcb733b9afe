//! The threads, processes and memories that are traced, and what their reports change.
//!
//! One thread of the target may wait in the kernel where nothing can interrupt it. It counts as stopped
//! once it was asked to stop: it will, before it runs the next instruction of its program.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use incise_isa::Addr;

use super::areas::{Cells, leave_gs};
use super::event::{Event, ProcessId};
use super::frames::Frame;
use super::journal::Journal;
use super::memory::Memory;
use super::procfs;
use super::ptrace::{self, Status, Stop, Tid};
use super::runtime::Runtime;
use crate::cells::Area;
use crate::trap::{FAULT_SIGNALS, TRAP_SIGNALS};
use crate::view::Trampolines;
use crate::{Landing, SpaceError};

/// What a thread does, as far as it was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    /// It was asked to stop, and has not been seen stopped yet.
    Asked,
    /// It was asked to stop, and waits in the kernel.
    Parked,
    /// It is stopped by a signal to its process and waits for the end of that.
    Listening,
    Stopped(Stop),
    /// It ended, as the first thread of a process whose other threads go on.
    Dead,
    /// The same, before tracing began: its end will not be reported.
    Buried,
}

pub(super) struct Thread {
    pub(super) process: ProcessId,
    pub(super) state: State,
    /// Handlers that run and were shown the original code, innermost last.
    pub(super) frames: Vec<Frame>,
    /// Where it counts.
    pub(super) area: Option<Area>,
}

impl Thread {
    pub(super) fn new(process: ProcessId, state: State) -> Thread {
        Thread { process, state, frames: Vec::new(), area: None }
    }
}

pub(super) struct Process {
    pub(super) memory: MemoryId,
}

/// Names the memory of one program: processes may share it, and a process gets a new one by exec.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct MemoryId {
    number: u32,
    /// The process it was first seen in.
    pid: i32,
}

impl MemoryId {
    /// The process it was first seen in.
    pub(super) fn process(self) -> ProcessId {
        ProcessId(self.pid)
    }

    /// The error that no process uses it any more.
    pub(super) fn gone(self) -> SpaceError {
        SpaceError::Gone { pid: self.pid }
    }
}

/// What is known about one memory.
pub(super) struct Target {
    pub(super) memory: Rc<Memory>,
    /// How many have asked that its threads stand still.
    pub(super) holds: u32,
    /// When the first thread of this stop was asked to stop.
    pub(super) held_since: Option<Instant>,
    /// How long the threads stood still in all.
    pub(super) held: Duration,
    /// When it was last checked that the trap handler is in force.
    pub(super) checked: Option<Instant>,
    /// Published landings, sorted by trap.
    pub(super) landings: Rc<Vec<Landing>>,
    /// Landings that are part of whatever is published, sorted by trap.
    pub(super) kept: Rc<Vec<Landing>>,
    /// There are, or were, fault landings: their signals are handled too.
    pub(super) faults: bool,
    /// What lies where in the trampolines.
    pub(super) trampolines: Rc<Trampolines>,
    /// Traps that are reported.
    pub(super) gates: Rc<BTreeSet<Addr>>,
    /// Code changed by us, with the bytes from before.
    pub(super) journal: Rc<Journal>,
    /// Code pages that copies of ours have replaced.
    pub(super) swapped: Vec<Range<Addr>>,
    /// Our own pages.
    pub(super) runtime: Option<Runtime>,
    /// Executable memory mapped for the owner of the space, ascending.
    pub(super) code: Vec<Range<Addr>>,
    /// Shared memory mapped for the owner of the space, ascending.
    pub(super) data: Vec<Range<Addr>>,
    /// What its threads count in.
    pub(super) cells: Option<Cells>,
    /// Code that counts in areas which were given up; nothing leads to it.
    pub(super) counting: Vec<Range<Addr>>,
}

impl Target {
    fn new(memory: Memory) -> Target {
        Target {
            memory: Rc::new(memory),
            holds: 1,
            held_since: None,
            held: Duration::ZERO,
            checked: None,
            landings: Rc::default(),
            kept: Rc::default(),
            faults: false,
            trampolines: Rc::default(),
            gates: Rc::default(),
            journal: Rc::default(),
            swapped: Vec::new(),
            runtime: None,
            code: Vec::new(),
            data: Vec::new(),
            cells: None,
            counting: Vec::new(),
        }
    }

    /// The copy a forked child has of it.
    fn forked(&self, memory: Memory) -> Target {
        Target {
            landings: Rc::clone(&self.landings),
            kept: Rc::clone(&self.kept),
            faults: self.faults,
            trampolines: Rc::clone(&self.trampolines),
            gates: Rc::clone(&self.gates),
            journal: Rc::clone(&self.journal),
            swapped: self.swapped.clone(),
            runtime: self.runtime.clone(),
            code: self.code.clone(),
            data: self.data.clone(),
            cells: self.cells.clone(),
            counting: self.counting.clone(),
            ..Target::new(memory)
        }
    }

    /// The signals whose actions are ours.
    pub(super) fn signals(&self) -> impl Iterator<Item = i32> + Clone + use<> {
        let faults = self.faults;
        TRAP_SIGNALS.into_iter().chain(FAULT_SIGNALS.into_iter().filter(move |_| faults))
    }

    /// Where a thread that ran the trap at `trap` goes on.
    pub(super) fn landing(&self, trap: Addr) -> Option<Addr> {
        let index = self.landings.binary_search_by_key(&trap, |landing| landing.trap).ok()?;
        Some(self.landings[index].landing)
    }
}

/// Everything one tracer traces.
#[derive(Default)]
pub(super) struct Tracees {
    pub(super) threads: HashMap<Tid, Thread>,
    pub(super) processes: HashMap<ProcessId, Process>,
    pub(super) targets: HashMap<MemoryId, Target>,
    pub(super) events: VecDeque<Event>,
    /// Threads that stopped and were not dealt with yet.
    pub(super) arrived: Vec<Tid>,
    /// Threads that are to be left alone as soon as they stop, and where they count until then.
    pub(super) leaving: HashMap<Tid, Option<Area>>,
    memories: u32,
}

impl Tracees {
    /// Takes in a process by its thread `tid`, which is in `state`.
    pub(super) fn add_process(&mut self, pid: ProcessId, tid: Tid, state: State) -> MemoryId {
        let others = std::iter::once_with(|| procfs::threads(pid.0).unwrap_or_default()).flatten();
        let target = Target::new(Memory::open_by(std::iter::once(tid).chain(others)));
        let memory = self.add_target(pid, target);
        self.processes.insert(pid, Process { memory });
        self.threads.insert(tid, Thread::new(pid, state));
        memory
    }

    fn add_target(&mut self, pid: ProcessId, target: Target) -> MemoryId {
        self.memories += 1;
        let memory = MemoryId { number: self.memories, pid: pid.0 };
        self.targets.insert(memory, target);
        memory
    }

    /// The memory of a process.
    pub(super) fn memory_of(&self, pid: ProcessId) -> Result<MemoryId, SpaceError> {
        self.processes.get(&pid).map(|process| process.memory).ok_or(SpaceError::NoProcess { pid: pid.0 })
    }

    /// What is known about a memory.
    pub(super) fn target(&self, memory: MemoryId) -> Result<&Target, SpaceError> {
        self.targets.get(&memory).ok_or(memory.gone())
    }

    /// As [`target`](Self::target), to change it.
    pub(super) fn target_mut(&mut self, memory: MemoryId) -> Result<&mut Target, SpaceError> {
        self.targets.get_mut(&memory).ok_or(memory.gone())
    }

    /// The threads that run on a memory, ascending.
    pub(super) fn threads_on(&self, memory: MemoryId) -> Vec<Tid> {
        let on = |thread: &Thread| self.processes.get(&thread.process).is_some_and(|p| p.memory == memory);
        let mut tids: Vec<Tid> =
            self.threads.iter().filter(|(_, thread)| on(thread)).map(|(&t, _)| t).collect();
        tids.sort_unstable();
        tids
    }

    /// A thread that lives, to look into /proc through.
    pub(super) fn live_thread(&self, memory: MemoryId) -> Result<Tid, SpaceError> {
        self.live_threads(memory).first().copied().ok_or(memory.gone())
    }

    /// The threads on a memory of which no end is known, first those that are stopped. Of the others one may be ending all the
    /// same, and have given up the memory.
    pub(super) fn live_threads(&self, memory: MemoryId) -> Vec<Tid> {
        let mut threads = self.threads_on(memory);
        threads.retain(|tid| !matches!(self.state(*tid), Some(State::Dead | State::Buried)));
        threads.sort_by_key(|tid| !matches!(self.state(*tid), Some(State::Stopped(_))));
        threads
    }

    /// What a thread does; `None` if it is not traced.
    pub(super) fn state(&self, tid: Tid) -> Option<State> {
        self.threads.get(&tid).map(|thread| thread.state)
    }

    /// Sets what a thread does, if it is still traced.
    pub(super) fn set_state(&mut self, tid: Tid, state: State) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.state = state;
        }
    }

    /// Takes a report into account. Resumes nothing: a thread that stopped is put among the arrived.
    pub(super) fn note(&mut self, tid: Tid, status: Status) {
        let stop = match status {
            Status::Stopped(stop) => stop,
            Status::Exited(code) => return self.ended(tid, |pid| Event::Exited { pid, code }),
            Status::Killed { signal, core } => {
                return self.ended(tid, |pid| Event::Killed { pid, signal, core });
            }
        };
        if let Some(area) = self.leaving.remove(&tid) {
            let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
            if let Some(area) = area {
                leave_gs(tid, &area);
            }
            drop(ptrace::detach(tid, signal)); // The same.
            return;
        }
        if !self.threads.contains_key(&tid) {
            return self.adopt(tid, stop);
        }
        self.set_state(tid, State::Stopped(stop));
        self.arrived.push(tid);
        match stop {
            Stop::Exec => self.executed(tid),
            Stop::Syscall => self.at_syscall(tid),
            Stop::Child | Stop::Vfork => {
                if let Ok(child) = ptrace::event_message(tid)
                    && !self.threads.contains_key(&child)
                    && let Some(status) = ptrace::wait(child)
                {
                    self.note(child, status);
                }
            }
            _ => {}
        }
    }

    /// A thread nobody knew: the kernel traces what tracees make from the beginning.
    fn adopt(&mut self, tid: Tid, stop: Stop) {
        let Ok(status) = procfs::status(tid) else { return };
        let pid = ProcessId(status.process);
        let state = State::Stopped(stop);
        if self.processes.contains_key(&pid) {
            self.threads.insert(tid, Thread::new(pid, state));
            self.arrived.push(tid);
            return;
        }
        let parent = ProcessId(status.parent);
        let Some(inherited) = self.processes.get(&parent).map(|process| process.memory) else {
            // Its parent ended before it could report: nothing is known about it, let it run.
            let _ = ptrace::detach(tid, 0);
            return;
        };
        // Where the kernel cannot compare memories, only vfork is known to share one.
        let shared = ptrace::same_memory(parent.0, pid.0).unwrap_or_else(|| self.is_in_vfork(parent));
        let memory = match self.targets.get(&inherited) {
            Some(target) if !shared => {
                let copy = target.forked(Memory::open(tid));
                self.add_target(pid, copy)
            }
            _ => inherited,
        };
        self.processes.insert(pid, Process { memory });
        self.threads.insert(tid, Thread::new(pid, state));
        self.arrived.push(tid);
        self.events.push_back(Event::Fork { parent, child: pid, vfork: shared });
    }

    fn is_in_vfork(&self, pid: ProcessId) -> bool {
        let in_vfork = State::Stopped(Stop::Vfork);
        self.threads.values().any(|thread| thread.process == pid && thread.state == in_vfork)
    }

    /// The process of `tid` runs another program: all its other threads are gone, and the thread that
    /// did it has become the first one (ptrace(2), "execve(2) under ptrace").
    fn executed(&mut self, tid: Tid) {
        let pid = ProcessId(tid.0);
        self.threads.retain(|other, thread| thread.process != pid || *other == tid);
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.frames.clear();
            // The kernel has set the gs base to zero.
            thread.area = None;
        }
        self.leave_memory(pid);
        let memory = self.add_target(pid, Target::new(Memory::open(tid)));
        self.processes.insert(pid, Process { memory });
        self.events.push_back(Event::Exec { pid });
    }

    fn ended(&mut self, tid: Tid, event: impl FnOnce(ProcessId) -> Event) {
        let Some(thread) = self.threads.remove(&tid) else { return };
        let pid = thread.process;
        let others = |(_, other): (_, &Thread)| other.process == pid && other.state != State::Buried;
        let last = self.state(Tid(pid.0)) == Some(State::Buried) && !self.threads.iter().any(others);
        if pid.0 == tid.0 || last {
            self.forget_process(pid);
            self.events.push_back(event(pid));
        }
    }

    /// Drops a process that ended or is not traced any more.
    pub(super) fn forget_process(&mut self, pid: ProcessId) {
        self.threads.retain(|_, thread| thread.process != pid);
        self.leave_memory(pid);
    }

    fn leave_memory(&mut self, pid: ProcessId) {
        let Some(process) = self.processes.remove(&pid) else { return };
        if !self.processes.values().any(|other| other.memory == process.memory) {
            self.targets.remove(&process.memory);
        }
    }
}

//! Stops all threads of a memory and lets them go on.

use std::thread;
use std::time::{Duration, Instant};

use incise_isa::Addr;

use super::procfs;
use super::ptrace::{self, Stop, Tid};
use super::tracees::{MemoryId, State, Tracees};
use crate::SpaceError;

/// How long a thread is waited for eagerly; behind that it is looked at less often.
const EAGER: Duration = Duration::from_micros(300);

/// How long a thread may be on its way to a stop before it is checked whether it waits in the kernel.
const PATIENCE: Duration = Duration::from_millis(10);

impl Tracees {
    /// Stops the threads of `memory`, if they are not stopped already, and keeps them so until
    /// [`release`](Self::release) was called as often.
    pub(super) fn hold(&mut self, memory: MemoryId) -> Result<(), SpaceError> {
        let target = self.target_mut(memory)?;
        target.holds += 1;
        if target.holds > 1 {
            return Ok(());
        }
        target.held_since = Some(Instant::now());
        let stopped = self.stop_all(memory);
        if stopped.is_err() {
            self.release(memory);
        }
        stopped
    }

    /// Takes one [`hold`](Self::hold) back. Errors do not matter here: a thread that cannot go on is dead.
    pub(super) fn release(&mut self, memory: MemoryId) {
        let Ok(target) = self.target_mut(memory) else { return };
        target.holds = target.holds.saturating_sub(1);
        if target.holds > 0 {
            return;
        }
        for tid in self.threads_on(memory) {
            self.proceed(tid);
        }
        if let Ok(target) = self.target_mut(memory)
            && target.holds == 0
            && let Some(since) = target.held_since.take()
        {
            target.held += since.elapsed();
        }
    }

    fn stop_all(&mut self, memory: MemoryId) -> Result<(), SpaceError> {
        let mut waiting = Vec::new();
        for tid in self.threads_on(memory) {
            match self.state(tid) {
                Some(State::Running | State::Listening) => match ptrace::interrupt(tid) {
                    Ok(()) => {
                        self.set_state(tid, State::Asked);
                        waiting.push(tid);
                    }
                    // It is dying; if it is the first thread, its end is reported last.
                    Err(_) => self.set_state(tid, State::Dead),
                },
                Some(State::Asked) => waiting.push(tid),
                // It may have slept on, or be about to stop.
                Some(State::Parked) if !self.park(tid) => waiting.push(tid),
                _ => {}
            }
        }
        self.wait_until_stopped(waiting);
        self.target(memory)?;
        for tid in self.threads_on(memory) {
            self.settle(tid);
        }
        self.target(memory).map(drop)
    }

    fn wait_until_stopped(&mut self, mut waiting: Vec<Tid>) {
        let mut last_arrival = Instant::now();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|&tid| {
                match ptrace::poll(tid) {
                    Ok(Some(status)) => self.note(tid, status),
                    Ok(None) => {}
                    Err(_) => self.vanished(tid),
                }
                matches!(self.state(tid), Some(State::Asked | State::Parked))
            });
            if waiting.len() < before {
                last_arrival = Instant::now();
                continue;
            }
            let idle = last_arrival.elapsed();
            if idle < EAGER {
                thread::yield_now();
                continue;
            }
            thread::sleep(Duration::from_micros(50));
            if idle > PATIENCE {
                waiting.retain(|&tid| !self.park(tid));
                last_arrival = Instant::now();
            }
        }
    }

    /// Whether a thread that was asked to stop waits in the kernel, where it can stay as long as it has to.
    fn park(&mut self, tid: Tid) -> bool {
        match procfs::status(tid).map(|status| status.state) {
            // One that is copying the memory for a child must not see it change.
            Ok('D') if self.is_forking(tid) => return false,
            Ok('D') => self.set_state(tid, State::Parked),
            Ok(_) if !procfs::is_ending(tid) => return false,
            _ => self.vanished(tid),
        }
        true
    }

    /// Whether a thread is making a child that gets a copy of the memory, as far as can be told.
    fn is_forking(&self, tid: Tid) -> bool {
        let Some(asleep) = procfs::asleep(tid) else { return true };
        let flags = match asleep.syscall {
            libc::SYS_fork => 0,
            libc::SYS_clone => asleep.argument,
            // The flags are the first word of the structure (clone(2)).
            libc::SYS_clone3 => {
                let pid = self.threads.get(&tid).map(|thread| thread.process);
                let memory = pid.and_then(|pid| self.memory_of(pid).ok());
                let target = memory.and_then(|memory| self.target(memory).ok());
                target.and_then(|target| target.memory.read_u64(Addr(asleep.argument)).ok()).unwrap_or(0)
            }
            _ => return false,
        };
        flags & libc::CLONE_VM as u64 == 0
    }

    /// A thread of which there is nothing left to wait for.
    pub(super) fn vanished(&mut self, tid: Tid) {
        if self.threads.get(&tid).is_some_and(|thread| thread.process.0 == tid.0) {
            self.set_state(tid, State::Dead);
        } else {
            self.threads.remove(&tid);
        }
    }

    /// Lets a stopped thread go on, unless its memory is held: signals are delivered, group stops kept,
    /// traps of ours taken.
    pub(super) fn proceed(&mut self, tid: Tid) {
        let Some(thread) = self.threads.get(&tid) else { return };
        let (State::Stopped(_), pid) = (thread.state, thread.process) else { return };
        let Ok(memory) = self.memory_of(pid) else { return };
        if self.target(memory).is_ok_and(|target| target.holds > 0) {
            return self.settle(tid);
        }
        self.fit_area(tid, memory);
        let Some(State::Stopped(stop)) = self.state(tid) else { return };
        if let Stop::Signal(signal) = stop
            && let Some(trap) = self.our_trap(tid, signal)
        {
            if !self.is_gate(memory, trap.at) {
                return self.run_landing(tid, memory, trap);
            }
            self.take_trap(tid, trap);
            if self.hold(memory).is_ok() {
                self.at_gate(pid, tid, trap.at);
            }
            return;
        }
        if let Stop::Signal(signal) = stop
            && self.is_in_trampoline(tid)
        {
            self.flush_once(tid, signal);
            return self.proceed(tid);
        }
        let (state, result) = match stop {
            Stop::Group => (State::Listening, ptrace::listen(tid)),
            Stop::Signal(signal) => (State::Running, self.resume_thread(tid, signal)),
            _ => {
                self.repeat_failed_call(tid, stop);
                (State::Running, self.resume_thread(tid, 0))
            }
        };
        self.set_state(tid, state);
        drop(result); // ESRCH: it was killed, which is reported next.
    }

    /// Deals with the threads that stopped since the last time.
    pub(super) fn proceed_arrived(&mut self) {
        while let Some(tid) = self.arrived.pop() {
            self.proceed(tid);
        }
    }

    /// Takes the reports of the threads on one memory into account.
    pub(super) fn take_reports_on(&mut self, memory: MemoryId) {
        for tid in self.threads_on(memory) {
            if let Ok(Some(status)) = ptrace::poll(tid) {
                self.note(tid, status);
            }
        }
        self.proceed_arrived();
    }

    /// Brings a stopped thread to a stop at which it is about to run code of its program, without letting it
    /// run any: signals are delivered, system calls ended.
    ///
    /// No signal that its last instruction raised is on the way then. Such a one belongs with the instruction pointer: if
    /// that were changed and the tracer killed, the handler of a trap (an earlier tracer's, perhaps) would not know it.
    pub(super) fn flush(&mut self, tid: Tid) -> Result<(), SpaceError> {
        loop {
            let signal = match self.state(tid) {
                Some(State::Stopped(Stop::Trap | Stop::Group)) if self.has_forced_signal(tid) => {
                    self.stop_for_pending_signal(tid);
                    continue;
                }
                Some(State::Stopped(Stop::Trap | Stop::Group)) => return Ok(()),
                Some(State::Stopped(Stop::Signal(signal))) => signal,
                // A thread that goes on from a vfork sleeps as long as the child likes.
                Some(State::Stopped(stop)) if stop != Stop::Vfork => 0,
                _ => return Err(SpaceError::Gone { pid: tid.0 }),
            };
            self.flush_once(tid, signal);
        }
    }

    /// Lets a stopped thread go on to the stop for a signal that is pending. It is not asked to stop: the signal is what
    /// stops it next.
    pub(super) fn stop_for_pending_signal(&mut self, tid: Tid) {
        self.set_state(tid, State::Asked);
        drop(ptrace::resume(tid, 0)); // ESRCH: it was killed, which the wait reports.
        match ptrace::wait(tid) {
            Some(status) => self.note(tid, status),
            None => self.vanished(tid),
        }
    }

    /// One step of [`flush`](Self::flush): goes on with `signal`, up to the next stop.
    pub(super) fn flush_once(&mut self, tid: Tid, signal: i32) {
        let in_trampoline = signal != 0 && self.is_in_trampoline(tid);
        self.set_state(tid, State::Asked);
        let asked = ptrace::interrupt(tid).and_then(|()| ptrace::resume(tid, signal));
        drop(asked); // ESRCH: it was killed, which the wait reports.
        match ptrace::wait(tid) {
            Some(status) => self.note(tid, status),
            None => self.vanished(tid),
        }
        if in_trampoline {
            self.show_original(tid, signal);
        }
    }
}

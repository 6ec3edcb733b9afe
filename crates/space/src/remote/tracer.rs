//! The tracer: owns the tracees of a run and reports what happens to them.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use incise_isa::Addr;

use super::event::{Event, ProcessId};
use super::launch::{self, LaunchOptions};
use super::procfs;
use super::ptrace::{self, ChildSignal, Stop, Tid};
use super::space::RemoteSpace;
use super::tracees::{State, Tracees};
use crate::SpaceError;

/// The longest time to sleep in one go, in nanoseconds. A report wakes the tracer at once; this is for a
/// flag that is set between looking at it and sleeping.
const NAP: u32 = 50_000_000;

/// How long a thread that waits in the kernel is given to stop before it is left behind.
const FAREWELL: Duration = Duration::from_millis(100);

/// Traces processes. Belongs to the thread that made it: the kernel takes requests from no other.
///
/// As long as it traces something, [`next_event`](Self::next_event) has to be called: meanwhile
/// it passes on signals, follows new threads, and lets stopped threads go on. Dropping it ends tracing and
/// leaves what was put into the targets.
pub struct Tracer {
    tracees: Rc<RefCell<Tracees>>,
}

impl Tracer {
    /// Starts `program`, looked for as a shell does, with `arguments` (without its own name). The
    /// process is stopped before its first instruction; [`resume`](Self::resume) lets it go.
    ///
    /// # Errors
    /// [`SpaceError::Launch`], [`SpaceError::WrongArchitecture`], [`SpaceError::NotPermitted`].
    pub fn launch(
        program: &OsStr,
        arguments: &[OsString],
        options: &LaunchOptions,
    ) -> Result<(Tracer, ProcessId), SpaceError> {
        let tid = launch::launch(program, arguments, options)?;
        let tracer = Tracer { tracees: Rc::default() };
        let pid = ProcessId(tid.0);
        tracer.tracees.borrow_mut().add_process(pid, tid, State::Stopped(Stop::Exec));
        Ok((tracer, pid))
    }

    /// Attaches to a process with all its threads. It runs on.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`], [`SpaceError::NotPermitted`], [`SpaceError::AlreadyTraced`],
    /// [`SpaceError::WrongArchitecture`], [`SpaceError::Gone`] for a zombie.
    pub fn attach(pid: ProcessId) -> Result<(Tracer, ProcessId), SpaceError> {
        let mut tracer = Tracer { tracees: Rc::default() };
        tracer.attach_also(pid)?;
        Ok((tracer, pid))
    }

    /// Attaches to one more process.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    pub fn attach_also(&mut self, pid: ProcessId) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().attach(pid)
    }

    /// The traced processes, ascending.
    pub fn processes(&self) -> Vec<ProcessId> {
        let mut pids: Vec<ProcessId> = self.tracees.borrow().processes.keys().copied().collect();
        pids.sort_unstable();
        pids
    }

    /// The address space of a process. All spaces of one process are the same; after
    /// [`Event::Exec`] it has a new one.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`] if it is not traced.
    pub fn space(&self, pid: ProcessId) -> Result<RemoteSpace, SpaceError> {
        let memory = self.tracees.borrow().memory_of(pid)?;
        Ok(RemoteSpace::new(Rc::clone(&self.tracees), memory, pid))
    }

    /// Whether a process has ended, or none of its threads will run its code again, because it was killed or exits. Its memory may be
    /// gone then, and what was tried on it may have failed for that.
    pub fn is_ending(&self, pid: ProcessId) -> bool {
        let ends = |tid: Tid| procfs::is_ending(tid) || procfs::status(tid).is_ok_and(|status| status.killed);
        let threads = procfs::threads(pid.0).unwrap_or_default();
        self.tracees.borrow().memory_of(pid).is_err() || threads.into_iter().all(ends)
    }

    /// Waits for the next event, at most for `timeout`, or until `interrupted` is set (looked at when a
    /// signal comes, and every 50 ms).
    ///
    /// While it waits, SIGCHLD is blocked in this thread and taken.
    pub fn next_event(
        &mut self,
        timeout: Option<Duration>,
        interrupted: &AtomicBool,
    ) -> Result<Event, SpaceError> {
        let children = ChildSignal::block();
        let started = Instant::now();
        loop {
            {
                let mut tracees = self.tracees.borrow_mut();
                tracees.proceed_arrived();
                if let Some(event) = tracees.events.pop_front() {
                    return Ok(event);
                }
                if interrupted.load(Ordering::Relaxed) {
                    return Ok(Event::Interrupted);
                }
                if tracees.processes.is_empty() {
                    return Ok(Event::Idle);
                }
                if tracees.take_report() {
                    continue;
                }
            }
            let nap = match timeout.map(|timeout| timeout.saturating_sub(started.elapsed())) {
                Some(Duration::ZERO) => return Ok(Event::TimedOut),
                Some(rest) => rest.as_nanos().min(NAP.into()) as u32,
                None => NAP,
            };
            children.wait(nap);
        }
    }

    /// Lets a process go on that an event has reported stopped, or that [`launch`](Self::launch) has
    /// started, or that [`RemoteSpace::stop`] has stopped.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`] if it is not traced.
    pub fn resume(&mut self, pid: ProcessId) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        let memory = tracees.memory_of(pid)?;
        tracees.release(memory);
        Ok(())
    }

    /// Ends tracing a process, which goes on with all that was put into it. To take that out, call
    /// [`RemoteSpace::remove`] first.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`] if it is not traced.
    pub fn detach(&mut self, pid: ProcessId) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        tracees.memory_of(pid)?;
        tracees.detach(pid);
        Ok(())
    }

    /// From now on, a thread that runs the trap at `at` is reported as [`Event::Gate`]. The landing of
    /// the trap has to be published, as for any other; nothing is reported where no tracer lives, but the
    /// thread goes on there.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`] if it is not traced.
    pub fn add_gate(&mut self, pid: ProcessId, at: Addr) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        let memory = tracees.memory_of(pid)?;
        Rc::make_mut(&mut tracees.target_mut(memory)?.gates).insert(at);
        Ok(())
    }

    /// Takes [`add_gate`](Self::add_gate) back.
    ///
    /// # Errors
    /// [`SpaceError::NoProcess`] if it is not traced.
    pub fn remove_gate(&mut self, pid: ProcessId, at: Addr) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        let memory = tracees.memory_of(pid)?;
        Rc::make_mut(&mut tracees.target_mut(memory)?.gates).remove(&at);
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for pid in self.processes() {
            self.tracees.borrow_mut().detach(pid);
        }
    }
}

impl Tracees {
    /// Takes one report into account, if there is one.
    fn take_report(&mut self) -> bool {
        let Some(tid) = ptrace::peek_any() else { return false };
        if self.threads.contains_key(&tid) || self.leaving.contains_key(&tid) || is_our_tracee(tid) {
            return self.take_report_of(tid);
        }
        // A child that is none of the tracer's business, and that hides the others.
        let known: Vec<Tid> = self.threads.keys().copied().collect();
        known.into_iter().any(|tid| self.take_report_of(tid))
    }

    fn take_report_of(&mut self, tid: Tid) -> bool {
        match ptrace::poll(tid) {
            Ok(Some(status)) => {
                self.note(tid, status);
                true
            }
            _ => false,
        }
    }

    /// Ends tracing a process.
    pub(super) fn detach(&mut self, pid: ProcessId) {
        let Ok(memory) = self.memory_of(pid) else { return };
        if self.hold(memory).is_ok() {
            self.detach_stopped(pid);
            self.release(memory);
        }
        self.forget_process(pid);
    }

    fn detach_stopped(&mut self, pid: ProcessId) {
        let threads: Vec<Tid> =
            self.threads.iter().filter(|(_, thread)| thread.process == pid).map(|(&tid, _)| tid).collect();
        let started = Instant::now();
        for tid in threads {
            while self.state(tid) == Some(State::Parked) && started.elapsed() < FAREWELL {
                if !self.take_report_of(tid) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            match self.state(tid) {
                Some(State::Stopped(stop)) => {
                    self.repeat_failed_call(tid, stop);
                    let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
                    self.take_area(tid);
                    drop(ptrace::detach(tid, signal)); // ESRCH: it was killed.
                }
                Some(State::Parked) => {
                    let area = self.threads.get_mut(&tid).and_then(|thread| thread.area.take());
                    self.leaving.insert(tid, area);
                }
                Some(State::Dead) if tid.0 == pid.0 => bury_later(tid),
                _ => {}
            }
            self.threads.remove(&tid);
        }
    }
}

/// Lets the parent of a process hear of its end. Its first thread has ended before the others and cannot be left any more: its end is
/// reported to this process, when the others have ended, and to the parent once that report was taken. Any thread may take it
/// (ptrace(2), "Death under ptrace"; waitid(2), `__WNOTHREAD`); this process has it anyway where it is the parent.
fn bury_later(first: Tid) {
    let own = std::process::id() as i32;
    if procfs::status(first).is_ok_and(|status| status.parent != own) {
        let wait = move || ptrace::wait(first);
        // Without a thread for it, the parent hears of it when this process ends.
        drop(std::thread::Builder::new().name("incise-bury".to_owned()).spawn(wait));
    }
}

fn is_our_tracee(tid: Tid) -> bool {
    procfs::status(tid).is_ok_and(|status| status.tracer == ptrace::own_tid())
}

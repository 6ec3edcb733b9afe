//! System calls made by a thread of the target on our behalf.
//!
//! The thread runs the code of [`x86_64::blob`]: the instruction `syscall`, and behind it everything the
//! thread needs to go on with its own work. The tracer stops the thread at the entry and the exit of the
//! call and takes it back from there; the rest of the code runs only if the tracer is killed. Then the
//! thread finishes the call and goes on as if it had been left alone. No byte of its stack is
//! touched: below the stack pointer may be a red zone, or another thread's memory, or nothing.
//!
//! A frame for sigreturn (the founding design's idea for the same purpose) would have to hold the vector state too, in a size and
//! format that depends on the processor, and a place in writable memory; the registers that a system
//! call and its arguments use are nine, and vector state is not among them.
//!
//! Signals that come first are delivered first: the thread gets its own registers back for that, and
//! the call is made from inside the handler's first instruction.
//!
//! A thread inside a system call that our stop interrupted keeps that call: the tracer restores `orig_rax`
//! and the pending restart, and the injected code encodes the same restart by hand.

use std::io;
use std::rc::Rc;

use incise_isa::Addr;

use super::memory::Memory;
use super::procfs;
use super::ptrace::{self, Status, Stop, Tid};
use super::runtime::Runtime;
use super::tracees::{MemoryId, State, Tracees};
use super::x86_64::{self, Registers};
use crate::{SpaceError, faults};

/// A thread that makes system calls for us.
pub(super) struct Caller<'a> {
    tracees: &'a mut Tracees,
    tid: Tid,
    /// The registers it goes on with.
    saved: Registers,
    /// Where the code is.
    blob: Addr,
    memory: Rc<Memory>,
    /// Its seccomp filters rest.
    unfiltered: bool,
}

impl Tracees {
    /// Prepares a thread of `memory`, all of whose threads are stopped, to make system calls by code at
    /// `blob`, where [`x86_64::BLOB_LEN`] bytes may be overwritten.
    pub(super) fn caller(&mut self, memory: MemoryId, blob: Addr) -> Result<Caller<'_>, SpaceError> {
        let tid = self.choose_caller(memory)?;
        let pid = tid.0;
        let system = |error: io::Error| match ptrace::is_gone(&error) {
            true => SpaceError::Gone { pid },
            false => SpaceError::system("preparing a thread for a system call", error),
        };
        let filtered = procfs::status(tid).map_err(system)?.seccomp != 0;
        if filtered && ptrace::suspend_seccomp(tid, true).is_err() {
            return Err(SpaceError::Seccomp { pid, action: "making system calls in it" });
        }
        let target = Rc::clone(&self.target(memory)?.memory);
        let saved = ptrace::registers(tid).map_err(system)?;
        let mut caller = Caller { tracees: self, tid, saved, blob, memory: target, unfiltered: filtered };
        caller.arm()?;
        Ok(caller)
    }

    /// The thread that is disturbed least: outside system calls if there is one.
    pub(super) fn choose_caller(&mut self, memory: MemoryId) -> Result<Tid, SpaceError> {
        let mut best: Option<(u32, Tid)> = None;
        // Signal actions are the process's own also where its memory is shared.
        let main = memory.process();
        let main_lives = self.processes.contains_key(&main);
        for tid in self.threads_on(memory) {
            let Some(State::Stopped(stop)) = self.state(tid) else { continue };
            if main_lives && self.threads.get(&tid).is_none_or(|thread| thread.process != main) {
                continue;
            }
            let Ok(registers) = ptrace::registers(tid) else { continue };
            if !registers.is_64_bit() {
                let what = format!("thread {}", tid.0);
                let found = "it runs 32-bit code".to_owned();
                return Err(SpaceError::WrongArchitecture { what, found });
            }
            let rank = match stop {
                Stop::Trap if registers.syscall_number() < 0 => 0,
                Stop::Trap => 1,
                Stop::Group => 2,
                // It cannot go on before its child does.
                Stop::Vfork => continue,
                _ => 3,
            };
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, tid));
            }
            if rank == 0 {
                break;
            }
        }
        let (_, tid) = best.ok_or_else(no_caller)?;
        self.flush(tid)?;
        Ok(tid)
    }
}

/// Where a thread has to go on if it is inside a restartable sequence at `ip`: other code runs on it now, and
/// the kernel would forget the sequence (linux/rseq.h, `struct rseq` and `struct rseq_cs`).
pub(super) fn rseq_abort(memory: &Memory, tid: Tid, ip: Addr) -> Option<Addr> {
    let area = ptrace::rseq_area(tid)?;
    let sequence = Addr(memory.read_u64(area + 8).ok().filter(|&at| at != 0)?);
    let start = Addr(memory.read_u64(sequence + 8).ok()?);
    let len = memory.read_u64(sequence + 16).ok()?;
    let abort = Addr(memory.read_u64(sequence + 24).ok()?);
    start.span(len).contains(&ip).then_some(abort)
}

/// The error that every thread waits in the kernel, for instance for the child of its vfork.
fn no_caller() -> SpaceError {
    let busy = io::Error::from_raw_os_error(libc::EBUSY);
    SpaceError::system("finding a thread that can make system calls", busy)
}

impl Caller<'_> {
    /// Takes the registers as what the thread goes on with, and writes the code for them.
    fn arm(&mut self) -> Result<(), SpaceError> {
        self.saved = ptrace::registers(self.tid).map_err(|error| self.failed(error))?;
        if let Some(abort) = rseq_abort(&self.memory, self.tid, self.saved.ip()) {
            self.saved = self.saved.moved_to(abort);
        }
        self.memory.write(self.blob, &x86_64::blob(&self.saved), Some(self.tid))
    }

    /// Puts the code of the calls to `at`, too.
    pub(super) fn copy_to(&self, at: Addr) -> Result<(), SpaceError> {
        self.memory.write(at, &x86_64::blob(&self.saved), Some(self.tid))
    }

    /// Where the code is that makes the calls.
    pub(super) fn blob(&self) -> Addr {
        self.blob
    }

    /// The thread.
    pub(super) fn thread(&self) -> Tid {
        self.tid
    }

    /// Puts `bytes` where the target can read them as an argument.
    pub(super) fn write_argument(&self, runtime: &Runtime, bytes: &[u8]) -> Result<(), SpaceError> {
        self.memory.write(runtime.arguments(), bytes, Some(self.tid))
    }

    /// The target's memory.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    fn failed(&self, error: io::Error) -> SpaceError {
        match ptrace::is_gone(&error) {
            true => SpaceError::Gone { pid: self.tid.0 },
            false => SpaceError::system("making a system call in the target", error),
        }
    }

    /// Makes system call `number`; `action` says what for in an error.
    ///
    /// # Errors
    /// [`SpaceError::System`] with what the call itself failed with, or [`SpaceError::Gone`].
    pub(super) fn call(
        &mut self,
        action: &'static str,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<u64, SpaceError> {
        faults::trip().map_err(|errno| SpaceError::system(action, errno))?;
        self.enter(number, arguments)?;
        while self.go_on()? != Stop::Syscall {}
        let result = ptrace::registers(self.tid).map_err(|error| self.failed(error))?.result();
        match result {
            -4095..0 => Err(SpaceError::system(action, io::Error::from_raw_os_error(-result as i32))),
            _ => Ok(result as u64),
        }
    }

    fn enter(&mut self, number: i64, arguments: [u64; 6]) -> Result<(), SpaceError> {
        loop {
            let registers = self.saved.calling(self.blob, number, arguments);
            ptrace::set_registers(self.tid, &registers).map_err(|error| self.failed(error))?;
            match self.go_on()? {
                Stop::Syscall => return Ok(()),
                Stop::Signal(_) => {
                    ptrace::set_registers(self.tid, &self.saved).map_err(|error| self.failed(error))?;
                    self.tracees.flush(self.tid)?;
                    self.arm()?;
                }
                _ => {}
            }
        }
    }

    /// Lets the thread run to the next stop, the entry or exit of the call if nothing comes first.
    fn go_on(&mut self) -> Result<Stop, SpaceError> {
        ptrace::resume_to_syscall(self.tid, 0).map_err(|error| self.failed(error))?;
        let Some(status) = ptrace::wait(self.tid) else { return Err(SpaceError::Gone { pid: self.tid.0 }) };
        self.tracees.note(self.tid, status);
        match status {
            Status::Stopped(stop) => Ok(stop),
            _ => Err(SpaceError::Gone { pid: self.tid.0 }),
        }
    }
}

impl Drop for Caller<'_> {
    /// Gives the thread back. If a step fails, the thread is dead.
    fn drop(&mut self) {
        // A pending restart takes effect only from a stop on the way back to the program's code.
        if self.tracees.state(self.tid) == Some(State::Stopped(Stop::Syscall)) {
            self.tracees.flush_once(self.tid, 0);
        }
        drop(ptrace::set_registers(self.tid, &self.saved));
        self.tracees.settle(self.tid);
        if self.unfiltered {
            drop(ptrace::suspend_seccomp(self.tid, false));
        }
    }
}

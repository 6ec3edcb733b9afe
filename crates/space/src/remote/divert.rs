//! A thread of the target runs code of ours once, wherever it stands, and goes on with its own work behind.
//!
//! 1. All threads are stopped. The one that is disturbed least is chosen; signals that come first are delivered first.
//! 2. The code is written, and behind it what gives the thread its registers back as immediate values and leads it to where it was: as
//!    behind injected system calls, an interrupted system call included (`inject.rs`).
//! 3. The thread's instruction pointer is set to the code, and all threads go on. Nobody has to come back to it: if the
//!    tracer is killed now, the thread does what it was told and then goes on all the same.

use std::rc::Rc;

use incise_isa::Addr;

use super::ptrace::{self, Stop, Tid};
use super::tracees::{MemoryId, State, Tracees};
use super::x86_64;
use crate::SpaceError;

/// A stopped thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoppedThread {
    /// Its number in the kernel.
    pub tid: i32,
    /// Its instruction pointer.
    pub ip: Addr,
    /// Its general registers, by number.
    pub registers: [u64; 16],
    /// Its flags.
    pub flags: u64,
    /// The number of the system call that it is in, to be made again or just done.
    pub system_call: Option<u64>,
}

impl Tracees {
    /// The thread of `memory`, all of whose threads are stopped, that can be diverted.
    pub(super) fn divertible(&mut self, memory: MemoryId) -> Result<StoppedThread, SpaceError> {
        let tid = self.choose_caller(memory)?;
        self.stopped_thread(memory, tid)
    }

    /// The threads of `memory` that could be diverted, if all of them are stopped.
    pub(super) fn stopped_threads(&self, memory: MemoryId) -> Vec<StoppedThread> {
        let stopped = self.threads_on(memory).into_iter();
        let stopped = stopped.filter(|tid| matches!(self.state(*tid), Some(State::Stopped(Stop::Trap))));
        stopped.filter_map(|tid| self.stopped_thread(memory, tid).ok()).collect()
    }

    /// One of them, once signals that come first were delivered to it.
    pub(super) fn divertible_thread(
        &mut self,
        memory: MemoryId,
        tid: Tid,
    ) -> Result<StoppedThread, SpaceError> {
        self.flush(tid)?;
        self.stopped_thread(memory, tid)
    }

    fn stopped_thread(&self, memory: MemoryId, tid: Tid) -> Result<StoppedThread, SpaceError> {
        let registers = self.undisturbed(memory, tid)?;
        let system_call = ptrace::registers(tid).ok().map(|registers| registers.syscall_number());
        let system_call = system_call.and_then(|number| u64::try_from(number).ok());
        let r = registers.0;
        Ok(StoppedThread {
            tid: tid.0,
            ip: registers.ip(),
            registers: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
                r.r13, r.r14, r.r15,
            ],
            flags: r.eflags,
            system_call,
        })
    }

    /// The registers it would go on with.
    fn undisturbed(&self, memory: MemoryId, tid: Tid) -> Result<x86_64::Registers, SpaceError> {
        let registers = ptrace::registers(tid).map_err(|error| match ptrace::is_gone(&error) {
            true => SpaceError::Gone { pid: tid.0 },
            false => SpaceError::system("reading registers", error),
        })?;
        let registers = if registers.failed_by_stop() { registers.restarted() } else { registers };
        let target = self.target(memory)?;
        Ok(match super::inject::rseq_abort(&target.memory, tid, registers.ip()) {
            Some(abort) => registers.moved_to(abort),
            None => registers,
        })
    }

    /// Has a thread run `code` at `at`, in memory of [`map_code`](Self::map_code) with room for
    /// [`TAIL`](x86_64::TAIL_LEN) bytes more.
    pub(super) fn divert(
        &mut self,
        memory: MemoryId,
        thread: &StoppedThread,
        at: Addr,
        code: &[u8],
    ) -> Result<(), SpaceError> {
        let tid = Tid(thread.tid);
        let registers = self.undisturbed(memory, tid)?;
        let target = Rc::clone(&self.target(memory)?.memory);
        let whole = [code, &x86_64::tail(&registers)].concat();
        target.write(at, &whole, Some(tid))?;
        ptrace::set_registers(tid, &registers.moved_to(at)).map_err(|error| match ptrace::is_gone(&error) {
            true => SpaceError::Gone { pid: tid.0 },
            false => SpaceError::system("diverting a thread", error),
        })
    }
}

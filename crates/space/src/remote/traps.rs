//! Traps of ours that threads run while the tracer lives: it moves the thread to the landing itself, so
//! that it works with the signal blocked or its action changed, and without a frame on the thread's stack.
//!
//! The tracer may be killed at any point of this. Then the signal is delivered, and the handler in
//! the target takes over:
//!
//! - before the instruction pointer is changed, it finds the trap as ever;
//! - with the instruction pointer at the landing and the SIGTRAP not yet taken back, it finds the landing
//!   because the table has an entry for the byte before each landing (see `landings.rs`);
//! - a SIGILL, or the signal of a fault landing, is taken back first: the thread would run the instruction again.

use std::time::{Duration, Instant};

use incise_isa::Addr;

use super::event::{Event, ProcessId};
use super::procfs;
use super::ptrace::{self, Stop, Tid};
use super::tracees::{MemoryId, State, Tracees};
use super::x86_64::{self, Registers};
use crate::trap;

/// A trap of ours at which a thread stopped.
#[derive(Clone, Copy)]
pub(super) struct OurTrap {
    /// SIGTRAP or SIGILL, or that of a fault landing.
    signal: i32,
    /// The address of the trap byte.
    pub(super) at: Addr,
    landing: Addr,
    registers: Registers,
}

/// How often, at most, it is checked whether the handler is in force still.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A mask with this many of the 31 standard signals was made by blocking all, SIGTRAP too.
const NEARLY_ALL: u32 = 16;

impl Tracees {
    /// The trap of ours for which a thread is at a signal stop, if it is one.
    pub(super) fn our_trap(&self, tid: Tid, signal: i32) -> Option<OurTrap> {
        if !trap::TRAP_SIGNALS.contains(&signal) && !trap::FAULT_SIGNALS.contains(&signal) {
            return None;
        }
        let (_, code) = ptrace::signal_info(tid).ok()?;
        if !was_forced(signal, code) {
            return None;
        }
        let registers = ptrace::registers(tid).ok()?;
        let at = x86_64::trap_address(signal, registers.ip());
        Some(OurTrap { signal, at, landing: self.landing_for(tid, at)?, registers })
    }

    fn landing_for(&self, tid: Tid, trap: Addr) -> Option<Addr> {
        let pid = self.threads.get(&tid)?.process;
        self.target(self.memory_of(pid).ok()?).ok()?.landing(trap)
    }

    /// Whether the trap at `at` is to be reported.
    pub(super) fn is_gate(&self, memory: MemoryId, at: Addr) -> bool {
        self.target(memory).is_ok_and(|target| target.gates.contains(&at))
    }

    /// Takes the trap and lets the thread go on at the landing.
    pub(super) fn run_landing(&mut self, tid: Tid, memory: MemoryId, trap: OurTrap) {
        let needs_repair = self.needs_repair(tid, memory, trap.signal);
        if trap.signal != libc::SIGTRAP || needs_repair {
            self.take_trap(tid, trap);
            if needs_repair {
                self.repair(tid, trap.signal);
            }
            return self.proceed(tid);
        }
        self.set_state(tid, State::Running);
        let moved = ptrace::set_registers(tid, &trap.registers.moved_to(trap.landing))
            .and_then(|()| self.resume_thread(tid, 0));
        drop(moved); // ESRCH: it was killed, which is reported next.
    }

    /// Takes the trap; the thread stays stopped, about to run the landing.
    pub(super) fn take_trap(&mut self, tid: Tid, trap: OurTrap) {
        let at_landing = trap.registers.moved_to(trap.landing);
        // Errors: it was killed, which is reported next.
        if trap.signal == libc::SIGTRAP {
            drop(ptrace::set_registers(tid, &at_landing));
            self.flush_once(tid, 0);
        } else {
            self.flush_once(tid, 0);
            drop(ptrace::set_registers(tid, &at_landing));
        }
    }

    /// Brings a stopped thread of a held memory to where its signals are delivered and its traps taken.
    ///
    /// A trap is taken also if its signal is still on the way: a thread that is asked to stop stops
    /// before its signals are delivered.
    pub(super) fn settle(&mut self, tid: Tid) {
        loop {
            match self.state(tid) {
                Some(State::Stopped(Stop::Signal(signal))) => match self.our_trap(tid, signal) {
                    Some(trap) => self.settle_trap(tid, trap),
                    None => self.flush_once(tid, signal),
                },
                Some(State::Stopped(Stop::Trap | Stop::Group)) if self.has_forced_trap(tid) => {
                    self.stop_for_pending_signal(tid);
                }
                // It is followed through a handler: see `frames.rs`. Where it is cannot be changed before the call is over.
                Some(State::Stopped(Stop::Syscall)) => self.flush_once(tid, 0),
                _ => return,
            }
        }
    }

    fn settle_trap(&mut self, tid: Tid, trap: OurTrap) {
        let Some(pid) = self.threads.get(&tid).map(|thread| thread.process) else { return };
        let Ok(memory) = self.memory_of(pid) else { return };
        let needs_repair = self.needs_repair(tid, memory, trap.signal);
        self.take_trap(tid, trap);
        if needs_repair {
            self.repair(tid, trap.signal);
        }
        if self.is_gate(memory, trap.at)
            && let Ok(target) = self.target_mut(memory)
        {
            target.holds += 1;
            self.at_gate(pid, tid, trap.at);
        }
    }

    /// Reports a thread that stands at a gate's landing.
    pub(super) fn at_gate(&mut self, pid: ProcessId, tid: Tid, at: Addr) {
        let (rax, rsp) = ptrace::registers(tid)
            .map_or((0, Addr(0)), |registers| (registers.result() as u64, registers.sp()));
        self.events.push_back(Event::Gate { pid, at, thread: tid.0, rax, rsp });
    }

    /// Whether a signal is on its way to the thread that its last instruction raised.
    pub(super) fn has_forced_signal(&self, tid: Tid) -> bool {
        let forced = |signal| trap::TRAP_SIGNALS.contains(&signal) || trap::FAULT_SIGNALS.contains(&signal);
        let pending = ptrace::pending_signals(tid, false).unwrap_or_default();
        pending.iter().any(|&(signal, code)| forced(signal) && was_forced(signal, code))
    }

    fn has_forced_trap(&self, tid: Tid) -> bool {
        let Ok(registers) = ptrace::registers(tid) else { return false };
        let at_trap = |signal| self.landing_for(tid, x86_64::trap_address(signal, registers.ip())).is_some();
        if !trap::TRAP_SIGNALS.into_iter().chain(trap::FAULT_SIGNALS).any(at_trap) {
            return false;
        }
        let pending = ptrace::pending_signals(tid, false).unwrap_or_default();
        pending.iter().any(|&(signal, code)| was_forced(signal, code) && at_trap(signal))
    }

    /// Whether the kernel has reset the action of the signal: it does so where the signal was blocked or
    /// ignored (kernel/signal.c, `force_sig_info_to_task`).
    ///
    /// Looked at for each trap of a thread that blocks many signals, and otherwise only from time to time:
    /// the tracer is here to take the traps, the handler is for after it.
    fn needs_repair(&mut self, tid: Tid, memory: MemoryId, signal: i32) -> bool {
        let blocks_all = ptrace::signal_mask(tid).is_ok_and(blocks_nearly_all);
        let Ok(target) = self.target_mut(memory) else { return false };
        let due = target.checked.is_none_or(|checked| checked.elapsed() > CHECK_INTERVAL);
        if !blocks_all && !due {
            return false;
        }
        target.checked = Some(Instant::now());
        procfs::status(tid).is_ok_and(|status| status.caught & (1 << (signal - 1)) == 0)
    }

    /// Puts our handler in force again, and the signal back into the mask it was taken from.
    ///
    /// Whether it was in the mask is not to be seen any more. It was if nearly all others are: the C library
    /// blocks all signals where it must not be disturbed. A program that blocks SIGTRAP alone runs with it
    /// unblocked from here on, which is what lets it survive the next trap.
    fn repair(&mut self, tid: Tid, signal: i32) {
        if let Ok(mask) = ptrace::signal_mask(tid)
            && blocks_nearly_all(mask)
        {
            drop(ptrace::set_signal_mask(tid, mask | 1 << (signal - 1)));
        }
        let Some(pid) = self.threads.get(&tid).map(|thread| thread.process) else { return };
        let Ok(memory) = self.memory_of(pid) else { return };
        if self.hold(memory).is_ok() {
            // If it fails, the traps work as long as the tracer lives.
            drop(self.put_back_handler(memory, signal));
            self.release(memory);
        }
    }

    /// Makes a system call again that failed only because the thread was to stop. With a signal pending
    /// the failure is right.
    pub(super) fn repeat_failed_call(&mut self, tid: Tid, stop: Stop) {
        if stop != Stop::Trap {
            return;
        }
        let Ok(registers) = ptrace::registers(tid) else { return };
        if !registers.failed_by_stop() {
            return;
        }
        let Ok(status) = procfs::status(tid) else { return };
        let unblocked = |of_process| {
            ptrace::pending_signals(tid, of_process).is_ok_and(|pending| {
                pending.iter().any(|&(signal, _)| status.blocked & (1u64 << ((signal - 1) & 63)) == 0)
            })
        };
        if !unblocked(false) && !unblocked(true) {
            drop(ptrace::set_registers(tid, &registers.restarted()));
        }
    }
}

fn blocks_nearly_all(mask: u64) -> bool {
    (mask as u32 & 0x7fff_ffff).count_ones() >= NEARLY_ALL
}

/// Whether a signal was forced by an instruction, not sent: `int3` gives `SI_KERNEL`, an illegal byte or a fault
/// a positive code (sigaction(2)).
fn was_forced(signal: i32, code: i32) -> bool {
    match signal {
        libc::SIGTRAP => code == libc::SI_KERNEL,
        _ => code > 0,
    }
}

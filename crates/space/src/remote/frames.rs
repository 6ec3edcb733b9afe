//! Signal handlers of the program see original instruction pointers: the frame that the kernel makes for a handler is
//! changed before the handler runs, and changed back when it returns.
//!
//! 1. A signal is to be delivered to a thread that is in a trampoline. It goes on with the signal and with the request
//!    to stop: the kernel makes the frame, and the thread stops before the first instruction of the handler.
//! 2. The frame gets the registers of the original code: see [`View`](crate::view::View). They are complete: whatever
//!    happens from here on, a thread that goes on with them does what the program would.
//! 3. The thread goes on to its next system call, and on, until that is the `rt_sigreturn` of this frame. If the frame
//!    still holds the instruction pointer that was shown, it gets back what was there.
//!
//! A tracer that is killed before 2 leaves the frame as it was, one that is killed later leaves a thread that runs the
//! snippets of the interrupted point again. The same happens where a handler has changed the instruction pointer, or has
//! left by longjmp: then nothing is put back.

use std::borrow::Cow;
use std::ops::Range;

use incise_isa::Addr;

use super::memory::Memory;
use super::ptrace::{self, Stop, Tid};
use super::tracees::{MemoryId, State, Target, Tracees};
use super::x86_64::Registers;
use crate::trap;
use crate::view::{FrameRegisters, ProgramMemory, View};
use crate::{Displaced, SpaceError};

/// Offset of the saved registers in the frame of a handler, counted from its return address (kernel ABI:
/// `struct rt_sigframe`, asm/sigcontext.h).
const REGISTERS: u64 = 8 + 40;

/// Offset of the alternate stack's address; its size is 16 bytes further on (`stack_t`).
const STACK: u64 = 8 + 16;

/// A handler that was shown something else than is so.
pub(super) struct Frame {
    /// Address of its frame: that of the handler's return address.
    at: Addr,
    /// The alternate stack it is on, or where its stack cannot go on: above the frame.
    left: Left,
    view: View,
}

impl ProgramMemory for Memory {
    fn code(&self, at: Addr, len: usize) -> Option<Cow<'_, [u8]>> {
        self.read_vec(at, len).ok().map(Cow::Owned)
    }

    fn quadword(&self, at: Addr) -> Option<u64> {
        self.read_u64(at).ok()
    }
}

/// Stack pointers that tell that the handler has been left.
enum Left {
    Above(Addr),
    Outside(Range<Addr>),
}

impl Frame {
    fn is_left(&self, sp: Addr) -> bool {
        match &self.left {
            Left::Above(frame) => sp > *frame,
            Left::Outside(stack) => !stack.contains(&sp),
        }
    }
}

impl Target {
    /// Whether `ip` is in a trampoline.
    fn in_trampoline(&self, ip: Addr) -> bool {
        self.code.iter().any(|range| range.contains(&ip)) && self.trampolines.contains(ip)
    }

    /// The original instruction for an address in a trampoline.
    pub(super) fn original_ip(&self, ip: Addr) -> Option<Addr> {
        self.trampolines.original_ip(ip, &*self.memory)
    }

    fn frame_registers(&self, frame: Addr) -> Result<FrameRegisters, SpaceError> {
        let mut bytes = [0; size_of::<FrameRegisters>()];
        self.memory.read(frame + REGISTERS, &mut bytes)?;
        let mut registers = FrameRegisters::default();
        for (register, bytes) in registers.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *register = u64::from_le_bytes(*bytes);
        }
        Ok(registers)
    }

    fn set_frame_registers(
        &self,
        frame: Addr,
        registers: &FrameRegisters,
        stopped: Tid,
    ) -> Result<(), SpaceError> {
        let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
        self.memory.write(frame + REGISTERS, &bytes, Some(stopped))
    }
}

impl Tracees {
    /// Notes what lies where in new trampolines.
    pub(super) fn note_displaced(&mut self, memory: MemoryId, displaced: &[Displaced]) {
        if let Ok(target) = self.target_mut(memory) {
            std::rc::Rc::make_mut(&mut target.trampolines).note(displaced);
        }
    }

    fn target_of(&self, tid: Tid) -> Option<&Target> {
        let pid = self.threads.get(&tid)?.process;
        self.target(self.memory_of(pid).ok()?).ok()
    }

    /// Whether a stopped thread is in a trampoline.
    pub(super) fn is_in_trampoline(&self, tid: Tid) -> bool {
        let target = self.target_of(tid).filter(|target| !target.code.is_empty());
        target.is_some_and(|target| {
            ptrace::registers(tid).is_ok_and(|registers| target.in_trampoline(registers.ip()))
        })
    }

    /// Step 2, for a thread that is about to run a handler of `signal` which interrupts a trampoline. Nothing is done for
    /// one that is not.
    pub(super) fn show_original(&mut self, tid: Tid, signal: i32) {
        if self.state(tid) != Some(State::Stopped(Stop::Trap)) {
            return;
        }
        let Ok(registers) = ptrace::registers(tid) else { return };
        let Some(frame) = self.target_of(tid).and_then(|target| target.frame(&registers, signal)) else {
            return;
        };
        // Errors: it was killed, which is reported next.
        if let Some(target) = self.target_of(tid)
            && target.skip_landings(tid, &registers, signal).is_ok()
            && target.set_frame_registers(frame.at, &frame.view.shown, tid).is_ok()
            && let Some(thread) = self.threads.get_mut(&tid)
        {
            thread.frames.push(frame);
        }
    }

    /// Step 3, for a thread at the entry or exit of a system call.
    pub(super) fn at_syscall(&mut self, tid: Tid) {
        if self.threads.get(&tid).is_none_or(|thread| thread.frames.is_empty()) {
            return;
        }
        let Ok(registers) = ptrace::registers(tid) else { return };
        let sp = registers.sp();
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        if registers.syscall_number() != libc::SYS_rt_sigreturn {
            while thread.frames.pop_if(|frame| frame.is_left(sp)).is_some() {}
            return;
        }
        // The handler's `ret` has taken the return address.
        let Some(index) = thread.frames.iter().rposition(|frame| frame.at + 8 == sp) else { return };
        let frame = thread.frames.drain(index..).next();
        let (Some(frame), Some(target)) = (frame, self.target_of(tid)) else { return };
        let Ok(now) = target.frame_registers(frame.at) else { return };
        let mut store = |at, word: u64| drop(target.memory.write(at, &word.to_le_bytes(), Some(tid)));
        if let Some(back) = frame.view.back(&now, &mut store) {
            drop(target.set_frame_registers(frame.at, &back, tid));
        }
    }

    /// Lets a stopped thread go on, to its next system call if a handler of it was shown something.
    pub(super) fn resume_thread(&self, tid: Tid, signal: i32) -> std::io::Result<()> {
        if self.threads.get(&tid).is_some_and(|thread| !thread.frames.is_empty()) {
            ptrace::resume_to_syscall(tid, signal)
        } else {
            ptrace::resume(tid, signal)
        }
    }

    /// The trampoline addresses that handlers of a thread will go back to.
    pub(super) fn interrupted(&self, tid: Tid) -> impl Iterator<Item = Addr> + '_ {
        self.threads.get(&tid).into_iter().flat_map(|thread| thread.frames.iter().map(|f| f.view.real_ip()))
    }
}

impl Target {
    /// The frame of the handler of `signal` that a thread with these registers is about to run.
    fn frame(&self, registers: &Registers, signal: i32) -> Option<Frame> {
        let at = registers.sp();
        if registers.first_argument() != signal as u64 {
            return None;
        }
        let real = self.frame_registers(at).ok()?;
        let view = View::of(&self.trampolines, &real, &*self.memory)?;
        let stack = self.memory.read_u64(at + STACK).ok()?;
        let size = self.memory.read_u64(at + STACK + 16).ok()?;
        let stack = Addr(stack)..Addr(stack.saturating_add(size));
        let left = if stack.contains(&at) { Left::Outside(stack) } else { Left::Above(at) };
        Some(Frame { at, left, view })
    }

    /// Sees to it that the handler of ours, if it is that, does not take the original instruction for a trap of ours:
    /// with the landing it would run again what has just raised the signal.
    fn skip_landings(&self, tid: Tid, registers: &Registers, signal: i32) -> std::io::Result<()> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| trap::TRAP_SIGNALS.contains(&signal)) else {
            return Ok(());
        };
        if registers.ip() == runtime.handler() + trap::HANDLER as u64 {
            return ptrace::set_registers(tid, &registers.moved_to(runtime.handler() + trap::chain() as u64));
        }
        Ok(())
    }
}

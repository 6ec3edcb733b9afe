//! The ptrace requests and the waiting this crate needs, typed (ptrace(2), waitpid(2)).
//!
//! # Safety
//! A ptrace request reads or writes memory of this process only through the pointers given to it; each
//! function passes a pointer to a value of the size the request fills (linux/ptrace.h). What it does to
//! the tracee cannot break the memory safety of this process.

#![allow(unsafe_code, reason = "makes system calls")]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ptr;

use incise_isa::Addr;

use super::x86_64::Registers;
use crate::faults;

/// A thread id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Tid(pub(super) i32);

/// Report system call stops with bit 7 set.
const TRACESYSGOOD: usize = 0x1;
const TRACEFORK: usize = 0x2;
const TRACEVFORK: usize = 0x4;
const TRACECLONE: usize = 0x8;
const TRACEEXEC: usize = 0x10;
/// Let no seccomp filter run; needs CAP_SYS_ADMIN.
const SUSPEND_SECCOMP: usize = 0x20_0000;

/// What every tracee is traced with. Never `PTRACE_O_EXITKILL`: the target outlives its tracer.
const OPTIONS: usize = TRACESYSGOOD | TRACEFORK | TRACEVFORK | TRACECLONE | TRACEEXEC;

const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const LISTEN: u32 = 0x4208;
const PEEKSIGINFO: u32 = 0x4209;
const GETSIGMASK: u32 = 0x420a;
const SETSIGMASK: u32 = 0x420b;
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;

/// `PTRACE_EVENT_STOP`: a group stop, an interruption, or the first stop of a new tracee.
const EVENT_STOP: i32 = 128;

/// Why a thread stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// By our own request, or the first stop of a new tracee; about to return to its code.
    Trap,
    /// A group stop: the signal that stopped the process.
    Group,
    /// A signal is about to be delivered; it is when the thread goes on.
    Signal(i32),
    /// It enters or leaves a system call.
    Syscall,
    /// Its fork or clone made a tracee.
    Child,
    /// Its vfork made a tracee; going on, it sleeps until that one has exited or runs another program.
    Vfork,
    /// It runs another program now.
    Exec,
    /// An event nobody asked for.
    Other,
}

/// What a wait reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Stopped(Stop),
    Exited(i32),
    Killed { signal: i32, core: bool },
}

fn request(request: u32, tid: Tid, address: usize, data: usize) -> io::Result<i64> {
    faults::step();
    // SAFETY: see the head of this file; each caller below passes what its request takes.
    let result = unsafe { libc::ptrace(request, tid.0, address, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether the error says that the thread is no tracee that is stopped: it died or was killed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// Begins to trace a thread without stopping it.
pub(super) fn seize(tid: Tid) -> io::Result<()> {
    request(SEIZE, tid, 0, OPTIONS).map(drop)
}

/// Lets the seccomp filters of a stopped thread rest, or not. They work again when the tracer ends.
pub(super) fn suspend_seccomp(tid: Tid, suspend: bool) -> io::Result<()> {
    let options = OPTIONS | if suspend { SUSPEND_SECCOMP } else { 0 };
    request(libc::PTRACE_SETOPTIONS, tid, 0, options).map(drop)
}

/// Asks a thread to stop before it next runs code of its program.
pub(super) fn interrupt(tid: Tid) -> io::Result<()> {
    request(INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go on; `signal` (0 for none) is delivered if it is at a signal stop.
pub(super) fn resume(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// As [`resume`], up to the next entry or exit of a system call.
pub(super) fn resume_to_syscall(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Leaves a thread in its group stop, but reports what ends it.
pub(super) fn listen(tid: Tid) -> io::Result<()> {
    request(LISTEN, tid, 0, 0).map(drop)
}

/// Ends tracing; the thread goes on.
pub(super) fn detach(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// The new tracee of a [`Stop::Child`], or the former thread id of a [`Stop::Exec`].
pub(super) fn event_message(tid: Tid) -> io::Result<Tid> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(Tid(message as i32))
}

/// The general registers.
pub(super) fn registers(tid: Tid) -> io::Result<Registers> {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
    request(libc::PTRACE_GETREGS, tid, 0, registers.as_mut_ptr() as usize)?;
    // SAFETY: plain integers, all filled in by the request.
    Ok(Registers(unsafe { registers.assume_init() }))
}

/// Sets the general registers.
pub(super) fn set_registers(tid: Tid, registers: &Registers) -> io::Result<()> {
    request(libc::PTRACE_SETREGS, tid, 0, &raw const registers.0 as usize).map(drop)
}

/// The gs base and the gs selector.
pub(super) fn gs(tid: Tid) -> io::Result<(u64, u64)> {
    registers(tid).map(|Registers(registers)| (registers.gs_base, registers.gs))
}

/// Sets the gs base alone.
pub(super) fn set_gs_base(tid: Tid, base: u64) -> io::Result<()> {
    // `struct user` (sys/user.h) begins with the registers.
    let offset = offset_of!(libc::user_regs_struct, gs_base);
    request(libc::PTRACE_POKEUSER, tid, offset, base as usize).map(drop)
}

/// Writes a word of memory of a stopped thread, whatever its protection.
pub(super) fn poke(tid: Tid, at: Addr, word: u64) -> io::Result<()> {
    request(libc::PTRACE_POKEDATA, tid, at.0 as usize, word as usize).map(drop)
}

/// The signal number and code of the signal of a [`Stop::Signal`].
pub(super) fn signal_info(tid: Tid) -> io::Result<(i32, i32)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize)?;
    // SAFETY: zeroed, then filled in; every bit pattern is a siginfo_t.
    let info = unsafe { info.assume_init() };
    Ok((info.si_signo, info.si_code))
}

/// The signals (number, code) in the queue of the thread, or in the queue of its process.
pub(super) fn pending_signals(tid: Tid, of_process: bool) -> io::Result<Vec<(i32, i32)>> {
    // struct __ptrace_peeksiginfo_args: offset, flags (bit 0: the shared queue), number.
    #[repr(C)]
    struct Arguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const AT_ONCE: usize = 32;
    let mut signals = Vec::new();
    loop {
        let arguments =
            Arguments { offset: signals.len() as u64, flags: u32::from(of_process), count: AT_ONCE as i32 };
        let mut infos = [const { MaybeUninit::<libc::siginfo_t>::zeroed() }; AT_ONCE];
        let count =
            request(PEEKSIGINFO, tid, &raw const arguments as usize, infos.as_mut_ptr() as usize)? as usize;
        for info in infos.iter().take(count) {
            // SAFETY: zeroed, then filled in; every bit pattern is a siginfo_t.
            let info = unsafe { info.assume_init_ref() };
            signals.push((info.si_signo, info.si_code));
        }
        if count < AT_ONCE {
            return Ok(signals);
        }
    }
}

/// The signal mask; signal `n` is bit `n - 1`.
pub(super) fn signal_mask(tid: Tid) -> io::Result<u64> {
    let mut mask = 0u64;
    request(GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize)?;
    Ok(mask)
}

/// Sets the signal mask.
pub(super) fn set_signal_mask(tid: Tid, mask: u64) -> io::Result<()> {
    request(SETSIGMASK, tid, size_of::<u64>(), &raw const mask as usize).map(drop)
}

/// Where the thread's `struct rseq` is, if it registered one (Linux 5.13).
pub(super) fn rseq_area(tid: Tid) -> Option<Addr> {
    // struct ptrace_rseq_configuration.
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        area: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    let mut configuration = Configuration::default();
    let size = size_of::<Configuration>();
    request(GET_RSEQ_CONFIGURATION, tid, size, &raw mut configuration as usize).ok()?;
    (configuration.area != 0).then_some(Addr(configuration.area))
}

fn decode(info: &libc::siginfo_t) -> Status {
    // SAFETY: filled in by waitid.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => return Status::Exited(status),
        libc::CLD_KILLED => return Status::Killed { signal: status, core: false },
        libc::CLD_DUMPED => return Status::Killed { signal: status, core: true },
        _ => {}
    }
    let signal = status & 0xff;
    Status::Stopped(match status >> 8 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        EVENT_STOP if signal == libc::SIGTRAP => Stop::Trap,
        EVENT_STOP => Stop::Group,
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE => Stop::Child,
        libc::PTRACE_EVENT_VFORK => Stop::Vfork,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        _ => Stop::Other,
    })
}

/// Asks for a report of one thread, or of any (0), without taking it: (who, what). `None` if there is none.
fn look(tid: Tid, options: i32) -> io::Result<Option<(Tid, Status)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let which = if tid.0 == 0 { libc::P_ALL } else { libc::P_PID };
    let options = options | libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    loop {
        // SAFETY: writable, and zeroed: si_pid is zero if nothing was reported.
        let result = unsafe { libc::waitid(which, tid.0 as libc::id_t, info.as_mut_ptr(), options) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: zeroed, then filled in.
    let info = unsafe { info.assume_init() };
    // SAFETY: as above.
    let reporter = Tid(unsafe { info.si_pid() });
    Ok((reporter.0 != 0).then(|| (reporter, decode(&info))))
}

/// Takes a report, unless it is that of a signal stop.
///
/// Taking that would take the signal too: if the tracer is killed afterwards, the thread goes on without it.
/// Not taken, it is delivered. (kernel/exit.c, `wait_task_stopped`, clears the code that
/// kernel/signal.c, `ptrace_stop`, returns.) So a thread at a signal stop has to be resumed before the
/// next report is asked for.
fn take(tid: Tid, options: i32) -> io::Result<Option<Status>> {
    let Some((tid, status)) = look(tid, options)? else { return Ok(None) };
    if !matches!(status, Status::Stopped(Stop::Signal(_))) {
        faults::step();
        let mut raw = 0;
        // SAFETY: the status is writable. What was seen is there still: only this thread takes it.
        unsafe { libc::waitpid(tid.0, &raw mut raw, libc::__WALL | libc::WNOHANG) };
    }
    Ok(Some(status))
}

/// Waits for the next report of one thread. `None` if it is no tracee or child (any more).
pub(super) fn wait(tid: Tid) -> Option<Status> {
    take(tid, 0).ok().flatten()
}

/// Asks for a report of one thread: `Ok(None)` if there is none yet.
///
/// # Errors
/// It is no tracee or child any more.
pub(super) fn poll(tid: Tid) -> io::Result<Option<Status>> {
    take(tid, libc::WNOHANG)
}

/// A thread that has something to report: a tracee of the calling thread, or one of its children.
pub(super) fn peek_any() -> Option<Tid> {
    let (tid, _) = look(Tid(0), libc::WNOHANG | libc::__WNOTHREAD).ok().flatten()?;
    Some(tid)
}

/// Whether two processes share their memory; `None` if the kernel does not tell (kcmp(2)).
pub(super) fn same_memory(one: i32, other: i32) -> Option<bool> {
    const KCMP_VM: usize = 1;
    // SAFETY: takes numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) } {
        0 => Some(true),
        -1 => None,
        _ => Some(false),
    }
}

/// Blocks SIGCHLD for the calling thread; back to the mask before on drop.
pub(super) struct ChildSignal {
    before: libc::sigset_t,
}

impl ChildSignal {
    /// Blocks it.
    pub(super) fn block() -> ChildSignal {
        let mut before = MaybeUninit::zeroed();
        // SAFETY: both sets are valid; only the calling thread's mask changes.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &Self::set(), before.as_mut_ptr());
            ChildSignal { before: before.assume_init() }
        }
    }

    fn set() -> libc::sigset_t {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: initialised by sigemptyset.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
            set.assume_init()
        }
    }

    /// Waits until SIGCHLD or another signal comes, at most `nanoseconds` (below one second).
    pub(super) fn wait(&self, nanoseconds: u32) {
        let limit = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds.into() };
        // SAFETY: valid pointers; no siginfo is asked for.
        unsafe { libc::sigtimedwait(&Self::set(), ptr::null_mut(), &limit) };
    }
}

impl Drop for ChildSignal {
    fn drop(&mut self) {
        // SAFETY: the mask that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// The calling thread, which is the tracer.
pub(super) fn own_tid() -> i32 {
    // SAFETY: takes and changes nothing.
    unsafe { libc::gettid() }
}

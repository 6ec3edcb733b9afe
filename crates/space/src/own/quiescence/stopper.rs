//! Looking through threads that run, by stopping each for a moment.
//!
//! A process cannot trace itself, so a helper does it: a child that shares this process's memory and
//! descriptors, stops the threads with ptrace(2), looks through the registers and stacks of each, lets it go, and
//! ends. It makes system calls directly and neither allocates nor locks: the thread it has stopped may hold
//! any lock. Its exit signal is zero, so the program's own wait calls do not see it.
//!
//! # Safety
//! The caller of [`look`] waits until the helper has ended; what the helper uses is borrowed until then.

#![allow(unsafe_code, reason = "makes a child in the same memory and traces threads")]

use std::arch::asm;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use super::scan::{Search, Verdict};
use crate::own::signals::BlockedSignals;
use crate::sys::{self, Errno};

/// The helper's stack, in bytes.
const STACK: u64 = 256 << 10;

/// How long a thread may take to stop, in milliseconds.
const PATIENCE: u32 = 200;

/// Registers of a stopped thread: struct user_regs_struct (asm/user_64.h), 27 quadwords; rsp is number 19.
const REGISTERS: usize = 27;
const RSP: usize = 19;

/// What the helper is to do. The pointers are its own until it has ended.
struct Job<'s> {
    search: *mut Search<'s>,
    threads: *const [i32],
    verdicts: *mut [Verdict],
    /// One once the helper may begin.
    begin: AtomicI32,
    /// One once every verdict is there.
    done: AtomicI32,
}

/// Looks through the threads, which are others of this process. Returns a verdict for each.
pub(super) fn look(threads: &[i32], search: &mut Search<'_>) -> Result<Vec<Verdict>, Errno> {
    let verdicts = attempt(threads, search, false)?;
    if !verdicts.contains(&Verdict::Hidden) || !asks_for_leave() {
        return Ok(verdicts);
    }
    attempt(threads, search, true)
}

/// Whether a tracer needs the leave of the traced process (Yama, ptrace_scope 1).
fn asks_for_leave() -> bool {
    sys::read_file(c"/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.first() == Some(&b'1'))
}

fn attempt(threads: &[i32], search: &mut Search<'_>, with_leave: bool) -> Result<Vec<Verdict>, Errno> {
    let mut verdicts = vec![Verdict::Hidden; threads.len()];
    let job = Job {
        search: ptr::from_mut(search),
        threads,
        verdicts: &raw mut verdicts[..],
        begin: AtomicI32::new(0),
        done: AtomicI32::new(0),
    };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: takes unused addresses.
    let stack = unsafe { sys::mmap_anonymous(0, STACK, prot, flags) }?;
    let blocked = BlockedSignals::new();
    // SAFETY: the helper has a stack of its own, and what `job` points to lives, unused, until it has ended.
    let helper = unsafe { spawn(stack + STACK, &job) };
    if helper > 0 {
        if with_leave {
            allow_tracer(helper as usize);
        }
        job.begin.store(1, Ordering::Release);
        wait_for(helper as i32);
        if with_leave {
            allow_tracer(0);
        }
    }
    drop(blocked);
    let done = job.done.load(Ordering::Acquire) == 1;
    // SAFETY: the helper has ended.
    let _ = unsafe { sys::munmap(stack, STACK) };
    match (helper, done) {
        (error @ ..=0, _) => Err(Errno(-error as i32)),
        (_, false) => Err(Errno(libc::ECHILD)),
        _ => Ok(verdicts),
    }
}

fn allow_tracer(pid: usize) {
    // SAFETY: changes who may trace this process, and nothing else.
    unsafe { sys::raw(libc::SYS_prctl, [libc::PR_SET_PTRACER as usize, pid, 0, 0, 0, 0]) };
}

fn wait_for(helper: i32) {
    loop {
        let arguments = [helper as usize, 0, libc::__WALL as usize, 0, 0, 0];
        // SAFETY: stores no status.
        let result = unsafe { sys::raw(libc::SYS_wait4, arguments) };
        if result != -(libc::EINTR as isize) {
            return;
        }
    }
}

/// Makes the helper; it runs [`help`] with `job` and never returns here.
///
/// # Safety
/// `stack_end` is the end of a stack nobody uses; it and `job` stay until the helper has ended.
unsafe fn spawn(stack_end: u64, job: &Job<'_>) -> isize {
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_UNTRACED;
    let result: isize;
    // SAFETY: the child leaves by the call, which does not return; the parent passes over it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => result,
            in("rdi") flags as usize,
            in("rsi") stack_end & !15,
            in("rdx") 0usize, in("r10") 0usize, in("r8") 0usize,
            in("r12") ptr::from_ref(job),
            in("r13") help as extern "C" fn(&Job<'_>) -> !,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// What the helper does.
extern "C" fn help(job: &Job<'_>) -> ! {
    while job.begin.load(Ordering::Acquire) == 0 {
        // SAFETY: no arguments.
        unsafe { sys::raw(libc::SYS_sched_yield, [0; 6]) };
    }
    // SAFETY: valid, and used by nobody else until this process has ended.
    let (search, threads, verdicts) = unsafe { (&mut *job.search, &*job.threads, &mut *job.verdicts) };
    stop_and_look(threads, verdicts, search);
    job.done.store(1, Ordering::Release);
    loop {
        // SAFETY: ends the helper, a thread group of its own; what it still traces goes on.
        unsafe { sys::raw(libc::SYS_exit, [0; 6]) };
    }
}

/// Asks all threads to stop, then looks through each as it does: a thread that waits for a processor stops only once
/// it gets one, and they had better wait together.
fn stop_and_look(threads: &[i32], verdicts: &mut [Verdict], search: &mut Search<'_>) {
    let mut asked = 0;
    for (&thread, verdict) in threads.iter().zip(verdicts.iter_mut()) {
        *verdict = match ptrace(libc::PTRACE_SEIZE, thread, 0, 0) {
            0 => {
                let _ = ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0);
                asked += 1;
                // Unless it stops in time.
                Verdict::Hidden
            }
            gone if gone == -(libc::ESRCH as isize) => Verdict::Gone,
            _ => Verdict::Hidden,
        };
    }
    let mut pauses = 0;
    while asked > 0 && pauses < PATIENCE * 10 {
        let mut status = 0;
        let options = (libc::__WALL | libc::WNOHANG) as usize;
        let arguments = [usize::MAX, &raw mut status as usize, options, 0, 0, 0];
        // SAFETY: writes `status`.
        let thread = unsafe { sys::raw(libc::SYS_wait4, arguments) };
        if thread < 0 {
            return;
        }
        if thread == 0 {
            pause(pauses);
            pauses += 1;
            continue;
        }
        asked -= 1;
        let verdict = look_at(thread as i32, status, search);
        let of_thread = threads.iter().zip(verdicts.iter_mut()).find(|pair| *pair.0 == thread as i32);
        if let Some((_, place)) = of_thread {
            *place = verdict;
        }
    }
}

/// Looks through a thread whose wait status is `status`, and lets it go.
fn look_at(thread: i32, status: i32, search: &mut Search<'_>) -> Verdict {
    if !libc::WIFSTOPPED(status) {
        return Verdict::Gone;
    }
    let mut registers = [0u64; REGISTERS];
    let got = ptrace(libc::PTRACE_GETREGS, thread, 0, registers.as_mut_ptr() as usize);
    let verdict = if got == 0 { search.thread(&registers, registers[RSP]) } else { Verdict::Hidden };
    // A stop for a signal on its way: it is passed on. A stop by our request is an event (bits above 16).
    let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
    let _ = ptrace(libc::PTRACE_DETACH, thread, 0, signal as usize);
    verdict
}

/// The first pauses only give way, the others last 0.1 ms.
fn pause(number: u32) {
    let time = [0u64, 100_000];
    // SAFETY: reads `time`.
    unsafe {
        match number {
            0..64 => sys::raw(libc::SYS_sched_yield, [0; 6]),
            _ => sys::raw(libc::SYS_nanosleep, [time.as_ptr() as usize, 0, 0, 0, 0, 0]),
        }
    };
}

fn ptrace(request: u32, thread: i32, address: usize, data: usize) -> isize {
    // SAFETY: the requests used here write registers into the given buffer at most.
    unsafe { sys::raw(libc::SYS_ptrace, [request as usize, thread as usize, address, data, 0, 0]) }
}

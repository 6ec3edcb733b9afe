//! The parent's side: forks children, watches over them, collects verdicts.
//!
//! # Safety
//!
//! A child runs nothing but [`Runner::start`] and shares one anonymous mapping with the parent. The
//! parent reads the verdicts only after the child has been reaped.

#![allow(unsafe_code, reason = "fork, shared memory, waiting")]

use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::runner::{EXIT_HANDLER, EXIT_MAP, EXIT_NO_XSTATE, Runner};
use super::segments;
use crate::case::Case;
use crate::outcome::Verdict;
use crate::tape::Tape;

/// Why native runs are impossible here.
#[derive(Debug, Error)]
pub enum NativeError {
    /// A system call of the parent failed.
    #[error("{call} failed: {source}")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An area of the trial's address space is taken or cannot be mapped.
    #[error("the child could not map its address space (step {step} of 5)")]
    Map {
        /// The step, as in the child's plan.
        step: i32,
    },
    /// Signal handler or system call filter were refused.
    #[error("the child could not install its signal handler or its seccomp filter")]
    Handler,
    /// The kernel's signal frames hold no XSAVE image.
    #[error("signal frames hold no XSAVE image on this machine")]
    NoXstate,
}

/// How a child ended in the middle of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By a signal that its handler could not take.
    Signal(i32),
    /// By leaving.
    Exit(i32),
    /// It ran without an end and was ended.
    Hung,
}

/// A death, and the run it happened in: 0 for the original, else the copy's number plus 1.
pub type Loss = (Death, u32);

struct Shared {
    at: *mut u8,
    len: usize,
}

impl Shared {
    const HEADER: usize = 64;

    fn new(count: usize) -> Result<Shared, NativeError> {
        let len = Self::HEADER + count * size_of::<Verdict>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let at = unsafe {
            libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(system("mmap"));
        }
        let shared = Shared { at: at.cast(), len };
        for index in 0..count {
            // SAFETY: within the mapping, which is page aligned.
            unsafe { shared.verdicts().add(index).write(Verdict::default()) };
        }
        Ok(shared)
    }

    fn progress(&self) -> &AtomicU32 {
        // SAFETY: the first bytes of the mapping are kept for it; zero is a valid value.
        unsafe { AtomicU32::from_ptr(self.at.cast()) }
    }

    fn verdicts(&self) -> *mut Verdict {
        // SAFETY: behind the header, within the mapping.
        unsafe { self.at.add(Self::HEADER).cast() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference to it outlives `self`.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Runs every case in forked children pinned to one processor. A child that dies loses only the
/// case it was running; one that makes no progress for as long as `patience` is ended.
pub fn run(
    cases: &[Case],
    tape: &Tape,
    processor: usize,
    patience: Duration,
) -> Result<Vec<(Verdict, Option<Loss>)>, NativeError> {
    segments::detect();
    let shared = Shared::new(cases.len())?;
    let mut losses = vec![None; cases.len()];
    let mut from = 0;
    while from < cases.len() {
        shared.progress().store((from as u32) << 3, Ordering::Relaxed);
        let mut runner = Runner::new(cases, tape, from, shared.verdicts(), shared.progress());
        // SAFETY: the child only runs `Runner::start`, which does not allocate or return.
        let child = unsafe { libc::fork() };
        match child {
            -1 => return Err(system("fork")),
            0 => {
                settle(processor);
                runner.start()
            }
            _ => {}
        }
        let death = watch(child, shared.progress(), patience)?;
        let progress = shared.progress().load(Ordering::Relaxed);
        let death = match death {
            Some(death) => death,
            None if (progress >> 3) as usize == cases.len() => break,
            // Code under test can call exit, too.
            None => Death::Exit(0),
        };
        from = (progress >> 3) as usize;
        if let Some(loss) = losses.get_mut(from) {
            *loss = Some((death, progress & 7));
        }
        from += 1;
    }
    // SAFETY: all children are gone; `new` has initialised every verdict.
    let verdicts = unsafe { std::slice::from_raw_parts(shared.verdicts(), cases.len()) };
    Ok(verdicts.iter().copied().zip(losses).collect())
}

/// In the child: dies with the parent, leaves no core file, stays on one processor (cpuid and
/// rdpid answer by processor).
fn settle(processor: usize) {
    // SAFETY: these calls change the child alone.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return;
        }
        let count = libc::CPU_COUNT(&allowed) as usize;
        let chosen = (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| libc::CPU_ISSET(cpu, &allowed))
            .nth(processor % count.max(1));
        if let Some(cpu) = chosen {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
        }
    }
}

/// Waits for a child. `None`: it left in peace.
fn watch(child: i32, progress: &AtomicU32, patience: Duration) -> Result<Option<Death>, NativeError> {
    let (mut seen, mut since) = (u32::MAX, Instant::now());
    let mut hung = false;
    // SAFETY: a descriptor for our own child.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) } as i32;
    let status = loop {
        let mut status = 0;
        // SAFETY: waits for our own child only.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            0 => {}
            -1 => break Err(system("waitpid")),
            _ => break Ok(status),
        }
        let mut poll = libc::pollfd { fd: handle, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry; a bad descriptor is ignored by the kernel and only time passes.
        unsafe { libc::poll(&raw mut poll, 1, if handle < 0 { 5 } else { 50 }) };
        let now = progress.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > patience && !hung {
            hung = true;
            // SAFETY: our own child, not yet reaped.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    };
    if handle >= 0 {
        // SAFETY: opened above.
        unsafe { libc::close(handle) };
    }
    let status = status?;
    if hung {
        return Ok(Some(Death::Hung));
    }
    if libc::WIFSIGNALED(status) {
        return Ok(Some(Death::Signal(libc::WTERMSIG(status))));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(None),
        EXIT_HANDLER => Err(NativeError::Handler),
        EXIT_NO_XSTATE => Err(NativeError::NoXstate),
        code if code > EXIT_MAP && code <= EXIT_MAP + 5 => Err(NativeError::Map { step: code - EXIT_MAP }),
        code => Ok(Some(Death::Exit(code))),
    }
}

fn system(call: &'static str) -> NativeError {
    NativeError::System { call, source: io::Error::last_os_error() }
}

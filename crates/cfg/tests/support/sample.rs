//! Lets a program run at full speed, stops it at random times, and single-steps a while from there.
//!
//! # Safety
//! The child of `fork` calls only what is safe between `fork` and `exec`: `dup2`, `ptrace`, `personality` and
//! `execve` on strings made before. The tracer waits for and continues its own child only.
#![allow(unsafe_code, reason = "ptrace(2) has no safe interface")]

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::step::instruction_pointer;

/// How much processor time a program may take in all: how many others want the processors does not matter.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take by the clock, if it takes no processor time.
const ASLEEP: Duration = Duration::from_secs(1200);

/// How a program is sampled.
pub struct Plan {
    /// How long it runs before each stop.
    pub pauses: Vec<Duration>,
    /// How many instructions are stepped at each.
    pub steps: u64,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Exited(i32),
    Killed(i32),
    /// It did not end, and was killed.
    TooLong,
}

struct Child {
    pid: i32,
    began: Instant,
}

impl Child {
    /// Waits until it stops or ends: the signal it stopped for, or how it ended.
    fn wait(&self) -> Result<i32, Ended> {
        let mut status = 0;
        loop {
            // SAFETY: `pid` is our child, `status` ours.
            let got = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if got == self.pid {
                break;
            }
            if self.processor_time() > PATIENCE || self.began.elapsed() > ASLEEP {
                // SAFETY: `pid` is our child and not yet waited for.
                unsafe {
                    libc::kill(self.pid, libc::SIGKILL);
                    libc::waitpid(self.pid, &raw mut status, libc::__WALL);
                }
                return Err(Ended::TooLong);
            }
            std::thread::yield_now();
        }
        match status {
            _ if libc::WIFEXITED(status) => Err(Ended::Exited(libc::WEXITSTATUS(status))),
            _ if libc::WIFSIGNALED(status) => Err(Ended::Killed(libc::WTERMSIG(status))),
            _ => Ok(libc::WSTOPSIG(status)),
        }
    }

    /// What it has taken so far.
    fn processor_time(&self) -> Duration {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: both fill values of ours.
        let known = unsafe {
            libc::clock_getcpuclockid(self.pid, &raw mut clock) == 0
                && libc::clock_gettime(clock, &raw mut time) == 0
        };
        if known { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) } else { Duration::ZERO }
    }

    fn go_on(&self, request: libc::c_uint, signal: i32) {
        // SAFETY: `pid` is our tracee and stopped.
        unsafe { libc::ptrace(request, self.pid, 0, signal) };
    }

    /// Lets it run for `pause`, and stops it.
    fn run(&self, pause: Duration) -> Result<(), Ended> {
        self.go_on(libc::PTRACE_CONT, 0);
        std::thread::sleep(pause);
        // SAFETY: a signal to a thread of our child.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.pid, libc::SIGSTOP) };
        loop {
            match self.wait()? {
                libc::SIGSTOP => return Ok(()),
                other => self.go_on(libc::PTRACE_CONT, self.without_step(other)),
            }
        }
    }

    fn to_the_end(&self) -> Ended {
        self.go_on(libc::PTRACE_CONT, 0);
        loop {
            match self.wait() {
                Ok(signal) => self.go_on(libc::PTRACE_CONT, self.without_step(signal)),
                Err(ended) => return ended,
            }
        }
    }

    /// The signal to go on with. A `pushf` that was stepped has kept the trap flag (Intel SDM vol. 3, 18.3.1.4), and a `popf` has set it
    /// later on: the trap is ours.
    fn without_step(&self, signal: i32) -> i32 {
        const TF: u64 = 1 << 8;
        // SAFETY: `pid` is our tracee and stopped; zero is a value of both types.
        unsafe {
            let (mut info, mut registers) =
                (std::mem::zeroed::<libc::siginfo_t>(), std::mem::zeroed::<libc::user_regs_struct>());
            let told = libc::ptrace(libc::PTRACE_GETSIGINFO, self.pid, 0, &raw mut info);
            if signal != libc::SIGTRAP || told != 0 || info.si_code != libc::TRAP_TRACE {
                return signal;
            }
            libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut registers);
            registers.eflags &= !TF;
            libc::ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const registers);
        }
        0
    }
}

/// Runs `program` with input from and output to the file given, and calls `visit` with the process and the address of
/// each instruction that is stepped, before it runs.
pub fn sample_into(
    program: &[&str],
    nowhere: &std::fs::File,
    plan: &Plan,
    mut visit: impl FnMut(i32, u64),
) -> Ended {
    let words: Vec<CString> = program.iter().map(|word| CString::new(*word).expect("no zero byte")).collect();
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [c"PATH=/usr/bin:/bin", c"LC_ALL=C", c"HOME=/", c"PYTHONHASHSEED=0"];
    let mut variables: Vec<*const libc::c_char> = environment.iter().map(|word| word.as_ptr()).collect();
    variables.push(std::ptr::null());
    // SAFETY: the child does only what the module's safety section lists.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; the pointers live until exec.
        unsafe {
            for stream in 0..3 {
                libc::dup2(nowhere.as_raw_fd(), stream);
            }
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::execve(pointers[0], pointers.as_ptr(), variables.as_ptr());
            libc::_exit(127);
        }
    }
    let child = Child { pid, began: Instant::now() };
    let sampled = || -> Result<(), Ended> {
        child.wait()?;
        for pause in &plan.pauses {
            child.run(*pause)?;
            for _ in 0..plan.steps {
                visit(pid, instruction_pointer(pid));
                child.go_on(libc::PTRACE_SINGLESTEP, 0);
                let mut stop = child.wait()?;
                while stop != libc::SIGTRAP {
                    child.go_on(libc::PTRACE_SINGLESTEP, stop);
                    stop = child.wait()?;
                }
            }
        }
        Ok(())
    };
    let mut sampled = sampled;
    match sampled() {
        Ok(()) => child.to_the_end(),
        Err(ended) => ended,
    }
}

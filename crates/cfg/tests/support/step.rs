//! Single-steps a program and hands out every transfer from one instruction to the next.
//!
//! # Safety
//! The child of `fork` calls only what is safe between `fork` and `exec`: `ptrace`, `personality` and
//! `execv` on strings made before. The tracer passes pointers to its own variables.
#![allow(unsafe_code, reason = "ptrace(2) has no safe interface")]

use std::ffi::CString;
use std::os::fd::AsRawFd;

/// How a run ended.
pub struct Ran {
    pub steps: u64,
    /// The exit code; `None` if it was still running when the limit was reached, and was killed.
    pub exit: Option<i32>,
}

/// Runs `program` with output to nowhere, and calls `visit` with the process and the addresses of each two
/// instructions that ran one after the other. Transfers that a signal makes are left out.
pub fn step(program: &[&str], limit: u64, mut visit: impl FnMut(i32, u64, u64)) -> std::io::Result<Ran> {
    let words: Vec<CString> = program.iter().map(|word| CString::new(*word).expect("no zero byte")).collect();
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [c"PATH=/usr/bin:/bin", c"LC_ALL=C", c"HOME=/"];
    let mut variables: Vec<*const libc::c_char> = environment.iter().map(|word| word.as_ptr()).collect();
    variables.push(std::ptr::null());
    let nowhere = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
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
    let mut status = 0;
    let wait = |status: &mut i32| {
        // SAFETY: `status` is ours.
        unsafe { libc::waitpid(pid, status, libc::__WALL) }
    };
    wait(&mut status);
    let (mut steps, mut before, mut signal) = (0, None, 0);
    while libc::WIFSTOPPED(status) {
        if steps == limit {
            // SAFETY: `pid` is our child and not yet waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            wait(&mut status);
            return Ok(Ran { steps, exit: None });
        }
        let ip = instruction_pointer(pid);
        if let Some(before) = before.filter(|before| *before != ip && signal == 0) {
            visit(pid, before, ip);
        }
        let stop = libc::WSTOPSIG(status);
        signal = if stop == libc::SIGTRAP { 0 } else { stop };
        before = Some(ip);
        steps += 1;
        // SAFETY: `pid` is our tracee and stopped.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, signal) };
        wait(&mut status);
    }
    Ok(Ran { steps, exit: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) })
}

fn instruction_pointer(pid: i32) -> u64 {
    let offset = std::mem::offset_of!(libc::user_regs_struct, rip);
    // SAFETY: `pid` is our tracee and stopped; the result is returned, nothing is written.
    unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, pid, offset, 0) as u64 }
}

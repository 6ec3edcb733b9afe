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
    #[allow(dead_code, reason = "not every test counts")]
    pub steps: u64,
    /// The exit code; `None` if it was still running when the limit was reached, and was killed.
    pub exit: Option<i32>,
}

/// Runs `program` with output to nowhere, and calls `visit` with the process and the addresses of each two
/// instructions that ran one after the other. Transfers that a signal makes are left out.
#[allow(dead_code, reason = "not every test wants no output")]
pub fn step(program: &[&str], limit: u64, visit: impl FnMut(i32, u64, u64)) -> std::io::Result<Ran> {
    let nowhere = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    step_into(program, limit, nowhere, visit)
}

/// As [`step`], with input from and output to the file given.
pub fn step_into(
    program: &[&str],
    limit: u64,
    nowhere: std::fs::File,
    mut visit: impl FnMut(i32, u64, u64),
) -> std::io::Result<Ran> {
    let words: Vec<CString> = program.iter().map(|word| CString::new(*word).expect("no zero byte")).collect();
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [c"PATH=/usr/bin:/bin", c"LC_ALL=C", c"HOME=/"];
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

pub fn instruction_pointer(pid: i32) -> u64 {
    let offset = std::mem::offset_of!(libc::user_regs_struct, rip);
    // SAFETY: `pid` is our tracee and stopped; the result is returned, nothing is written.
    unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, pid, offset, 0) as u64 }
}

/// The general-purpose registers of a stopped tracee.
#[allow(dead_code, reason = "not every test changes registers")]
pub fn registers(pid: i32) -> libc::user_regs_struct {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: `pid` is our tracee and stopped; the pointer is to our own variable.
    unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers) };
    registers
}

/// Sets them.
#[allow(dead_code, reason = "not every test changes registers")]
pub fn set_registers(pid: i32, registers: &libc::user_regs_struct) {
    // SAFETY: as for `registers`; the structure is only read.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const *registers) };
}

/// Changes the low halves of vector registers 0 to 15 of a stopped tracee.
#[allow(dead_code, reason = "not every test changes registers")]
pub fn change_vectors(pid: i32, change: impl FnOnce(&mut [[u32; 4]; 16])) {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut state: libc::user_fpregs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: `pid` is our tracee and stopped; the pointer is to our own variable.
    unsafe { libc::ptrace(libc::PTRACE_GETFPREGS, pid, 0, &raw mut state) };
    let mut vectors = [[0; 4]; 16];
    for (vector, words) in vectors.iter_mut().zip(state.xmm_space.as_chunks::<4>().0) {
        *vector = *words;
    }
    change(&mut vectors);
    for (vector, words) in vectors.iter().zip(state.xmm_space.as_chunks_mut::<4>().0) {
        *words = *vector;
    }
    // SAFETY: as above; the structure is only read.
    unsafe { libc::ptrace(libc::PTRACE_SETFPREGS, pid, 0, &raw const state) };
}

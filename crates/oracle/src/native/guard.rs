//! The child's seal: wrong code may run any instruction, but few system calls.
//!
//! # Safety
//!
//! The filter is a static program that the kernel copies.

#![allow(unsafe_code, reason = "installs a seccomp filter")]

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// System calls that change nothing and answer the same each time; `syscall` is run with these.
pub const HARMLESS: [u32; 6] = [
    libc::SYS_getpid as u32,
    libc::SYS_getuid as u32,
    libc::SYS_getgid as u32,
    libc::SYS_geteuid as u32,
    libc::SYS_getegid as u32,
    libc::SYS_gettid as u32,
];

const OWN: [u32; 3] =
    [libc::SYS_rt_sigreturn as u32, libc::SYS_exit_group as u32, libc::SYS_arch_prctl as u32];
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_OFFSET: u32 = 4;
const NUMBER_OFFSET: u32 = 0;

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips `jf` statements unless the loaded word equals `k`.
const fn unless_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt, jf, k }
}

/// From here on every system call but the harness's own and the harmless ones fails with ENOSYS.
/// Returns whether the kernel took the filter.
pub fn seal() -> bool {
    const COUNT: usize = OWN.len() + HARMLESS.len();
    let refuse = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut program = [refuse; COUNT + 5];
    program[0] = statement(BPF_LD | BPF_W | BPF_ABS, ARCH_OFFSET);
    program[1] = unless_equal(AUDIT_ARCH_X86_64, 0, COUNT as u8 + 1);
    program[2] = statement(BPF_LD | BPF_W | BPF_ABS, NUMBER_OFFSET);
    for (index, &number) in OWN.iter().chain(&HARMLESS).enumerate() {
        program[3 + index] = unless_equal(number, (COUNT - index) as u8, 0);
    }
    program[COUNT + 4] = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW);
    let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter outlives the calls; both only restrict this process.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    }
}

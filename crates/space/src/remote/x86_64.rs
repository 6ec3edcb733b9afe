//! What is particular to x86-64: registers, interrupted system calls, the injected code.

use incise_isa::Addr;

use crate::Landing;

/// General registers of a stopped thread.
#[derive(Clone, Copy)]
pub(super) struct Registers(pub(super) libc::user_regs_struct);

/// The code segment of 64-bit programs (Linux, asm/segment.h: `__USER_CS`).
const USER_CS: u64 = 0x33;

/// Length of the instruction `syscall`.
const SYSCALL_LEN: u64 = 2;

// What an interrupted system call has in rax until the kernel ends it (linux/errno.h).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// Not in the C library crate (asm/unistd_64.h).
const SYS_IO_PGETEVENTS: i64 = 333;

/// System calls that a mere stop makes fail with EINTR, where others are restarted (signal(7),
/// "Interruption of system calls and library functions by stop signals").
const STOP_INTERRUPTS: [i64; 9] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_uring_enter,
];

impl Registers {
    /// The instruction pointer.
    pub(super) fn ip(&self) -> Addr {
        Addr(self.0.rip)
    }

    /// The stack pointer.
    pub(super) fn sp(&self) -> Addr {
        Addr(self.0.rsp)
    }

    /// The general registers that may hold an address, but for the instruction pointer.
    pub(super) fn words(&self) -> [u64; 16] {
        let r = &self.0;
        [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ]
    }

    /// The first argument, at the beginning of a function.
    pub(super) fn first_argument(&self) -> u64 {
        self.0.rdi
    }

    /// What the system call returned, at its exit.
    pub(super) fn result(&self) -> i64 {
        self.0.rax as i64
    }

    /// The number of the system call, at its entry.
    pub(super) fn syscall_number(&self) -> i64 {
        self.0.orig_rax as i64
    }

    /// Whether the thread runs 64-bit code.
    pub(super) fn is_64_bit(&self) -> bool {
        self.0.cs == USER_CS
    }

    /// Whether the thread is inside a system call that the kernel is going to restart or end.
    pub(super) fn in_restart(&self) -> bool {
        self.syscall_number() >= 0
            && matches!(self.result(), ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
    }

    /// Whether the thread is at the end of a system call that failed only because the thread was to stop.
    pub(super) fn failed_by_stop(&self) -> bool {
        self.result() == -i64::from(libc::EINTR) && STOP_INTERRUPTS.contains(&self.syscall_number())
    }

    /// The same thread, going on at `ip` and outside any system call.
    pub(super) fn moved_to(&self, ip: Addr) -> Registers {
        let mut registers = *self;
        registers.0.rip = ip.0;
        registers.0.orig_rax = u64::MAX;
        registers
    }

    /// The same thread, about to make its system call again.
    pub(super) fn restarted(&self) -> Registers {
        let mut registers = self.moved_to(self.ip() - SYSCALL_LEN);
        registers.0.rax = self.0.orig_rax;
        registers
    }

    /// What the thread goes on with if nobody touches it: as the kernel ends an interrupted system call
    /// for which no handler runs (arch/x86/kernel/signal.c, `arch_do_signal_or_restart`).
    fn resumption(&self) -> Registers {
        if !self.in_restart() {
            return *self;
        }
        let mut registers = self.restarted();
        if self.result() == ERESTART_RESTARTBLOCK {
            registers.0.rax = libc::SYS_restart_syscall as u64;
        }
        registers
    }

    /// The thread about to run the code of [`blob`] at `blob`, which makes this system call.
    pub(super) fn calling(&self, blob: Addr, number: i64, arguments: [u64; 6]) -> Registers {
        let mut registers = self.moved_to(blob);
        let r = &mut registers.0;
        r.rax = number as u64;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = arguments;
        registers
    }
}

/// Length of [`blob`] in bytes.
pub(super) const BLOB_LEN: usize = 106;

/// Code that makes one system call and then lets the thread go on as if it had been left alone.
///
/// `syscall` changes rax, rcx and r11; the arguments are in rdi, rsi, rdx, r10, r8 and r9; all nine come
/// back as immediate values, then an indirect jump leads to the instruction pointer. `mov` and `jmp` change no
/// flag. Nothing is written to memory.
pub(super) fn blob(thread: &Registers) -> [u8; BLOB_LEN] {
    let r = thread.resumption().0;
    let values = [r.rax, r.rcx, r.r11, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let mut code = [0; BLOB_LEN];
    code[..2].copy_from_slice(&SYSCALL);
    for (place, (opcode, value)) in code[2..92].chunks_exact_mut(10).zip(MOVES.into_iter().zip(values)) {
        place[..2].copy_from_slice(&opcode);
        place[2..].copy_from_slice(&value.to_le_bytes());
    }
    code[92..98].copy_from_slice(&JUMP);
    code[98..].copy_from_slice(&r.rip.to_le_bytes());
    code
}

/// Length of [`tail`] in bytes.
pub(super) const TAIL_LEN: usize = BLOB_LEN - 2;

/// What of [`blob`] comes behind its system call.
pub(super) fn tail(thread: &Registers) -> [u8; TAIL_LEN] {
    let mut code = [0; TAIL_LEN];
    code.copy_from_slice(&blob(thread)[2..]);
    code
}

/// Whether these bytes are what [`blob`] makes.
pub(super) fn is_blob(code: &[u8; BLOB_LEN]) -> bool {
    code[..2] == SYSCALL
        && code[2..92].chunks_exact(10).zip(MOVES).all(|(place, opcode)| place[..2] == opcode)
        && code[92..98] == JUMP
}

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0F, 0x05];
/// REX.W + B8+r for rax, rcx, r11, rdi, rsi, rdx, r10, r8 and r9 (AMD APM vol. 3, MOV).
const MOVES: [[u8; 2]; 9] = [
    [0x48, 0xB8],
    [0x48, 0xB9],
    [0x49, 0xBB],
    [0x48, 0xBF],
    [0x48, 0xBE],
    [0x48, 0xBA],
    [0x49, 0xBA],
    [0x49, 0xB8],
    [0x49, 0xB9],
];
/// `jmp [rip]`.
const JUMP: [u8; 6] = [0xFF, 0x25, 0, 0, 0, 0];

/// What a thread at `ip` that gets `signal` is listed under among the landings, if it ran a trap or faulted.
pub(super) fn trap_address(signal: i32, ip: Addr) -> Addr {
    match signal {
        libc::SIGTRAP => ip - incise_isa::native::TRAP_LEN,
        libc::SIGILL => ip,
        _ => Landing::fault(ip, ip).trap,
    }
}

/// Offset of the saved rip and rsp in the frame of a signal handler, counted from its return address
/// (kernel ABI: asm/sigcontext.h; `struct rt_sigframe` begins with the return address, then the ucontext).
pub(super) const FRAME_SP: usize = 8 + 40 + 15 * 8;

/// The code every restorer of a signal handler begins with: `mov $15, %rax; syscall`. Unwinders depend on it.
pub(super) const RESTORER_CODE: [u8; 9] = [0x48, 0xC7, 0xC0, 0x0F, 0, 0, 0, 0x0F, 0x05];

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        // Every field different.
        let mut words = [0u64; size_of::<libc::user_regs_struct>() / 8];
        for (word, value) in words.iter_mut().zip(0x1111_2222_3333_4400u64..) {
            *word = value;
        }
        let [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, ..] = words;
        let [.., rsp, ss, fs_base, gs_base, ds, es, fs, gs] = words;
        let (orig_rax, rip, cs, eflags) = (u64::MAX, 0x5555_0000_1000, USER_CS, 0x202);
        Registers(libc::user_regs_struct {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax,
            rip,
            cs,
            eflags,
            rsp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        })
    }

    fn immediate(code: &[u8; BLOB_LEN], index: usize) -> u64 {
        let at = 4 + index * 10;
        u64::from_le_bytes(code[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn a_thread_outside_system_calls_goes_on_where_it_was() {
        let code = blob(&registers());
        assert!(is_blob(&code) && !is_blob(&[0; BLOB_LEN]));
        assert_eq!(immediate(&code, 0), registers().0.rax);
        assert_eq!(immediate(&code, 8), registers().0.r9);
        assert_eq!(code[98..], 0x5555_0000_1000u64.to_le_bytes());
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut thread = registers();
        thread.0.orig_rax = libc::SYS_read as u64;
        thread.0.rax = ERESTARTSYS as u64;
        let code = blob(&thread);
        assert_eq!(immediate(&code, 0), libc::SYS_read as u64);
        assert_eq!(code[98..], 0x5555_0000_0ffeu64.to_le_bytes());
        thread.0.rax = ERESTART_RESTARTBLOCK as u64;
        assert_eq!(immediate(&blob(&thread), 0), libc::SYS_restart_syscall as u64);
    }

    #[test]
    fn a_finished_call_keeps_its_result() {
        let mut thread = registers();
        thread.0.orig_rax = libc::SYS_read as u64;
        thread.0.rax = -i64::from(libc::EINTR) as u64;
        assert_eq!(immediate(&blob(&thread), 0), -i64::from(libc::EINTR) as u64);
        assert!(!thread.failed_by_stop(), "read(2) is restarted by the kernel itself");
        thread.0.orig_rax = libc::SYS_epoll_wait as u64;
        assert!(thread.failed_by_stop());
    }
}

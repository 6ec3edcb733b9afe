//! The machine code of the trap handler.
//!
//! Position-independent; uses general registers and 48 bytes of stack; no vector registers, no
//! thread-local storage, no library, no lock: async-signal-safe, for any number of threads at once.
//!
//! # Safety
//! The symbols `incise_trap_begin` and `incise_trap_end` are defined here, around constant bytes.

#![allow(unsafe_code, reason = "assembles the handler and refers to its first and last byte")]

use std::mem::offset_of;
use std::ptr;

use super::{HANDLER, KernelSigaction, Previous, RESTORER, TABLE_HEAD, TrapHeader};
use crate::Landing;

// Offsets in what the kernel gives a handler (kernel ABI: asm-generic/siginfo.h, asm/sigcontext.h).
const SI_CODE: usize = 8;
const UC_RIP: usize = 168;
const UC_SIGMASK: usize = 296;

// Kept in `.rodata`: these bytes run as a copy only.
//
// How a previous action is chained to: as the kernel would have called it. A handler gets the same
// three arguments by a jump, so it returns to the restorer itself. Before that the mask is made what the kernel
// would have made it: the interrupted code's and the action's; sigreturn takes that back. SA_RESETHAND is done on
// the header's copy. SIG_DFL becomes the real action and the signal is sent again with its siginfo: it is
// delivered when this handler returns. SIG_IGN lets a signal that was sent pass and a signal that a
// fault forced kill, as force_sig does.
std::arch::global_asm!(
    ".pushsection .rodata.incise_trap, \"a\", @progbits",
    ".balign 16",
    ".hidden incise_trap_begin",
    ".globl incise_trap_begin",
    "incise_trap_begin:",
    "2: .quad 0", // address of the header
    "",
    ".org incise_trap_begin + {RESTORER}, 0xcc",
    // These nine bytes are how unwinders and debuggers know a signal frame.
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0", // mov $15, %rax: rt_sigreturn
    "syscall",
    "",
    ".org incise_trap_begin + {HANDLER}, 0xcc",
    "endbr64",
    "mov r8, [rip + 2b]",
    "xor eax, eax",
    "lock inc qword ptr [r8 + {ACTIVE}]", // before `table` is read
    "mov r9, [r8 + {TABLE}]",
    "mov rcx, [rdx + {UC_RIP}]",
    "cmp edi, {SIGTRAP}",
    "jne 3f",
    // int3 gives SI_KERNEL; anything else was sent, or comes from single-stepping.
    "cmp dword ptr [rsi + {SI_CODE}], {SI_KERNEL}",
    "jne 9f",
    "dec rcx",
    "jmp 4f",
    "3: cmp dword ptr [rsi + {SI_CODE}], 0",
    "jle 9f", // sent
    "cmp edi, {SIGILL}",
    "setne al",
    "4: test r9, r9",
    "jz 9f",
    "sub rcx, [r8 + {BIAS}]",
    "shl rax, {FAULT_BIT}",
    "or rcx, rax",
    // Binary search; r10 and r11 are the bounds, as offsets in bytes.
    "xor r10d, r10d",
    "mov r11, [r9]",
    "shl r11, 4",
    "5: cmp r10, r11",
    "jae 9f",
    "lea rax, [r10 + r11]",
    "shr rax, 1",
    "and rax, -16",
    "cmp rcx, [r9 + rax + {TABLE_HEAD}]",
    "je 7f",
    "ja 6f",
    "mov r11, rax",
    "jmp 5b",
    "6: lea r10, [rax + 16]",
    "jmp 5b",
    "7: mov rax, [r9 + rax + {TABLE_HEAD} + 8]",
    "add rax, [r8 + {BIAS}]",
    "mov [rdx + {UC_RIP}], rax",
    "lock dec qword ptr [r8 + {ACTIVE}]",
    "ret",
    "",
    "9: lock dec qword ptr [r8 + {ACTIVE}]",
    "imul eax, edi, {PREVIOUS_SIZE}",
    "lea r9, [r8 + rax + {PREVIOUS}]",
    "mov rax, [r9 + {ACTION_HANDLER}]",
    "3: cmp rax, 1",
    "jb 7f",
    "je 6f",
    "bt dword ptr [r9 + {ACTION_FLAGS}], 31", // SA_RESETHAND
    "jnc 4f",
    "xor eax, eax",
    "xchg rax, [r9 + {ACTION_HANDLER}]",
    "cmp rax, 1",
    "jbe 3b", // another thread was first
    "4: push rax",
    "push rdi",
    "push rsi",
    "push rdx",
    "mov rcx, [rdx + {UC_SIGMASK}]",
    "or rcx, [r9 + {BLOCKED}]",
    "push rcx",
    "mov edi, {SIG_SETMASK}",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {SYS_rt_sigprocmask}",
    "syscall",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop rax",
    "mov r11, rax",
    "xor eax, eax",
    "jmp r11",
    "",
    "6: cmp dword ptr [rsi + {SI_CODE}], 0", // SIG_IGN
    "jg 7f",
    "ret",
    "",
    "7: push rdi", // SIG_DFL
    "push rsi",
    "xor eax, eax",
    "push rax",
    "push rax",
    "push rax",
    "push rax", // struct kernel_sigaction, all zero
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {SYS_rt_sigaction}",
    "syscall",
    "add rsp, 32",
    "mov eax, {SYS_getpid}",
    "syscall",
    "mov r8d, eax",
    "mov eax, {SYS_gettid}",
    "syscall",
    "pop r10", // siginfo
    "pop rdx", // signal
    "mov edi, r8d",
    "mov esi, eax",
    "mov eax, {SYS_rt_tgsigqueueinfo}",
    "syscall",
    "test eax, eax",
    "jz 8f",
    "mov eax, {SYS_tgkill}",
    "syscall",
    "8: ret",
    "",
    ".hidden incise_trap_chain",
    ".globl incise_trap_chain",
    "incise_trap_chain:",
    "mov r8, [rip + 2b]",
    "lock inc qword ptr [r8 + {ACTIVE}]",
    "jmp 9b",
    ".hidden incise_trap_end",
    ".globl incise_trap_end",
    "incise_trap_end:",
    ".popsection",
    RESTORER = const RESTORER,
    HANDLER = const HANDLER,
    ACTIVE = const TrapHeader::ACTIVE,
    TABLE = const TrapHeader::TABLE,
    BIAS = const TrapHeader::BIAS,
    TABLE_HEAD = const TABLE_HEAD,
    PREVIOUS = const TrapHeader::previous_offset(1) as isize - size_of::<Previous>() as isize,
    PREVIOUS_SIZE = const size_of::<Previous>(),
    ACTION_HANDLER = const offset_of!(Previous, action) + offset_of!(KernelSigaction, handler),
    ACTION_FLAGS = const offset_of!(Previous, action) + offset_of!(KernelSigaction, flags),
    BLOCKED = const offset_of!(Previous, blocked),
    FAULT_BIT = const Landing::FAULT.trailing_zeros(),
    SI_CODE = const SI_CODE,
    UC_RIP = const UC_RIP,
    UC_SIGMASK = const UC_SIGMASK,
    SIG_SETMASK = const libc::SIG_SETMASK,
    SIGTRAP = const libc::SIGTRAP,
    SIGILL = const libc::SIGILL,
    SI_KERNEL = const libc::SI_KERNEL,
    SYS_rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    SYS_rt_sigaction = const libc::SYS_rt_sigaction,
    SYS_getpid = const libc::SYS_getpid,
    SYS_gettid = const libc::SYS_gettid,
    SYS_rt_tgsigqueueinfo = const libc::SYS_rt_tgsigqueueinfo,
    SYS_tgkill = const libc::SYS_tgkill,
);

unsafe extern "C" {
    static incise_trap_begin: u8;
    static incise_trap_chain: u8;
    static incise_trap_end: u8;
}

/// Offset in the image of another entry of the handler, for signals that are known not to be ours.
pub fn chain() -> usize {
    let (begin, chain) = (&raw const incise_trap_begin, &raw const incise_trap_chain);
    (chain as usize).wrapping_sub(begin as usize)
}

/// The code as assembled, with no header filled in: see [`super::handler_image`].
pub fn handler_code() -> &'static [u8] {
    let (begin, end) = (&raw const incise_trap_begin, &raw const incise_trap_end);
    // SAFETY: the two symbols enclose constant, initialised bytes of this program's read-only data.
    unsafe { &*ptr::slice_from_raw_parts(begin, end.byte_offset_from(begin) as usize) }
}

//! The guard: one callback at a time on each thread, and none while the thread is in a transaction.
//!
//! A probe that its thread runs into inside a callback does not call back: the callback would call itself, or find
//! its own data half changed. Such hits are counted ([`skipped`]). The guard holds the address of the frame of the
//! callback that runs. A callback that does not return (longjmp(3)) leaves it there; it is told from one that runs by
//! the frame: at or below the stack pointer, or overwritten.
//!
//! # Safety
//! The thread-local quadword `incise_callback_guard` is defined here and reached by its distance from the
//! thread pointer (initial-exec model, ELF TLS ABI), so that no code is called to find it.

#![allow(unsafe_code, reason = "reaches a thread-local variable and stack frames by address")]

use std::arch::{asm, global_asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

global_asm!(
    ".pushsection .tbss.incise_callback_guard, \"awT\", @nobits",
    ".balign 8",
    ".hidden incise_callback_guard",
    ".globl incise_callback_guard",
    ".type incise_callback_guard, @object",
    ".size incise_callback_guard, 8",
    "incise_callback_guard: .zero 8",
    ".popsection",
);

/// The value of the guard in a transaction.
pub(super) const NOT_NOW: i64 = -1;

/// A frame's mark is its address and this.
pub(super) const MARK: u64 = 0x5CA1_AB1E_0DDB_A115;

/// Frames further apart than this are not looked at: the stack they were on may be gone.
const NEAR: u32 = 1 << 20;

pub(super) static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// How many hits of callback probes did not call back, because their thread was in a callback already, or in a
/// method of a [`Session`](crate::Session). In all threads, since the process began.
pub fn skipped() -> u64 {
    SKIPPED.load(Ordering::Relaxed)
}

/// While it lives, no probe calls back on this thread.
pub(crate) struct NoCallbacks(i64);

impl NoCallbacks {
    pub(crate) fn new() -> NoCallbacks {
        NoCallbacks(exchange(NOT_NOW))
    }
}

impl Drop for NoCallbacks {
    fn drop(&mut self) {
        exchange(self.0);
    }
}

fn exchange(value: i64) -> i64 {
    let before;
    // SAFETY: the quadword is this thread's own.
    unsafe {
        asm!(
            "mov {at}, [rip + incise_callback_guard@GOTTPOFF]",
            "mov {before}, fs:[{at}]",
            "mov fs:[{at}], {value}",
            at = out(reg) _,
            before = out(reg) before,
            value = in(reg) value,
            options(nostack),
        );
    }
    before
}

/// Whether the callback whose frame is at r13 was left for good. The frame of the present one is at rbx.
///
/// Returns 1 or 0 in eax; changes rcx, rdx, rsi, rdi, r8 to r11 and flags, no vector register.
///
/// # Safety
/// To be called by entries only.
#[unsafe(naked)]
#[unsafe(link_section = "incise_callback")]
pub(super) unsafe extern "C" fn is_over() {
    naked_asm!(
        "mov rax, r13",
        "sub rax, rbx",
        "jbe 2f",
        // The other frame is above, so it is in use unless something else lies there now.
        "cmp rax, {NEAR}",
        "ja 4f",
        "movabs rax, {MARK}",
        "xor rax, r13",
        "cmp rax, [r13 + 152]",
        "jne 3f",
        "jmp 4f",
        // Below: it was left, unless this is a signal handler on a stack of its own.
        "2:",
        "sub rsp, 24",
        "xor edi, edi",
        "mov rsi, rsp",
        "mov eax, {SYS_sigaltstack}",
        "syscall",
        "mov edi, [rsp + 8]",  // ss_flags
        "mov rcx, [rsp + 16]", // ss_size
        "mov rsi, [rsp]",      // ss_sp
        "lea rsp, [rsp + 24]",
        "test eax, eax",
        "jnz 3f",
        "test edi, {SS_ONSTACK}",
        "jz 3f",
        "mov rax, r13",
        "sub rax, rsi",
        "cmp rax, rcx",
        "jb 3f",
        "4:",
        "xor eax, eax",
        "ret",
        "3:",
        "mov eax, 1",
        "ret",
        NEAR = const NEAR,
        MARK = const MARK,
        SYS_sigaltstack = const libc::SYS_sigaltstack,
        SS_ONSTACK = const libc::SS_ONSTACK,
    )
}

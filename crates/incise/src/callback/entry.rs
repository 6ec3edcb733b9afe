//! The entries: machine code between a trampoline and a callback.
//!
//! # Safety
//! An entry is called by a trampoline only: the red zone is skipped, the return address leads to the
//! seven-byte `nop` of [`CallRecord`], and the record's payload is a [`Callback`](super::Callback) and its argument. It leaves
//! every register, the flags and the stack as the [`Context`](super::Context) says, whatever the callback does within its ABI.
//!
//! Nothing here calls code that may be probed before the guard is set: the guard is a thread-local quadword at
//! a fixed distance from the thread pointer, and all of it is machine code in one section, in which no probe
//! is allowed ([`is_machinery`]).
//!
//! To unwinders an entry looks like a signal handler's return: its caller is the probed instruction itself, with the registers
//! of the [`Context`](super::Context), so that a backtrace in a callback shows the program's frames and no trampoline.
//!
//! Layout of the frame, from the saved rsp up: the [`Context`] (152 bytes), the mark (8 bytes), the return address
//! into the trampoline, the red zone (128 bytes), the program's stack.

#![allow(unsafe_code, reason = "saves and restores the registers of the probed program")]

use std::arch::{asm, naked_asm};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use incise_isa::Addr;
use incise_patch::CallRecord;

use super::VectorState;
use super::guard::{MARK, NOT_NOW, is_over};
use vectors::{
    entry_avx, entry_avx_wide, entry_avx512, entry_sse, function_entry_avx, function_entry_avx_wide,
    function_entry_avx512, function_entry_sse,
};

/// Where errno is, counted from the thread pointer: the C library keeps it in the thread's own block, at the same
/// place in each (ELF Handling For Thread-Local Storage, 4.3, initial exec).
static ERRNO: AtomicU64 = AtomicU64::new(0);

/// The entries that keep `vector`: for any point, and for those where a function begins.
pub(super) fn of(vector: VectorState) -> [unsafe extern "C" fn(); 2] {
    let thread: u64;
    // SAFETY: the thread pointer points to itself (psABI x86-64, 3.4.2).
    unsafe { asm!("mov {}, fs:[0]", out(reg) thread, options(pure, readonly, nostack, preserves_flags)) };
    // SAFETY: only tells an address.
    let errno = unsafe { libc::__errno_location() } as u64;
    ERRNO.store(errno.wrapping_sub(thread), Ordering::Relaxed);
    match vector {
        VectorState::None => [entry_none, function_entry_none],
        VectorState::Sse => [entry_sse, function_entry_sse],
        VectorState::Avx if vector.register_len() == 64 => [entry_avx_wide, function_entry_avx_wide],
        VectorState::Avx => [entry_avx, function_entry_avx],
        VectorState::Avx512 | VectorState::Full => [entry_avx512, function_entry_avx512],
    }
}

// The linker names the bounds of a section whose name is an identifier.
unsafe extern "C" {
    static __start_incise_callback: u8;
    static __stop_incise_callback: u8;
}

/// Whether the code at `at`, in this process, is that of the entries. A callback there would call itself.
pub(crate) fn is_machinery(at: Addr) -> bool {
    // Programs that make no callbacks have the section, and so its bounds, because of this.
    std::hint::black_box(entry_none as unsafe extern "C" fn());
    let (start, stop) = (&raw const __start_incise_callback, &raw const __stop_incise_callback);
    (start as u64..stop as u64).contains(&at.0)
}

/// Flags: alignment check, direction (AMD APM vol. 1, 3.1.4).
const AC: i32 = 1 << 18;
const DF: i32 = 1 << 10;

/// A register goes to its place in the [`Context`](super::Context).
macro_rules! push {
    ($register:literal) => {
        concat!("push ", $register, "\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset ", $register, ", 0")
    };
}

/// A register comes back from there.
macro_rules! pop {
    ($register:literal) => {
        concat!("pop ", $register, "\n.cfi_adjust_cfa_offset -8\n.cfi_restore ", $register)
    };
}

/// The flags go to rcx and to their place.
macro_rules! take_flags {
    // Functions expect to count upwards; with alignment checks on, they may fault.
    (any) => {
        concat!(
            // A pop to memory takes longer.
            "pushfq\n.cfi_adjust_cfa_offset 8\n",
            "mov rcx, [rsp]\n",
            "lea rsp, [rsp + 8]\n.cfi_adjust_cfa_offset -8\n",
            "mov [rsp + 128], rcx\n",
            "test ecx, {AC} + {DF}\n",
            "jnz 8f\n",
        )
    };
    // The direction flag is clear. IF and the bit that is always set stand for all that lahf does not tell.
    (function) => {
        concat!(
            "lahf\n",
            "seto al\n",
            "movzx ecx, ah\n",
            "movzx eax, al\n",
            "shl eax, 11\n",
            "lea ecx, [rcx + rax + 0x200]\n",
            "mov [rsp + 128], rcx\n",
        )
    };
}

/// Defines the two entries. `$save` keeps the vector registers in a multiple of 64 bytes at rsp, `$restore` puts them back.
macro_rules! entries {
    ($name:ident, $function_name:ident, $($vectors:tt)*) => {
        entry!($name, any, $($vectors)*);
        entry!($function_name, function, $($vectors)*);
    };
}

macro_rules! entry {
    ($name:ident, $flags:ident, [$($save:literal),*], [$($restore:literal),*]) => {
        /// # Safety
        /// To be called by trampolines only; see the head of the file.
        #[unsafe(naked)]
        #[unsafe(link_section = "incise_callback")]
        pub(super) unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc simple",
                ".cfi_signal_frame",
                ".cfi_def_cfa rsp, 136",
                // The site of the record that the nop at the return address names.
                ".cfi_escape 0x16, 16, 19, 0x08, 136, 0x1c, 0x06, 0x12, 0x23, 3, 0x94, 4, 0x08, 32, 0x24, 0x08, 32, \
                    0x26, 0x22, 0x23, 16, 0x06",
                // Neither lea nor push touches a flag.
                "lea rsp, [rsp - 32]",
                ".cfi_adjust_cfa_offset 32",
                push!("r15"), push!("r14"), push!("r13"), push!("r12"), push!("r11"), push!("r10"), push!("r9"),
                push!("r8"), push!("rdi"), push!("rsi"), push!("rbp"),
                "lea rdi, [rsp + 256]",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                push!("rbx"), push!("rdx"), push!("rcx"), push!("rax"),
                take_flags!($flags),
                "9:",
                "mov rbx, rsp",
                ".cfi_remember_state",
                ".cfi_def_cfa_register rbx",
                // The record lies where the nop behind the call says.
                "mov rdx, [rbx + 160]",
                "movsxd rsi, dword ptr [rdx + 3]",
                "add rsi, rdx",
                "mov rax, [rsi + 16]",
                "mov [rbx + 136], rax",
                "mov qword ptr [rbx + 144], 0",
                "and rsp, -64",
                $($save,)*
                // One callback at a time: the guard holds the frame of the one that runs.
                "mov r12, [rip + incise_callback_guard@GOTTPOFF]",
                "mov r14, rsi",
                "cmp qword ptr fs:[r12], 0",
                "jnz 4f",
                "5:",
                "mov fs:[r12], rbx",
                "movabs rax, {MARK}",
                "xor rax, rbx",
                "mov [rbx + 152], rax",
                "mov r15, [rip + {errno}]",
                "mov r13d, fs:[r15]",
                "mov rdi, rbx",
                "mov rsi, [r14 + {DATA}]",
                "call [r14]",
                "mov fs:[r15], r13d",
                "mov qword ptr fs:[r12], 0",
                "6:",
                $($restore,)*
                "mov rsp, rbx",
                ".cfi_restore_state",
                // sahf sets SF ZF AF PF CF from ah. Doubling overflows if bits 31 and 30 differ: OF and DF, which is clear.
                // popfq costs ten times as much.
                "mov rcx, [rsp + 128]",
                "test ecx, {DF} + {AC}",
                "jnz 3f",
                "2:",
                "mov eax, ecx",
                "shl eax, 8",
                "shl ecx, 20",
                "add ecx, ecx",
                "sahf",
                ".cfi_remember_state",
                pop!("rax"), pop!("rcx"), pop!("rdx"), pop!("rbx"),
                "lea rsp, [rsp + 8]",
                ".cfi_adjust_cfa_offset -8",
                pop!("rbp"), pop!("rsi"), pop!("rdi"), pop!("r8"), pop!("r9"), pop!("r10"), pop!("r11"), pop!("r12"),
                pop!("r13"), pop!("r14"), pop!("r15"),
                "lea rsp, [rsp + 32]",
                ".cfi_adjust_cfa_offset -32",
                "ret",
                // The rare flags.
                ".cfi_restore_state",
                "3:",
                "pushfq",
                ".cfi_adjust_cfa_offset 8",
                "mov eax, ecx",
                "and eax, {DF} + {AC}",
                "or [rsp], rax",
                "popfq",
                ".cfi_adjust_cfa_offset -8",
                "and ecx, {NEITHER}",
                "jmp 2b",
                "8:",
                "pushfq",
                ".cfi_adjust_cfa_offset 8",
                "and dword ptr [rsp], {NEITHER}",
                "popfq",
                ".cfi_adjust_cfa_offset -8",
                "jmp 9b",
                // A callback runs on this thread, it seems.
                "4:",
                ".cfi_def_cfa_register rbx",
                "mov r13, fs:[r12]",
                "cmp r13, {NOT_NOW}",
                "je 7f",
                "call {is_over}",
                "test eax, eax",
                "jnz 5b",
                "7:",
                "lock inc qword ptr [rip + {skipped}]",
                "jmp 6b",
                ".cfi_endproc",
                errno = sym ERRNO,
                is_over = sym is_over,
                skipped = sym crate::callback::guard::SKIPPED,
                MARK = const MARK,
                NOT_NOW = const NOT_NOW,
                DATA = const offset_of!(CallRecord, payload) + 8,
                AC = const AC,
                NEITHER = const !(AC + DF),
                DF = const DF,
            )
        }
    };
}

entries!(entry_none, function_entry_none, [], []);

mod vectors;

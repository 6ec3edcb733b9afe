//! The functions that get probes, and their hand-written twins.
//!
//! # Safety
//! All of it is position-independent code of the C ABI that was assembled with this program; a twin is a
//! subject with its first instruction replaced by a jump to code that does that instruction's work.

#![allow(unsafe_code, reason = "machine code written by hand")]

use std::arch::global_asm;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// A subject.
pub(crate) type Function = unsafe extern "C" fn(u32, u32) -> u32;

/// What stands at a subject's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// `add edi, imm32`: one long instruction; flags are dead.
    Plain,
    /// `lea eax, [rdi+imm32]; adc eax, esi`: flags are live.
    Carry,
    /// `push rbp; mov rbp, rsp`: what compilers write.
    Frame,
    /// A five-byte `nop`, as for `-fpatchable-function-entry`.
    Nop,
    /// A short instruction before the head of a loop.
    Loop,
    /// A direct call.
    Call,
    /// A short instruction, [`EVICTED`] bytes behind the entry, that a branch leads to, and another one to what is behind it, whose
    /// first byte, 0, would have a jump lead into this program.
    Evict,
}

/// Offset of what is probed of [`Shape::Evict`].
pub(crate) const EVICTED: u64 = 18;
/// Offset of the return of [`Shape::Plain`], behind which there is padding.
pub(crate) const PLAIN_RETURN: u64 = 9;

macro_rules! subjects {
    ($($shape:ident $name:ident $body:expr;)*) => {
        global_asm!(
            ".pushsection .text.incise_bench_subjects,\"ax\",@progbits",
            ".balign 4096",
            $(
                ".balign 64",
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                $body,
                concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
            )*
            ".balign 4096",
            ".popsection",
        );
        unsafe extern "C" { $(fn $name(a: u32, b: u32) -> u32;)* }

        /// A subject by its symbol.
        pub(crate) fn subject(name: &str) -> Option<(Shape, Function)> {
            match name {
                $(stringify!($name) => Some((Shape::$shape, $name)),)*
                _ => None,
            }
        }
    };
}

macro_rules! plain {
    () => {
        "add edi, 0x01020304\n lea eax, [rdi + rsi]\n ret"
    };
}
macro_rules! carry {
    () => {
        "lea eax, [rdi + 0x01020304]\n adc eax, esi\n ret"
    };
}
macro_rules! frame {
    () => {
        "push rbp\n mov rbp, rsp\n add edi, 0x01020304\n lea eax, [rdi + rsi]\n pop rbp\n ret"
    };
}
macro_rules! nop {
    () => {
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n add edi, 0x01020304\n lea eax, [rdi + rsi]\n ret"
    };
}
macro_rules! looping {
    () => {
        "mov eax, edi\n 1: dec esi\n jne 1b\n ret"
    };
}
macro_rules! calling {
    () => {
        "call 2f\n ret\n 2: add edi, 0x01020304\n lea eax, [rdi + rsi]\n ret"
    };
}
macro_rules! evict {
    () => {
        concat!(
            "test esi, esi\n je 4f\n jne 3f\n .byte 0xe8\n .long plain_base - . - 4\n mov rcx, 1\n",
            "3: .byte 0x0f, 0x1f, 0x40, 0x00\n 4: add al, al\n lea eax, [rdi + rsi]\n ret"
        )
    };
}

subjects! {
    Loop loop_base looping!();
    Call call_base calling!();
    Evict evict_base evict!();
    Plain tactic_jump plain!();
    Plain tactic_tail plain!();
    Plain tactic_trap plain!();
    Frame tactic_group frame!();
    Nop tactic_nop nop!();
    Loop tactic_pun looping!();
    Call tactic_retarget calling!();
    Evict tactic_evict evict!();
    Plain plain_base plain!();
    Plain plain_counter plain!();
    Plain plain_callback_none plain!();
    Plain plain_callback_sse plain!();
    Plain plain_callback_avx plain!();
    Plain plain_callback_avx512 plain!();
    Plain plain_remote plain!();
    Plain plain_uprobe plain!();
    Plain plain_record plain!();
    Plain plain_arguments plain!();
    Plain plain_call plain!();
    Plain plain_argument plain!();
    Plain plain_duration plain!();
    Plain plain_filtered plain!();
    Plain plain_refused plain!();
    Plain plain_map plain!();
    Plain plain_per_cpu plain!();
    Plain plain_per_cpu_at_once plain!();
    Plain plain_per_thread plain!();
    Plain plain_per_thread_at_once plain!();
    Plain plain_trap plain!();
    Plain plain_toggle plain!();
    Carry carry_base carry!();
    Carry carry_counter carry!();
    Frame frame_base frame!();
    Frame frame_counter frame!();
    Frame frame_remote frame!();
    Frame frame_uprobe frame!();
    Frame frame_frida_probe frame!();
    Frame frame_frida_enter frame!();
    Nop nop_uftrace nop!();
    Frame frame_bpftrace frame!();
    Frame frame_bpftrace_pair frame!();
    Frame frame_detour frame!();
    Frame frame_retour frame!();
    Nop nop_base nop!();
    Nop nop_counter nop!();
    Nop nop_uprobe nop!();
}

impl Shape {
    /// The subject of this shape that gets no probe.
    pub(crate) fn base(self) -> Function {
        match self {
            Shape::Plain => plain_base,
            Shape::Carry => carry_base,
            Shape::Frame => frame_base,
            Shape::Nop => nop_base,
            Shape::Loop => loop_base,
            Shape::Call => call_base,
            Shape::Evict => evict_base,
        }
    }
}

// A twin's entry is a `jmp rel32` and what is left of the subject.
macro_rules! twins {
    ($($name:ident $displaced:literal $filler:literal $rest:literal $snippet:expr;)*) => {
        global_asm!(
            ".pushsection .text.incise_bench_subjects,\"ax\",@progbits",
            $(
                ".balign 64",
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                ".byte 0xe9",
                concat!(".long ", stringify!($name), "_trampoline - . - 4"),
                $filler,
                concat!(stringify!($name), "_back:"),
                $rest,
                concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
            )*
            ".popsection",
            ".pushsection .text.incise_bench_trampolines,\"ax\",@progbits",
            ".balign 4096",
            $(
                ".balign 64",
                concat!(stringify!($name), "_trampoline:"),
                $snippet,
                $displaced,
                concat!("jmp ", stringify!($name), "_back"),
            )*
            ".popsection",
            counter = sym TWIN_HITS,
            callee = sym nothing,
        );
        unsafe extern "C" { $(fn $name(a: u32, b: u32) -> u32;)* }

        /// A twin by its symbol.
        pub(crate) fn twin(name: &str) -> Option<Function> {
            match name {
                $(stringify!($name) => Some($name),)*
                _ => None,
            }
        }
    };
}

// The guard of a twin: one callback at a time on each thread.
global_asm!(
    ".pushsection .tbss.twin_guard, \"awT\", @nobits",
    ".balign 8",
    ".hidden twin_guard",
    ".globl twin_guard",
    ".type twin_guard, @object",
    ".size twin_guard, 8",
    "twin_guard: .zero 8",
    ".popsection",
);

/// Hits of the counting twins, all together.
static TWIN_HITS: AtomicU64 = AtomicU64::new(0);

/// The function that callbacks and their twins call.
pub(crate) extern "C" fn nothing(context: &mut incise::callback::Context, data: u64) {
    black_box((std::ptr::from_mut(context), data));
}

macro_rules! save_all {
    ($vector_save:expr, $vector_restore:expr) => {
        concat!(
            "lea rsp, [rsp - 128]\n",
            "push r15\n push r14\n push r13\n push r12\n push r11\n push r10\n push r9\n push r8\n",
            "push rdi\n push rsi\n push rbp\n push rbx\n push rdx\n push rcx\n push rax\n",
            "lahf\n seto al\n push rax\n",
            "mov rbp, rsp\n and rsp, -64\n",
            $vector_save,
            "mov rdi, rbp\n xor esi, esi\n call {callee}\n",
            $vector_restore,
            "mov rsp, rbp\n",
            "pop rax\n add al, 0x7f\n sahf\n",
            "pop rax\n pop rcx\n pop rdx\n pop rbx\n pop rbp\n pop rsi\n pop rdi\n",
            "pop r8\n pop r9\n pop r10\n pop r11\n pop r12\n pop r13\n pop r14\n pop r15\n",
            "lea rsp, [rsp + 128]\n",
        )
    };
}

// The assembler repeats the line for each register number `\num`.
macro_rules! each {
    ($numbers:literal, $line:literal) => {
        concat!(".irp num,", $numbers, "\n ", $line, "\n .endr\n")
    };
}

macro_rules! low {
    ($line:literal) => {
        each!("0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", $line)
    };
}

macro_rules! high {
    ($line:literal) => {
        each!("16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31", $line)
    };
}

macro_rules! masks {
    ($line:literal) => {
        each!("0,1,2,3,4,5,6,7", $line)
    };
}

twins! {
    twin_lock "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        "lock inc qword ptr [rip + {counter}]";
    twin_inc "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        "inc qword ptr [rip + {counter}]";
    twin_rdtsc "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        "rdtsc";
    twin_lock_flags "lea eax, [rdi + 0x01020304]" "int3" "adc eax, esi\n ret"
        concat!(
            "lea rsp, [rsp - 128]\n push rax\n lahf\n seto al\n",
            "lock inc qword ptr [rip + {counter}]\n",
            "add al, 0x7f\n sahf\n pop rax\n lea rsp, [rsp + 128]"
        );
    twin_lock_frame "push rbp\n mov rbp, rsp\n add edi, 0x01020304" "int3\n int3\n int3\n int3\n int3"
        "lea eax, [rdi + rsi]\n pop rbp\n ret"
        "lock inc qword ptr [rip + {counter}]";
    twin_lock_nop "" "" "add edi, 0x01020304\n lea eax, [rdi + rsi]\n ret"
        "lock inc qword ptr [rip + {counter}]";
    twin_save_none "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!("", "");
    twin_save_promises "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!(
            concat!(
                "mov r12, [rip + twin_guard@GOTTPOFF]\n cmp qword ptr fs:[r12], 0\n jnz 99f\n",
                "mov fs:[r12], rbp\n",
                "call [rip + __errno_location@GOTPCREL]\n mov r15, rax\n mov r13d, [rax]\n",
            ),
            "mov [r15], r13d\n mov qword ptr fs:[r12], 0\n 99:\n"
        );
    twin_save_sse "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!(
            concat!("sub rsp, 256\n", low!("movaps [rsp + 16*\\num], xmm\\num")),
            low!("movaps xmm\\num, [rsp + 16*\\num]")
        );
    twin_save_avx "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!(
            concat!("sub rsp, 512\n", low!("vmovaps [rsp + 32*\\num], ymm\\num")),
            low!("vmovaps ymm\\num, [rsp + 32*\\num]")
        );
    twin_save_avx_wide "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!(
            concat!("sub rsp, 1024\n", low!("vmovaps [rsp + 64*\\num], zmm\\num")),
            low!("vmovaps zmm\\num, [rsp + 64*\\num]")
        );
    twin_save_avx512 "add edi, 0x01020304" "int3" "lea eax, [rdi + rsi]\n ret"
        save_all!(
            concat!(
                "sub rsp, 2112\n",
                low!("vmovaps [rsp + 64*\\num], zmm\\num"),
                high!("vmovaps [rsp + 64*\\num], zmm\\num"),
                masks!("kmovq [rsp + 2048 + 8*\\num], k\\num")
            ),
            concat!(
                low!("vmovaps zmm\\num, [rsp + 64*\\num]"),
                high!("vmovaps zmm\\num, [rsp + 64*\\num]"),
                masks!("kmovq k\\num, [rsp + 2048 + 8*\\num]")
            )
        );
}

/// Nanoseconds of this thread's processor time that `calls` calls of `function` take.
#[inline(never)]
pub(crate) fn time_of_thread(function: Function, calls: u32) -> u64 {
    let now = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes `time`.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let start = now();
    for n in 0..calls {
        // SAFETY: every `Function` is a subject or a twin, good for any arguments.
        black_box(unsafe { function(n, 1) });
    }
    now() - start
}

/// Nanoseconds that a call of `function` takes with `between` calls of an unprobed subject, over `calls` of them.
#[inline(never)]
pub(crate) fn time_between(function: Function, between: u32, calls: u32) -> f64 {
    let (function, other) = (black_box(function), black_box(Shape::Plain.base()));
    let start = Instant::now();
    for n in 0..calls {
        for _ in 0..between {
            // SAFETY: as in `time`.
            black_box(unsafe { other(n, 1) });
        }
        // SAFETY: as in `time`.
        black_box(unsafe { function(n, 1) });
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

/// Nanoseconds per call of `function`, over `calls` calls.
#[inline(never)]
pub(crate) fn time(function: Function, calls: u32) -> f64 {
    let function = black_box(function);
    let start = Instant::now();
    for n in 0..calls {
        // SAFETY: every `Function` is a subject or a twin, good for any arguments.
        black_box(unsafe { function(n, 1) });
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

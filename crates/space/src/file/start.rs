//! The code that runs before a rewritten program does: it maps the file of counts over the counters, and
//! installs the trap handler if there are traps.
//!
//! A program's entry point leads here, or the `DT_INIT` of a library. Every register, the flags and
//! the stack are as before when it goes on to where the file led ([`Config::next`]). It is position-independent,
//! makes system calls only, and holds no state: what fails leaves the program running uncounted in memory of
//! its own.
//!
//! 1. If there are landings: the actions in force for the signals of traps, and with fault landings those of faults, are
//!    kept in the trap header, then the handler is installed.
//! 2. If there are counters, and real and effective ids are the same (a set-user-id program must not write
//!    files for its caller): the folder is `INCISE_COUNTS` of the environment as it was at the exec, else
//!    the one in the file. An empty one means that nothing is to be counted.
//! 3. `FOLDER/NAME.PID` is created, or `FOLDER/NAME.PID.N` if that is there: a process that executes itself
//!    again has the same number. Nothing that exists is ever opened.
//! 4. What was counted so far is written to the file, which also takes the space on the disk for good, and the
//!    file is mapped over the counters, shared: what is counted from now on is in the file even
//!    if the process is killed. A forked child goes on counting into the file of its parent.
//! 5. The header of the file is written last, and the process id in it last of all: a file without one is not
//!    complete.
//!
//! # Safety
//! The symbols `incise_start_begin` and `incise_start_end` are defined here, around constant bytes.

#![allow(unsafe_code, reason = "assembles the code and refers to its first and last byte")]

use std::mem::offset_of;
use std::ptr;

use crate::trap::{self, KernelSigaction, Previous, TrapHeader};

/// What the code finds before itself: link addresses, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Config {
    /// Address of this structure.
    pub itself: u64,
    /// The [`TrapHeader`].
    pub trap_header: u64,
    /// The table of landings, in link addresses.
    pub table: u64,
    /// The image of the trap handler.
    pub handler: u64,
    /// The counters.
    pub counters: u64,
    /// Bytes of counters, a multiple of the page size.
    pub counters_len: u64,
    /// The folder for files of counts, ended by a zero byte.
    pub folder: u64,
    /// Their name, ended by a zero byte.
    pub name: u64,
    /// The header of such a file but for the process id; see [`super::counts`].
    pub header: u64,
    /// Its size in bytes.
    pub header_len: u64,
    /// 1 if there are fault landings.
    pub faults: u64,
}

/// Offset of the entry in the code.
pub(super) const ENTRY: usize = 96;
const CONFIG: usize = size_of::<Config>();

impl Config {
    /// The code with this configuration, to lie at [`itself`](Config::itself). `next` is where it goes on, or
    /// `None` for returning to the caller.
    pub(super) fn image(&self, next: Option<u64>) -> Option<Vec<u8>> {
        let mut image = code().to_vec();
        let words = [
            self.itself,
            self.trap_header,
            self.table,
            self.handler,
            self.counters,
            self.counters_len,
            self.folder,
            self.name,
            self.header,
            self.header_len,
            self.faults,
        ];
        for (slot, word) in image.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let end = image.len();
        match next {
            Some(next) => {
                let from = self.itself + end as u64;
                let displacement = i32::try_from(next.wrapping_sub(from) as i64).ok()?;
                image[end - 5] = 0xE9;
                image[end - 4..].copy_from_slice(&displacement.to_le_bytes());
            }
            None => image[end - 5] = 0xC3,
        }
        Some(image)
    }
}

/// The image of the trap handler for `at`, whose header is at `header`: both link addresses, and at the same
/// distance at run time.
pub(super) fn handler_image(at: u64, header: u64) -> Option<Vec<u8>> {
    let mut image = trap::handler_code().to_vec();
    // Behind endbr64: `mov r8, [rip + literal]` becomes `lea r8, [rip + header]`, of the same form and length.
    let load = trap::HANDLER + 4;
    let next = at + load as u64 + 7;
    let displacement = i32::try_from(header.wrapping_sub(next) as i64).ok()?;
    let insn = image.get_mut(load..load + 7).filter(|insn| insn.starts_with(&[0x4C, 0x8B, 0x05]))?;
    insn[1] = 0x8D;
    insn[3..].copy_from_slice(&displacement.to_le_bytes());
    Some(image)
}

/// Size of the buffer for the path of the file of counts.
const PATH: usize = 4096 + 256;
/// Longest folder taken from the environment.
const FOLDER_MAX: usize = 4000;
/// Size of the buffer the environment is read through.
const CHUNK: usize = 1024;
/// Bytes of stack: the path, then the chunk, then words.
const FRAME: usize = PATH + CHUNK + 32;
/// How many names are tried.
const TRIES: i32 = 1000;

// Registers: rbp the configuration, rbx the bias; in the second part r12 the descriptor, r13 the end of the
// path, r14 the try.
std::arch::global_asm!(
    ".pushsection .rodata.incise_start, \"a\", @progbits",
    ".balign 16",
    ".hidden incise_start_begin",
    ".globl incise_start_begin",
    "incise_start_begin:",
    ".org incise_start_begin + {ENTRY}, 0xcc",
    "endbr64",
    "pushfq",
    "push rax",
    "push rcx",
    "push rdx",
    "push rbx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "lea rbp, [rip + incise_start_begin]",
    "mov rbx, rbp",
    "sub rbx, [rbp + {ITSELF}]",
    "call 10f",
    "call 30f",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "popfq",
    "jmp 99f",
    "",
    // The trap handler.
    "10: mov r12, [rbp + {TRAP_HEADER}]",
    "test r12, r12",
    "jz 19f",
    "add r12, rbx",
    "mov rax, [rbp + {TABLE}]",
    "add rax, rbx",
    "mov [r12 + {HEADER_TABLE}], rax",
    "mov [r12 + {HEADER_BIAS}], rbx",
    "mov r13d, {SIGTRAP}",
    "call 11f",
    "mov r13d, {SIGILL}",
    "call 11f",
    "cmp qword ptr [rbp + {FAULTS}], 0",
    "je 19f",
    "mov r13d, {SIGSEGV}",
    "call 11f",
    "mov r13d, {SIGBUS}",
    "call 11f",
    "mov r13d, {SIGFPE}",
    "11: imul r14d, r13d, {PREVIOUS_SIZE}",
    "lea r14, [r12 + r14 + {PREVIOUS}]",
    "mov edi, r13d",
    "xor esi, esi",
    "mov rdx, r14",
    "mov r10d, 8",
    "mov eax, {SYS_rt_sigaction}",
    "syscall",
    "test rax, rax",
    "jnz 19f",
    // What would be blocked while the previous action runs.
    "mov rax, [r14 + {ACTION_MASK}]",
    "lea ecx, [r13 - 1]",
    "mov edx, 1",
    "shl rdx, cl",
    "bt dword ptr [r14 + {ACTION_FLAGS}], 30", // SA_NODEFER
    "jc 12f",
    "or rax, rdx",
    "12: mov [r14 + {BLOCKED}], rax",
    // The flags as trap::handler_action has them.
    "mov eax, [r14 + {ACTION_FLAGS}]",
    "and eax, {KEPT}",
    "cmp qword ptr [r14 + {ACTION_HANDLER}], 1",
    "ja 13f",
    "mov eax, {KEPT}",
    "13: or eax, {ADDED}",
    "push -1",
    "mov rcx, [rbp + {HANDLER_IMAGE}]",
    "add rcx, rbx",
    "lea rdx, [rcx + {RESTORER}]",
    "push rdx",
    "push rax",
    "add rcx, {HANDLER}",
    "push rcx",
    "mov edi, r13d",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {SYS_rt_sigaction}",
    "syscall",
    "add rsp, 32",
    "19: ret",
    "",
    // The counters.
    "30: cmp qword ptr [rbp + {COUNTERS_LEN}], 0",
    "je 19b",
    "mov eax, {SYS_getuid}",
    "syscall",
    "mov edi, eax",
    "mov eax, {SYS_geteuid}",
    "syscall",
    "cmp edi, eax",
    "jne 19b",
    "mov eax, {SYS_getgid}",
    "syscall",
    "mov edi, eax",
    "mov eax, {SYS_getegid}",
    "syscall",
    "cmp edi, eax",
    "jne 19b",
    "sub rsp, {FRAME}",
    // The environment as it was at the exec: a library is not told where it is.
    "mov edi, {AT_FDCWD}",
    "lea rsi, [rip + 91f]",
    "mov edx, {READ_FLAGS}",
    "mov eax, {SYS_openat}",
    "syscall",
    "mov r12, rax",
    "test rax, rax",
    "js 38f",
    "mov r13, rsp", // end of the folder
    "lea r15, [rsp + {FOLDER_MAX}]",
    "xor r14d, r14d", // how much of the name matches; -1: another variable
    "31: mov edi, r12d",
    "lea rsi, [rsp + {PATH}]",
    "mov edx, {CHUNK}",
    "xor eax, eax", // read
    "syscall",
    "test rax, rax",
    "jle 37f",
    "lea rsi, [rsp + {PATH}]",
    "lea rdi, [rsi + rax]",
    "lea r8, [rip + 92f]",
    "32: cmp rsi, rdi",
    "je 31b",
    "lodsb",
    "cmp r14d, {VARIABLE_LEN}",
    "je 34f",
    "test al, al",
    "jz 33f",
    "test r14d, r14d",
    "js 32b",
    "cmp al, [r8 + r14]",
    "jne 35f",
    "inc r14d",
    "jmp 32b",
    "33: xor r14d, r14d",
    "jmp 32b",
    "35: mov r14d, -1",
    "jmp 32b",
    "34: mov [r13], al",
    "test al, al",
    "jz 36f",
    "inc r13",
    "cmp r13, r15",
    "jb 32b",
    "jmp 39f", // too long
    "36: mov edi, r12d",
    "mov eax, {SYS_close}",
    "syscall",
    "cmp r13, rsp", // empty: not to be counted
    "je 49f",
    "jmp 40f",
    "39: mov edi, r12d",
    "mov eax, {SYS_close}",
    "syscall",
    "jmp 49f",
    "37: mov edi, r12d",
    "mov eax, {SYS_close}",
    "syscall",
    "38: mov rsi, [rbp + {FOLDER}]",
    "add rsi, rbx",
    "mov rdi, rsp",
    "call 80f",
    "lea r13, [rdi]",
    // The folder is there or is made; if not, the file cannot be made either.
    "40: mov byte ptr [r13], 0",
    "mov rdi, rsp",
    "mov esi, 0x1ff",
    "mov eax, {SYS_mkdir}",
    "syscall",
    "mov byte ptr [r13], 47",
    "lea rdi, [r13 + 1]",
    "mov rsi, [rbp + {NAME}]",
    "add rsi, rbx",
    "call 80f",
    "mov byte ptr [rdi], 46",
    "lea r13, [rdi + 1]",
    "mov eax, {SYS_getpid}",
    "syscall",
    "mov rdi, r13",
    "mov [rsp + {PATH}], rax", // for the header of the file
    "call 85f",
    "mov r13, rdi",
    "xor r14d, r14d",
    "41: mov edi, {AT_FDCWD}",
    "mov rsi, rsp",
    "mov edx, {CREATE_FLAGS}",
    "mov r10d, 0x1b6",
    "mov eax, {SYS_openat}",
    "syscall",
    "cmp rax, -{EEXIST}",
    "jne 42f",
    "inc r14d",
    "cmp r14d, {TRIES}",
    "ja 49f",
    "mov byte ptr [r13], 46",
    "lea rdi, [r13 + 1]",
    "mov eax, r14d",
    "call 85f",
    "jmp 41b",
    "42: test rax, rax",
    "js 49f",
    "mov r12, rax",
    "mov edi, r12d",
    "mov rsi, [rbp + {COUNTERS}]",
    "add rsi, rbx",
    "mov rdx, [rbp + {COUNTERS_LEN}]",
    "mov r10d, {FILE_HEADER}",
    "mov eax, {SYS_pwrite64}",
    "syscall",
    "cmp rax, [rbp + {COUNTERS_LEN}]",
    "jne 47f",
    "mov rdi, [rbp + {COUNTERS}]",
    "add rdi, rbx",
    "mov rsi, [rbp + {COUNTERS_LEN}]",
    "mov edx, 3", // PROT_READ | PROT_WRITE
    "mov r10d, {MAP_FLAGS}",
    "mov r8d, r12d",
    "mov r9d, {FILE_HEADER}",
    "mov eax, {SYS_mmap}",
    "syscall",
    "cmp rax, -4096",
    "ja 47f",
    "mov edi, r12d",
    "mov rsi, [rbp + {HEADER}]",
    "add rsi, rbx",
    "mov rdx, [rbp + {HEADER_SIZE}]",
    "xor r10d, r10d",
    "mov eax, {SYS_pwrite64}",
    "syscall",
    "mov edi, r12d",
    "lea rsi, [rsp + {PATH}]",
    "mov edx, 8",
    "mov r10d, {HEADER_PID}",
    "mov eax, {SYS_pwrite64}",
    "syscall",
    "jmp 48f",
    "47: mov rdi, rsp",
    "mov eax, {SYS_unlink}",
    "syscall",
    "48: mov edi, r12d",
    "mov eax, {SYS_close}",
    "syscall",
    "49: add rsp, {FRAME}",
    "ret",
    "",
    // Copies the string at rsi to rdi, which then points to its zero byte.
    "80: lodsb",
    "mov [rdi], al",
    "test al, al",
    "jz 81f",
    "inc rdi",
    "jmp 80b",
    "81: ret",
    "",
    // Writes eax as a decimal number to rdi, which then points to the zero byte behind it.
    "85: mov ecx, 10",
    "xor r8d, r8d",
    "86: xor edx, edx",
    "div ecx",
    "add edx, 48",
    "push rdx",
    "inc r8d",
    "test eax, eax",
    "jnz 86b",
    "87: pop rax",
    "stosb",
    "dec r8d",
    "jnz 87b",
    "mov byte ptr [rdi], 0",
    "ret",
    "",
    "91: .asciz \"/proc/self/environ\"",
    "92: .ascii \"INCISE_COUNTS=\"",
    "99: .byte 0xc3, 0xcc, 0xcc, 0xcc, 0xcc",
    ".hidden incise_start_end",
    ".globl incise_start_end",
    "incise_start_end:",
    ".popsection",
    ENTRY = const ENTRY,
    ITSELF = const offset_of!(Config, itself),
    TRAP_HEADER = const offset_of!(Config, trap_header),
    TABLE = const offset_of!(Config, table),
    HANDLER_IMAGE = const offset_of!(Config, handler),
    COUNTERS = const offset_of!(Config, counters),
    COUNTERS_LEN = const offset_of!(Config, counters_len),
    FOLDER = const offset_of!(Config, folder),
    NAME = const offset_of!(Config, name),
    HEADER = const offset_of!(Config, header),
    HEADER_TABLE = const TrapHeader::TABLE,
    HEADER_BIAS = const TrapHeader::BIAS,
    FAULTS = const offset_of!(Config, faults),
    PREVIOUS = const TrapHeader::previous_offset(1) as isize - size_of::<Previous>() as isize,
    PREVIOUS_SIZE = const size_of::<Previous>(),
    ACTION_HANDLER = const offset_of!(Previous, action) + offset_of!(KernelSigaction, handler),
    ACTION_FLAGS = const offset_of!(Previous, action) + offset_of!(KernelSigaction, flags),
    ACTION_MASK = const offset_of!(Previous, action) + offset_of!(KernelSigaction, mask),
    BLOCKED = const offset_of!(Previous, blocked),
    KEPT = const libc::SA_ONSTACK | libc::SA_RESTART,
    ADDED = const 0x0400_0000 | libc::SA_SIGINFO, // SA_RESTORER
    RESTORER = const trap::RESTORER,
    HANDLER = const trap::HANDLER,
    SIGTRAP = const libc::SIGTRAP,
    SIGILL = const libc::SIGILL,
    SIGSEGV = const libc::SIGSEGV,
    SIGBUS = const libc::SIGBUS,
    SIGFPE = const libc::SIGFPE,
    FRAME = const FRAME,
    PATH = const PATH,
    CHUNK = const CHUNK,
    FOLDER_MAX = const FOLDER_MAX,
    VARIABLE_LEN = const super::counts::VARIABLE.len() + 1,
    TRIES = const TRIES,
    FILE_HEADER = const super::counts::HEADER_LEN,
    HEADER_SIZE = const offset_of!(Config, header_len),
    HEADER_PID = const super::counts::PID,
    EEXIST = const libc::EEXIST,
    AT_FDCWD = const libc::AT_FDCWD,
    READ_FLAGS = const libc::O_RDONLY | libc::O_CLOEXEC,
    CREATE_FLAGS = const libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC,
    MAP_FLAGS = const libc::MAP_SHARED | libc::MAP_FIXED,
    SYS_rt_sigaction = const libc::SYS_rt_sigaction,
    SYS_getuid = const libc::SYS_getuid,
    SYS_geteuid = const libc::SYS_geteuid,
    SYS_getgid = const libc::SYS_getgid,
    SYS_getegid = const libc::SYS_getegid,
    SYS_openat = const libc::SYS_openat,
    SYS_close = const libc::SYS_close,
    SYS_mkdir = const libc::SYS_mkdir,
    SYS_getpid = const libc::SYS_getpid,
    SYS_pwrite64 = const libc::SYS_pwrite64,
    SYS_mmap = const libc::SYS_mmap,
    SYS_unlink = const libc::SYS_unlink,
);

unsafe extern "C" {
    static incise_start_begin: u8;
    static incise_start_end: u8;
}

/// The code as assembled.
fn code() -> &'static [u8] {
    const { assert!(CONFIG <= ENTRY) };
    let (begin, end) = (&raw const incise_start_begin, &raw const incise_start_end);
    // SAFETY: the two symbols enclose constant, initialised bytes of this program's read-only data.
    unsafe { &*ptr::slice_from_raw_parts(begin, end.byte_offset_from(begin) as usize) }
}

//! Machine code of small functions that compiled code calls: what the instruction set has and the code generator has not.

use incise_isa::Addr;
use incise_isa::native::{Syntax, assemble};

use super::CompileError;
use super::link::Piece;
use crate::tree::SystemFact;

/// A function that gives a fact.
pub(super) fn system(fact: SystemFact, thread_at: Option<i32>) -> Result<Vec<u8>, CompileError> {
    let text = match (fact, thread_at) {
        (SystemFact::Thread, Some(at)) => format!("mov eax, dword ptr fs:[{at}]\nret"),
        (SystemFact::Thread, None) => format!("mov eax, {}\nsyscall\nret", number::GETTID),
        (SystemFact::Process, _) => format!("mov eax, {}\nsyscall\nret", number::GETPID),
        (SystemFact::Cpu, _) => format!("{}\nret", cpu()),
        (SystemFact::Cycles, _) => "rdtsc\nshl rdx, 32\nor rax, rdx\nret".to_owned(),
        (SystemFact::Nanoseconds, _) => format!(
            "sub rsp, 24\nmov rsi, rsp\nmov edi, 1\nmov eax, {}\nsyscall\nmov rdx, 1000000000\n\
             imul rdx, qword ptr [rsp]\nmov rax, qword ptr [rsp+8]\nadd rax, rdx\nadd rsp, 24\nret",
            number::CLOCK_GETTIME
        ),
    };
    code(&text)
}

/// `rax = number of the CPU`.
fn cpu() -> String {
    format!("{}and eax, 0xfff", crate::data::operation::cpu("rax"))
}

/// Numbers of system calls (arch/x86/entry/syscalls/syscall_64.tbl).
mod number {
    pub const GETPID: u32 = 39;
    pub const KILL: u32 = 62;
    pub const PRCTL: u32 = 157;
    pub const GETTID: u32 = 186;
    pub const CLOCK_GETTIME: u32 = 228;
}

/// Sends the process SIGSTOP.
pub(super) fn stop() -> Result<Vec<u8>, CompileError> {
    let (getpid, kill) = (number::GETPID, number::KILL);
    code(&format!("mov eax, {getpid}\nsyscall\nmov edi, eax\nmov esi, 19\nmov eax, {kill}\nsyscall\nret"))
}

/// A trap.
pub(super) fn debugger() -> Result<Vec<u8>, CompileError> {
    code("int3\nret")
}

/// Writes the name of the thread to the 16 bytes at its argument.
pub(super) fn command() -> Result<Vec<u8>, CompileError> {
    // PR_GET_NAME (linux/prctl.h)
    code(&format!("mov rsi, rdi\nmov edi, 16\nmov eax, {}\nsyscall\nret", number::PRCTL))
}

/// Looks for the slot of this thread in a table as of [`thread_slot`] at `rdi`, or takes one: goes on at the label 3 with its address in
/// `rdx`, behind the text if all are taken. `index` is a register, by its names of 32 and 64 bits.
fn search(slots: u64, thread_at: Option<i32>, [index, wide]: [&str; 2]) -> String {
    let thread = match thread_at {
        Some(at) => format!("mov eax, dword ptr fs:[{at}]"),
        None => format!("mov eax, {}\nsyscall", number::GETTID),
    };
    let mask = slots - 1;
    format!(
        "{thread}
         mov r8d, eax
         mov {index}, eax
         mov r9d, {slots}
         1: and {index}, {mask}
         mov rdx, {wide}
         shl rdx, 6
         add rdx, rdi
         mov rax, qword ptr [rdx]
         cmp rax, r8
         je 3f
         test rax, rax
         jnz 2f
         lock cmpxchg qword ptr [rdx], r8
         je 3f
         cmp rax, r8
         je 3f
         2: inc {index}
         dec r9d
         jnz 1b"
    )
}

/// The address of the value of this thread in a table of slots at `rdi`, or 0 if all are taken. `slots` is a power of two; a slot
/// has 64 bytes: the number of the thread, the value.
pub(super) fn thread_slot(slots: u64, thread_at: Option<i32>) -> Result<Vec<u8>, CompileError> {
    let search = search(slots, thread_at, ["esi", "rsi"]);
    code(&format!(
        "{search}
         xor eax, eax
         ret
         3: lea rax, [rdx+8]
         ret"
    ))
}

/// What [`enter`] gives where this thread is inside already.
pub(super) const INSIDE: i64 = 1;
/// What it gives if there are too many threads.
pub(super) const NO_ROOM: i64 = 2;

/// Marks this thread as inside, in a table as of [`thread_slot`] at `rdi`. The mark is `rsi`, an address in the frame of the run;
/// there the address of the mark is put, so that the mark of a run that was left by longjmp(3) or an exception is known by
/// what lies there now, or by its being below this frame. Gives 0, [`INSIDE`] or [`NO_ROOM`].
pub(super) fn enter(slots: u64, thread_at: Option<i32>) -> Result<Piece, CompileError> {
    let search = search(slots, thread_at, ["r10d", "r10"]);
    let bytes = code(&format!(
        "{search}
         mov eax, {NO_ROOM}
         ret
         3: add rdx, 8
         mov rax, qword ptr [rdx]
         cmp rax, rsi
         jbe 4f
         cmp qword ptr [rax], rdx
         jne 4f
         mov eax, {INSIDE}
         ret
         4: mov qword ptr [rsi], rdx
         mov qword ptr [rdx], rsi
         xor eax, eax
         ret"
    ))?;
    // The stack that the mark lay on may be gone.
    let load = offsets_of(&bytes, &[&[0x48, 0x39, 0x10]]);
    let fresh = offsets_of(&bytes, &[&[0x48, 0x89, 0x16]]);
    Ok(Piece::faulting(bytes, load.into_iter().zip(fresh).collect()))
}

/// The address of the value of this CPU in a table at `rdi`, with `stride` bytes for each of `cpus`; the last is for all others.
pub(super) fn cpu_slot(cpus: u64, stride: u64) -> Result<Vec<u8>, CompileError> {
    let cpu = cpu();
    code(&format!(
        "{cpu}
         mov edx, {cpus}
         cmp eax, edx
         cmova eax, edx
         imul rax, rax, {stride}
         add rax, rdi
         ret"
    ))
}

/// Writes up to `rdx` return addresses to `rsi`, found by frame pointers from `rdi` on. Gives the instructions that may fault and
/// where to go on then.
pub(super) fn stack() -> Result<Piece, CompileError> {
    let bytes = code(
        "1: test edx, edx
         jz 2f
         mov rax, qword ptr [rdi+8]
         mov rcx, qword ptr [rdi]
         test rax, rax
         jz 2f
         mov qword ptr [rsi], rax
         add rsi, 8
         dec edx
         cmp rcx, rdi
         mov rdi, rcx
         ja 1b
         2: ret",
    )?;
    // The two loads come behind four bytes of test and jump, and end at the return.
    let end = bytes.len() as u32 - 1;
    let loads = offsets_of(&bytes, &[&[0x48, 0x8B, 0x47, 0x08], &[0x48, 0x8B, 0x0F]]);
    Ok(Piece::faulting(bytes, loads.into_iter().map(|load| (load, end)).collect()))
}

/// The same by a table as of [`walk`](crate::data::walk) at `r9`, from the code at `r8`, where the stack pointer is `rcx`. What the table
/// does not tell is walked by frame pointers.
pub(super) fn walk() -> Result<Piece, CompileError> {
    let bytes = code(&crate::data::walk::routine())?;
    let end = bytes.len() as u32 - 1;
    let loads = offsets_of(&bytes, &crate::data::walk::LOADS);
    Ok(Piece::faulting(bytes, loads.into_iter().map(|load| (load, end)).collect()))
}

/// Where each of `patterns` first is.
fn offsets_of(bytes: &[u8], patterns: &[&[u8]]) -> Vec<u32> {
    let find = |pattern: &&[u8]| bytes.windows(pattern.len()).position(|window| window == *pattern);
    patterns.iter().filter_map(find).map(|at| at as u32).collect()
}

/// A function of the program that takes a variable number of arguments is told in `al` how many vector registers have some
/// (psABI x86-64, 3.2.3). The address of the function is `literal` bytes behind the end.
pub(super) fn variadic(vectors: u8) -> Vec<u8> {
    // mov eax, vectors ; jmp [rip]; the address follows.
    [&[0xB8, vectors, 0, 0, 0, 0xFF, 0x25, 0, 0, 0, 0][..], &[0; 8]].concat()
}

/// Assembles position-independent code.
pub(super) fn code(text: &str) -> Result<Vec<u8>, CompileError> {
    assemble(text, Addr(0x1000), Syntax::Intel, &|_| None)
        .map_err(|error| CompileError::Internal(format!("{error}")))
}

//! Signal handlers of this process see original instruction pointers.
//!
//! In front of each handler of the program lies a *gate*: code that knows this one handler and never changes. The kernel
//! calls the gate. If the interrupted code is no trampoline the gate goes on to the handler by a jump, as if it were not
//! there. Else it puts the registers of the original code into the frame ([`View`]), calls the handler, and puts back what
//! was there if the handler leaves the instruction pointer alone.
//!
//! Programs that install no handler have no gate. What the program asks of sigaction(2) shows the gate: it is the handler, to
//! be installed again like any other.
//!
//! # Safety
//! Gates are never unmapped and never change. What runs in a handler takes no lock that the interrupted code may hold,
//! allocates nothing, and reads trampolines (which are there: a thread is in them) and the stack of the interrupted
//! code only.

#![allow(unsafe_code, reason = "stands before signal handlers and changes their frames")]

use std::arch::naked_asm;
use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::hint;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use incise_isa::Addr;

use super::handler::exchange_action;
use super::pages::Pages;
use super::{PAGE, swap};
use crate::sys;
use crate::unwind::{self, Piece};
use crate::view::{FrameRegisters, ProgramMemory, Trampolines, View};
use crate::{Displaced, SpaceError};

/// All memory of trampolines lies in `LOW..LOW + SPAN`, so that most signals need one comparison.
static LOW: AtomicU64 = AtomicU64::new(u64::MAX);
static SPAN: AtomicU64 = AtomicU64::new(0);

/// Offset of the saved registers in a `ucontext_t`, and of rip in it (kernel ABI: asm/ucontext.h, asm/sigcontext.h).
const REGISTERS: usize = 40;
const RIP: usize = REGISTERS + 16 * 8;

/// The trampolines of this process, whoever made them.
static TRAMPOLINES: Shared = Shared { holder: AtomicI32::new(0), trampolines: UnsafeCell::new(None) };

/// Trampolines behind a lock that tells its holder, so that a handler on the holder's thread does not wait for itself.
struct Shared {
    /// The thread that has the lock, 0 for none.
    holder: AtomicI32,
    trampolines: UnsafeCell<Option<Trampolines>>,
}

// SAFETY: `trampolines` is used by the holder of the lock only.
unsafe impl Sync for Shared {}

impl Shared {
    /// Works on the trampolines, unless this thread does so already.
    fn with<R>(&self, work: impl FnOnce(&mut Trampolines) -> R) -> Option<R> {
        // SAFETY: no arguments.
        let this = unsafe { sys::raw(libc::SYS_gettid, [0; 6]) as i32 };
        while let Err(holder) =
            self.holder.compare_exchange_weak(0, this, Ordering::Acquire, Ordering::Relaxed)
        {
            if holder == this {
                return None;
            }
            hint::spin_loop();
        }
        // SAFETY: this thread holds the lock.
        let result = work(unsafe { &mut *self.trampolines.get() }.get_or_insert_default());
        self.holder.store(0, Ordering::Release);
        Some(result)
    }
}

/// Notes what lies where in trampolines that were just written.
pub(super) fn note_displaced(displaced: &[Displaced]) {
    let Some(first) = displaced.iter().map(|displaced| displaced.landing.0).min() else { return };
    let end = displaced.iter().map(|displaced| displaced.landing.0 + u64::from(displaced.len)).max();
    TRAMPOLINES.with(|trampolines| {
        trampolines.note(displaced);
        let low = LOW.load(Ordering::Relaxed);
        let old_end = if low == u64::MAX { 0 } else { low + SPAN.load(Ordering::Relaxed) };
        let (low, end) = (low.min(first), old_end.max(end.unwrap_or(first)));
        // A handler that sees one without the other looks a trampoline up in vain, or misses one nobody runs yet.
        SPAN.store(end - low, Ordering::Release);
        LOW.store(low, Ordering::Release);
    });
}

/// What lies in `range` is gone.
pub(super) fn forget(range: Range<Addr>) {
    TRAMPOLINES.with(|trampolines| trampolines.forget(range));
}

/// The original instruction for an address in a trampoline.
pub(super) fn original_ip(ip: Addr) -> Option<Addr> {
    TRAMPOLINES.with(|trampolines| trampolines.original_ip(ip, &Own)).flatten()
}

/// What a trampoline that is in place holds.
pub(super) fn piece(displaced: &Displaced) -> Piece {
    // SAFETY: written, and nobody writes to it while it is noted.
    let code =
        unsafe { std::slice::from_raw_parts(displaced.landing.0 as *const u8, displaced.len as usize) };
    let original = |to: Addr| match is_near(to) {
        true => TRAMPOLINES.with(|trampolines| trampolines.original(to)).unwrap_or(to),
        false => to,
    };
    unwind::piece(displaced, code, &original)
}

/// Whether trampolines may be at `at`.
fn is_near(at: Addr) -> bool {
    at.0.wrapping_sub(LOW.load(Ordering::Acquire)) < SPAN.load(Ordering::Acquire)
}

/// A child made while another thread held the lock would wait for ever.
pub(super) fn after_fork() {
    TRAMPOLINES.holder.store(0, Ordering::Release);
}

/// Memory of this process.
struct Own;

impl ProgramMemory for Own {
    fn code(&self, at: Addr, len: usize) -> Option<Cow<'_, [u8]>> {
        // SAFETY: a trampoline that a thread is in; nobody writes to it.
        Some(Cow::Borrowed(unsafe { std::slice::from_raw_parts(at.0 as *const u8, len) }))
    }

    fn quadword(&self, at: Addr) -> Option<u64> {
        // SAFETY: pushed by the interrupted code.
        Some(unsafe { ptr::read_unaligned(at.0 as *const u64) })
    }
}

/// Puts the registers of the original code into the frame, and into `view` what it takes to put them back.
unsafe extern "C" fn show(context: *mut u8, view: *mut MaybeUninit<Option<View>>) {
    // SAFETY: the kernel's frame, and room that the gate has made; the assertion below says that it is enough.
    unsafe {
        let registers = &mut *context.add(REGISTERS).cast::<FrameRegisters>();
        let found = TRAMPOLINES.with(|trampolines| View::of(trampolines, registers, &Own)).flatten();
        if let Some(found) = &found {
            *registers = found.shown;
        }
        (*view).write(found);
    }
}

/// Puts back what was in the frame before [`show`].
unsafe extern "C" fn put_back(context: *mut u8, view: *const Option<View>) {
    // SAFETY: as in `show`, which has filled in the view.
    unsafe {
        let registers = &mut *context.add(REGISTERS).cast::<FrameRegisters>();
        let mut store = |at: Addr, word| ptr::write_unaligned(at.0 as *mut u64, word);
        if let Some(view) = &*view
            && let Some(back) = view.back(registers, &mut store)
        {
            *registers = back;
        }
    }
}

/// Bytes of stack for a view: with the pushes, a multiple of 16 and 8.
const ROOM: usize = 456;
const _: () = assert!(size_of::<Option<View>>() <= ROOM && align_of::<Option<View>>() <= 8);

/// What all gates lead to: as a handler, with the program's handler in r11.
#[unsafe(naked)]
unsafe extern "C" fn behind_gate() {
    naked_asm!(
        ".cfi_startproc",
        "mov rax, [rdx + {RIP}]",
        "sub rax, [rip + {LOW}]",
        "cmp rax, [rip + {SPAN}]",
        "jb 2f",
        "xor eax, eax",
        "jmp r11",
        "2:",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        "push r12",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r12, 0",
        "push r13",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r13, 0",
        "push r14",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r14, 0",
        "sub rsp, {ROOM}",
        ".cfi_adjust_cfa_offset {ROOM}",
        "mov rbx, r11",
        "mov r12, rdx",
        "mov r13, rsi",
        "mov r14d, edi",
        "mov rdi, r12",
        "mov rsi, rsp",
        "call {show}",
        "mov edi, r14d",
        "mov rsi, r13",
        "mov rdx, r12",
        "xor eax, eax",
        "call rbx",
        "mov rdi, r12",
        "mov rsi, rsp",
        "call {put_back}",
        "add rsp, {ROOM}",
        ".cfi_adjust_cfa_offset -{ROOM}",
        "pop r14",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore r14",
        "pop r13",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore r13",
        "pop r12",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore r12",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbx",
        "ret",
        ".cfi_endproc",
        RIP = const RIP,
        LOW = sym LOW,
        SPAN = sym SPAN,
        ROOM = const ROOM,
        show = sym show,
        put_back = sym put_back,
    )
}

/// Length of a gate in bytes: `endbr64 ; mov r11, HANDLER ; jmp [rip] ; .quad behind_gate`, padded.
const GATE: usize = 32;

fn gate(handler: u64) -> [u8; GATE] {
    let mut code = [incise_isa::native::TRAP; GATE];
    code[..6].copy_from_slice(&[0xF3, 0x0F, 0x1E, 0xFA, 0x49, 0xBB]);
    code[6..14].copy_from_slice(&handler.to_le_bytes());
    code[14..20].copy_from_slice(&[0xFF, 0x25, 0, 0, 0, 0]);
    code[20..28].copy_from_slice(&(behind_gate as unsafe extern "C" fn() as usize as u64).to_le_bytes());
    code
}

/// The gates there are, each with its handler.
static GATES: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// The gate of `handler`.
fn gate_of(handler: u64, pages: &mut Pages) -> Result<u64, SpaceError> {
    let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, gate)) = gates.iter().find(|(behind, gate)| *behind == handler || *gate == handler) {
        return Ok(*gate);
    }
    let failed = |errno| SpaceError::system("mapping memory for signal handlers", errno);
    // One page each: written once, before anybody knows of it.
    // SAFETY: takes unused addresses.
    let at = unsafe { sys::mmap_anonymous(0, PAGE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE) }
        .map_err(failed)?;
    sys::name_memory(at, PAGE, c"incise signal gate");
    if let Err(error) = swap::fill(&[(Addr(at), &gate(handler))], pages) {
        // SAFETY: nobody knows of it.
        let _ = unsafe { sys::munmap(at, PAGE) };
        return Err(error);
    }
    gates.push((handler, at));
    Ok(at)
}

/// The handler behind `gate`, if it is one.
pub(super) fn behind(gate: u64) -> Option<u64> {
    let gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    gates.iter().find(|(_, other)| *other == gate).map(|(handler, _)| *handler)
}

/// The number of the highest signal (signal(7)).
const LAST_SIGNAL: i32 = 64;

/// Puts a gate before each handler of the program that has none. `is_ours` tells which handlers are not the program's.
pub(super) fn put_gates(is_ours: &dyn Fn(u64) -> bool, pages: &mut Pages) -> Result<(), SpaceError> {
    let failed = |errno| SpaceError::system("looking at signal handlers", errno);
    for signal in (1..=LAST_SIGNAL).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        loop {
            let action = exchange_action(signal, None).map_err(failed)?;
            if !action.has_handler() || is_ours(action.handler) || behind(action.handler).is_some() {
                break;
            }
            let gated = crate::trap::KernelSigaction { handler: gate_of(action.handler, pages)?, ..action };
            let replaced = exchange_action(signal, Some(&gated)).map_err(failed)?;
            if replaced == action {
                break;
            }
            // Another thread has changed the action in between: that one counts.
            exchange_action(signal, Some(&replaced)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Takes the gates away that are in force. They stay in memory: a thread may be on its way through one.
pub(super) fn take_gates() {
    for signal in 1..=LAST_SIGNAL {
        if let Ok(action) = exchange_action(signal, None)
            && let Some(handler) = behind(action.handler)
        {
            let _ = exchange_action(signal, Some(&crate::trap::KernelSigaction { handler, ..action }));
        }
    }
}

//! The unwinder of this process goes through trampolines, which come and go.
//!
//! # Safety
//! The hand-made code has the type it is called by. The handler steps over the one instruction that faults.

#![allow(unsafe_code, reason = "runs hand-made code, and goes through frames in a signal handler")]

mod support;

use std::arch::{asm, global_asm};
use std::ffi::c_void;
use std::sync::Mutex;

use incise_isa::Addr;
use incise_space::own::{OwnSpace, Unwinding};
use incise_space::{AddressSpace, Displaced};
use support::*;

unsafe extern "C" {
    fn _Unwind_Backtrace(trace: extern "C" fn(*mut c_void, *mut c_void) -> i32, argument: *mut c_void)
    -> i32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetGR(context: *mut c_void, register: i32) -> usize;
    /// `nop; ret`, with unwind information.
    fn probed_one();
    fn probed_two();
}

global_asm!(
    ".macro probed name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".cfi_startproc",
    "nop",
    "ret",
    ".cfi_endproc",
    ".size \\name, 2",
    ".endm",
    "probed probed_one",
    "nop",
    "probed probed_two",
);

/// Each frame: its address, and rax there.
static FRAMES: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

extern "C" fn note(context: *mut c_void, frames: *mut c_void) -> i32 {
    // SAFETY: the list that the handler passed; the context is the unwinder's. rax is known below a signal's frame only.
    unsafe {
        let frames = &mut *frames.cast::<Vec<(u64, u64)>>();
        let ip = _Unwind_GetIP(context) as u64;
        let known = [probed_one as *const () as u64, probed_two as *const () as u64].contains(&ip);
        frames.push((ip, if known { _Unwind_GetGR(context, 0) as u64 } else { 0 }));
    }
    0
}

extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    const LOAD_LEN: i64 = 8;
    let mut frames = Vec::new();
    // SAFETY: the context is that of the signal.
    unsafe {
        _Unwind_Backtrace(note, (&raw mut frames).cast());
        let context = &mut *context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += LOAD_LEN;
    }
    *FRAMES.lock().expect("nobody else") = frames;
}

/// Keeps rax, faults, gives it back, then what was displaced and the way out.
const TRAMPOLINE: [u8; 12] = [
    0x50, // push %rax
    0x48, 0x8B, 0x04, 0x25, 0, 0, 0, 0,    // mov 0, %rax
    0x58, // pop %rax
    0x90, 0xC3, // nop; ret
];

/// A trampoline for the `nop` at `original`.
fn displaced(landing: Addr, original: unsafe extern "C" fn()) -> Displaced {
    let original = Addr(original as *const () as u64);
    Displaced { landing, len: TRAMPOLINE.len() as u32, original, original_len: 1, copy: 10, copied: 1 }
}

/// Runs a trampoline with a number in rax. Returns the frames that are seen in it.
#[inline(never)]
fn frames_in(trampoline: Addr, rax: u64) -> Vec<(u64, u64)> {
    // SAFETY: it changes nothing but rax.
    unsafe {
        asm!("call {}", in(reg) trampoline.0, inout("rax") rax => _, clobber_abi("C"));
    }
    std::mem::take(&mut *FRAMES.lock().expect("nobody else"))
}

#[test]
fn whatever_trampolines_there_are_the_caller_is_the_original_code() {
    // SAFETY: all zero is a valid action to start from; the handler steps over the fault.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()), 0);
    }
    let mut space = OwnSpace::builder().unwinding(Unwinding::Everybody).build().expect("a space");
    let arenas = [fresh(4 * PAGE), fresh(4 * PAGE)];
    for arena in arenas {
        space.map_code(arena, 4 * PAGE).expect("map");
    }
    let mut check = |landing: Addr, original: unsafe extern "C" fn(), rax: u64| {
        space.write_code(&[(landing, &TRAMPOLINE)]).expect("write");
        space.note_displaced(&[displaced(landing, original)]);
        let frames = frames_in(landing, rax);
        let at = frames.iter().position(|frame| *frame == (original as *const () as u64, rax));
        let at = at.unwrap_or_else(|| panic!("no frame of the original code: {frames:#x?}"));
        assert_eq!(frames[at - 1].0, (landing + 1).0, "the trampoline is before it");
        let caller = frames_in as *const () as u64;
        assert!((caller..caller + 0x400).contains(&frames[at + 1].0), "{frames:#x?}");
        assert!(frames.len() > at + 4, "down to the bottom: {frames:#x?}");
    };
    // One beside the other, in other pages and arenas, and amid others.
    for (n, place) in [0x40, 0x80, 0x60, PAGE + 0x10, PAGE - 5].into_iter().enumerate() {
        for arena in arenas {
            check(arena + place, if n % 2 == 0 { probed_one } else { probed_two }, 1000 + n as u64);
        }
    }
    // What takes the memory of another is another.
    check(arenas[0] + 0x40, probed_two, 77);
    for arena in arenas {
        space.unmap(arena, 4 * PAGE).expect("unmap");
    }
    let frames = {
        let mut frames: Vec<(u64, u64)> = Vec::new();
        // SAFETY: the list lives meanwhile.
        unsafe { _Unwind_Backtrace(note, (&raw mut frames).cast()) };
        frames
    };
    assert!(frames.len() > 3, "unwinding goes on when the arenas are gone");
}

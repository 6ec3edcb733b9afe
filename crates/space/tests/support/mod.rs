//! Hand-made code for the tests of the own address space.
//!
//! # Safety
//! Code that is called is a whole function in mapped memory, made for that call. The child of `fork` runs the test's body and
//! leaves by `_exit`; its parent waits for it and for nobody else.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unsafe_code, reason = "runs hand-made code")]

use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use incise_isa::Addr;
use incise_isa::native::Springboard;
use incise_space::own::OwnSpace;
use incise_space::{AddressSpace, Applied, Bytes, Edit, Landing, SpaceError};

pub const PAGE: u64 = 4096;

/// Addresses nobody uses, each asked for once.
pub fn fresh(len: u64) -> Addr {
    static NEXT: AtomicU64 = AtomicU64::new(0x5000_0000_0000);
    Addr(NEXT.fetch_add(len.next_multiple_of(1 << 24), Ordering::Relaxed))
}

/// Calls the code at `at`, which takes nothing and returns in eax.
pub fn call(at: Addr) -> u32 {
    // SAFETY: the tests put a function of this type there.
    let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(at.0 as *const ()) };
    function()
}

/// The bytes at `at`.
pub fn bytes(space: &OwnSpace, at: Addr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    space.read(at, &mut bytes).expect("readable");
    bytes
}

pub fn no_landing(_: Addr) -> Option<Addr> {
    None
}

/// A function that returns 1, and a trampoline that makes it return 2.
///
/// ```text
/// 0: cld            head
/// 1: clc            head
/// 2: xor eax, eax   head
/// 4: inc eax        head, interior: the topmost displacement byte of the springboard
/// 6: ret
/// ```
/// The trampoline does the same, but increments twice. Entered at 0, 1 or 2, either gives 1 or 2.
pub struct Patchable {
    pub at: Addr,
    pub trampoline: Addr,
}

impl Patchable {
    pub const CODE: [u8; 7] = [0xFC, 0xF8, 0x31, 0xC0, 0xFF, 0xC0, 0xC3];
    pub const HEADS: u16 = 0b1_0111;
    pub const ENTRIES: Range<u64> = 0..3;

    /// Maps code pages with a function at `at` (the trampoline lies where its springboard demands).
    /// `top` is the number of the family of trampolines (0: `int3`; others: bytes that are illegal).
    pub fn new(space: &mut OwnSpace, at: Addr, top: usize) -> Patchable {
        let board = Springboard::new(at, Patchable::HEADS as u8);
        let place = board.placements().nth(top).expect("a family");
        let trampoline = place.next(at - (1 << 31) + (1 << 24), at + (1 << 31)).expect("in reach");
        let pages = at.align_down(PAGE)..(at + 7).align_up(PAGE);
        map_pages(space, pages);
        map_pages(space, trampoline.align_down(PAGE)..(trampoline + 9).align_up(PAGE));
        let code = [0xFC, 0xF8, 0x31, 0xC0, 0xFF, 0xC0, 0xFF, 0xC0, 0xC3];
        space.write_code(&[(trampoline, &code)]).expect("write the trampoline");
        space.write_code(&[(at, &Patchable::CODE)]).expect("write the function");
        Patchable { at, trampoline }
    }

    pub fn landings(&self) -> Vec<Landing> {
        [0, 1, 2, 4].map(|head| Landing { trap: self.at + head, landing: self.trampoline + head }).to_vec()
    }

    pub fn edit(&self) -> Edit {
        let board = Springboard::new(self.at, Patchable::HEADS as u8);
        let new = board.encode(self.trampoline).expect("placed in reach");
        Edit {
            at: self.at,
            old: Bytes::new(&Patchable::CODE[..5]),
            new: Bytes::new(&new),
            heads: Patchable::HEADS,
        }
    }

    /// Only traps, no springboard.
    pub fn trap_edit(&self) -> Edit {
        let old = Bytes::new(&Patchable::CODE[..5]);
        let mut new = Patchable::CODE;
        for head in [0, 1, 2, 4] {
            new[head] = 0xCC;
        }
        Edit { at: self.at, old, new: Bytes::new(&new[..5]), heads: Patchable::HEADS }
    }
}

fn map_pages(space: &mut OwnSpace, pages: Range<Addr>) {
    for page in (pages.start.0..pages.end.0).step_by(PAGE as usize) {
        match space.map_code(Addr(page), PAGE) {
            Ok(()) | Err(SpaceError::Occupied { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// All landings, sorted.
pub fn landings(patchables: &[Patchable]) -> Vec<Landing> {
    let mut all: Vec<Landing> = patchables.iter().flat_map(Patchable::landings).collect();
    all.sort();
    all
}

pub fn apply(space: &mut OwnSpace, edits: &[Edit]) -> Result<Applied, SpaceError> {
    space.apply(edits, &no_landing)
}

/// Runs `child` in a forked process. Returns the wait status.
pub fn in_child(child: impl FnOnce() -> i32) -> i32 {
    static IN_CHILD: AtomicBool = AtomicBool::new(false);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match IN_CHILD.load(Ordering::Relaxed) {
            false => hook(panic),
            // The harness would keep the message to itself.
            true => {
                let text = format!("in a forked child: {panic}\n");
                // SAFETY: writes to the standard error.
                unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            }
        }));
    });
    // SAFETY: the child only runs `child` and exits without running destructors.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        IN_CHILD.store(true, Ordering::Relaxed);
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for our child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// Asserts that a forked child ended with exit code 0.
pub fn assert_child(child: impl FnOnce() -> i32) {
    let status = in_child(child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "wait status {status:#x}");
}

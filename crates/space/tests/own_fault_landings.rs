//! Faults of code in trampolines go on at their landings; those of the program reach the program.
//!
//! # Safety
//!
//! Handlers touch atomics and the context they are given only. The hand-made code keeps the C calling convention, also on the way over its fix-up, and
//! stays mapped while it may run.

#![allow(unsafe_code, reason = "installs signal handlers and runs hand-made code")]

mod support;

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use incise_isa::Addr;
use incise_space::own::OwnSpace;
use incise_space::{AddressSpace, Landing};
use support::*;

static COUNT: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

extern "C" fn record(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    COUNT.fetch_add(1, SeqCst);
    // SAFETY: the kernel's pointers. The instruction that faulted was `mov (%rdi), %eax`: two bytes.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        ADDRESS.store((*info).si_addr() as u64, SeqCst);
        (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
}

fn handle(signal: i32) {
    // SAFETY: `record` is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = record as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// ```text
/// 0:  xor %eax, %eax
/// 2:  mov (%rdi), %eax     may fault
/// 4:  xor %edx, %edx
/// 6:  div %esi             may fault
/// 8:  ret
/// 16: mov $2, %eax         where faults go on
///     ret
/// 32: mov (%rdi), %eax     faults of the program's own
/// 34: ret
/// ```
const LOADS: [u8; 35] = [
    0x31, 0xC0, 0x8B, 0x07, 0x31, 0xD2, 0xF7, 0xF6, 0xC3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, //
    0xB8, 2, 0, 0, 0, 0xC3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, //
    0x8B, 0x07, 0xC3,
];

/// The code, its fault landings published.
fn loads() -> (OwnSpace, Addr) {
    let mut space = OwnSpace::new().expect("an own space");
    let at = fresh(PAGE);
    space.map_code(at, PAGE).expect("map");
    space.write_code(&[(at, &LOADS)]).expect("write");
    let landings = [Landing::fault(at + 2, at + 16), Landing::fault(at + 6, at + 16)];
    space.publish_landings(&landings).expect("landings");
    (space, at)
}

fn load(at: Addr, from: u64, divisor: u32) -> u32 {
    // SAFETY: the code has this type, and what it loads from need not be there.
    let function: extern "C" fn(u64, u32) -> u32 = unsafe { std::mem::transmute(at.0 as *const ()) };
    function(from, divisor)
}

/// A page of a file that is too short: reading it raises SIGBUS.
fn behind_the_end() -> u64 {
    // SAFETY: maps unused addresses.
    unsafe {
        let file = libc::memfd_create(c"short".as_ptr(), 0);
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, file, 0);
        assert_ne!(page, libc::MAP_FAILED);
        page as u64
    }
}

#[test]
fn every_kind_of_fault_goes_on_at_its_landing_and_the_program_sees_nothing() {
    assert_child(|| {
        handle(libc::SIGSEGV);
        let (_space, at) = loads();
        let seven = 7u32;
        for _ in 0..3 {
            assert_eq!(load(at, &raw const seven as u64, 1), 7);
            assert_eq!(load(at, 16, 1), 2, "not mapped");
            assert_eq!(load(at, 1 << 63, 1), 2, "not an address");
            assert_eq!(load(at, behind_the_end(), 1), 2, "behind the end of a file");
            assert_eq!(load(at, &raw const seven as u64, 0), 2, "a division by zero");
        }
        assert_eq!(COUNT.load(SeqCst), 0);
        0
    });
}

#[test]
fn the_programs_faults_reach_its_handler_with_their_siginfo() {
    assert_child(|| {
        handle(libc::SIGSEGV);
        handle(libc::SIGBUS);
        let (_space, at) = loads();
        assert_eq!(load(at, 16, 1), 2);
        load(at + 32, 0x1230, 1);
        assert_eq!((COUNT.load(SeqCst), CODE.load(SeqCst), ADDRESS.load(SeqCst)), (1, 1, 0x1230));
        let short = behind_the_end();
        load(at + 32, short, 1);
        assert_eq!((COUNT.load(SeqCst), CODE.load(SeqCst), ADDRESS.load(SeqCst)), (2, 2, short));
        0
    });
}

#[test]
fn without_a_handler_the_programs_faults_kill() {
    for (from, signal) in [(16, libc::SIGSEGV), (behind_the_end(), libc::SIGBUS)] {
        let status = in_child(|| {
            // SAFETY: the default actions; no core file.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::prctl(libc::PR_SET_DUMPABLE, 0);
            }
            let (_space, at) = loads();
            assert_eq!(load(at, from, 1), 2);
            load(at + 32, from, 1) as i32
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal, "{status:#x}");
    }
}

#[test]
fn the_signals_of_faults_are_touched_only_where_a_fault_landing_is_published() {
    assert_child(|| {
        // SAFETY: only asks.
        let action = |signal| unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut action), 0);
            action.sa_sigaction
        };
        let signals = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];
        let before = signals.map(action);
        let mut space = OwnSpace::new().expect("an own space");
        let function = Patchable::new(&mut space, fresh(PAGE), 0);
        space.publish_landings(&function.landings()).expect("landings");
        assert_eq!(signals.map(action), before);
        let (mut space, at) = loads();
        assert!(signals.map(action).iter().zip(before).all(|(now, before)| *now != before));
        space.publish_landings(&[]).expect("no landings");
        assert_eq!(space.quiescent(&[at..at + PAGE]).expect("quiescence"), [true]);
        assert_eq!(signals.map(action), before);
        0
    });
}

#[test]
fn a_handler_the_program_installs_later_is_chained_to_after_the_next_change() {
    assert_child(|| {
        let (mut space, at) = loads();
        handle(libc::SIGSEGV);
        let landings = [Landing::fault(at + 2, at + 16), Landing::fault(at + 6, at + 16)];
        space.publish_landings(&landings).expect("landings");
        assert_eq!((load(at, 16, 1), COUNT.load(SeqCst)), (2, 0));
        load(at + 32, 16, 1);
        assert_eq!(COUNT.load(SeqCst), 1);
        0
    });
}

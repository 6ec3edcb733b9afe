//! Traps reach their landings; signals that are not ours reach the program, as if we were not there.
//!
//! # Safety
//! Handlers touch atomics only. Assembler names what it changes; traps in it are handled. Hand-made code has the types it is
//! called by.

#![allow(unsafe_code, reason = "installs signal handlers and runs hand-made code")]

mod support;

use std::arch::asm;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use incise_isa::Addr;
use incise_space::AddressSpace;
use incise_space::own::OwnSpace;
use support::*;

/// What the program's handler saw last.
static SEEN: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicI32 = AtomicI32::new(0);

extern "C" fn record(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SEEN.store(signal, SeqCst);
    COUNT.fetch_add(1, SeqCst);
    // SAFETY: the kernel's pointers; the registers are an array of quadwords.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        VALUE.store((*info).si_value().sival_ptr as u64, SeqCst);
        let context = context.cast::<libc::ucontext_t>();
        RIP.store((*context).uc_mcontext.gregs[libc::REG_RIP as usize] as u64, SeqCst);
        let mut now: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut now);
        BLOCKED
            .store((1..64).filter(|&n| libc::sigismember(&now, n) == 1).map(|n| 1 << (n - 1)).sum(), SeqCst);
        if signal == libc::SIGILL {
            // Behind the `ud2`.
            (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
        }
    }
}

fn handle(signal: i32, flags: i32, also_blocked: &[i32]) {
    // SAFETY: `record` is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = record as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        also_blocked.iter().for_each(|&n| assert_eq!(libc::sigaddset(&mut action.sa_mask, n), 0));
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

fn set(signal: i32, handler: usize) {
    // SAFETY: SIG_DFL or SIG_IGN.
    unsafe { libc::signal(signal, handler) };
}

/// A space whose handler is in force, with one function that is all traps.
fn trapping() -> (OwnSpace, Patchable) {
    let mut space = OwnSpace::new().expect("an own space");
    let at = fresh(PAGE);
    let function = Patchable::new(&mut space, at, 0);
    space.publish_landings(&function.landings()).expect("landings");
    apply(&mut space, &[function.trap_edit()]).expect("install");
    (space, function)
}

fn works(function: &Patchable) {
    for entry in Patchable::ENTRIES {
        assert_eq!(call(function.at + entry), 2);
    }
}

fn int3() -> u64 {
    let behind: u64;
    // SAFETY: a trap, handled by the program or deadly.
    unsafe { asm!("lea {}, [rip + 2f]", "int3", "2:", out(reg) behind) };
    behind
}

fn ud2() -> u64 {
    let at: u64;
    // SAFETY: handled by the program.
    unsafe { asm!("lea {}, [rip + 2f]", "2: ud2", out(reg) at) };
    at
}

fn raise(signal: i32) {
    // SAFETY: a signal to this thread.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// The bit of a signal in a mask.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[test]
fn a_program_handler_gets_its_own_traps_with_its_own_siginfo() {
    assert_child(|| {
        handle(libc::SIGTRAP, 0, &[libc::SIGUSR1]);
        let (_space, function) = trapping();
        works(&function);
        assert_eq!(COUNT.load(SeqCst), 0, "our traps are not the program's");

        let behind = int3();
        assert_eq!((SEEN.load(SeqCst), CODE.load(SeqCst)), (libc::SIGTRAP, libc::SI_KERNEL));
        assert_eq!(RIP.load(SeqCst), behind);
        assert_eq!(BLOCKED.load(SeqCst), bit(libc::SIGTRAP) | bit(libc::SIGUSR1));

        let value = libc::sigval { sival_ptr: 0x1234_5678_9abc as *mut libc::c_void };
        // SAFETY: a signal to ourselves.
        assert_eq!(unsafe { libc::sigqueue(libc::getpid(), libc::SIGTRAP, value) }, 0);
        assert_eq!((CODE.load(SeqCst), VALUE.load(SeqCst)), (libc::SI_QUEUE, 0x1234_5678_9abc));

        raise(libc::SIGTRAP);
        assert_eq!((CODE.load(SeqCst), COUNT.load(SeqCst)), (libc::SI_TKILL, 3));
        works(&function);
        0
    });
}

#[test]
fn a_signal_sent_while_the_thread_stands_behind_a_trap_is_not_taken_for_one() {
    assert_child(|| {
        handle(libc::SIGTRAP, 0, &[]);
        let (mut space, function) = trapping();
        // `raise` in a hand-made function: the signal comes while rip is behind the `syscall` instruction, whose
        // second byte is listed as a trap that leads astray.
        let code = [0xB8, 0xEA, 0, 0, 0, 0x0F, 0x05, 0x31, 0xC0, 0xC3]; // mov $SYS_tgkill, %eax; syscall; ...
        let at = fresh(PAGE);
        space.map_code(at, PAGE).expect("map");
        space.write_code(&[(at, &code), (at + 64, &[0x0F, 0x0B])]).expect("write");
        let mut landings = function.landings();
        landings.push(incise_space::Landing { trap: at + 6, landing: at + 64 });
        landings.sort();
        space.publish_landings(&landings).expect("landings");
        // SAFETY: the code above has this type.
        let function: extern "C" fn(i32, i32, i32) -> i32 = unsafe { std::mem::transmute(at.0 as *const ()) };
        // SAFETY: no arguments.
        let (pid, tid) = unsafe { (libc::getpid(), libc::gettid()) };
        assert_eq!(function(pid, tid, libc::SIGTRAP), 0);
        assert_eq!((CODE.load(SeqCst), COUNT.load(SeqCst)), (libc::SI_TKILL, 1));
        assert_eq!(RIP.load(SeqCst), at.0 + 7);
        0
    });
}

#[test]
fn a_handler_for_one_signal_only_runs_once() {
    let status = in_child(|| {
        handle(libc::SIGTRAP, libc::SA_RESETHAND | libc::SA_NODEFER, &[]);
        let (_space, function) = trapping();
        works(&function);
        int3();
        assert_eq!((COUNT.load(SeqCst), BLOCKED.load(SeqCst)), (1, 0));
        works(&function);
        int3();
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTRAP, "{status:#x}");
}

#[test]
fn the_default_action_kills_with_the_right_signal() {
    let deaths: [(i32, fn()); 4] = [
        (libc::SIGTRAP, || assert_eq!(int3(), 0)),
        (libc::SIGTRAP, || raise(libc::SIGTRAP)),
        (libc::SIGILL, || assert_eq!(ud2(), 0)),
        (libc::SIGILL, || raise(libc::SIGILL)),
    ];
    for (n, (signal, cause)) in deaths.into_iter().enumerate() {
        let status = in_child(|| {
            set(libc::SIGTRAP, libc::SIG_DFL);
            set(libc::SIGILL, libc::SIG_DFL);
            let (_space, function) = trapping_with_illegal_bytes();
            works(&function);
            cause();
            0
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal, "{n}: {status:#x}");
    }
}

#[test]
fn an_ignored_signal_passes_but_a_trap_of_the_program_kills() {
    let status = in_child(|| {
        set(libc::SIGTRAP, libc::SIG_IGN);
        let (_space, function) = trapping();
        raise(libc::SIGTRAP);
        works(&function);
        COUNT.store(77, SeqCst);
        int3();
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTRAP, "{status:#x}");
    assert_child(|| {
        set(libc::SIGTRAP, libc::SIG_IGN);
        let _trapping = trapping();
        raise(libc::SIGTRAP);
        0
    });
}

/// A function whose springboard holds a byte that is illegal in 64-bit mode.
fn trapping_with_illegal_bytes() -> (OwnSpace, Patchable) {
    let mut space = OwnSpace::new().expect("an own space");
    let at = fresh(PAGE);
    let function = Patchable::new(&mut space, at, 3);
    space.publish_landings(&function.landings()).expect("landings");
    apply(&mut space, &[function.edit()]).expect("install");
    (space, function)
}

#[test]
fn an_illegal_byte_leads_to_its_landing_and_other_illegal_instructions_to_the_program() {
    assert_child(|| {
        handle(libc::SIGILL, 0, &[]);
        let (_space, function) = trapping_with_illegal_bytes();
        works(&function);
        // Enter at the illegal byte: two increments of what eax holds.
        let result: u32;
        // SAFETY: the code there increments eax and returns.
        unsafe { asm!("call {}", in(reg) (function.at + 4).0, inlateout("eax") 40u32 => result) };
        assert_eq!((result, COUNT.load(SeqCst)), (42, 0));
        let at = ud2();
        assert_eq!((SEEN.load(SeqCst), COUNT.load(SeqCst)), (libc::SIGILL, 1));
        assert_eq!((RIP.load(SeqCst), CODE.load(SeqCst)), (at, 2));
        0
    });
}

#[test]
fn a_handler_the_program_installs_later_is_chained_to_after_the_next_change() {
    assert_child(|| {
        let (mut space, function) = trapping();
        handle(libc::SIGTRAP, 0, &[]);
        space.publish_landings(&function.landings()).expect("landings");
        works(&function);
        int3();
        assert_eq!(COUNT.load(SeqCst), 1);
        works(&function);
        0
    });
}

/// The action the program found when it installed [`chain`].
static FOUND: AtomicU64 = AtomicU64::new(0);

extern "C" fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    COUNT.fetch_add(1, SeqCst);
    // SAFETY: the handler that was in force before.
    let found: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { std::mem::transmute(FOUND.load(SeqCst)) };
    found(signal, info, context);
}

#[test]
fn a_handler_that_chains_to_ours_does_not_run_in_a_circle() {
    assert_child(|| {
        handle(libc::SIGTRAP, 0, &[]);
        let (mut space, function) = trapping();
        // SAFETY: `chain` is async-signal-safe once FOUND is stored.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut found: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGTRAP, std::ptr::null(), &mut found), 0);
            FOUND.store(found.sa_sigaction as u64, SeqCst);
            action.sa_sigaction = chain as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
        }
        works(&function);
        assert_eq!(COUNT.swap(0, SeqCst), 3, "through the program's handler to ours");
        space.publish_landings(&function.landings()).expect("landings");
        works(&function);
        assert_eq!(COUNT.load(SeqCst), 0, "ours are on top again");
        let behind = int3();
        assert_eq!((COUNT.load(SeqCst), RIP.load(SeqCst)), (2, behind));
        0
    });
}

#[test]
fn a_trap_inside_another_signal_handler_is_handled() {
    static AT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn on_alarm(_: i32) {
        COUNT.fetch_add(call(Addr(AT.load(SeqCst))) as i32, SeqCst);
    }
    assert_child(|| {
        let (_space, function) = trapping();
        AT.store(function.at.0, SeqCst);
        // SAFETY: the handler only runs the function.
        unsafe {
            libc::signal(libc::SIGALRM, on_alarm as *const () as usize);
            let every = libc::timeval { tv_sec: 0, tv_usec: 150 };
            let timer = libc::itimerval { it_interval: every, it_value: every };
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()), 0);
        }
        for _ in 0..20_000 {
            works(&function);
        }
        let count = COUNT.load(SeqCst);
        assert!(count > 50 && count % 2 == 0, "{count}");
        0
    });
}

#[test]
fn the_programs_actions_come_back() {
    assert_child(|| {
        handle(libc::SIGTRAP, libc::SA_RESTART, &[libc::SIGUSR2]);
        // SAFETY: only asks.
        let action = || unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGTRAP, std::ptr::null(), &mut action), 0);
            (action.sa_sigaction, action.sa_flags, libc::sigismember(&action.sa_mask, libc::SIGUSR2))
        };
        let before = action();
        let (mut space, function) = trapping();
        assert_ne!(action().0, before.0);
        apply(&mut space, &[function.trap_edit().inverse()]).expect("remove");
        space.publish_landings(&[]).expect("no landings");
        let trampoline = function.trampoline..function.trampoline + 9;
        assert_eq!(space.quiescent(&[trampoline]).expect("quiescence"), [true]);
        assert_eq!(action(), before);
        space.publish_landings(&function.landings()).expect("landings");
        apply(&mut space, &[function.trap_edit()]).expect("install again");
        works(&function);
        0
    });
}

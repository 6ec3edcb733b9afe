//! Callbacks that run into probes themselves, that do not return, that use the session; probes on what the machinery
//! and the transactions use themselves.
//!
//! # Safety
//! The escape puts back what a function must keep; nothing with a destructor is skipped by it.

#![allow(unsafe_code, reason = "jumps out of callbacks, handles signals, calls functions of libc")]

mod support;

use std::arch::global_asm;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use incise::callback::{Context, VectorState, callback, skipped};
use incise::isa::native::Gpr;
use incise::{Addr, InstanceId, Outcome, Position, Query, Refusal, Session, Snippet};
use support::{Pristine, isolated, shapes, usage};

const PATIENCE: Duration = Duration::from_secs(120);

#[inline(never)]
extern "C" fn first(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

#[inline(never)]
extern "C" fn second(n: u64) -> u64 {
    std::hint::black_box(n) + 2
}

fn at(function: extern "C" fn(u64) -> u64) -> Addr {
    Addr(function as usize as u64)
}

fn insert(session: &Session, at: Addr, snippet: Snippet) -> InstanceId {
    let mut batch = session.batch();
    let id = batch.insert(at, snippet, Position::Last);
    batch.commit().expect("commit");
    id
}

static CALLS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: &mut Context, _: u64) {
    CALLS.fetch_add(1, Relaxed);
}

extern "C" fn recurse(context: &mut Context, _: u64) {
    CALLS.fetch_add(1, Relaxed);
    let n = context.gpr(Gpr::Rdi);
    *context.gpr_mut(Gpr::Rdi) = first(second(first(n)));
}

#[test]
fn a_callback_that_calls_what_is_probed_is_not_called_again() {
    isolated("a_callback_that_calls_what_is_probed_is_not_called_again", PATIENCE, || {
        let session = Session::own().expect("a session");
        insert(&session, at(first), callback(recurse, 0, VectorState::Full));
        insert(&session, at(second), callback(count, 0, VectorState::Full));
        let before = skipped();
        assert_eq!(first(10), 10 + 1 + 2 + 1 + 1);
        assert_eq!((CALLS.load(Relaxed), skipped() - before), (1, 3));
        assert_eq!(second(10), 12);
        assert_eq!(first(0), 5);
        assert_eq!((CALLS.load(Relaxed), skipped() - before), (3, 6));
        session.remove_all().expect("removal");
    });
}

// A way out of a callback: like setjmp(3) and longjmp(3).
global_asm!(
    ".pushsection .text.incise_escape, \"ax\", @progbits",
    // escapable(rdi: f, rsi: argument): f(argument), unless escape() is called meanwhile, which returns from here.
    ".hidden escapable",
    ".globl escapable",
    "escapable:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push qword ptr [rip + escape_to]",
    "mov [rip + escape_to], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "2: pop qword ptr [rip + escape_to]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".hidden escape",
    ".globl escape",
    "escape:",
    "mov rsp, [rip + escape_to]",
    "mov eax, 999",
    "jmp 2b",
    ".popsection",
    ".pushsection .bss.incise_escape, \"aw\", @nobits",
    ".balign 8",
    "escape_to: .zero 8",
    ".popsection",
);

unsafe extern "C" {
    fn escapable(function: extern "C" fn(u64) -> u64, argument: u64) -> u64;
    fn escape() -> !;
}

extern "C" fn leave(context: &mut Context, _: u64) {
    CALLS.fetch_add(1, Relaxed);
    if context.gpr(Gpr::Rdi) == 1 {
        // SAFETY: every call is inside of `escapable`.
        unsafe { escape() };
    }
}

/// Runs `function` so much deeper in the stack.
#[inline(never)]
fn deeper(kilobytes: u64, function: &dyn Fn() -> u64) -> u64 {
    let mut page = [0u8; 1024];
    std::hint::black_box(&mut page);
    let result = if kilobytes == 0 { function() } else { deeper(kilobytes - 1, function) };
    std::hint::black_box(&mut page);
    result
}

#[test]
fn a_callback_may_leave_by_a_jump() {
    isolated("a_callback_may_leave_by_a_jump", PATIENCE, || {
        let session = Session::own().expect("a session");
        insert(&session, at(first), callback(leave, 0, VectorState::Full));
        // SAFETY: `first` may be left by a jump.
        let call = |n| unsafe { escapable(first, n) };
        for depth in [0, 3, 40, 400, 1200, 20, 1, 0] {
            for _ in 0..3 {
                let before = CALLS.load(Relaxed);
                assert_eq!(deeper(depth, &|| call(1)), 999);
                assert_eq!(deeper(depth, &|| call(7)), 8);
                assert_eq!(call(1), 999);
                assert_eq!(call(3), 4);
                assert_eq!(deeper(depth / 2, &|| call(4)), 5);
                assert_eq!(CALLS.load(Relaxed) - before, 5, "depth {depth}");
            }
        }
        session.remove_all().expect("removal");
    });
}

#[test]
fn the_guard_belongs_to_the_thread() {
    isolated("the_guard_belongs_to_the_thread", PATIENCE, || {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        extern "C" fn wait(context: &mut Context, _: u64) {
            if context.gpr(Gpr::Rdi) == 50 {
                INSIDE.store(true, Relaxed);
                while !GO_ON.load(Relaxed) {
                    std::thread::yield_now();
                }
            }
            CALLS.fetch_add(1, Relaxed);
        }
        let session = Session::own().expect("a session");
        insert(&session, at(first), callback(wait, 0, VectorState::Full));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(first(50), 51));
            while !INSIDE.load(Relaxed) {
                std::thread::yield_now();
            }
            assert_eq!(first(1), 2);
            assert_eq!(CALLS.load(Relaxed), 1, "this thread is in no callback");
            // The probe goes while the other thread is in its callback; the trampoline stays for it.
            assert!(session.remove_all().expect("removal") > 0);
            assert_eq!(first(1), 2);
            GO_ON.store(true, Relaxed);
        });
        assert_eq!(CALLS.load(Relaxed), 2);
        // The thread may take a moment to end.
        let end = Instant::now() + Duration::from_secs(10);
        while session.remove_all().expect("nothing is left to remove") > 0 {
            assert!(Instant::now() < end, "the trampoline stays");
        }
    });
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32) {
    SIGNALS.fetch_add(first(5), Relaxed);
}

extern "C" fn raise_inside(context: &mut Context, _: u64) {
    CALLS.fetch_add(1, Relaxed);
    if context.gpr(Gpr::Rdi) == 50 {
        // SAFETY: SIGUSR1 has a handler.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
}

#[test]
fn a_signal_inside_a_callback_runs_probed_code_without_calling_back() {
    isolated("a_signal_inside_a_callback_runs_probed_code_without_calling_back", PATIENCE, || {
        let session = Session::own().expect("a session");
        insert(&session, at(first), callback(raise_inside, 0, VectorState::Full));
        for flags in [0, libc::SA_ONSTACK] {
            let mut memory = vec![0u8; 64 << 10];
            let stack =
                libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
            // SAFETY: the stack lives until another one is set; the handler may run at any time.
            unsafe {
                assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = flags;
                assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
            }
            let before = (CALLS.load(Relaxed), SIGNALS.load(Relaxed), skipped());
            assert_eq!(first(50), 51);
            assert_eq!(first(8), 9);
            let after = (CALLS.load(Relaxed), SIGNALS.load(Relaxed), skipped());
            assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (2, 6, 1), "{flags:x}");
            // SAFETY: no handler runs.
            unsafe {
                let off =
                    libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
                assert_eq!(libc::sigaltstack(&off, std::ptr::null_mut()), 0);
            }
        }
        session.remove_all().expect("removal");
    });
}

static SESSION: OnceLock<(Session, InstanceId)> = OnceLock::new();

extern "C" fn remove_itself(_: &mut Context, _: u64) {
    CALLS.fetch_add(1, Relaxed);
    let (session, instance) = SESSION.get().expect("set before the first call");
    let mut batch = session.batch();
    batch.remove(*instance);
    batch.commit().expect("removal");
}

#[test]
fn a_callback_can_remove_itself() {
    isolated("a_callback_can_remove_itself", PATIENCE, || {
        let pristine = Pristine::new();
        let session = Session::own().expect("a session");
        let instance = insert(&session, at(first), callback(remove_itself, 0, VectorState::Full));
        assert!(SESSION.set((session.clone(), instance)).is_ok());
        assert_eq!((first(1), first(2)), (2, 3));
        assert_eq!(CALLS.load(Relaxed), 1);
        assert_eq!(session.instance_count(), 0);
        assert_eq!(session.remove_all().expect("release"), 0);
        pristine.check();
    });
}

#[test]
fn the_machinery_of_callbacks_cannot_be_probed() {
    isolated("the_machinery_of_callbacks_cannot_be_probed", PATIENCE, || {
        let session = Session::own().expect("a session");
        for state in [VectorState::None, VectorState::Sse, VectorState::Avx, VectorState::Full] {
            let snippet = callback(count, 0, state);
            let Snippet::Callback { entry, .. } = snippet else { panic!("a callback") };
            let mut batch = session.batch().best_effort();
            batch.insert(entry, snippet.clone(), Position::Last);
            let report = batch.commit().expect("a best-effort commit");
            assert_eq!(report.entries[0].outcome, Outcome::Refused(Refusal::Machinery(entry)));
        }
    });
}

/// Functions that the session, the writers and the callbacks call themselves: if a transaction or a callback waited for
/// one of its own probes, it would wait for ever.
const DELICATE: &[&str] = &[
    "malloc",
    "free",
    "calloc",
    "realloc",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "bcmp",
    "strlen",
    "__errno_location",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "pread64",
    "pread",
    "pwrite64",
    "read",
    "write",
    "open64",
    "open",
    "openat",
    "close",
    "syscall",
    "pthread_mutex_lock",
    "pthread_mutex_unlock",
    "pthread_self",
    "pthread_getattr_np",
    "sigaction",
    "sigaltstack",
    "pthread_sigmask",
    "clock_gettime",
    "nanosleep",
    "clock_nanosleep",
    "getpid",
];

#[test]
fn what_transactions_use_themselves_can_be_probed() {
    isolated("what_transactions_use_themselves_can_be_probed", PATIENCE, || {
        let pristine = Pristine::new();
        let session = Session::own().expect("a session");
        let other = Session::own().expect("another session");
        let before = usage();
        let all = session.counter("all");
        let mut probed = 0;
        let snippets =
            [all.increment(), callback(count, 0, VectorState::Full), callback(count, 0, VectorState::Sse)];
        for snippet in snippets {
            let mut batch = session.batch().best_effort();
            for name in DELICATE {
                for point in session.find(Query::functions(format!("libc!{name}"))).unwrap_or_default() {
                    batch.push_back(&point, snippet.clone());
                }
            }
            let report = batch.commit().expect("a best-effort commit");
            let refused: Vec<_> = report.refusals().map(|(_, why)| why.to_string()).collect();
            assert!(refused.is_empty(), "{refused:?}");
            probed = probed.max(report.installed());
            // Other transactions, from several threads, with everything probed.
            std::thread::scope(|scope| {
                for function in [first, second] {
                    let other = &other;
                    scope.spawn(move || {
                        for n in 0..50 {
                            let hits = other.counter("hits");
                            let id = insert(other, at(function), hits.increment());
                            assert!(function(n) > n && hits.read() == 1);
                            let mut batch = other.batch();
                            batch.remove(id);
                            batch.commit().expect("removal");
                        }
                    });
                }
                scope.spawn(|| {
                    (0..200).for_each(|n| shapes::library().iter().for_each(|shape| (shape.check)(n)))
                });
            });
            session.remove_all().expect("removal");
            assert_eq!(first(1), 2);
        }
        assert!(probed > 25, "{probed}");
        assert!(all.read() > 1000 && CALLS.load(Relaxed) > 1000, "{} {}", all.read(), CALLS.load(Relaxed));
        assert_eq!(other.remove_all().expect("release"), 0);
        assert_eq!(session.remove_all().expect("release"), 0);
        pristine.check();
        assert_eq!(usage().descriptors, before.descriptors);
    });
}

/// A probe at the entry of every function of the program itself, of the C library and of the loader.
#[test]
fn everything_can_be_probed_at_once() {
    isolated("everything_can_be_probed_at_once", PATIENCE, || {
        let pristine = Pristine::new();
        let session = Session::own().expect("a session");
        let points = session.find(Query::functions("*")).expect("functions");
        assert!(points.len() > 3000, "{}", points.len());
        let all = session.counter("all");
        for snippet in [all.increment(), callback(count, 0, VectorState::Full)] {
            let calls = CALLS.load(Relaxed);
            let mut batch = session.batch().best_effort();
            // The callback's own work would be lost on it.
            for point in points.iter().filter(|point| point.addr.0 != count as *const () as u64) {
                batch.push_back(point, snippet.clone());
            }
            let report = batch.commit().expect("a best-effort commit");
            assert!(
                report.installed() * 100 > points.len() * 95,
                "{} of {}",
                report.installed(),
                points.len()
            );
            for shape in shapes::own().into_iter().chain(shapes::library()) {
                (0..20).for_each(shape.check);
            }
            let sum: u64 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4u64).map(|n| scope.spawn(move || first(n))).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(sum, 1 + 2 + 3 + 4);
            let text = format!("{:?} {:.3} {:?}", vec![1, 2, 3], 1.5, std::env::current_exe().is_ok());
            assert_eq!(text, "[1, 2, 3] 1.500 true");
            // Transactions while everything they call is probed.
            let hits = session.counter("hits");
            let id = insert(&session, at(second), hits.increment());
            assert_eq!((second(3), hits.read()), (5, 1));
            let mut batch = session.batch();
            batch.remove(id);
            batch.commit().expect("removal");
            assert_eq!(session.remove_all().expect("removal"), 0);
            pristine.check();
            assert!(all.read() > 1000 && (CALLS.load(Relaxed) > calls + 1000 || calls == 0));
        }
        assert!(CALLS.load(Relaxed) > 1000);
    });
}

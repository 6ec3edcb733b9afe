//! Signal handlers of this process see the original code, whatever instruction of a trampoline they interrupt.
//!
//! # Safety
//! The functions below are hand-made and have the type they are called with. Handlers change the frames of those only.

#![allow(unsafe_code, reason = "handles signals, calls hand-made code")]

mod support;

use std::arch::global_asm;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use incise::space::own::OwnSpace;
use incise::{Addr, Counter, Position, Session};
use support::isolated;

const PATIENCE: Duration = Duration::from_secs(120);

global_asm!(
    // Calls `handlers_leaf` and `handlers_saver` rdi times, with known registers and the carry flag set. Returns how often
    // that was so to the end.
    ".text",
    ".globl handlers_leaf, handlers_leaf_end, handlers_saver, handlers_saver_end, handlers_run, handlers_load, handlers_rsp",
    ".p2align 4",
    "handlers_leaf: lea rax, [rdi + 1]",
    "lea rax, [rax + rcx]",
    "ret",
    "handlers_leaf_end:",
    ".p2align 4",
    "handlers_saver: mov r9, rax",
    "lea rax, [rax + 1]",
    "ret",
    "handlers_saver_end:",
    ".p2align 4",
    "handlers_run: push rbx",
    "push r12",
    "mov [rip + handlers_rsp], rsp",
    "mov rbx, rdi",
    "xor r12d, r12d",
    "mov ecx, 0x1111",
    "mov edx, 0x2222",
    "mov esi, 0x3333",
    "mov edi, 0x4444",
    "mov r8d, 0x5555",
    "2: stc",
    "mov eax, 0x7777",
    "call handlers_leaf",
    "jnc 3f",
    "mov eax, 0x6666",
    "call handlers_saver",
    "jnc 3f",
    "inc r12",
    "dec rbx",
    "jnz 2b",
    "3: mov rax, r12",
    "pop r12",
    "pop rbx",
    "ret",
    ".p2align 4",
    "handlers_load: mov eax, [rdi]",
    "ret",
    "handlers_load_end:",
    ".bss",
    ".balign 8",
    "handlers_rsp: .quad 0",
    ".text",
);

unsafe extern "C" {
    fn handlers_run(times: u64) -> u64;
    fn handlers_load(from: *const u32) -> u32;
    static handlers_leaf: u8;
    static handlers_leaf_end: u8;
    static handlers_saver: u8;
    static handlers_saver_end: u8;
    static handlers_rsp: u64;
}

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

static SAMPLES: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicU64 = AtomicU64::new(0);
static OUTSIDE: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static ARENAS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn register(context: &libc::ucontext_t, register: i32) -> u64 {
    context.uc_mcontext.gregs[register as usize] as u64
}

extern "C" fn on_sample(_: i32, _: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    use libc::{REG_EFL, REG_R8, REG_RAX, REG_RCX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP};
    // SAFETY: the kernel's frame.
    let context = unsafe { &*context };
    let of = |name| register(context, name);
    let (ip, saver) = (of(REG_RIP), address(&raw const handlers_saver));
    SAMPLES.fetch_add(1, Relaxed);
    if (ARENAS[0].load(Relaxed)..ARENAS[1].load(Relaxed)).contains(&ip) {
        OUTSIDE.fetch_add(1, Relaxed);
    }
    let in_leaf = (address(&raw const handlers_leaf)..address(&raw const handlers_leaf_end)).contains(&ip);
    let in_saver = (saver..address(&raw const handlers_saver_end)).contains(&ip);
    if !in_leaf && !in_saver {
        return;
    }
    INSIDE.fetch_add(1, Relaxed);
    // SAFETY: written before the functions are called.
    let rsp = unsafe { (&raw const handlers_rsp).read_volatile() };
    let known =
        [(REG_RCX, 0x1111), (REG_RDX, 0x2222), (REG_RSI, 0x3333), (REG_RDI, 0x4444), (REG_R8, 0x5555)];
    let right = known.iter().all(|&(name, value)| of(name) == value)
        && of(REG_RSP) == rsp - 8
        && of(REG_EFL) & 1 == 1
        && (ip != saver || of(REG_RAX) == 0x6666);
    WRONG.fetch_add(u64::from(!right), Relaxed);
}

type Handler = extern "C" fn(i32, *const libc::siginfo_t, *mut libc::ucontext_t);

fn handle(signal: i32, handler: Handler) {
    // SAFETY: a structure of integers; then a handler of the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

fn handler_of(signal: i32) -> usize {
    // SAFETY: writes the structure.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut action), 0);
        action.sa_sigaction
    }
}

fn session() -> Session {
    Session::with(OwnSpace::builder().original_in_handlers(true).build().expect("a space"))
        .expect("a session")
}

fn count(session: &Session, sites: &[u64]) -> Vec<Counter> {
    let mut batch = session.batch();
    let counters: Vec<Counter> = sites.iter().map(|_| session.counter("hits")).collect();
    for (site, counter) in sites.iter().zip(&counters) {
        batch.insert(Addr(*site), counter.increment(), Position::Last);
    }
    batch.commit().expect("commit");
    counters
}

#[test]
fn a_sampling_handler_sees_the_program() {
    isolated("a_sampling_handler_sees_the_program", PATIENCE, || {
        const TIMES: u64 = 3_000_000;
        handle(libc::SIGALRM, on_sample);
        let session = session();
        let sites = [address(&raw const handlers_leaf), address(&raw const handlers_saver)];
        let counters = count(&session, &sites);
        let map = std::fs::read_to_string("/proc/self/maps").expect("readable");
        let ours =
            map.lines().filter(|line| line.contains("incise code") || line.contains("r-xp 00000000 00:00"));
        // Executable and of no file: where trampolines are.
        let near = ours.filter_map(|line| line.split_once('-')).filter_map(|(from, rest)| {
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(from)?, number(rest.split(' ').next()?)?))
        });
        let site = sites[0];
        if let Some((from, to)) =
            near.filter(|(from, to)| !(from..to).contains(&&site)).min_by_key(|(from, _)| from.abs_diff(site))
        {
            ARENAS[0].store(from, Relaxed);
            ARENAS[1].store(to, Relaxed);
        }
        assert!(ARENAS[0].load(Relaxed) != 0, "where the trampolines are is known:\n{map}");
        let every = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
        let often = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: a timer whose signal is handled, for this thread; a function made for this.
        let done = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::ptr::null_mut();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
            assert_eq!(libc::timer_settime(timer, 0, &often, std::ptr::null_mut()), 0);
            let done = handlers_run(TIMES);
            libc::timer_delete(timer);
            done
        };
        assert_eq!(done, TIMES, "a flag was lost");
        assert_eq!(counters.iter().map(Counter::read).collect::<Vec<_>>(), [TIMES, TIMES]);
        let [samples, inside, outside, wrong] =
            [&SAMPLES, &INSIDE, &OUTSIDE, &WRONG].map(|n| n.load(Relaxed));
        assert_eq!((outside, wrong), (0, 0), "of {samples}, {inside} inside");
        assert!(inside > 10, "{inside} of {samples}");
        session.remove_all().expect("removed");
        assert_eq!(
            handler_of(libc::SIGALRM),
            on_sample as Handler as usize,
            "the program's own handler is back"
        );
    });
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
static ELSEWHERE: AtomicU64 = AtomicU64::new(0);
static MEMORY: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_fault(_: i32, _: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel's frame.
    let context = unsafe { &mut *context };
    let load = handlers_load as unsafe extern "C" fn(*const u32) -> u32 as usize as u64;
    if register(context, libc::REG_RIP) != load || register(context, libc::REG_RDI) != MEMORY.load(Relaxed) {
        ELSEWHERE.fetch_add(1, Relaxed);
    }
    if FAULTS.fetch_add(1, Relaxed).is_multiple_of(2) {
        // Repeats it.
        let at = MEMORY.load(Relaxed) as *mut libc::c_void;
        // SAFETY: memory of the test.
        unsafe { libc::mprotect(at, 4096, libc::PROT_READ) };
    } else {
        // Skips it.
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = 7;
    }
}

#[test]
fn a_fault_handler_repeats_or_skips_the_original_instruction() {
    isolated("a_fault_handler_repeats_or_skips_the_original_instruction", PATIENCE, || {
        const TIMES: u64 = 100;
        handle(libc::SIGSEGV, on_fault);
        let session = session();
        let load = handlers_load as unsafe extern "C" fn(*const u32) -> u32 as usize as u64;
        let counters = count(&session, &[load]);
        let none = libc::PROT_NONE;
        // SAFETY: new memory, read by a function whose fault is handled.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), 4096, none, flags, -1, 0);
            MEMORY.store(at as u64, Relaxed);
            for _ in 0..TIMES {
                libc::mprotect(at, 4096, none);
                assert_eq!(handlers_load(at.cast()), 0);
                libc::mprotect(at, 4096, none);
                assert_eq!(handlers_load(at.cast()), 7);
            }
        }
        assert_eq!((FAULTS.load(Relaxed), ELSEWHERE.load(Relaxed)), (2 * TIMES, 0));
        assert_eq!(counters[0].read(), 2 * TIMES, "what is repeated is counted once");
        session.remove_all().expect("removed");
        assert_eq!(handler_of(libc::SIGSEGV), on_fault as Handler as usize);
    });
}

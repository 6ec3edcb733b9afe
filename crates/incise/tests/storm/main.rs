//! The storm: threads run code while others put probes in and out of it as fast as they can, with signal
//! handlers, exceptions and forks going on. Nothing may go wrong, nothing be lost, every byte must come back.
//!
//! # Safety
//! The functions called are plain C-ABI functions; the handlers run code that touches no shared state.

#![allow(unsafe_code, reason = "installs signal handlers, forks, clobbers registers")]

mod disturbances;
#[path = "../support/mod.rs"]
mod support;
mod toggling;

use std::arch::asm;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use disturbances::{fork_on, signals};
use incise::callback::{Context, VectorState, callback};
use incise::space::own::{OwnSpace, Unwinding, Writer};
use incise::{
    Addr, CommitError, Error, Images, InstanceId, Outcome, Position, Program, Session, Snippet, Tactic,
};
use support::shapes::{self, Shape};
use support::{Pristine, Rng, function, instructions, isolated, storm_time, usage};

const RUNNERS: u64 = 4;
const CHANGERS: u64 = 2;
/// Batches a second that the changers commit together, if the machine is fast enough. (Instances that are switched for the
/// first time take further transactions.)
const RATE: u32 = 1000;

#[test]
fn storm_swap() {
    isolated("storm_swap", storm_time() * 4 + Duration::from_secs(60), || storm(Writer::Swap));
}

#[test]
fn storm_poke() {
    isolated("storm_poke", storm_time() * 4 + Duration::from_secs(60), || storm(Writer::Poke));
}

#[test]
fn storm_auto() {
    isolated("storm_auto", storm_time() * 4 + Duration::from_secs(60), || storm(Writer::Auto));
}

/// Leaves nothing of the registers that a C function may change.
extern "C" fn clobber(context: &mut Context, _: u64) {
    // SAFETY: all of them are named.
    unsafe {
        asm!(
            "mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax",
            "mov r9, rax", "mov r10, rax", "mov r11, rax", "pcmpeqd xmm0, xmm0", "movaps xmm1, xmm0",
            "movaps xmm7, xmm0", "movaps xmm15, xmm0", "cmp eax, 1",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _, out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm15") _,
        );
    }
    std::hint::black_box(context);
}

static PINNED_CALLBACKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_pinned(_: &mut Context, _: u64) {
    PINNED_CALLBACKS.fetch_add(1, Relaxed);
}

static STOP: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// What handlers and children run.
static SHAPES: Mutex<Vec<Shape>> = Mutex::new(Vec::new());

/// Runs code that is being probed, in a signal handler.
extern "C" fn handler(_: i32) {
    let n = HANDLED.fetch_add(1, Relaxed);
    // A handler waits for nobody.
    if let Ok(shapes) = SHAPES.try_lock() {
        // SAFETY: errno is always there; the interrupted code may be about to read it.
        let errno = unsafe { &mut *libc::__errno_location() };
        let kept = *errno;
        let shape = shapes[n as usize % shapes.len()];
        drop(shapes);
        (shape.check)(n);
        *errno = kept;
    }
}

fn handle(signal: i32, flags: i32) {
    // SAFETY: all zero is a valid action to start from.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_RESTART;
    // SAFETY: the handler is good at any time.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

/// A stack for the signal handlers of this thread. (The one that every Rust thread has is too small for a handler
/// that runs through callbacks, each of which keeps all vector registers.)
struct SignalStack {
    _memory: Vec<u8>,
    before: libc::stack_t,
}

impl SignalStack {
    fn new() -> SignalStack {
        let mut memory = vec![0; 128 << 10];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        // SAFETY: all zero is a valid value, to be overwritten.
        let mut before = unsafe { std::mem::zeroed() };
        // SAFETY: the memory lives until it is taken back.
        assert_eq!(unsafe { libc::sigaltstack(&stack, &mut before) }, 0);
        SignalStack { _memory: memory, before }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        // SAFETY: puts back what was there.
        assert_eq!(unsafe { libc::sigaltstack(&self.before, std::ptr::null_mut()) }, 0);
    }
}

/// The instruction boundaries of all shapes; the pinned function's entry is left alone.
fn points(all: &[Shape], pinned: Addr) -> Vec<Addr> {
    let space = OwnSpace::new().expect("a space");
    let program = Program::read(&space, "self", &mut Images::default()).expect("the program");
    let mut points = Vec::new();
    for shape in all {
        let insns = instructions(&function(&program, shape.entry));
        points.extend(insns.iter().map(|insn| insn.addr()).filter(|&at| at != pinned));
        // Entries are what most people probe.
        points.extend(
            std::iter::repeat_n(Addr(shape.entry as u64), insns.len() / 4).filter(|&at| at != pinned),
        );
    }
    points
}

fn storm(writer: Writer) {
    let pristine = Pristine::new();
    let own = shapes::own();
    let all: Vec<Shape> = own.iter().copied().chain(shapes::library()).chain(shapes::throwing()).collect();
    let (pinned_index, pinned_shape) =
        all.iter().enumerate().find(|(_, shape)| shape.name == "shape_loop").expect("a shape");
    let pinned = Addr(pinned_shape.entry as u64);
    let points = points(&all, pinned);
    *SHAPES.lock().expect("nobody else yet") =
        own.iter().copied().filter(|shape| shape.entry as u64 != pinned.0).collect();

    let space = OwnSpace::builder().writer(writer).unwinding(Unwinding::Everybody).build().expect("a space");
    let session = Session::with(space).expect("a session");
    let pinned_hits = session.counter("pinned");
    let counters: Vec<_> = (0..64).map(|n| session.counter(format!("{n}"))).collect();
    let mut batch = session.batch();
    batch.insert(pinned, pinned_hits.increment(), Position::Last);
    batch.insert(pinned, callback(count_pinned, 0, VectorState::Full), Position::Last);
    batch.commit().expect("the pinned probes");
    handle(libc::SIGALRM, 0);
    handle(libc::SIGUSR1, libc::SA_ONSTACK);

    let pinned_calls = AtomicU64::new(0);
    let checks = AtomicU64::new(0);
    let [commits, switches, busy, installed, refused, trapped] = [const { AtomicU64::new(0) }; 6];
    let (most_bytes, most_retired) = (AtomicU64::new(0), AtomicU64::new(0));
    let forks = AtomicU64::new(0);
    let threads: Vec<AtomicI32> = (0..RUNNERS).map(|_| AtomicI32::new(0)).collect();
    let before = usage();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (number, thread) in (0..RUNNERS).zip(&threads) {
            let (all, checks, pinned_calls) = (&all, &checks, &pinned_calls);
            scope.spawn(move || {
                let _end = StopOnPanic;
                let _stack = SignalStack::new();
                // SAFETY: no arguments.
                thread.store(unsafe { libc::gettid() }, Relaxed);
                let mut rng = Rng::new(number);
                while !STOP.load(Relaxed) {
                    for _ in 0..32 {
                        let index = rng.below(all.len());
                        (all[index].check)(rng.next());
                        if index == pinned_index {
                            pinned_calls.fetch_add(1, Relaxed);
                        }
                    }
                    checks.fetch_add(32, Relaxed);
                }
                thread.store(0, Relaxed);
            });
        }
        for number in 0..CHANGERS {
            let (session, points, counters) = (&session, &points, &counters);
            let (commits, switches, busy) = (&commits, &switches, &busy);
            let (installed, refused, trapped) = (&installed, &refused, &trapped);
            let (most_bytes, most_retired) = (&most_bytes, &most_retired);
            scope.spawn(move || {
                let _end = StopOnPanic;
                let mut rng = Rng::new(100 + number);
                let mut present: Vec<InstanceId> = Vec::new();
                let mut next = Instant::now();
                while !STOP.load(Relaxed) {
                    for _ in 0..rng.below(4) {
                        if !present.is_empty() {
                            switches.fetch_add(1, Relaxed);
                            match session.switch(*rng.pick(&present), rng.below(2) == 0) {
                                // The first one plans anew, all or nothing: it may be refused, and changes nothing then.
                                Ok(()) | Err(Error::Commit(CommitError::Refused(_))) => {}
                                Err(error) => panic!("a switch: {error}"),
                            }
                        }
                    }
                    let mut batch = session.batch().best_effort();
                    for _ in 0..rng.below(6) {
                        if !present.is_empty() {
                            batch.remove(present.swap_remove(rng.below(present.len())));
                        }
                    }
                    for _ in 0..rng.below(if present.len() > 100 { 2 } else { 8 }) {
                        batch.insert(*rng.pick(points), snippet(&mut rng, counters), Position::Last);
                    }
                    let report = batch.commit().expect("a best-effort commit");
                    for entry in &report.entries {
                        match &entry.outcome {
                            Outcome::Installed(tactic) => {
                                present.push(entry.instance);
                                installed.fetch_add(1, Relaxed);
                                trapped.fetch_add(u64::from(*tactic == Tactic::Trap), Relaxed);
                            }
                            Outcome::Refused(refusal) => {
                                let count = refused.fetch_add(1, Relaxed);
                                assert!(count < 100, "{refusal}");
                            }
                        }
                    }
                    commits.fetch_add(1, Relaxed);
                    most_bytes.fetch_max(report.trampoline_bytes, Relaxed);
                    most_retired.fetch_max(report.retired_bytes, Relaxed);
                    next += Duration::from_secs(1) * CHANGERS as u32 / RATE;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                busy.fetch_add(processor_time().as_micros() as u64, Relaxed);
                let mut batch = session.batch();
                present.into_iter().for_each(|instance| batch.remove(instance));
                batch.commit().expect("removal");
            });
        }
        scope.spawn(|| signals(&threads));
        scope.spawn(|| fork_on(&forks));
        while began.elapsed() < storm_time() && !STOP.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        STOP.store(true, Relaxed);
    });
    let after = usage();
    assert_eq!(pinned_hits.read(), pinned_calls.load(Relaxed), "the counter that was there all the time");
    assert_eq!(PINNED_CALLBACKS.load(Relaxed), pinned_calls.load(Relaxed), "the callback beside it");
    let left = session.remove_all().expect("removal of everything");
    pristine.check();
    eprintln!(
        "\n# storm {writer:?}: {} commits/s, {} us of processor time each with {:.1} switches, {} probes put in ({} traps, {} refused), {} checks, {} signals, {} forks; \
         trampolines {} bytes at most, {} retired; {before:?} -> {after:?} -> {:?}",
        commits.load(Relaxed) / began.elapsed().as_secs().max(1),
        busy.load(Relaxed) / commits.load(Relaxed),
        switches.load(Relaxed) as f64 / commits.load(Relaxed) as f64,
        installed.load(Relaxed),
        trapped.load(Relaxed),
        refused.load(Relaxed),
        checks.load(Relaxed),
        HANDLED.load(Relaxed),
        forks.load(Relaxed),
        most_bytes.load(Relaxed),
        most_retired.load(Relaxed),
        usage(),
    );
    // What is left over in the gaps of a stack can look like a return address into one trampoline.
    assert!(left < 1 << 10, "no thread is left that could be in a trampoline: {left} bytes");
    assert!(most_bytes.load(Relaxed) < 1 << 20, "trampolines in use");
    assert!(most_retired.load(Relaxed) < 4 << 20, "trampolines out of use");
    assert_eq!(usage().descriptors, before.descriptors, "descriptors");
    assert!(usage().mappings < before.mappings + 128, "mappings");
    assert!(usage().resident < before.resident + (48 << 20), "memory");
    assert!(commits.load(Relaxed) > 100 && HANDLED.load(Relaxed) > 100 && forks.load(Relaxed) > 5);
}

/// What this thread has taken so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills `time`.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn snippet(rng: &mut Rng, counters: &[incise::Counter]) -> Snippet {
    let states = [VectorState::Sse, VectorState::Avx, VectorState::Avx512, VectorState::Full];
    match rng.below(3) {
        0 => callback(clobber, 0, *rng.pick(&states)),
        _ => rng.pick(counters).increment(),
    }
}

/// Lets the others end if this thread panics; the scope reports the panic.
struct StopOnPanic;

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            STOP.store(true, Relaxed);
        }
    }
}

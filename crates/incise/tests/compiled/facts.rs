//! What the thread is called and where it was called from, records, stopping, breaking into a debugger: in another process, and in
//! this one.
//!
//! # Safety
//! Signals go to processes of the test's own; the handler calls one function without effects elsewhere. Sets of CPUs are
//! plain data, of this function.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use incise::data::Value;
use incise::snippet::{Fault, Program, Stmt, Storage, Type, Variable};
use incise::{PointKind, Query, Ran, Session};

use super::Over;
use super::support::isolated;

#[test]
fn names_of_threads_and_stacks_are_gathered_in_another_process() {
    let mut over = Over::start();
    let entry = over.point("inner");
    let mut language = over.session.language();
    let text = "@by[comm] = count(); @from[ustack(3)] = count(); printf(\"%s %d\\n\", comm, arg0);";
    let mut batch = over.session.batch();
    batch.push_back(&entry, &language.program(text, &entry).expect("a snippet"));
    batch.commit().expect("commit");
    assert_eq!(over.target.ask(&mut over.tracer, 9), 12);
    assert_eq!(language.printed(), ["target 4\n"]);
    let by = language.map("by").expect("a map");
    // A key of text has zeros behind it.
    let (key, count) = by.iter().next().expect("a name");
    assert_eq!((key[0].to_le_bytes(), count), (*b"target\0\0", Value::Count(1)));
    // `between` called it, and `answer` that; only `between` has a frame pointer.
    let from = language.print("from").expect("a map");
    let [between, answer] = ["between+", "answer+"].map(|name| from.find(name));
    assert!(between.is_some() && between < answer, "{from}");
    over.session.remove_all().expect("removal");
    over.end();
}

/// The state of a process, as proc(5) has it in `stat`.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
}

#[test]
fn code_runs_once_in_this_process() {
    let session = Session::own().expect("this process");
    let total = Variable::new("total", Type::U64, Storage::Global);
    for expected in [21, 42] {
        let program = Program::new([total.add(21), Stmt::give(total.get())]).expect("a program");
        assert_eq!(session.once(&program).expect("it runs"), Ran::Value(expected));
    }
    assert_eq!(session.variable(&total).get(), 42);
}

#[test]
fn a_program_stops_another_process() {
    let mut over = Over::start();
    let entry = over.point("depth");
    let stop = Program::new([Stmt::when(incise::snippet::arg(0).eq(2), [Stmt::Stop])]).expect("a program");
    let compiled = over.session.program(&stop).expect("compiled");
    let mut batch = over.session.batch();
    batch.push_back(&entry, &compiled);
    batch.commit().expect("commit");
    let pid = over.target.pid();
    let (sender, stopped) = channel();
    let waker = std::thread::spawn(move || {
        let began = Instant::now();
        let mut seen = false;
        while !seen && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
            // Traced and stopped by a signal, for more than a moment.
            seen = (0..5).all(|_| {
                std::thread::sleep(Duration::from_millis(5));
                matches!(state(pid), 't' | 'T')
            });
        }
        let _ = sender.send(seen);
        // SAFETY: sends a signal.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    });
    assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
    waker.join().expect("it ends");
    assert!(stopped.recv().expect("it tells"), "it was never stopped");
    over.session.remove_all().expect("removal");
    over.end();
}

#[test]
fn a_program_breaks_into_what_waits_for_breakpoints() {
    let mut over = Over::start();
    let entry = over.point("depth");
    let compiled =
        over.session.program(&Program::new([Stmt::Debugger]).expect("a program")).expect("compiled");
    let mut batch = over.session.batch();
    batch.push_back(&entry, &compiled);
    batch.commit().expect("commit");
    // The program has a handler for SIGTRAP, which counts.
    assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
    over.session.remove_all().expect("removal");
    assert_eq!(over.target.ask(&mut over.tracer, 10), 6);
    assert_eq!(Fault::ALL.map(|fault| compiled.faults(fault)), [0; 6]);
    over.end();
}

#[inline(never)]
extern "C" fn outer(n: u64) -> u64 {
    std::hint::black_box(middle as extern "C" fn(u64) -> u64)(n) + 1
}

#[inline(never)]
extern "C" fn middle(n: u64) -> u64 {
    std::hint::black_box(n) * 2
}

#[test]
fn names_records_and_maps_in_this_process() {
    isolated("facts::names_records_and_maps_in_this_process", Duration::from_secs(60), || {
        let called = |n: u64| outer(n);
        let session = Session::own().expect("a session");
        let mut language = session.language();
        let at = incise::Addr(middle as *const () as u64);
        let points = session.find(Query::functions(format!("*{:#x}", at.0))).expect("the function");
        let point = &points[0];
        let text = "@[comm, arg0] = count(); @all = stats(arg0); printf(\"%d\\n\", arg0); \
                    if (arg0 == 3) override(70);";
        let compiled = language.program(text, point).expect("a snippet");
        let mut batch = session.batch();
        batch.push_back(point, &compiled);
        batch.commit().expect("commit");
        assert_eq!([1, 3, 5].map(called), [3, 71, 11]);
        assert_eq!(language.printed(), ["1\n", "3\n", "5\n"]);
        let all = Some(Value::Stats { count: 3, sum: 9, min: 1, max: 5 });
        assert_eq!(language.map("all").expect("a map").get(&[]), all);
        assert_eq!(language.map("").expect("a map").words.len(), 3);
        session.remove_all().expect("removal");
        assert_eq!([1, 3, 5].map(called), [3, 7, 11]);
        assert_eq!(language.map("all").expect("a map").get(&[]), all, "what was gathered stays");
        let exit = session.find(Query::functions("libc!getppid").kind(PointKind::FunctionExit));
        assert!(exit.is_ok());
    });
}

#[inline(never)]
extern "C" fn counted(n: u64) -> u64 {
    std::hint::black_box(n) + 3
}

/// Each thread is moved from CPU to CPU as it counts, and interrupted by signals whose handler counts too.
#[test]
fn counts_per_cpu_are_exact_under_threads() {
    isolated("facts::counts_per_cpu_are_exact_under_threads", Duration::from_secs(60), || {
        // A thread has to be moved between two instructions: many calls find what few do not.
        let calls: u64 =
            if std::env::var_os("INCISE_LONG").is_some_and(|v| v == "1") { 100_000_000 } else { 1_000_000 };
        const THREADS: u64 = 4;
        const SIGNALS: u64 = 500;
        static HANDLED: AtomicU64 = AtomicU64::new(0);
        extern "C" fn handle(_: i32) {
            HANDLED.fetch_add(1, Ordering::Relaxed);
            counted(1);
        }
        let session = Session::own().expect("a session");
        let per_cpu = Variable::new("n", Type::U64, Storage::PerCpu);
        let compiled =
            session.program(&Program::new([per_cpu.add(2)]).expect("a program")).expect("compiled");
        assert!(compiled.is_inline());
        let mut batch = session.batch();
        batch.insert(incise::Addr(counted as *const () as u64), &compiled, incise::Position::Last);
        batch.commit().expect("commit");
        // SAFETY: a handler that calls one function of ours, and signals to ourselves.
        unsafe { libc::signal(libc::SIGUSR1, handle as *const () as usize) };
        let (sender, threads) = channel();
        let running = &AtomicU64::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let sender = sender.clone();
                scope.spawn(move || {
                    // SAFETY: asks for a number.
                    let _ = sender.send(unsafe { libc::gettid() });
                    let call = std::hint::black_box(counted as extern "C" fn(u64) -> u64);
                    (0..calls).for_each(|n| assert_eq!(call(n), n + 3));
                    running.fetch_sub(1, Ordering::Relaxed);
                });
            }
            scope.spawn(move || {
                let threads: Vec<i32> = threads.iter().take(THREADS as usize).collect();
                let mut turn = 0;
                while running.load(Ordering::Relaxed) > 0 {
                    turn += 1;
                    for (index, thread) in threads.iter().enumerate() {
                        // SAFETY: an empty set of CPUs, and one of it.
                        unsafe {
                            let mut cpus: libc::cpu_set_t = std::mem::zeroed();
                            libc::CPU_SET((index + turn) % 2, &mut cpus);
                            libc::sched_setaffinity(*thread, size_of::<libc::cpu_set_t>(), &cpus);
                        }
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..SIGNALS {
                    // SAFETY: as above.
                    unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
        });
        let value = session.variable(&per_cpu);
        assert_eq!(value.get(), 2 * (calls * THREADS + HANDLED.load(Ordering::Relaxed)));
        session.remove_all().expect("removal");
        value.set(0);
        assert_eq!(value.get(), 0);
    });
}

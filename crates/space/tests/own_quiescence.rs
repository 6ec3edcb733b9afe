//! Quiescence: code that a thread can still run is found, wherever the thread is; idle code is told idle.
//!
//! # Safety
//! The hand-made code has the types it is called by and touches nothing but its arguments; system calls get buffers and numbers of
//! the tests' own.

#![allow(unsafe_code, reason = "runs hand-made code and system calls")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::AddressSpace;
use incise_space::own::OwnSpace;
use support::*;

/// Code at a fresh address: `f(flags)` sets `flags[1]` and runs until `flags[0]` is not zero; on the next page,
/// `g(callback, argument)` calls.
struct Code {
    space: OwnSpace,
    at: Addr,
    /// What one test does to its threads another would see.
    _alone: MutexGuard<'static, ()>,
}

impl Code {
    const LOOP: &[u8] = &[
        0xC7, 0x47, 0x04, 1, 0, 0, 0, // movl $1, 4(%rdi)
        0x83, 0x3F, 0x00, // 0: cmpl $0, (%rdi)
        0x74, 0xFB, // je 0b
        0xC3,
    ];
    const CALL: &[u8] = &[
        0x48, 0x83, 0xEC, 0x08, // sub $8, %rsp
        0x48, 0x89, 0xF8, // mov %rdi, %rax
        0x48, 0x89, 0xF7, // mov %rsi, %rdi
        0xFF, 0xD0, // call *%rax
        0x48, 0x83, 0xC4, 0x08, // add $8, %rsp
        0xC3,
    ];

    fn new() -> Code {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = OwnSpace::new().expect("an own space");
        let at = fresh(2 * PAGE);
        space.map_code(at, 2 * PAGE).expect("map");
        space.write_code(&[(at, Code::LOOP), (at + PAGE, Code::CALL)]).expect("write");
        Code { space, at, _alone: alone }
    }

    /// Whether the loop's page and the call's page are idle.
    fn idle(&mut self) -> [bool; 2] {
        let pages = [self.at..self.at + PAGE, self.at + PAGE..self.at + 2 * PAGE];
        self.space.quiescent(&pages).expect("quiescence").try_into().expect("two answers")
    }
}

/// Ends the loop; tells that it is running.
type Flags = [AtomicU32; 2];

fn spin(at: Addr, flags: &Flags) {
    // SAFETY: the loop has this type.
    let function: extern "C" fn(&Flags) = unsafe { std::mem::transmute(at.0 as *const ()) };
    function(flags);
}

fn wait_for(flag: &AtomicU32) {
    while flag.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
}

fn through<T>(at: Addr, callback: extern "C" fn(&T), argument: &T) {
    // SAFETY: the code calls what it is given with its second argument.
    let function: extern "C" fn(extern "C" fn(&T), &T) =
        unsafe { std::mem::transmute((at + PAGE).0 as *const ()) };
    function(callback, argument);
}

#[test]
fn nobody_inside_is_idle() {
    let mut code = Code::new();
    assert_eq!(code.idle(), [true, true]);
}

#[test]
fn a_thread_that_runs_inside_is_found() {
    let mut code = Code::new();
    let at = code.at;
    let flags = Flags::default();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| spin(at, &flags));
        wait_for(&flags[1]);
        let answers = [(); 20].map(|()| code.idle());
        flags[0].store(1, SeqCst);
        assert_eq!(answers, [[false, true]; 20]);
        thread.join().expect("the loop ends");
        assert_eq!(code.idle(), [true, true]);
    });
}

#[test]
fn threads_that_are_just_ending_hide_nothing() {
    let mut code = Code::new();
    for round in 0..1000u32 {
        std::thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || (0..round * 16 * number).for_each(|_| std::hint::spin_loop()));
            }
        });
        assert_eq!(code.idle(), [true, true], "round {round}");
    }
}

#[test]
fn a_return_address_on_the_stack_of_a_sleeping_thread_is_found() {
    extern "C" fn wait(channel: &(mpsc::Sender<()>, Barrier)) {
        channel.0.send(()).expect("the test listens");
        channel.1.wait();
    }
    let mut code = Code::new();
    let at = code.at;
    let (sender, receiver) = mpsc::channel();
    let channel = (sender, Barrier::new(2));
    std::thread::scope(|scope| {
        let channel = &channel;
        scope.spawn(move || {
            let channel = channel;
            through(at, wait, channel);
        });
        receiver.recv().expect("the thread is inside");
        let answer = code.idle();
        channel.1.wait();
        assert_eq!(answer, [true, false]);
    });
    assert_eq!(code.idle(), [true, true]);
}

#[test]
fn a_return_address_on_the_stack_of_a_running_thread_is_found() {
    static GO_ON: AtomicBool = AtomicBool::new(false);
    extern "C" fn busy(entered: &AtomicBool) {
        entered.store(true, SeqCst);
        while !GO_ON.load(SeqCst) {
            std::hint::spin_loop();
        }
    }
    let mut code = Code::new();
    let at = code.at;
    let entered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| through(at, busy, &entered));
        while !entered.load(SeqCst) {
            std::thread::yield_now();
        }
        let answers = [(); 20].map(|()| code.idle());
        GO_ON.store(true, SeqCst);
        assert_eq!(answers, [[true, false]; 20]);
    });
    assert_eq!(code.idle(), [true, true]);
}

#[test]
fn the_calling_thread_counts_too() {
    extern "C" fn ask(answer: &std::cell::RefCell<(Code, [bool; 2])>) {
        let mut answer = answer.borrow_mut();
        answer.1 = answer.0.idle();
    }
    let code = Code::new();
    let at = code.at;
    let answer = std::cell::RefCell::new((code, [false; 2]));
    through(at, ask, &answer);
    assert_eq!(answer.borrow().1, [true, false]);
    assert_eq!(answer.borrow_mut().0.idle(), [true, true]);
}

#[test]
fn code_interrupted_by_a_handler_on_another_stack_is_found() {
    static PIPE: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];
    static INSIDE: AtomicBool = AtomicBool::new(false);
    extern "C" fn sleep_in_handler(_: i32) {
        INSIDE.store(true, SeqCst);
        let mut byte = 0u8;
        // SAFETY: reads one byte.
        unsafe { libc::read(PIPE[0].load(SeqCst), (&raw mut byte).cast(), 1) };
    }
    let mut code = Code::new();
    let at = code.at;
    let (flags, thread_id) = (Flags::default(), AtomicI32::new(0));
    let mut stack = vec![0u64; 8192];
    // SAFETY: plain system calls on memory that outlives the thread.
    unsafe {
        let mut pipe = [0; 2];
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        PIPE[0].store(pipe[0], SeqCst);
        PIPE[1].store(pipe[1], SeqCst);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = sleep_in_handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
    }
    let stack_at = stack.as_mut_ptr() as usize;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let stack = libc::stack_t { ss_sp: stack_at as *mut _, ss_flags: 0, ss_size: 65536 };
            // SAFETY: the stack outlives the thread.
            unsafe {
                assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
                thread_id.store(libc::gettid(), SeqCst);
            }
            spin(at, &flags);
        });
        wait_for(&flags[1]);
        // SAFETY: a signal to that thread.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread_id.load(SeqCst), libc::SIGUSR2) };
        while !INSIDE.load(SeqCst) {
            std::thread::yield_now();
        }
        let answer = code.idle();
        flags[0].store(1, SeqCst);
        // SAFETY: wakes the handler.
        unsafe { libc::write(PIPE[1].load(SeqCst), [1u8].as_ptr().cast(), 1) };
        assert_eq!(answer, [false, true]);
        thread.join().expect("the loop ends");
    });
    // The dead frame may lie in one mapping with a living stack.
    stack.fill(0);
    assert_eq!(code.idle(), [true, true]);
}

#[test]
fn sleeping_threads_are_not_woken() {
    let mut code = Code::new();
    let result = AtomicI32::new(99);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: waits for nothing on an epoll of its own; any stop would end it with EINTR.
            unsafe {
                let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
                let mut event: libc::epoll_event = std::mem::zeroed();
                result.store(libc::epoll_wait(epoll, &mut event, 1, 600), SeqCst);
                libc::close(epoll);
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        let mut answers = 0;
        while !thread.is_finished() {
            assert_eq!(code.idle(), [true, true]);
            answers += 1;
        }
        assert!(answers > 20, "{answers}");
    });
    assert_eq!(result.load(SeqCst), 0, "time ran out, nothing else");
}

#[test]
fn threads_that_come_and_go_do_not_hide_anything() {
    let mut code = Code::new();
    let at = code.at;
    let stop = AtomicBool::new(false);
    let flags = Flags::default();
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    std::thread::spawn(|| std::hint::black_box(0)).join().expect("a thread");
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        scope.spawn(|| spin(at, &flags));
        wait_for(&flags[1]);
        let wrong = (0..100).filter(|_| code.idle()[0]).count();
        flags[0].store(1, SeqCst);
        let end = Instant::now() + Duration::from_secs(5);
        let mut idle = false;
        while !idle && Instant::now() < end {
            idle = code.idle() == [true, true];
        }
        stop.store(true, SeqCst);
        assert!(wrong == 0 && idle, "{wrong} {idle}");
    });
    assert!(rounds.into_inner() > 20);
}

#[test]
fn memory_lent_to_a_child_is_not_told_idle() {
    extern "C" fn child(release: *mut libc::c_void) -> i32 {
        let mut byte = 0u8;
        // SAFETY: reads one byte.
        unsafe { libc::read(*release.cast::<i32>(), (&raw mut byte).cast(), 1) };
        0
    }
    let mut code = Code::new();
    let mut pipe = [0; 2];
    // SAFETY: makes a pipe.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let started = Barrier::new(2);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut stack = vec![0u64; 8192];
            let mut release = pipe[0];
            started.wait();
            // SAFETY: the stack and the argument live until the child is gone.
            unsafe {
                let end = stack.as_mut_ptr_range().end.cast();
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                let pid = libc::clone(child, end, flags, (&raw mut release).cast());
                assert!(pid > 0);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        });
        started.wait();
        std::thread::sleep(Duration::from_millis(50));
        let answer = code.idle();
        // SAFETY: releases the child.
        unsafe { libc::write(pipe[1], [1u8].as_ptr().cast(), 1) };
        assert_eq!(answer, [false, false]);
        thread.join().expect("the child ends");
        assert_eq!(code.idle(), [true, true]);
    });
}

#[test]
fn a_running_thread_that_another_tracer_has_is_not_told_idle() {
    let mut code = Code::new();
    let (stop, thread_id) = (AtomicBool::new(false), AtomicI32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: no arguments.
            thread_id.store(unsafe { libc::gettid() }, SeqCst);
            while !stop.load(SeqCst) {
                std::hint::spin_loop();
            }
        });
        while thread_id.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(code.idle(), [true, true]);
        let mut pipe = [0; 2];
        // SAFETY: the child only makes system calls until it is killed.
        let (tracer, traced) = unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let tracer = libc::fork();
            if tracer == 0 {
                let traced = libc::ptrace(libc::PTRACE_SEIZE, thread_id.load(SeqCst), 0, 0) == 0;
                libc::write(pipe[1], [u8::from(traced)].as_ptr().cast(), 1);
                loop {
                    libc::pause();
                }
            }
            let mut traced = 0u8;
            libc::read(pipe[0], (&raw mut traced).cast(), 1);
            (tracer, traced == 1)
        };
        let answer = traced.then(|| code.idle());
        // SAFETY: ends our child.
        unsafe {
            libc::kill(tracer, libc::SIGKILL);
            libc::waitpid(tracer, std::ptr::null_mut(), 0);
        }
        let after = code.idle();
        stop.store(true, SeqCst);
        match answer {
            Some(answer) => assert_eq!((answer, after), ([false, false], [true, true])),
            None => eprintln!("skipped: a child may not trace its parent here"),
        }
    });
}

#[test]
fn what_it_costs() {
    let mut code = Code::new();
    let stop = AtomicBool::new(false);
    let time = |code: &mut Code| {
        let mut times: Vec<Duration> = (0..20)
            .map(|_| {
                let start = Instant::now();
                code.idle();
                start.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let alone = time(&mut code);
    let barrier = Barrier::new(9);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| barrier.wait());
        }
        std::thread::sleep(Duration::from_millis(20));
        let sleeping = time(&mut code);
        barrier.wait();
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    std::hint::spin_loop();
                }
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        println!("quiescence: {alone:?}; 8 sleeping threads {sleeping:?}; 4 running {:?}", time(&mut code));
        stop.store(true, SeqCst);
        assert!(sleeping < Duration::from_millis(500), "{sleeping:?}");
    });
}

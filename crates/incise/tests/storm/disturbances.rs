//! What goes on beside: signals and forks.
//!
//! # Safety
//! Signals have handlers; a forked child runs the shapes and exits without destructors.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::Rng;
use crate::support::shapes;
use crate::{SHAPES, STOP, StopOnPanic};

/// Between two forks. Each makes the kernel copy every page that is written to afterwards: without a pause, changers spend two
/// fifths of their time on that.
const FORK_PAUSE: Duration = Duration::from_millis(40);

/// Sends signals to the threads that run the code: by a timer, and one by one.
pub fn signals(threads: &[AtomicI32]) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: 1500 };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: SIGALRM has a handler.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
    let mut rng = Rng::new(7);
    while !STOP.load(Relaxed) {
        let thread = rng.pick(threads).load(Relaxed);
        if thread != 0 {
            // SAFETY: SIGUSR1 has a handler; a thread that has ended is not found.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
        }
        std::thread::sleep(Duration::from_micros(700));
    }
    let off = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: off, it_value: off };
    // SAFETY: ends the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Forks children that run the code as they found it.
pub fn fork_on(forks: &AtomicU64) {
    let _end = StopOnPanic;
    let shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let library = shapes::library();
    while !STOP.load(Relaxed) {
        // SAFETY: the child runs the shapes and exits without destructors.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            let run =
                || (0..100).for_each(|n| shapes.iter().chain(&library).for_each(|shape| (shape.check)(n)));
            let code = i32::from(std::panic::catch_unwind(run).is_err());
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) };
        }
        let end = Instant::now() + Duration::from_secs(20);
        let mut status = 0;
        // SAFETY: our own child.
        while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
            assert!(Instant::now() < end, "a forked child hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "a forked child: {status:#x}");
        forks.fetch_add(1, Relaxed);
        std::thread::sleep(FORK_PAUSE);
    }
}

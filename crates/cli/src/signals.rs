//! Ctrl-C sets a flag instead of ending the command.
//!
//! # Safety
//! The handler stores to an atomic and does nothing else, which is async-signal-safe.

#![allow(unsafe_code, reason = "installs a signal handler")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by a signal that asks for the end of the count.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

extern "C" fn noted(_: i32) {}

/// Routes SIGTERM and, if `attached`, SIGINT to [`INTERRUPTED`]. A program that was launched gets Ctrl-C from the
/// terminal itself, and its end is ours. Signals that are ignored (as a shell has it for what runs in
/// the background) stay so for a program that is launched, which inherits them.
pub(crate) fn catch(attached: bool) {
    let on_interrupt = if attached { interrupted } else { noted };
    for (signal, handler) in
        [(libc::SIGTERM, interrupted as extern "C" fn(i32)), (libc::SIGINT, on_interrupt)]
    {
        // SAFETY: zeroed is a valid sigaction; the handlers are async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if attached || action.sa_sigaction != libc::SIG_IGN {
                action = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// Ends this process by the signal that ended the program, so that a shell sees the same; without dumping core.
pub(crate) fn die(signal: i32) -> std::process::ExitCode {
    // SAFETY: plain system calls; the limit is a valid structure.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    std::process::ExitCode::from((128 + signal) as u8)
}

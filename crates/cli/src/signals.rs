//! Ctrl-C sets a flag instead of ending the command.
//!
//! # Safety
//! The handler stores to an atomic and does nothing else, which is async-signal-safe.

#![allow(unsafe_code, reason = "installs a signal handler")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGINT and SIGTERM.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Routes SIGINT and SIGTERM to [`INTERRUPTED`]. System calls are interrupted, not restarted, so that a wait
/// ends.
pub(crate) fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: zeroed is a valid sigaction; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interrupted as *const () as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
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

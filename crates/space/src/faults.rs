//! Failpoints: makes the n-th system call of this thread fail, so that tests can fail each in turn.
//!
//! Without the feature `faults` nothing of this is compiled in.

#[cfg(feature = "faults")]
use std::cell::Cell;

use crate::sys::Errno;

#[cfg(feature = "faults")]
thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
    static FAIL: Cell<Option<(u64, i32)>> = const { Cell::new(None) };
    static KILL: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Counts from now on; the call number `n` (from 0) of this thread fails with `errno`, once.
#[cfg(feature = "faults")]
pub fn fail_nth(n: u64, errno: i32) {
    MADE.set(0);
    FAIL.set(Some((n, errno)));
}

/// Ends it. Returns how many system calls were counted, and whether the failure has happened.
#[cfg(feature = "faults")]
pub fn disarm() -> (u64, bool) {
    let pending = FAIL.replace(None).is_some();
    (MADE.replace(0), !pending)
}

/// Every system call passes here first.
///
/// # Errors
/// The chosen error, if this is the call chosen to fail.
#[inline(always)]
pub(crate) fn trip() -> Result<(), Errno> {
    #[cfg(feature = "faults")]
    {
        let number = MADE.get();
        MADE.set(number + 1);
        if let Some((n, errno)) = FAIL.get()
            && n == number
        {
            FAIL.set(None);
            return Err(Errno(errno));
        }
    }
    Ok(())
}

/// The step number `n` (from 0) that this thread takes in another process kills this one.
#[cfg(feature = "faults")]
pub fn kill_nth(n: u64) {
    KILL.set(Some(n));
}

/// Everything done to another process passes here first.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(feature = "faults")]
    if let Some(n) = KILL.get() {
        KILL.set(n.checked_sub(1));
        if n == 0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

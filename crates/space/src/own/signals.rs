//! Keeping signal handlers off this thread for a while.
//!
//! # Safety
//! Only the calling thread's signal mask is changed.

#![allow(unsafe_code, reason = "makes the system call rt_sigprocmask")]

use crate::sys;

/// All signals of this thread but SIGTRAP and SIGILL (this thread may run traps meanwhile), blocked until it
/// is dropped.
pub(super) struct BlockedSignals(u64);

impl BlockedSignals {
    pub(super) fn new() -> BlockedSignals {
        let traps = 1 << (libc::SIGTRAP - 1) | 1 << (libc::SIGILL - 1);
        BlockedSignals(set_blocked(!traps))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_blocked(self.0);
    }
}

/// Returns the set before. The call cannot fail, and must not where it puts the old set back.
fn set_blocked(set: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = (&raw const set as usize, &raw mut before as usize);
    // SAFETY: reads `set`, writes `before`.
    unsafe {
        sys::raw(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, old, size_of::<u64>(), 0, 0])
    };
    before
}

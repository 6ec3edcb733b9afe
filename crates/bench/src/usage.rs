//! Processor time of children.
//!
//! # Safety
//! The C library is asked for the times of children only; it fills a value of ours.

#![allow(unsafe_code, reason = "asks the C library for processor time")]

use std::mem::MaybeUninit;

use crate::Error;

/// Processor time in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// In the programs.
    pub user: f64,
    /// In the kernel for them.
    pub system: f64,
}

impl Usage {
    /// Both.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// What all children that have ended took so far.
pub(crate) fn children() -> Result<Usage, Error> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it fills a value of ours, which zeroes are one of, too.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Usage { user: seconds(usage.ru_utime), system: seconds(usage.ru_stime) })
}

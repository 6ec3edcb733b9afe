//! Processor time of children, and of a thread.
//!
//! # Safety
//! The C library is asked for times only; it fills values of ours.

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

/// What the calling thread took so far, in seconds. To the nanosecond: what schedstat tells moves from tick to tick.
pub(crate) fn thread() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it fills a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_work_takes_time() {
        let before = thread();
        let sum: u64 = std::hint::black_box(0..1000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && thread() > before);
    }
}

//! Time, as the C library of this machine tells it.
//!
//! # Safety
//! `localtime_r` fills a `tm` of ours; `strftime` writes no more than it is given room for.

#![allow(unsafe_code, reason = "calls the C library for the time")]

use std::ffi::CString;
use std::mem::MaybeUninit;

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it fills a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Seconds since 1970 at a time of CLOCK_MONOTONIC.
pub(crate) fn seconds(monotonic: u64) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it fills a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    let then = now - i128::from(nanoseconds()) + i128::from(monotonic);
    then.div_euclid(1_000_000_000) as i64
}

/// `seconds` since 1970 with a format of strftime(3); empty if the format is too long.
pub(crate) fn format(seconds: i64, format: &str) -> String {
    let Ok(format) = CString::new(format) else { return String::new() };
    let mut broken = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to values of ours; the result points to the second.
    if unsafe { libc::localtime_r(&seconds, broken.as_mut_ptr()) }.is_null() {
        return String::new();
    }
    let mut text = vec![0u8; 4096];
    // SAFETY: `tm` was filled in, the format ends with a zero, and there is room for `text.len()` bytes.
    let len =
        unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), broken.as_ptr()) };
    text.truncate(len);
    String::from_utf8_lossy(&text).into_owned()
}

//! The functions of `patch.h`.
//!
//! # Safety
//! Pointers that are not NULL are good for what the header says they point to (the caller's promise). A panic
//! does not leave any of these functions: it becomes PATCH_ERR_INTERNAL.

#![allow(unsafe_code, reason = "the boundary to C")]

use std::any::Any;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::abi::{Op, Opt, PatchResult, VERSION};
use crate::error::{self, Error};
use crate::lock::lock;
use crate::operation::Operation;

/// Runs `body`, keeps its error for `patch_error_string`, and returns its number.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Error>) -> u32 {
    let result = catch_unwind(AssertUnwindSafe(body));
    let result = result.unwrap_or_else(|panic| Err(Error::Internal(message(panic.as_ref()))));
    match result {
        Ok(()) => 0,
        Err(error) => {
            error::note(error.to_string());
            error.code()
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic").to_owned()
}

/// Sets the library up.
///
/// # Safety
/// `options` is NULL or points to `count` options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_init(options: *const Opt, count: usize) -> u32 {
    status(|| {
        let options = match (options.is_null(), count) {
            (_, 0) => &[],
            (true, _) => return Err(Error::Null("`options` (with a `count` that is not 0)")),
            // SAFETY: the caller's.
            (false, _) => unsafe { std::slice::from_raw_parts(options, count) },
        };
        lock()?.init(options)
    })
}

/// Removes everything.
#[unsafe(no_mangle)]
pub extern "C" fn patch_fini() -> u32 {
    status(|| lock()?.fini())
}

/// Sets an option.
///
/// # Safety
/// `option` is NULL or points to an option.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_configure(option: *const Opt) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let option = unsafe { option.as_ref() }.ok_or(Error::Null("`option`"))?;
        library.configure(option)
    })
}

/// Queues an operation.
///
/// # Safety
/// `op` is NULL or points to an operation, whose strings are NULL or end with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_queue(flags: u64, op: *mut Op) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let op = unsafe { op.as_mut() }.ok_or(Error::Null("`op`"))?;
        // SAFETY: the caller's.
        let operation = unsafe { Operation::read(flags, op) }?;
        op.cookie = library.queue(operation, op.cookie)?;
        Ok(())
    })
}

/// Takes a queued operation back.
#[unsafe(no_mangle)]
pub extern "C" fn patch_cancel(cookie: u64) -> u32 {
    status(|| lock()?.cancel(cookie))
}

/// Does what is queued.
///
/// # Safety
/// `results` and `count` are NULL or point to variables.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_commit(results: *mut *mut PatchResult, count: *mut usize) -> u32 {
    status(|| {
        let set = |array, len| {
            if !results.is_null() {
                // SAFETY: the caller's.
                unsafe { results.write(array) };
            }
            if !count.is_null() {
                // SAFETY: the caller's.
                unsafe { count.write(len) };
            }
        };
        set(ptr::null_mut(), 0);
        let mut library = lock()?;
        library.check_active()?;
        if count.is_null() && !results.is_null() {
            return Err(Error::Null("`count` (with `results` that are not NULL)"));
        }
        let committed = library.commit()?;
        let len = committed.outcomes.len();
        let array = if results.is_null() { ptr::null_mut() } else { library.results.add(committed.outcomes) };
        set(array, len);
        committed.error.map_or(Ok(()), Err)
    })
}

/// Reads a counter.
///
/// # Safety
/// `count` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_count(cookie: u64, count: *mut u64) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        if count.is_null() {
            return Err(Error::Null("`count`"));
        }
        let value = library.read_count(cookie)?;
        // SAFETY: the caller's.
        unsafe { count.write(value) };
        Ok(())
    })
}

/// Frees results.
#[unsafe(no_mangle)]
pub extern "C" fn patch_drop_results(results: *mut PatchResult) -> u32 {
    status(|| lock()?.results.drop_array(results))
}

/// The thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn patch_error_string() -> *const c_char {
    error::last()
}

/// The version.
#[unsafe(no_mangle)]
pub extern "C" fn patch_version() -> u32 {
    VERSION
}

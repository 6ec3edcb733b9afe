//! Loading libraries to put probes into.
//!
//! # Safety
//! The libraries that are loaded run code of their own when they are: generated ones have none, and others are
//! such as any program may load.

#![allow(unsafe_code, reason = "dlopen")]

use std::ffi::{CStr, CString};

use crate::Error;

/// A loaded library. It stays loaded.
pub(crate) struct Library;

impl Library {
    /// Loads `file`.
    pub(crate) fn open(file: &str) -> Result<Library, Error> {
        let file = CString::new(file)?;
        // SAFETY: see the head of the file.
        let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: a failed dlopen leaves a message.
            let message = unsafe { CStr::from_ptr(libc::dlerror()) };
            return Err(message.to_string_lossy().into_owned().into());
        }
        Ok(Library)
    }
}

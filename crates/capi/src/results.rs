//! Results: the arrays that `patch_commit` returns.
//!
//! # Safety
//! An array and its strings live as long as its [`Results`], which [`Registry`] keeps until they are dropped.

#![allow(unsafe_code, reason = "arrays of pointers are handed to C")]

use std::collections::HashMap;
use std::ffi::CString;

use incise::{Addr, Tactic};

use crate::abi::PatchResult;
use crate::error::{Error, c_string};
use crate::resolve::Site;

/// What became of an operation at one site.
pub struct Outcome {
    pub cookie: u64,
    pub site: Site,
    pub done: Result<Tactic, Error>,
}

impl Outcome {
    /// An operation that failed before a site was known.
    pub fn nowhere(cookie: u64, error: Error) -> Outcome {
        let site = Site { addr: Addr(0), module: String::new(), function: String::new() };
        Outcome { cookie, site, done: Err(error) }
    }
}

/// An array and the strings it points to.
struct Results {
    /// Made by [`Box::into_raw`]: who has the pointer may write to it while it is here.
    array: *mut [PatchResult],
    _strings: Vec<CString>,
}

// SAFETY: all that is pointed to belongs to the value.
unsafe impl Send for Results {}

impl Drop for Results {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and freed only here.
        drop(unsafe { Box::from_raw(self.array) });
    }
}

/// All results that were not dropped yet, by address.
#[derive(Default)]
pub struct Registry {
    arrays: HashMap<usize, Results>,
}

impl Registry {
    /// The array for `outcomes`; NULL if there are none.
    pub fn add(&mut self, outcomes: Vec<Outcome>) -> *mut PatchResult {
        if outcomes.is_empty() {
            return std::ptr::null_mut();
        }
        let mut strings = Vec::with_capacity(3 * outcomes.len());
        let mut keep = |text: String| {
            if text.is_empty() {
                return c"".as_ptr();
            }
            let text = c_string(text);
            let pointer = text.as_ptr();
            strings.push(text);
            pointer
        };
        let result = |outcome: Outcome| PatchResult {
            cookie: outcome.cookie,
            addr: outcome.site.addr.0 as usize,
            status: outcome.done.as_ref().map_or_else(Error::code, |_| 0),
            tactic: outcome.done.as_ref().map_or(0, |tactic| number(*tactic)),
            module: keep(outcome.site.module),
            function: keep(outcome.site.function),
            reason: keep(outcome.done.err().map(|error| error.to_string()).unwrap_or_default()),
            reserved: [0; 2],
        };
        let array: Box<[PatchResult]> = outcomes.into_iter().map(result).collect();
        let array = Box::into_raw(array);
        let pointer = array.cast::<PatchResult>();
        self.arrays.insert(pointer as usize, Results { array, _strings: strings });
        pointer
    }

    /// Frees an array; NULL is none.
    ///
    /// # Errors
    /// [`Error::Results`] if it is not one of ours.
    pub fn drop_array(&mut self, array: *mut PatchResult) -> Result<(), Error> {
        if array.is_null() {
            return Ok(());
        }
        match self.arrays.remove(&(array as usize)) {
            Some(_) => Ok(()),
            None => Err(Error::Results(array as usize)),
        }
    }
}

/// The number of a tactic in `patch_tactic`.
fn number(tactic: Tactic) -> u32 {
    const NAMES: [&str; 7] = ["nop", "retarget", "jump", "tail", "group", "pun", "trap"];
    let index = NAMES.iter().position(|name| *name == tactic.name());
    // Behind the last name is PATCH_TACTIC_OTHER.
    index.unwrap_or(NAMES.len()) as u32 + 1
}

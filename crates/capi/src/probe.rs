//! The way from a trampoline to a probe of the program's.
//!
//! # Safety
//! A record is never freed: a thread may be on its way to it at any time. Its probe is a function of the type the
//! header says, which stays where it is (the caller's promise).

#![allow(unsafe_code, reason = "calls functions of the program")]

use std::collections::HashMap;
use std::ffi::c_void;

use incise::Snippet;
use incise::callback::{Context, VectorState, callback};

use crate::abi::{Probe, ProbeContext};
use crate::lock;

/// What the callback of a probe needs to know.
struct Record {
    probe: Probe,
    user_data: usize,
    vreg_size: usize,
}

/// All records there are: equal probes share one, so that their number stays bounded.
#[derive(Default)]
pub struct Records {
    /// By probe, user data and vector register size.
    known: HashMap<(usize, usize, usize), &'static Record>,
}

impl Records {
    /// The snippet that calls `probe`.
    pub fn snippet(&mut self, probe: Probe, user_data: usize, vector: VectorState) -> Snippet {
        let vector = vector.supported();
        let vreg_size = vector.register_len();
        let key = (probe as usize, user_data, vreg_size);
        let record = || -> &'static Record { Box::leak(Box::new(Record { probe, user_data, vreg_size })) };
        let record = *self.known.entry(key).or_insert_with(record);
        callback(call, std::ptr::from_ref(record) as u64, vector)
    }
}

/// Calls the probe of a record, unless the thread is inside of the library.
extern "C" fn call(context: &mut Context, record: u64) {
    if lock::held() {
        return;
    }
    // SAFETY: `Records::snippet` made it from such a reference.
    let record = unsafe { &*(record as *const Record) };
    let mut seen = ProbeContext {
        vregs: context.vector.cast::<c_void>(),
        vreg_size: record.vreg_size,
        user_data: record.user_data as *mut c_void,
        // The flags and rip lie behind the general registers.
        gregs: std::ptr::from_mut(context).cast::<u64>(),
    };
    // SAFETY: as the header says; the context lives until the probe returns.
    unsafe { (record.probe)(&raw mut seen) };
}

// `gregs` has as many quadwords as PATCH_X86_64_GREGS says, in that order.
const _: () = {
    assert!(std::mem::offset_of!(Context, gregs) == 0);
    assert!(std::mem::offset_of!(Context, flags) == 16 * 8);
    assert!(std::mem::offset_of!(Context, rip) == 17 * 8);
};

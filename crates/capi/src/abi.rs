//! The structures of `patch.h`, as C sees them. Enumerations are plain integers here: C may put any value in.
//!
//! # Safety
//! Nothing here is executed: a [`Probe`] is unsafe to call because what its argument points to must be there while it runs.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;

/// `struct patch_probe_context`.
#[repr(C)]
pub struct ProbeContext {
    pub gregs: *mut u64,
    pub vregs: *mut c_void,
    pub vreg_size: usize,
    pub user_data: *mut c_void,
}

/// `patch_probe`.
pub type Probe = unsafe extern "C" fn(*mut ProbeContext);

/// `patch_addr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Address {
    pub func_sym: *const c_char,
    pub pattern: *const c_char,
    pub module: *const c_char,
    pub addr: usize,
    pub offset: u64,
}

/// `patch_op`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Op {
    pub kind: u32,
    pub addr: Address,
    pub probe: Option<Probe>,
    pub user_data: *mut c_void,
    pub cookie: u64,
    pub snippet: *const c_char,
    pub reserved: [u64; 2],
}

/// `patch_result`.
#[repr(C)]
pub struct PatchResult {
    pub cookie: u64,
    pub addr: usize,
    pub status: u32,
    pub tactic: u32,
    pub module: *const c_char,
    pub function: *const c_char,
    pub reason: *const c_char,
    pub reserved: [u64; 2],
}

/// `patch_opt`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opt {
    pub kind: u32,
    pub reserved: u32,
    pub value: u64,
}

/// `patch_op_type`.
pub mod op {
    pub const INSTALL: u32 = 1;
    pub const COUNT: u32 = 2;
    pub const REMOVE: u32 = 3;
    pub const DISABLE: u32 = 4;
    pub const ENABLE: u32 = 5;
    pub const SNIPPET: u32 = 6;
}

/// Flags of `patch_queue`.
pub mod flag {
    pub const FENTRY: u64 = 1 << 0;
    pub const INSN: u64 = 1 << 1;
    pub const FIRST: u64 = 1 << 2;
}

/// `PATCH_VERSION`.
pub const VERSION: u32 = 10_000 * number(env!("CARGO_PKG_VERSION_MAJOR"))
    + 100 * number(env!("CARGO_PKG_VERSION_MINOR"))
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("a version is made of numbers"),
    }
}

// The layouts are part of the interface; tests/programs/layout.c holds the header to the same figures.
const _: () = {
    assert!(size_of::<Address>() == 40);
    assert!(size_of::<Op>() == 96);
    assert!(offset_of!(Op, addr) == 8);
    assert!(offset_of!(Op, probe) == 48);
    assert!(offset_of!(Op, cookie) == 64);
    assert!(offset_of!(Op, snippet) == 72);
    assert!(size_of::<PatchResult>() == 64);
    assert!(offset_of!(PatchResult, tactic) == 20);
    assert!(offset_of!(PatchResult, reason) == 40);
    assert!(size_of::<Opt>() == 16);
};

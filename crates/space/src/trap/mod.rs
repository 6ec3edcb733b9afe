//! The trap handler that runs in the target: what it needs in memory, and how to lay it out.
//!
//! A thread that runs a trap byte gets SIGTRAP (`int3`; the instruction pointer is behind the byte) or
//! SIGILL (a byte that is illegal in 64-bit mode; the instruction pointer is on it). The kernel calls the
//! handler ([`handler_image`]); it looks the address up in the table of landings ([`table_bytes`]), puts
//! the landing into the saved instruction pointer and returns: the thread goes on there. A signal that
//! is not ours goes on to the action that was in force before.
//!
//! A snippet may read memory of the program that is not there. Its instruction then has a fault landing
//! ([`Landing::fault`]), and the handler is in force for SIGSEGV, SIGBUS and SIGFPE too.
//!
//! Three pieces of memory belong to it:
//!
//! - the image of the code, readable and executable;
//! - a [`TrapHeader`], readable and writable, whose address the image holds;
//! - tables, readable. A table is never changed once the header points to it. To publish another one,
//!   write it elsewhere and store its address into [`TrapHeader::table`] with one aligned quadword store.
//!   The old one may be freed once [`TrapHeader::active`] was seen as zero *after* that store.
//!
//! The handler is to be installed with the flags and the mask of [`handler_action`].

mod code;
#[cfg(test)]
mod tests;

pub use code::{chain, handler_code};

use std::mem::offset_of;

use incise_isa::Addr;

use crate::Landing;

/// Offset in the image of the quadword that holds the address of the [`TrapHeader`].
pub const HEADER_LITERAL: usize = 0;

/// Offset in the image of the restorer, the code a handler returns to (sigreturn).
pub const RESTORER: usize = 16;

/// Offset in the image of the handler.
pub const HANDLER: usize = 32;

/// The signals of trap bytes.
pub const TRAP_SIGNALS: [i32; 2] = [libc::SIGTRAP, libc::SIGILL];

/// The signals of instructions that fault; handled only where a fault landing is published.
pub const FAULT_SIGNALS: [i32; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];

/// How many signals there are (signal(7)); they are numbered from 1.
const SIGNALS_MAX: usize = 64;

/// The signals that have to be handled for `landings`, which are sorted by `trap`.
pub fn signals_for(landings: &[Landing]) -> impl Iterator<Item = i32> + use<> {
    let faults = landings.last().is_some_and(Landing::is_fault);
    TRAP_SIGNALS.into_iter().chain(FAULT_SIGNALS.into_iter().filter(move |_| faults))
}

/// `SA_RESTORER`: the action names its restorer (every x86-64 action must; kernel ABI, asm/signal.h).
const SA_RESTORER: u64 = 0x0400_0000;

/// An action as the system call rt_sigaction takes it (kernel ABI; the C library's structure differs).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct KernelSigaction {
    /// Address of the handler, or 0 (`SIG_DFL`) or 1 (`SIG_IGN`).
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Address the handler returns to.
    pub restorer: u64,
    /// Signals blocked while the handler runs; signal `n` is bit `n - 1`.
    pub mask: u64,
}

impl KernelSigaction {
    /// Whether it names a handler, not `SIG_DFL` or `SIG_IGN`.
    pub fn has_handler(&self) -> bool {
        self.handler > 1
    }

    fn has(&self, flag: i32) -> bool {
        self.flags as u32 & flag as u32 != 0
    }
}

/// The action of one signal before ours, and what chaining to it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Previous {
    /// The action. The handler puts `SIG_DFL` here when it chains to an action with `SA_RESETHAND`.
    pub action: KernelSigaction,
    /// The signals the kernel would block while that action's handler runs.
    pub blocked: u64,
}

impl Previous {
    /// For `signal`, whose action is `action`.
    pub fn new(signal: i32, action: KernelSigaction) -> Previous {
        let itself = if action.has(libc::SA_NODEFER) { 0 } else { 1 << (signal - 1) };
        Previous { action, blocked: action.mask | itself }
    }
}

/// What the handler reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TrapHeader {
    /// Address of the table in force, 0 for none.
    pub table: u64,
    /// How many threads are between reading `table` and having read the last of it.
    pub active: u64,
    /// What is added to the addresses of the table: that of a file holds link addresses.
    pub bias: u64,
    /// The actions before ours, that of signal `n` at `n - 1`.
    pub previous: [Previous; SIGNALS_MAX],
}

impl TrapHeader {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<TrapHeader>();
    /// Offset of `table`.
    pub const TABLE: usize = offset_of!(TrapHeader, table);
    /// Offset of `active`.
    pub const ACTIVE: usize = offset_of!(TrapHeader, active);
    /// Offset of `bias`.
    pub const BIAS: usize = offset_of!(TrapHeader, bias);

    /// Offset of the action before ours for `signal`.
    pub const fn previous_offset(signal: i32) -> usize {
        offset_of!(TrapHeader, previous) + (signal as usize - 1) * size_of::<Previous>()
    }
}

/// Bytes before the first landing of a table: the number of landings, and eight zero bytes.
pub const TABLE_HEAD: usize = 16;

/// The table of `landings`, which are sorted by `trap`, as it lies in the target's memory: the number of
/// landings, eight zero bytes, then each landing as (trap, landing).
pub fn table_bytes(landings: &[Landing]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TABLE_HEAD + size_of_val(landings));
    bytes.extend((landings.len() as u64).to_le_bytes());
    bytes.extend([0; 8]);
    for landing in landings {
        bytes.extend(landing.trap.0.to_le_bytes());
        bytes.extend(landing.landing.0.to_le_bytes());
    }
    bytes
}

/// The code to be put into the target, for a header at `header`.
pub fn handler_image(header: Addr) -> Vec<u8> {
    let mut image = handler_code().to_vec();
    image[HEADER_LITERAL..HEADER_LITERAL + 8].copy_from_slice(&header.0.to_le_bytes());
    image
}

/// The action that puts the handler of the image at `image` in force over `previous`.
///
/// All signals are blocked while the handler runs, so no other handler runs on top of it: that could fill a
/// small alternate stack, or run a trap with SIGTRAP blocked, which is deadly. Before it chains,
/// the handler blocks just what `previous` wants blocked. Whether system calls restart and which stack is used is
/// up to the program if it has a handler; otherwise system calls restart, and the alternate stack, if
/// there is one, spares small stacks the frame.
pub fn handler_action(image: Addr, previous: &KernelSigaction) -> KernelSigaction {
    let kept = (libc::SA_ONSTACK | libc::SA_RESTART) as u64;
    let kept = if previous.has_handler() { previous.flags & kept } else { kept };
    KernelSigaction {
        handler: image.0 + HANDLER as u64,
        flags: kept | SA_RESTORER | libc::SA_SIGINFO as u64,
        restorer: image.0 + RESTORER as u64,
        mask: u64::MAX,
    }
}

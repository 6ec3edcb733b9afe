//! Address spaces: where code lives and is changed.
//!
//! The only floor that does system calls. [`AddressSpace`] is what the engines see; [`own`] changes the
//! process it runs in, [`remote`] changes another process through ptrace, [`mod@file`] changes a program on disk.

#![deny(unsafe_code)]

mod cells;
mod data;
mod displaced;
mod edit;
mod error;
pub mod faults;
pub mod file;
mod mapped_file;
pub mod own;
pub mod remote;
mod rounds;
mod sys;
pub mod trap;
pub mod unwind;
mod view;

pub use cells::ThreadCells;
pub use data::DataMapping;
pub use displaced::Displaced;
pub use edit::{Bytes, Edit};
pub use error::{Fault, SpaceError};
pub use mapped_file::MappedFile;

use std::ops::Range;
use std::time::Duration;

use incise_image::MemoryMap;
use incise_isa::Addr;

/// Where a trap leads: a thread that runs the trap byte at `trap` goes on at `landing`.
///
/// A *fault landing* ([`Landing::fault`]) does the same for an instruction that faults. The bit [`Landing::FAULT`] of its
/// `trap` tells it apart, so that fault landings come last where landings are sorted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct Landing {
    /// The address of the trap byte.
    pub trap: Addr,
    /// The address in a trampoline that stands for the original instruction at `trap`.
    pub landing: Addr,
}

impl Landing {
    /// Set in `trap` of a fault landing; no address has it (user space ends below 2^47, or 2^56).
    pub const FAULT: u64 = 1 << 63;

    /// A thread for which the instruction at `at` raises SIGSEGV, SIGBUS or SIGFPE goes on at `to`, with all registers
    /// as they were before that instruction. Only for code in trampolines.
    pub const fn fault(at: Addr, to: Addr) -> Landing {
        Landing { trap: Addr(at.0 | Landing::FAULT), landing: to }
    }

    /// Whether it is a fault landing.
    pub const fn is_fault(&self) -> bool {
        self.trap.0 & Landing::FAULT != 0
    }

    /// The address of the trap byte or of the instruction that may fault.
    pub const fn address(&self) -> Addr {
        Addr(self.trap.0 & !Landing::FAULT)
    }
}

/// What a successful [`AddressSpace::apply`] did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Applied {
    /// How long the target's threads stood still; zero where none was stopped.
    pub stop: Duration,
    /// Mappings the change added to the target (a split mapping counts as the pieces it gained).
    pub mappings: usize,
}

/// What the space and the machine under it allow, as far as code generation depends on it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Features {
    /// User shadow stacks are enabled in the target: no `ret` without its `call`.
    pub shadow_stack: bool,
    /// The program may be loaded elsewhere than where it is changed: code must hold no addresses.
    pub moves: bool,
    /// The size of the target's address space is bounded (`RLIMIT_AS`): what is reserved the program cannot have.
    pub bounded: bool,
    /// Every page of trampolines has its cost, however far apart they are: few pages count more than quick planning, and what is
    /// between the bytes of trampolines is not to be written.
    pub packed: bool,
    /// All threads stand still while code changes, and one that stands inside an edit but at no head is let run until it has
    /// left: springboards may be two jumps one after the other.
    pub still: bool,
    /// Single bytes of trampolines can be changed while threads run them, by [`AddressSpace::write_byte`].
    pub bytes: bool,
}

/// A place where code lives and can be changed.
///
/// The order of a change is: [`map_code`](Self::map_code) and [`map_data`](Self::map_data), then
/// [`write_code`](Self::write_code) (trampolines nobody runs yet), then
/// [`publish_landings`](Self::publish_landings), then [`apply`](Self::apply). Every step alone leaves a
/// correctly running target, also when nothing follows it.
pub trait AddressSpace {
    /// Reads memory of the target.
    ///
    /// # Errors
    /// [`SpaceError::Unreadable`] if any byte of the range is not mapped readable; nothing is promised
    /// about the contents of `into` then.
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError>;

    /// The target's mappings as they are now.
    fn mappings(&self) -> Result<MemoryMap, SpaceError>;

    /// Reserves `len` bytes of executable memory at exactly `at`, both multiples of the page size.
    ///
    /// The memory is never writable in the target, costs only the pages that are written, and belongs to
    /// the target alone (a forked child has its own copy).
    ///
    /// # Errors
    /// [`SpaceError::Occupied`] if something is mapped there; then nothing changed.
    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError>;

    /// Reserves `len` zeroed bytes of readable and writable memory at exactly `at`, seen by this process
    /// through the returned mapping while the target runs. Forked children share it.
    ///
    /// # Errors
    /// [`SpaceError::Occupied`] if something is mapped there; then nothing changed.
    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError>;

    /// Reserves `len` zeroed bytes of readable and writable memory at exactly `at`, which belong to the target alone: a forked
    /// child has its own copy. Costs only the pages that are touched.
    ///
    /// # Errors
    /// [`SpaceError::Occupied`] if something is mapped there; [`SpaceError::Unsuitable`] where there is no process. Nothing
    /// changed then.
    fn map_private(&mut self, at: Addr, _len: u64) -> Result<(), SpaceError> {
        Err(SpaceError::Unsuitable { at, reason: "there is no process that could have private memory" })
    }

    /// Gives back what one of these reserved.
    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError>;

    /// Writes into memory reserved by [`map_code`](Self::map_code) that no thread can be running. Each
    /// element is one run of bytes; they are sorted by address and do not overlap.
    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError>;

    /// Changes one byte of memory reserved by [`map_code`](Self::map_code) that threads may be running. Each finds the old byte
    /// or the new one, none the old one for long: the byte is one store, and processors notice stores to code (AMD APM
    /// vol. 2, 7.6.1).
    ///
    /// # Errors
    /// [`SpaceError::Unsuitable`] where that is not possible.
    fn write_byte(&mut self, at: Addr, _byte: u8) -> Result<(), SpaceError> {
        Err(SpaceError::Unsuitable { at, reason: "code cannot be changed byte by byte here" })
    }

    /// Tells what lies where in trampolines that were just written; what was told of the same memory before holds no
    /// longer. With it a space can show the program original instruction pointers where it sees those of trampolines.
    fn note_displaced(&mut self, _displaced: &[Displaced]) {}

    /// The original instruction that a thread with its instruction pointer at `ip`, in a trampoline, is at: that whose
    /// snippets or copy it runs, or the next one behind them. Trampolines that are out of reach but not yet freed count.
    fn original_ip(&self, _ip: Addr) -> Option<Addr> {
        None
    }

    /// Replaces the table of landings. `landings` is sorted by `trap` and has no duplicates. After this
    /// returns, every listed trap byte is handled, whoever runs it, and every listed fault; installs the handler on
    /// first use.
    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError>;

    /// Changes live code: every edit, or none. `edits` are sorted by address and do not overlap, and every
    /// head they change is in the published landings (as long as its trampoline lives).
    ///
    /// `landing_of` tells where a thread whose instruction pointer is an address *inside* one of the
    /// edits is to go on; spaces that stop threads use it to spare them the trap.
    ///
    /// # Errors
    /// [`SpaceError::Changed`] if the bytes are not the expected ones. On any error every byte is as before.
    fn apply(
        &mut self,
        edits: &[Edit],
        landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError>;

    /// Which of `ranges` (sorted, in memory of [`map_code`](Self::map_code), no longer reachable from any
    /// springboard or landing) no thread can run any more: no instruction pointer and no word of any stack
    /// points into it. `false` where that cannot be shown now.
    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError>;

    /// What code generation has to take into account.
    fn features(&self) -> Features;
}

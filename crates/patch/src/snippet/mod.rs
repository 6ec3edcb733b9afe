//! What runs at a point.

pub(crate) mod generate;
pub(crate) mod placement;
pub(crate) mod placer;

use std::sync::Arc;

use incise_isa::Addr;
use incise_isa::native::GprSet;

use crate::snippet::generate::Generate;

/// A quadword in the target that probes increment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CounterId(pub(crate) u32);

/// Where a counter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CounterPlace {
    pub id: CounterId,
    pub at: Addr,
    /// It is a cell, of which each thread has its own.
    pub by_thread: bool,
}

/// Machine code of the user's, run at the point as it is. By default none, which changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineCode {
    /// Position-independent code that runs off its end.
    pub bytes: Arc<[u8]>,
    /// General registers it changes.
    pub clobbers: GprSet,
    /// It changes arithmetic flags.
    pub flags: bool,
    /// It writes to the stack below rsp.
    pub stack: bool,
}

/// What shall run at a point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Snippet {
    /// Adds one to a counter, atomically.
    Counter(CounterId),
    /// Runs machine code.
    Code(MachineCode),
    /// Nothing, by way of a trap, however well a jump would fit: a tracer sees the thread come by.
    Gate,
    /// Calls `entry`, which finds its [`CallRecord`] behind the call and returns with every register as the
    /// program shall see it. The red zone is already skipped; the stack is not aligned.
    Callback {
        /// Address of the entry code, in the target.
        entry: Addr,
        /// That for points at which a function begins: the direction flag is clear there (psABI x86-64, 3.2.1).
        at_functions: Addr,
        /// First two quadwords of the record.
        payload: [u64; 2],
    },
    /// Generates its code at each point.
    Generated(Generated),
}

impl Snippet {
    /// One that generates its code.
    pub fn generated(snippet: impl Generate + 'static) -> Snippet {
        Snippet::Generated(Generated(Arc::new(snippet)))
    }
}

/// A snippet that generates code. Clones are equal, others are not.
#[derive(Clone, Debug)]
pub struct Generated(pub Arc<dyn Generate>);

impl PartialEq for Generated {
    fn eq(&self, other: &Generated) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Generated {}

/// What a callback entry finds in a trampoline.
///
/// The instruction behind the call to the entry is a seven-byte `nop` (0f 1f 80 disp32): the record lies
/// `disp32` bytes from the return address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallRecord {
    /// As given in [`Snippet::Callback`].
    pub payload: [u64; 2],
    /// Address of the probed instruction.
    pub site: Addr,
}

impl CallRecord {
    /// Offset of the 32-bit displacement from the return address of the entry.
    pub const DISPLACEMENT: usize = 3;
}

//! Callbacks: functions of this process that run at a point and see its registers.
//!
//! A trampoline skips the red zone and calls an *entry*, one for each amount of vector state to keep, and one more of each
//! for points at which functions begin, where rflags need not be read (pushfq takes as long as half of all else). The
//! entry saves the registers into a [`Context`] on the program's stack, aligns it, calls the function and
//! puts everything back. errno is kept. A callback that runs into a probe itself is not called again: see
//! [`skipped`].

mod context;
mod entry;
mod guard;

pub use context::{Context, VectorState};
pub(crate) use entry::is_machinery;
pub(crate) use guard::NoCallbacks;
pub use guard::skipped;

use incise_isa::Addr;
use incise_patch::Snippet;

/// A function to be called at a point. Its second argument is the value given with it.
///
/// It runs on the stack of the probed thread, at any instruction, possibly with locks of the program held:
/// what a signal handler must not do, it must not do either. That includes the methods of
/// [`Session`](crate::Session) and [`Counter`](crate::Counter), unless no code is probed that runs under a lock that
/// they need (that of the memory allocator is one).
///
/// Where a function begins it runs as a function called there would: with the direction flag clear, as the ABI has it,
/// and with alignment checks (AC) on if the program has them on. Elsewhere both are off.
///
/// The stack must have room for it: on a small alternate signal stack, up to 2.5 KiB for the registers alone. The
/// rounding mode and the exceptions of the vector unit are those of the program. It may leave by longjmp(3), and
/// must not by a panic or an exception.
pub type Callback = extern "C" fn(&mut Context, u64);

/// The snippet that calls `function` with `data`, and keeps `vector` around the call.
pub fn callback(function: Callback, data: u64, vector: VectorState) -> Snippet {
    let [entry, at_functions] = entry::of(vector.supported()).map(|entry| Addr(entry as usize as u64));
    Snippet::Callback { entry, at_functions, payload: [function as usize as u64, data] }
}

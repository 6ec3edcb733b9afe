//! Callbacks: functions of this process that run at a point and see its registers.
//!
//! A trampoline skips the red zone and calls an *entry*, one for each amount of vector state to keep. The
//! entry saves the registers into a [`Context`] on the program's stack, aligns it, calls the function and
//! puts everything back. errno is kept, and a callback that runs into a probe itself does not recurse.

mod context;
mod entry;

pub use context::{Context, VectorState};

use incise_isa::Addr;
use incise_patch::Snippet;

/// A function to be called at a point. Its second argument is the value given with it.
///
/// It runs on the stack of the probed thread, at any instruction, possibly with locks of the program held:
/// what a signal handler must not do, it must not do either.
pub type Callback = extern "C" fn(&mut Context, u64);

/// The snippet that calls `function` with `data`, and keeps `vector` around the call.
pub fn callback(function: Callback, data: u64, vector: VectorState) -> Snippet {
    let entry = entry::of(vector.supported());
    Snippet::Callback { entry: Addr(entry as usize as u64), payload: [function as usize as u64, data] }
}

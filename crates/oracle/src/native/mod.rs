//! Running code natively, in a forked child.
//!
//! The child maps the address space of [`crate::layout`], then lives in one signal handler: each
//! landing or fault enters it with the full machine state in the signal frame, it judges, writes
//! the next start state into the frame and returns into the next run. The kernel's own frame is
//! thus the way to set and to read every register, and no hand-written save code is trusted.

mod guard;
mod map;
mod process;
mod runner;
mod segments;

pub use guard::{HARMLESS, seal};
pub use process::{Death, Loss, NativeError, run};

//! What snippets leave behind, in memory that the probed program and a reader share: how values are aggregated there, rings of
//! records, and the machine code that works on them.

mod aggregate;
mod ahead;
mod bucket;
pub mod operation;
mod ring;
pub mod tables;
pub mod walk;

pub use aggregate::{Aggregate, Value};
pub use ahead::Ahead;
pub use bucket::{Buckets, Linear, Log};
pub use ring::{MAGIC, RingLayout, RingReader, VERSION};

use std::sync::atomic::AtomicU64;

/// Shared memory, as quadwords that both sides touch by atomic instructions only.
pub type Words = [AtomicU64];

//! What snippets leave behind, in memory that the probed program and a reader share: how values are aggregated there.

mod aggregate;
mod bucket;

pub use aggregate::{Aggregate, Value};
pub use bucket::{Buckets, Linear, Log};

use std::sync::atomic::AtomicU64;

/// Shared memory, as quadwords that both sides touch by atomic instructions only.
pub type Words = [AtomicU64];

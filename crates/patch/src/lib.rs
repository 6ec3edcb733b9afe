//! Sites, tactics, trampolines, landings, transactions.
//!
//! The idea: trap first, then promote. Every displaced instruction head has a landing, so a one-byte trap at
//! the head is already a complete patch; a springboard only makes it fast. Planning reads bytes
//! and a memory map and returns what to write; [`Engine::commit`] writes it through an
//! [`AddressSpace`](incise_space::AddressSpace).

#![deny(unsafe_code)]

mod code;
mod engine;
mod entrances;
mod form;
mod group;
mod memory;
mod parallel;
mod plan;
mod region;
mod short;
mod snippet;
mod tactic;
mod trampoline;

pub use code::{Facts, Linkage, NoFacts};
pub use engine::report::{CommitError, Entry, InstanceId, Outcome, Report};
pub use engine::{Atomicity, Batch, Engine, Policy, Position};
pub use form::instrumentation::{ByCost, Instrumentation, Layout, ProbedFunction};
pub use memory::data::Data;
pub use snippet::generate::{Argument, Effects, Generate, Output, PointContext, Vectors};
pub use snippet::placement::{Place, Placement};
pub use snippet::placer::{PlacedCode, Placer};
pub use snippet::{CallRecord, CounterId, Generated, MachineCode, Snippet};
pub use tactic::{Obstacle, Refusal, Tactic, TrapPolicy};

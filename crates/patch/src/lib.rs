//! Sites, tactics, trampolines, landings, transactions.
//!
//! The idea: trap first, then promote. Every displaced instruction head has a landing, so a one-byte trap at
//! the head is already a complete patch; a springboard only makes it fast. Planning reads bytes
//! and a memory map and returns what to write; [`Engine::commit`] writes it through an
//! [`AddressSpace`](incise_space::AddressSpace).

#![deny(unsafe_code)]

mod alone;
mod arena;
mod assemble;
mod body;
mod code;
mod data;
mod draft;
mod edits;
mod engine;
mod entrances;
mod entries;
mod evict;
mod field;
mod form;
mod formed;
mod generate;
mod generated;
mod group;
mod hazard;
mod holes;
mod instrumentation;
mod leads;
mod literals;
mod lower;
mod memory;
mod parallel;
mod placement;
mod placer;
mod plan;
mod pool;
mod reader;
mod region;
mod regions;
mod report;
mod sequences;
mod shape;
mod short;
mod snippet;
mod tactic;
mod trampolines;
mod wanted;
mod ways;
mod whole;

pub use code::{Facts, Linkage, NoFacts};
pub use data::Data;
pub use engine::{Atomicity, Batch, Engine, Policy, Position};
pub use generate::{Argument, Effects, Generate, Output, PointContext, Vectors};
pub use instrumentation::{ByCost, Instrumentation, Layout, ProbedFunction};
pub use placement::{Place, Placement};
pub use placer::{PlacedCode, Placer};
pub use report::{CommitError, Entry, InstanceId, Outcome, Report};
pub use snippet::{CallRecord, CounterId, Generated, MachineCode, Snippet};
pub use tactic::{Obstacle, Refusal, Tactic, TrapPolicy};

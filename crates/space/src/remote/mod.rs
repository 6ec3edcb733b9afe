//! Another running process, changed through ptrace.
//!
//! A [`Tracer`] owns the traced processes of a run: it launches or attaches, passes on signals, follows
//! threads and children, and reports [`Event`]s. The [`RemoteSpace`] of a process is where its code is
//! changed. What is put into a process works without the tracer, which may be killed at any instant.
//!
//! | file | what |
//! |---|---|
//! | `ptrace.rs`, `procfs.rs`, `memory.rs`, `local.rs` | the system: requests, /proc, the target's memory, our own |
//! | `x86_64.rs` | registers, interrupted system calls, the injected code |
//! | `tracees.rs`, `stopping.rs`, `traps.rs` | who is traced, stopping and going on, traps taken by the tracer |
//! | `inject.rs`, `runtime.rs`, `mappings.rs` | system calls made by the target, our pages in it, mappings |
//! | `divert.rs` | threads that run code once |
//! | `areas.rs` | where each thread counts |
//! | `landings.rs` | the table of landings and the handler in the target |
//! | `frames.rs` | what handlers of the program see of trampolines |
//! | `unwind.rs` | what debuggers need to know of them |
//! | `apply.rs`, `swap.rs`, `journal.rs` | changes of live code |
//! | `quiescence.rs`, `removal.rs` | taking things out again |
//! | `adopt.rs` | changes that outlive their tracer |
//! | `tracer.rs`, `launch.rs`, `attach.rs`, `event.rs`, `space.rs` | what the floors above see |

mod adopt;
mod apply;
mod areas;
mod attach;
mod divert;
mod event;
mod frames;
mod inject;
mod intent;
mod journal;
mod landings;
mod launch;
mod local;
mod mappings;
mod memory;
mod procfs;
mod ptrace;
mod quiescence;
mod removal;
mod runtime;
mod space;
mod stopping;
mod swap;
mod tracees;
mod tracer;
mod traps;
mod unwind;
mod x86_64;

pub use divert::StoppedThread;
pub use event::{Event, ProcessId};
pub use launch::LaunchOptions;
pub use removal::Left;
pub use space::RemoteSpace;
pub use tracer::Tracer;

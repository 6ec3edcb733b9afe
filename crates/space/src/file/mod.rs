//! The address space of a program in a file.
//!
//! [`FileSpace`] is an [`AddressSpace`](crate::AddressSpace) whose addresses are link addresses. It only ever
//! appends: every byte of the original keeps its offset in the file and its address, and those that are changed
//! are kept in a [`Record`] at the end of the file, from which [`undo`] makes the original again.
//!
//! What is appended, in this order: a segment with the program header table, tables and the
//! start code (`start.rs`); the pages of trampolines that are used; data; the section header table; the record.

mod append;
mod code;
pub mod counts;
mod data;
mod dynamic;
mod elf;
mod error;
mod frames;
mod loaded;
mod memory;
mod numbers;
mod output;
mod packed;
mod payload;
mod record;
mod sections;
mod space;
mod start;
mod start_code;

pub use counts::Counts;
pub use error::FileError;
pub use loaded::Loaded;
pub use output::{Output, undo};
pub use record::{Counting, PatchEntry, Probe, Record, Refused, original};
pub use space::{FileSpace, Saved};

/// Bytes of a page: the unit in which segments are mapped on x86-64.
const PAGE: u64 = 4096;

//! Facts about programs: ELF files and mapped modules, symbols, unwind ranges, patterns.
//!
//! No IO: bytes in, facts out.

#![deny(unsafe_code)]

mod maps;

pub use maps::{Mapping, MemoryMap, Permissions};

//! Facts about programs: ELF files and mapped modules, symbols, unwind ranges, patterns.
//!
//! No IO: bytes in, facts out.

#![deny(unsafe_code)]

mod addr;
mod bytes;
mod debug_files;
mod demangle;
pub mod dwarf;
mod dynamic;
mod elf;
mod error;
mod find;
mod frames;
mod glob;
mod ifunc;
mod layout;
mod linkage;
mod main_function;
mod maps;
mod memory;
mod module;
mod module_glob;
mod objects;
mod outline;
mod patchable;
mod pattern;
mod pattern_error;
mod relocations;
mod rseq;
pub mod suggest;
mod symbols;
mod symtab;
mod tables;
mod unwind;
mod versions;

pub use addr::{FileOffset, LinkAddr};
pub use debug_files::{DebugLink, debug_file_candidates};
pub use demangle::{demangle, forms as demangled_forms};
pub use elf::{Image, Kind};
pub use error::ImageError;
pub use find::{MAIN, Target, find, nameless};
pub use frames::{FrameRow, FrameRule};
pub use glob::Glob;
pub use ifunc::{Slot, SlotTarget, implementations};
pub use layout::{Section, Segment};
pub use linkage::Linkage;
pub use main_function::main_of_entry;
pub use maps::{Mapping, MemoryMap, Permissions};
pub use memory::MemoryReader;
pub use module::{Module, mark_main_by_entry, modules};
pub use objects::DataObject;
pub use outline::outline;
pub use pattern::Pattern;
pub use pattern_error::PatternError;
pub use rseq::CriticalSection;
pub use symbols::{Dropped, Function, FunctionKind, Name};
pub use tables::Contents;
pub use unwind::{CallerRule, Saved};

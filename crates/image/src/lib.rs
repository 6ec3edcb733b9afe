//! Facts about programs: ELF files and mapped modules, symbols, unwind ranges, patterns.
//!
//! No IO: bytes in, facts out.

#![deny(unsafe_code)]

mod addr;
pub mod dwarf;
mod elf;
mod error;
mod linkage;
mod names;
mod process;

pub use addr::{FileOffset, LinkAddr};
pub use elf::debug_files::{DebugLink, debug_file_candidates};
pub use elf::frames::{FrameRow, FrameRule};
pub use elf::layout::{Section, Segment};
pub use elf::main_function::main_of_entry;
pub use elf::objects::DataObject;
pub use elf::outline::outline;
pub use elf::rseq::CriticalSection;
pub use elf::symbols::{Dropped, Function, FunctionKind, Name};
pub use elf::tables::Contents;
pub use elf::unwind::{CallerRule, Saved};
pub use elf::usdt::{UsdtProbe, usdt_probes};
pub use elf::{Image, Kind};
pub use error::ImageError;
pub use linkage::Linkage;
pub use names::demangle::{demangle, forms as demangled_forms};
pub use names::find::{MAIN, Target, find, nameless};
pub use names::glob::Glob;
pub use names::pattern::Pattern;
pub use names::pattern_error::PatternError;
pub use process::ifunc::{Slot, SlotTarget, implementations};
pub use process::maps::{Mapping, MemoryMap, Permissions};
pub use process::memory::MemoryReader;
pub use process::module::{Module, mark_main_by_entry, modules};

pub use names::suggest;

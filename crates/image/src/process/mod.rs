//! What a process has mapped: memory map, modules, the implementations that indirect functions have there.

pub(crate) mod ifunc;
pub(crate) mod maps;
pub(crate) mod memory;
pub(crate) mod module;

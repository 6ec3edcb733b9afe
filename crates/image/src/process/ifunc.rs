//! Indirect functions: which implementation a running program uses.
//!
//! An ifunc symbol names a resolver. The dynamic linker (in a static program: the start code) calls it and
//! writes what it returns into slots: those of `R_X86_64_IRELATIVE` relocations, which name the resolver,
//! and those of ordinary relocations against the symbol, in any module (x86-64 psABI, 4.4.1 and the
//! GNU gABI extension `STT_GNU_IFUNC`). So reading the slots tells what is in use.

use incise_isa::Addr;

use crate::names::find::Target;
use crate::{LinkAddr, MemoryReader, Module};

/// What the loader writes into a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SlotTarget {
    /// What the resolver at this address returns.
    Resolver(LinkAddr),
    /// The address of an imported (or interposable indirect) name: an index into
    /// [`Image::imports`](crate::Image::imports).
    Import(u32),
}

/// A quadword that the loader fills with a function's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Where it is.
    pub at: LinkAddr,
    /// What it is filled with.
    pub target: SlotTarget,
    /// What the file has there. A slot that is bound lazily points to its own linkage stub until then:
    /// it holds this plus the bias.
    pub initial: u64,
}

/// The implementations of the indirect function `target` that the program's slots hold now, ascending.
///
/// Empty if no module refers to the function, or if none has been bound yet.
pub fn implementations(modules: &[Module], target: &Target, reader: &dyn MemoryReader) -> Vec<Addr> {
    let Some(home) = modules.get(target.module) else { return Vec::new() };
    let Some(resolver) = home.to_link(target.start) else { return Vec::new() };
    let names: Vec<&str> = match home.image.function_starting_at(resolver) {
        Some(function) => home.image.names(function).map(|name| name.text).collect(),
        None => Vec::new(),
    };
    let mut found = Vec::new();
    for (index, module) in modules.iter().enumerate() {
        let mut look =
            |slot: &Slot| found.extend(implementation(modules, home, module, slot, target, reader));
        if index == target.module {
            module.image.slots_of(SlotTarget::Resolver(resolver)).iter().for_each(&mut look);
        }
        for &name in &names {
            for import in module.image.import_indices(name) {
                module.image.slots_of(SlotTarget::Import(import)).iter().for_each(&mut look);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What `slot` of `module` holds, if it is an implementation in `home` (or in the vdso, which is where
/// libc's resolvers of clock functions lead).
fn implementation(
    modules: &[Module],
    home: &Module,
    module: &Module,
    slot: &Slot,
    target: &Target,
    reader: &dyn MemoryReader,
) -> Option<Addr> {
    let mut bytes = [0; 8];
    if !reader.read(module.to_addr(slot.at), &mut bytes) {
        return None;
    }
    let value = Addr(u64::from_le_bytes(bytes));
    let unbound = value == module.to_addr(LinkAddr(slot.initial)) || value.0 == slot.initial;
    if value == target.start || unbound {
        return None;
    }
    let vdso = modules.iter().find(|m| m.is_vdso());
    (home.is_text(value) || vdso.is_some_and(|m| m.is_text(value))).then_some(value)
}

//! Linkage stubs of a module by which it calls functions of its own, which another module may take the place of.

use object::LittleEndian;
use object::elf::{self, Rela64, Sym64};

use crate::LinkAddr;
use crate::addr::find_range;
use crate::elf::bytes::{Bytes, LE};
use crate::elf::dynamic::Dynamic;
use crate::elf::layout::Layout;

/// A stub, and the function of the same module that its slot holds unless another module has one of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linkage {
    /// The first instruction of the stub: `jmp [slot]`, perhaps with an `endbr64` before it.
    pub stub: LinkAddr,
    /// The quadword that the loader fills.
    pub slot: LinkAddr,
    /// The function.
    pub function: LinkAddr,
}

/// Stubs begin at multiples of this.
const ALIGNMENT: u64 = 8;

/// All of a file.
#[derive(Default)]
pub(crate) struct Linkages {
    /// Ascending by stub.
    found: Vec<Linkage>,
    /// Indices of them, ascending by function.
    by_function: Vec<u32>,
}

impl Linkages {
    /// Finds those of `layout`.
    pub(crate) fn read(layout: &Layout<'_>, dynamic: Option<&Dynamic<'_>>, rela: &[Bytes<'_>]) -> Linkages {
        let found = dynamic.map(|dynamic| stubs(layout, dynamic, rela)).unwrap_or_default();
        let mut by_function: Vec<u32> = (0..found.len() as u32).collect();
        by_function.sort_by_key(|index| found[*index as usize].function);
        Linkages { found, by_function }
    }

    /// That of the stub at `stub`.
    pub(crate) fn of(&self, stub: LinkAddr) -> Option<&Linkage> {
        let index = self.found.binary_search_by_key(&stub, |linkage| linkage.stub).ok()?;
        self.found.get(index)
    }

    /// The first that leads to `function`.
    pub(crate) fn to(&self, function: LinkAddr) -> Option<&Linkage> {
        let of = |index: &u32| &self.found[*index as usize];
        let index = self.by_function.partition_point(|index| of(index).function < function);
        self.by_function.get(index).map(of).filter(|linkage| linkage.function == function)
    }
}

/// The stubs of `layout` that lead to functions defined in it, ascending.
fn stubs(layout: &Layout<'_>, dynamic: &Dynamic<'_>, rela: &[Bytes<'_>]) -> Vec<Linkage> {
    let table = dynamic.symbols(layout);
    let symbols = table.all::<Sym64<LittleEndian>>();
    let mut slots: Vec<(u64, LinkAddr)> = Vec::new();
    for relocation in rela.iter().flat_map(|table| table.all::<Rela64<LittleEndian>>()) {
        let kind = relocation.r_type(LE, false);
        if kind != elf::R_X86_64_JUMP_SLOT && kind != elf::R_X86_64_GLOB_DAT {
            continue;
        }
        let Some(symbol) = symbols.get(relocation.r_sym(LE, false) as usize) else { continue };
        let function = LinkAddr(symbol.st_value.get(LE));
        // An indirect function is what its resolver says.
        let defined = symbol.st_shndx.get(LE) != elf::SHN_UNDEF && symbol.st_type() == elf::STT_FUNC;
        if defined && find_range(&layout.text, function).is_some() {
            slots.push((relocation.r_offset.get(LE), function));
        }
    }
    if slots.is_empty() {
        return Vec::new();
    }
    slots.sort_unstable();
    let mut found = Vec::new();
    for range in &layout.plt {
        let len = range.end.0 - range.start.0;
        let Some(code) = layout.at(range.start, len).map(Bytes::data) else { continue };
        for offset in (0..code.len()).step_by(ALIGNMENT as usize) {
            let stub = LinkAddr(range.start.0 + offset as u64);
            let Some(slot) = slot_of(&code[offset..], stub) else { continue };
            let first = slots.partition_point(|(at, _)| *at < slot);
            if let Some((_, function)) = slots.get(first).filter(|(at, _)| *at == slot) {
                found.push(Linkage { stub, slot: LinkAddr(slot), function: *function });
            }
        }
    }
    found.sort_unstable_by_key(|linkage| linkage.stub);
    found
}

/// The slot that the stub at `at` jumps through, if `code` begins with one.
fn slot_of(code: &[u8], at: LinkAddr) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];
    const BND: u8 = 0xF2;
    let mut rest = code.strip_prefix(&ENDBR64).unwrap_or(code);
    rest = rest.strip_prefix(&[BND]).unwrap_or(rest);
    let [0xFF, 0x25, displacement @ ..] = rest else { return None };
    let displacement = i32::from_le_bytes(*displacement.first_chunk()?);
    let end = at.0 + (code.len() - rest.len()) as u64 + 6;
    Some(end.wrapping_add_signed(i64::from(displacement)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_of_all_kinds_tell_their_slot() {
        let at = LinkAddr(0x1000);
        let slot = |code: &[u8]| slot_of(code, at);
        assert_eq!(slot(&[0xFF, 0x25, 0x10, 0, 0, 0]), Some(0x1016));
        assert_eq!(slot(&[0xF3, 0x0F, 0x1E, 0xFA, 0xFF, 0x25, 0xF0, 0xFF, 0xFF, 0xFF]), Some(0xFFA));
        assert_eq!(slot(&[0xF3, 0x0F, 0x1E, 0xFA, 0xF2, 0xFF, 0x25, 1, 0, 0, 0]), Some(0x100C));
        // The first entry of a table that is bound lazily, and what is cut off.
        for none in [&[0xFF, 0x35, 2, 0, 0, 0][..], &[0xFF, 0x25, 0], &[]] {
            assert_eq!(slot(none), None);
        }
    }
}

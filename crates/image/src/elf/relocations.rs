//! Relocations that matter here: pointers the loader writes into the program's own tables.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, Rela64};

use crate::LinkAddr;
use crate::addr::find_range;
use crate::elf::bytes::{Bytes, LE};
use crate::elf::dynamic::Dynamic;
use crate::elf::layout::{Layout, RawSection};
use crate::process::ifunc::{Slot, SlotTarget};

/// Reads little-endian quadwords of a table in memory as the loader leaves them, in terms of link
/// addresses: with relative relocations done.
pub(crate) struct Pointers<'l, 'a> {
    section: &'l RawSection<'a>,
    /// Relative relocations with an addend that fall into the section: place and value, sorted.
    relocated: Vec<(u64, u64)>,
}

impl<'l, 'a> Pointers<'l, 'a> {
    /// For the table that fills `section`.
    pub(crate) fn new(section: &'l RawSection<'a>, rela: &[Bytes<'a>]) -> Pointers<'l, 'a> {
        let mut relocated: Vec<(u64, u64)> = rela
            .iter()
            .flat_map(|table| table.all::<Rela64<LittleEndian>>())
            .filter(|r| r.r_type(LE, false) == elf::R_X86_64_RELATIVE)
            .map(|r| (r.r_offset.get(LE), r.r_addend.get(LE) as u64))
            .filter(|&(place, _)| place.wrapping_sub(section.addr) < section.size)
            .collect();
        relocated.sort_unstable();
        Pointers { section, relocated }
    }

    /// The quadword `offset` bytes into the section. What no relocation with an addend gives is in place:
    /// packed relative relocations (`DT_RELR`) and programs at fixed addresses keep it there.
    pub(crate) fn quadword(&self, offset: u64) -> Option<LinkAddr> {
        let place = self.section.addr.wrapping_add(offset);
        match self.relocated.binary_search_by_key(&place, |r| r.0) {
            Ok(index) => self.relocated.get(index).map(|r| LinkAddr(r.1)),
            Err(_) => {
                self.section.bytes.read::<object::U64<LittleEndian>>(offset).map(|v| LinkAddr(v.get(LE)))
            }
        }
    }
}

/// The tables of relocations with addends: of the dynamic table, or, in a static program, of the sections
/// that the start code applies itself.
pub(crate) fn rela_tables<'a>(layout: &Layout<'a>, dynamic: Option<&Dynamic<'a>>) -> Vec<Bytes<'a>> {
    match dynamic {
        Some(dynamic) => dynamic.rela.to_vec(),
        None => layout
            .sections
            .iter()
            .filter(|s| s.kind == elf::SHT_RELA.0 && s.is(elf::SHF_ALLOC))
            .map(|s| s.bytes)
            .collect(),
    }
}

/// What the loader writes to in code (`DT_TEXTREL`), ascending.
pub(crate) fn in_text(
    layout: &Layout<'_>,
    dynamic: Option<&Dynamic<'_>>,
    rela: &[Bytes<'_>],
) -> Vec<Range<LinkAddr>> {
    let mut fields = Vec::new();
    // To a loader that is not told, code is not writable.
    if dynamic.is_some_and(|dynamic| !dynamic.text_relocations) {
        return fields;
    }
    for relocation in rela.iter().flat_map(|table| table.all::<Rela64<LittleEndian>>()) {
        let at = LinkAddr(relocation.r_offset.get(LE));
        // The widest field of any type.
        if find_range(&layout.text, at).is_some() {
            fields.push(at.span(8));
        }
    }
    fields.sort_unstable_by_key(|field| field.start);
    fields
}

/// The slots that hold the address of an indirect function, or of something imported, sorted by target.
/// `import_of` gives the import index plus one of each dynamic symbol.
pub(crate) fn slots(layout: &Layout<'_>, rela: &[Bytes<'_>], import_of: &[u32]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for relocation in rela.iter().flat_map(|table| table.all::<Rela64<LittleEndian>>()) {
        let addend = relocation.r_addend.get(LE);
        let import = || {
            let symbol = relocation.r_sym(LE, false) as usize;
            import_of.get(symbol).and_then(|i| i.checked_sub(1)).map(SlotTarget::Import)
        };
        let target = match relocation.r_type(LE, false) {
            elf::R_X86_64_IRELATIVE => Some(SlotTarget::Resolver(LinkAddr(addend as u64))),
            elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT => import(),
            elf::R_X86_64_64 if addend == 0 => import(),
            _ => None,
        };
        let at = LinkAddr(relocation.r_offset.get(LE));
        if let Some(target) = target {
            let bytes = layout.at(at, 8).and_then(|b| b.read::<object::U64<LittleEndian>>(0));
            slots.push(Slot { at, target, initial: bytes.map_or(0, |v| v.get(LE)) });
        }
    }
    slots.sort_unstable_by_key(|s| (s.target, s.at));
    slots
}

//! The section header table of the new file: the old one, with the parts that were appended behind it.

use super::append::ALIGN;
use super::elf::{SHDR, SHT_PROGBITS, Section, Sections, slice, u16_at, u64_at};
use super::record;

/// Where something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub address: u64,
    pub offset: u64,
    pub len: u64,
}

/// What was appended, and what took the place of something else.
#[derive(Default)]
pub(super) struct Layout {
    pub parts: Vec<Part>,
    /// Unwind information of trampolines.
    pub frames: Option<Place>,
    /// `.eh_frame_hdr`, which moved.
    pub frames_header: Option<Place>,
    /// The dynamic table, if it moved.
    pub dynamic: Option<Place>,
    /// Contents of `.debug_frame`, which is not loaded.
    pub debug_frames: Vec<u8>,
    /// They are compressed.
    pub compressed: bool,
}

/// A part that was appended, for the section header table.
pub(super) struct Part {
    pub name: &'static str,
    pub kind: u32,
    pub flags: u64,
    pub addr: u64,
    pub offset: u64,
    pub size: u64,
    pub align: u64,
}

impl Part {
    pub(super) fn new(name: &'static str, flags: u64, addr: u64, offset: u64, size: u64) -> Part {
        let align = if addr.is_multiple_of(ALIGN) { ALIGN } else { 1 };
        Part { name, kind: SHT_PROGBITS, flags, addr, offset, size, align }
    }
}

/// Room for the section header table, and the names of sections before it.
pub(super) struct SectionTable {
    at: usize,
    names_at: u64,
    names_len: u64,
    /// Where the names of the parts begin among the names, then those of the unwind information for debuggers, if there
    /// is any, and of the record.
    name_of: Vec<u32>,
    debug: Option<Place>,
}

/// The contents begin with how they are compressed (gABI, "Section Compression").
const SHF_COMPRESSED: u64 = 0x800;

const DEBUG_FRAME: &str = ".debug_frame";

/// Step 4, as far as the file header depends on it.
pub(super) fn reserve_sections(
    out: &mut Vec<u8>,
    original: &[u8],
    sections: &Sections,
    layout: &Layout,
) -> SectionTable {
    move_symbols(out, original, sections, layout);
    let known = [DEBUG_FRAME, ".zdebug_frame"].iter().any(|name| find(sections, original, name).is_some());
    let debug = (!known && !layout.debug_frames.is_empty()).then(|| {
        out.resize(out.len().next_multiple_of(8), 0);
        let offset = out.len() as u64;
        out.extend_from_slice(&layout.debug_frames);
        Place { address: 0, offset, len: layout.debug_frames.len() as u64 }
    });
    let old =
        sections.headers.get(sections.names).and_then(|names| slice(original, names.offset, names.size));
    let mut names = old.unwrap_or(&[]).to_vec();
    let mut name_of = Vec::new();
    let parts = layout.parts.iter().map(|part| part.name.as_bytes());
    for name in parts.chain(debug.map(|_| DEBUG_FRAME.as_bytes())).chain([record::SECTION]) {
        name_of.push(names.len() as u32);
        names.extend_from_slice(name);
        names.push(0);
    }
    let names_at = out.len() as u64;
    let names_len = names.len() as u64;
    out.extend(names);
    out.resize(out.len().next_multiple_of(8), 0);
    let at = out.len();
    let count = sections.headers.len() + name_of.len();
    out.resize(at + count * SHDR, 0);
    out[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    out[60..62].copy_from_slice(&(count as u16).to_le_bytes());
    SectionTable { at, names_at, names_len, name_of, debug }
}

/// Symbols for the beginning of what moved (`_DYNAMIC`, `__GNU_EH_FRAME_HDR`) move too.
fn move_symbols(out: &mut [u8], original: &[u8], sections: &Sections, layout: &Layout) {
    const SHT_SYMTAB: u32 = 2;
    /// Bytes of a symbol, and offsets of its section's index and its value (gABI, symbol table).
    const SYMBOL: usize = 24;
    const SECTION: usize = 6;
    const VALUE: usize = 8;
    for (name, moved) in moved(layout) {
        let Some((index, section)) = find(sections, original, name) else { continue };
        let tables = sections.headers.iter().filter(|table| table.kind == SHT_SYMTAB);
        for table in tables.filter(|table| slice(original, table.offset, table.size).is_some()) {
            for n in 0..table.size as usize / SYMBOL {
                let at = table.offset as usize + n * SYMBOL;
                let here = u16_at(out, at + SECTION).map(usize::from) == Some(index);
                if here && u64_at(out, at + VALUE) == Some(section.addr) {
                    out[at + VALUE..at + VALUE + 8].copy_from_slice(&moved.address.to_le_bytes());
                }
            }
        }
    }
}

/// The sections that moved, and where they are now.
fn moved(layout: &Layout) -> impl Iterator<Item = (&'static str, Place)> {
    let moved = [(".eh_frame_hdr", layout.frames_header), (".dynamic", layout.dynamic)];
    moved.into_iter().filter_map(|(name, place)| Some((name, place?)))
}

fn find(sections: &Sections, original: &[u8], name: &str) -> Option<(usize, Section)> {
    let mut all = sections.headers.iter().enumerate();
    let found = all.find(|(_, section)| sections.name(original, section) == name.as_bytes());
    found.map(|(index, section)| (index, *section))
}

/// The rest of step 4: the record follows at a place that is known now.
pub(super) fn write_sections(
    out: &mut [u8],
    original: &[u8],
    sections: &Sections,
    layout: &Layout,
    table: &SectionTable,
    record: (u64, u64),
) {
    let mut headers = sections.headers.clone();
    if let Some(names) = headers.get_mut(sections.names) {
        (names.offset, names.size) = (table.names_at, table.names_len);
    }
    for (name, Place { address, offset, len }) in moved(layout) {
        if let Some((index, _)) = find(sections, original, name) {
            let section = &mut headers[index];
            (section.addr, section.offset, section.size) = (address, offset, len);
        }
    }
    let plain = |kind, place: Place, align| {
        let Place { address: addr, offset, len: size } = place;
        Section { kind, addr, offset, size, align, ..Section::default() }
    };
    let parts = layout.parts.iter().map(|part| {
        let Part { kind, flags, addr, offset, size, align, .. } = *part;
        Section { kind, flags, addr, offset, size, align, ..Section::default() }
    });
    let debug = table.debug.map(|place| Section {
        flags: if layout.compressed { SHF_COMPRESSED } else { 0 },
        ..plain(SHT_PROGBITS, place, 8)
    });
    let (offset, len) = record;
    let record = plain(SHT_PROGBITS, Place { address: 0, offset, len }, 1);
    for (section, &name) in parts.chain(debug).chain([record]).zip(&table.name_of) {
        headers.push(Section { name, ..section });
    }
    let mut bytes = Vec::with_capacity(headers.len() * SHDR);
    headers.iter().for_each(|header| header.write(&mut bytes));
    out[table.at..table.at + bytes.len()].copy_from_slice(&bytes);
}

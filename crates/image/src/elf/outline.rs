//! Of a file, only what [`Image::open`](crate::Image::open) looks at.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, SectionHeader64};

use crate::elf::bytes::{Bytes, LE};
use crate::elf::layout::{self, RawSection};

/// Sections of less than so many bytes are read whatever they are.
const SMALL: u64 = 1 << 14;

/// Of files with more sections, all is read.
const MOST_SECTIONS: usize = 1000;

/// The contents of a file of `len` bytes, with zeroes for large parts that no [`Image`](crate::Image) is made from: code,
/// constants, debugging information. `read` reads at an offset.
///
/// `None` if `read` fails.
pub fn outline(len: u64, read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
    let mut file = vec![0; usize::try_from(len).ok()?];
    let mut at = 0;
    for skipped in skipped(&mut file, read).unwrap_or_default() {
        fill(&mut file, at..skipped.start, read)?;
        at = skipped.end;
    }
    fill(&mut file, at..len as usize, read)?;
    Some(file)
}

fn fill(file: &mut [u8], range: Range<usize>, read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<()> {
    let at = range.start as u64;
    let part = file.get_mut(range)?;
    (part.is_empty() || read(at, part)).then_some(())
}

/// What need not be read, ascending and apart; `None` where there are no headers that tell.
fn skipped(file: &mut [u8], read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<Vec<Range<usize>>> {
    fill(file, 0..size_of::<elf::FileHeader64<LittleEndian>>(), read)?;
    let header = *layout::header(Bytes::file(file)).ok()?;
    let table = usize::try_from(header.e_shoff.get(LE)).ok()?;
    let end = table
        .checked_add(usize::from(header.e_shnum.get(LE)) * size_of::<SectionHeader64<LittleEndian>>())?;
    fill(file, table..end, read)?;
    let headers = Bytes::file(file.get(table..end)?).all::<SectionHeader64<LittleEndian>>();
    let names = headers.get(usize::from(header.e_shstrndx.get(LE).0))?;
    let names = Bytes::file(file).get(names.sh_offset.get(LE), names.sh_size.get(LE))?.place();
    fill(file, names, read)?;
    let sections = layout::sections(Bytes::file(file), &header);
    if sections.len() > MOST_SECTIONS {
        return None;
    }
    let (unread, read): (Vec<_>, Vec<_>) = sections.iter().partition(|section| is_unread(section));
    let mut unread: Vec<Range<usize>> = unread.iter().map(|section| section.bytes.place()).collect();
    // Where sections overlap, as they may in a file that is damaged, the part is read.
    unread.retain(|range| {
        !read.iter().any(|other| {
            let other = other.bytes.place();
            other.start < range.end && range.start < other.end
        })
    });
    unread.sort_by_key(|range| range.start);
    unread.dedup_by(|next, before| next.start < before.end);
    Some(unread)
}

fn is_unread(section: &RawSection<'_>) -> bool {
    let debugging = [&b".debug_"[..], b".zdebug_", b".rodata"];
    let named = debugging.iter().any(|prefix| section.name.starts_with(prefix));
    section.kind == elf::SHT_PROGBITS.0
        && section.bytes.len() >= SMALL
        && (named || section.is(elf::SHF_EXECINSTR))
}

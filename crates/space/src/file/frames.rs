//! Unwind information for trampolines in a file.
//!
//! What the program has stays where it is. Descriptions of trampolines lie in the payload, and a new `.eh_frame_hdr`
//! with a table of all descriptions, old and new, takes the place of the old one: unwinders come to a description through
//! the table (Linux Standard Base 5.0, Core, 10.6.2). gdb reads one section named `.eh_frame` and no table; for it there
//! is the same once more as `.debug_frame` (DWARF 5, 6.4.1), which is not loaded.

use incise_isa::Addr;

use super::append::Change;
use super::elf::{PT_GNU_EH_FRAME, slice, u32_at};
use crate::unwind::{Expressed, Piece, Table, lists, piece};

/// What is appended.
pub(super) struct Frames {
    /// To lie at the address that was given.
    pub lists: Vec<u8>,
    /// Lies right behind the lists.
    pub table: Vec<u8>,
    /// Takes the place of `.eh_frame_hdr`; lies right behind the table.
    pub header: Vec<u8>,
    /// Contents of `.debug_frame`.
    pub debug: Vec<u8>,
}

/// Version 1; the table's address relative to where that is, in 4 bytes; a count of 4 bytes; entries in twice 4 bytes,
/// relative to the header. All linkers write this.
const FORM: [u8; 4] = [1, 0x1B, 0x03, 0x3B];
/// Offset of the address of the table in the header.
const TABLE: usize = 4;
/// Offset of the count.
const COUNT: usize = 8;
/// Offset of the first entry: where code begins, and its description.
const ENTRIES: usize = 12;
const ENTRY: usize = 8;

/// What there is in the program: the address of `.eh_frame`, and for each description where its code and where it is.
struct Known {
    table: Option<u64>,
    entries: Vec<(u64, u64)>,
}

/// Describes the trampolines of `change`, in memory from `at` on. `None` if there are none, or the program's own
/// header is of another form than linkers give it: then unwinders know of trampolines as little as before.
pub(super) fn frames(change: &Change, at: u64) -> Option<Frames> {
    let pieces = pieces(change);
    if pieces.is_empty() {
        return None;
    }
    let known = known(change)?;
    let mut listed = lists(&pieces)?;
    listed.bytes.resize(listed.bytes.len().next_multiple_of(8), 0);
    let first = Addr(at);
    let at = at + listed.bytes.len() as u64;
    let Table { bytes, entries } = listed.table(first, Expressed::Relative(Addr(at)))?;
    let here = at + bytes.len() as u64;
    let mut all = known.entries;
    all.extend(entries.iter().map(|(code, offset)| (code.start.0, at + u64::from(*offset))));
    all.sort_unstable();
    let distance = |to: u64, from: u64| i32::try_from(to.wrapping_sub(from) as i64).ok();
    let mut header = FORM.to_vec();
    header.extend(distance(known.table.unwrap_or(at), here + TABLE as u64)?.to_le_bytes());
    header.extend(u32::try_from(all.len()).ok()?.to_le_bytes());
    for (code, description) in all {
        header.extend(distance(code, here)?.to_le_bytes());
        header.extend(distance(description, here)?.to_le_bytes());
    }
    let debug = listed.table(first, Expressed::Debug)?.bytes;
    Some(Frames { lists: listed.bytes, table: bytes, header, debug })
}

fn pieces(change: &Change) -> Vec<Piece> {
    let all = Addr(0)..Addr(u64::MAX);
    let described = change.displaced.within(&all).filter_map(|displaced| {
        let len = u64::from(displaced.len);
        let mut bytes = vec![0; displaced.len as usize];
        let code = change.code.iter().find(|code| len > 0 && code.holds(displaced.landing, len))?;
        code.read(displaced.landing, &mut bytes);
        Some(piece(&displaced, &bytes, &|to| change.displaced.original(to)))
    });
    described.collect()
}

fn known(change: &Change) -> Option<Known> {
    let Some(segment) = change.headers.first(PT_GNU_EH_FRAME) else {
        return Some(Known { table: None, entries: Vec::new() });
    };
    let bytes = slice(change.original, segment.offset, segment.filesz)?;
    if !bytes.starts_with(&FORM) {
        return None;
    }
    let at = segment.vaddr;
    let field = |offset: usize, from: u64| {
        let distance = u32_at(bytes, offset)? as i32;
        Some(from.wrapping_add_signed(distance.into()))
    };
    let count = u32_at(bytes, COUNT)? as usize;
    let list = bytes.get(ENTRIES..ENTRIES.checked_add(count.checked_mul(ENTRY)?)?)?;
    let entries = (0..list.len() / ENTRY).filter_map(|n| {
        let offset = ENTRIES + n * ENTRY;
        Some((field(offset, at)?, field(offset + 4, at)?))
    });
    Some(Known { table: Some(field(TABLE, at + TABLE as u64)?), entries: entries.collect() })
}

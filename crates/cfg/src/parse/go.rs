//! The table of functions that Go's runtime keeps, also in stripped programs (`.gopclntab`; Go's `debug/gosym` and
//! "Go 1.2 Runtime Symbol Information").

use crate::parse::code::{Code, Off};

/// Most functions that are believed.
const LIMIT: usize = 1 << 22;

/// What the formats since Go 1.16 have in common: where offsets of functions are counted from, where the table is, and
/// how wide its entries are.
struct Table {
    base: u64,
    at: u64,
    width: u64,
}

/// Where functions begin, ascending; none if it is no program of Go, or one whose table has another form.
pub(crate) fn functions(code: &Code<'_>) -> Vec<Off> {
    let names = [".gopclntab", ".data.rel.ro.gopclntab"];
    let Some(section) = code.image.sections().iter().find(|s| names.contains(&&*s.name)) else {
        return Vec::new();
    };
    let start = section.link.0;
    read(code, start).unwrap_or_default()
}

fn read(code: &Code<'_>, start: u64) -> Option<Vec<Off>> {
    let word = |at: u64, len: u64| -> Option<u64> {
        let bytes = code.data(at, len)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let field = |number: u64| word(start + 8 + number * 8, 8);
    // Bytes behind the magic number: two zeros, the least size of an instruction, the size of a pointer.
    if code.data(start + 4, 4)? != [0, 0, 1, 8] {
        return None;
    }
    let count = field(0)?;
    let table = match word(start, 4)? {
        // Go 1.18 and 1.20: offsets from the start of the code, of four bytes.
        0xffff_fff0 | 0xffff_fff1 => Table { base: field(2)?, at: start + field(7)?, width: 4 },
        // Go 1.16: addresses.
        0xffff_fffa => Table { base: 0, at: start + field(6)?, width: 8 },
        // Go 1.2.
        0xffff_fffb => Table { base: 0, at: start + 16, width: 8 },
        _ => return None,
    };
    let count = usize::try_from(count).ok().filter(|&count| count < LIMIT)?;
    let entry = |index: usize| {
        let value = word(table.at + index as u64 * 2 * table.width, table.width)?;
        code.offset(table.base.wrapping_add(value))
    };
    Some((0..count).filter_map(entry).collect())
}

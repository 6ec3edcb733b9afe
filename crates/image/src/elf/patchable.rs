//! Places compilers left for patching: `__patchable_function_entries`.

use crate::LinkAddr;
use crate::addr::find_range;
use crate::elf::bytes::Bytes;
use crate::elf::layout::Layout;
use crate::elf::relocations::Pointers;

/// Addresses of the nop runs made by `-fpatchable-function-entry` and `-mnop-mcount -mrecord-mcount`
/// (`__mcount_loc`), ascending.
pub(crate) fn entries(layout: &Layout<'_>, rela: &[Bytes<'_>]) -> Vec<LinkAddr> {
    let mut found = Vec::new();
    for name in ["__patchable_function_entries", "__mcount_loc"] {
        for section in layout.sections.iter().filter(|s| s.name == name.as_bytes()).take(64) {
            let pointers = Pointers::new(section, rela);
            let count = section.bytes.len() / 8;
            found.extend((0..count).filter_map(|index| pointers.quadword(index * 8)));
        }
    }
    found.retain(|&at| find_range(&layout.text, at).is_some());
    found.sort_unstable();
    found.dedup();
    found
}

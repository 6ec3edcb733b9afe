//! Symbol versions (`.gnu.version*`), as the LSB's symbol versioning section describes them.

use object::LittleEndian;
use object::elf::{self, Verdaux, Verdef, Vernaux, Verneed};

use crate::elf::bytes::{Bytes, LE};
use crate::elf::dynamic::Dynamic;

/// The version names of a file, by version index.
#[derive(Default)]
pub(crate) struct Versions {
    /// Indexed by version index.
    names: Vec<Option<Box<str>>>,
}

impl Versions {
    /// Reads definitions and requirements. Entries that make no sense end the list they are in: the names
    /// are for display and for choosing, nothing relies on them.
    pub(crate) fn parse(dynamic: &Dynamic<'_>) -> Versions {
        let mut versions = Versions::default();
        if let Some((table, count)) = dynamic.definitions {
            versions.read_definitions(table, count, dynamic.strings);
        }
        if let Some((table, count)) = dynamic.requirements {
            versions.read_requirements(table, count, dynamic.strings);
        }
        versions
    }

    /// The name of a version index, without its hidden bit.
    pub(crate) fn name(&self, index: u16) -> Option<&str> {
        self.names.get(usize::from(index & !elf::VERSYM_HIDDEN.0))?.as_deref()
    }

    fn read_definitions(&mut self, table: Bytes<'_>, count: u64, strings: Bytes<'_>) {
        let mut at = 0u64;
        // Version indices have 15 bits, so more entries than that are no sensible table.
        for _ in 0..count.min(0x8000) {
            let Some(definition) = table.read::<Verdef<LittleEndian>>(at) else { return };
            // The base definition names the file itself, not a version of symbols.
            if definition.vd_flags.get(LE).0 & elf::VER_FLG_BASE.0 == 0 {
                let name = table.read::<Verdaux<LittleEndian>>(at + u64::from(definition.vd_aux.get(LE)));
                let name = name.and_then(|aux| version_name(strings, aux.vda_name.get(LE)));
                self.set(definition.vd_ndx.get(LE).0, name);
            }
            match definition.vd_next.get(LE) {
                0 => return,
                next => at += u64::from(next),
            }
        }
    }

    fn read_requirements(&mut self, table: Bytes<'_>, count: u64, strings: Bytes<'_>) {
        let (mut at, mut budget) = (0u64, 0x8000);
        for _ in 0..count.min(0x8000) {
            let Some(need) = table.read::<Verneed<LittleEndian>>(at) else { return };
            let mut aux_at = at + u64::from(need.vn_aux.get(LE));
            for _ in 0..need.vn_cnt.get(LE) {
                let Some(aux) = table.read::<Vernaux<LittleEndian>>(aux_at) else { return };
                self.set(aux.vna_other.get(LE).0, version_name(strings, aux.vna_name.get(LE)));
                budget -= 1;
                match aux.vna_next.get(LE) {
                    0 => break,
                    _ if budget == 0 => return,
                    next => aux_at += u64::from(next),
                }
            }
            match need.vn_next.get(LE) {
                0 => return,
                next => at += u64::from(next),
            }
        }
    }

    fn set(&mut self, index: u16, name: Option<Box<str>>) {
        let index = usize::from(index & !elf::VERSYM_HIDDEN.0);
        if self.names.len() <= index {
            self.names.resize(index + 1, None);
        }
        if let Some(slot) = self.names.get_mut(index) {
            *slot = name;
        }
    }
}

fn version_name(strings: Bytes<'_>, offset: u32) -> Option<Box<str>> {
    /// Longest version name kept, in bytes.
    const LIMIT: usize = 256;
    strings.string(u64::from(offset), LIMIT).map(|name| String::from_utf8_lossy(name).into())
}

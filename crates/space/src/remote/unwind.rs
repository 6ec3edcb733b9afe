//! What debuggers need to know of the trampolines in another process.

use std::collections::BTreeMap;
use std::ops::Range;

use incise_isa::Addr;

use super::space::RemoteSpace;
use super::tracees::Target;
use crate::SpaceError;
use crate::unwind::{Expressed, Piece, object, piece, table};

impl RemoteSpace {
    /// The trampolines that are in place, with names and unwind information: an ELF file for gdb's `add-symbol-file FILE -o 0`.
    /// `name` names the one that stands for the instruction at an address.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn debug_file(&self, name: &dyn Fn(Addr) -> String) -> Result<Vec<u8>, SpaceError> {
        self.with_target(|target| target.debug_file(name))
    }
}

impl Target {
    fn debug_file(&self, name: &dyn Fn(Addr) -> String) -> Result<Vec<u8>, SpaceError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut originals = BTreeMap::new();
        for range in &self.code {
            for displaced in self.trampolines.within(range) {
                let code = self.memory.read_vec(displaced.landing, displaced.len as usize)?;
                originals.insert(displaced.landing, displaced.original);
                pieces.push(piece(&displaced, &code, &|to| self.trampolines.original(to)));
            }
        }
        let table = table(&pieces, Expressed::Absolute);
        let named = |(range, _): &(Range<Addr>, u32)| {
            let original = originals.get(&range.start).copied().unwrap_or(range.start);
            (range.clone(), name(original))
        };
        let names: Vec<(Range<Addr>, String)> = table.entries.iter().map(named).collect();
        let names: Vec<(Range<Addr>, &str)> =
            names.iter().map(|(range, name)| (range.clone(), &**name)).collect();
        Ok(object(&self.code, &names, &table.bytes).0)
    }
}

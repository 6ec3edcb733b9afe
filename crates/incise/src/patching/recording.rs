//! A process in which memory for a patch is recorded before it is mapped.

use std::ops::Range;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_space::remote::RemoteSpace;
use incise_space::{AddressSpace, Applied, DataMapping, Displaced, Edit, Features, Landing, SpaceError};

use super::book::Book;
use super::leaving;

/// Puts what is mapped into the record of the last patch of `book`, first: whoever comes after a tool that was killed
/// finds all that it has left.
pub(super) struct Recording<'a> {
    pub space: &'a mut RemoteSpace,
    pub book: &'a mut Book,
}

impl Recording<'_> {
    fn announce(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        if let Some(patch) = self.book.patches.last_mut() {
            patch.memory.push(at.span(len));
        }
        leaving::write_record(self.space, self.book)
    }

    /// Nothing was mapped.
    fn withdraw<T>(&mut self, error: SpaceError) -> Result<T, SpaceError> {
        if let Some(patch) = self.book.patches.last_mut() {
            patch.memory.pop();
        }
        leaving::write_record(self.space, self.book).and(Err(error))
    }
}

impl AddressSpace for Recording<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        self.space.read(at, into)
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        self.space.mappings()
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.announce(at, len)?;
        self.space.map_code(at, len).or_else(|error| self.withdraw(error))
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        self.announce(at, len)?;
        self.space.map_data(at, len).or_else(|error| self.withdraw(error))
    }

    fn map_private(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.announce(at, len)?;
        self.space.map_private(at, len).or_else(|error| self.withdraw(error))
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.space.unmap(at, len)
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        self.space.write_code(runs)
    }

    fn note_displaced(&mut self, displaced: &[Displaced]) {
        self.space.note_displaced(displaced);
    }

    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.space.publish_landings(landings)
    }

    fn apply(
        &mut self,
        edits: &[Edit],
        landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError> {
        self.space.apply(edits, landing_of)
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        self.space.quiescent(ranges)
    }

    fn features(&self) -> Features {
        self.space.features()
    }
}

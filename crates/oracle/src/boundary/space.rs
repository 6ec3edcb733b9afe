//! The address space whose changes the processes of the oracle are made from.

use std::ops::Range;

use incise_image::{Image, MemoryMap};
use incise_isa::Addr;
use incise_space::file::Loaded;
use incise_space::{AddressSpace, Applied, DataMapping, Displaced, Edit, Features, Landing, SpaceError};

/// A program alone in its address space; what is changed is kept.
pub(super) struct Captured<'f> {
    pub loaded: Loaded<'f>,
    /// Reserved code and data.
    pub code: Vec<Range<u64>>,
    pub data: Vec<Range<u64>>,
    /// What was written into reserved code.
    pub runs: Vec<(u64, Vec<u8>)>,
    pub landings: Vec<Landing>,
    pub edits: Vec<Edit>,
    pub displaced: Vec<Displaced>,
}

impl<'f> Captured<'f> {
    pub(super) fn new(image: &Image, file: &'f [u8], bias: u64) -> Result<Captured<'f>, SpaceError> {
        let loaded = Loaded::alone(image, file, bias)?;
        let (code, data, runs) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Captured {
            loaded,
            code,
            data,
            runs,
            landings: Vec::new(),
            edits: Vec::new(),
            displaced: Vec::new(),
        })
    }
}

impl AddressSpace for Captured<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        self.loaded.read(at, into)
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        self.loaded.mappings()
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.loaded.map_code(at, len)?;
        self.code.push(at.0..at.0 + len);
        Ok(())
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        let mapping = self.loaded.map_data(at, len)?;
        self.data.push(at.0..at.0 + len);
        Ok(mapping)
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.loaded.unmap(at, len)?;
        self.code.retain(|range| range.start != at.0);
        self.data.retain(|range| range.start != at.0);
        Ok(())
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        self.runs.extend(runs.iter().map(|(at, bytes)| (at.0, bytes.to_vec())));
        Ok(())
    }

    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.landings = landings.to_vec();
        Ok(())
    }

    fn note_displaced(&mut self, displaced: &[Displaced]) {
        self.displaced = displaced.to_vec();
    }

    fn apply(
        &mut self,
        edits: &[Edit],
        _landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError> {
        self.edits.extend_from_slice(edits);
        Ok(Applied::default())
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        Ok(vec![false; ranges.len()])
    }

    fn features(&self) -> Features {
        Features { still: true, ..Features::default() }
    }
}

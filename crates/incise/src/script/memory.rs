//! What a script has in one process: code, maps, rings.

use std::collections::HashMap;

use incise_patch::Data;
use incise_snippet::data::operation::MapReader;
use incise_snippet::data::tables::{Tables, map_layout, ring_layout};
use incise_snippet::data::{RingLayout, RingReader, Words};
use incise_snippet::tree::{Block, BlockId, Fault, Map, Program, Ring};

use super::ScriptError;
use crate::compiled::Compiled;

/// The blocks of the programs of one process and its forked children.
#[derive(Default)]
pub(super) struct Memory {
    blocks: HashMap<BlockId, Data>,
    /// Programs by their text: most points of a clause have the same one.
    code: HashMap<String, Vec<(Program, Compiled)>>,
    reader: Option<(RingLayout, RingReader, Data)>,
}

/// Keys and values of a map, as quadwords, and how many values found no room.
pub(super) type Contents = (std::collections::BTreeMap<Vec<u64>, Vec<u64>>, u64);

impl Memory {
    pub(super) fn data(&mut self, block: &Block) -> Data {
        let make = || Data::new(block.size(), block.align(), block.initial());
        self.blocks.entry(block.id()).or_insert_with(make).clone()
    }

    /// A program as code.
    pub(super) fn compiled(&mut self, program: &Program) -> Result<Compiled, ScriptError> {
        let text = program.to_string();
        let known = self.code.get(&text).and_then(|same| same.iter().find(|(known, _)| known == program));
        if let Some((_, compiled)) = known {
            return Ok(compiled.clone());
        }
        let compiled = Compiled::new(program, &Tables, true, &mut |block| self.data(block))
            .map_err(|error| ScriptError::Compile(error.to_string()))?;
        self.code.entry(text).or_default().push((program.clone(), compiled.clone()));
        Ok(compiled)
    }

    /// Shows `take` the records that came.
    pub(super) fn drain(&mut self, ring: &Ring, take: &mut dyn FnMut(&[u64])) {
        if self.reader.is_none() {
            let data = self.data(ring.block());
            let Some(layout) = ring_layout(ring) else { return };
            let reader = data.with(|words: &Words| RingReader::new(layout, words));
            self.reader = Some((layout, reader, data));
        }
        if let Some((_, reader, data)) = &mut self.reader {
            data.with(|words: &Words| reader.drain(words, 0, take));
        }
    }

    /// How many records found no room, or were begun and never finished.
    pub(super) fn lost(&self) -> u64 {
        let of = |(_, reader, data): &(RingLayout, RingReader, Data)| {
            data.with(|words: &Words| reader.dropped(words)) + reader.unfinished() as u64
        };
        self.reader.as_ref().map_or(0, of)
    }

    /// What is in a map.
    pub(super) fn read(&self, map: &Map) -> Option<Contents> {
        let layout = map_layout(map)?;
        let data = self.blocks.get(&map.block().id())?;
        Some(data.with(|words: &Words| MapReader(layout).read(words)))
    }

    /// Works on the quadwords of a block.
    pub(super) fn with<R>(&mut self, block: &Block, work: impl FnOnce(&Words) -> R) -> R {
        self.data(block).with(work)
    }

    /// Runs that ended early, by reason.
    pub(super) fn faults(&self) -> Vec<(Fault, u64)> {
        let all = || self.code.values().flatten();
        let count = |fault: Fault| all().map(|(_, compiled)| compiled.faults(fault)).sum::<u64>();
        Fault::ALL.into_iter().map(|fault| (fault, count(fault))).filter(|(_, count)| *count > 0).collect()
    }
}

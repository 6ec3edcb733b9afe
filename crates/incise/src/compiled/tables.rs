//! Maps and rings of programs, from outside.

use std::collections::BTreeMap;

use incise_snippet::data::operation::MapReader;
use incise_snippet::data::tables::{map_layout, ring_layout};
use incise_snippet::data::{Aggregate, RingReader, Value, Words};
use incise_snippet::tree::{Map, Ring};
use incise_space::AddressSpace;

use crate::session::Session;

/// What a map held when it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapContents {
    /// What its values are.
    pub aggregate: Aggregate,
    /// The quadwords of each key, and those of its value.
    pub words: BTreeMap<Vec<u64>, Vec<u64>>,
    /// How many values found no room.
    pub dropped: u64,
}

impl MapContents {
    /// The value of a key, given as quadwords; of a map without keys, of none.
    pub fn get(&self, key: &[u64]) -> Option<Value> {
        let key = if key.is_empty() { &[0][..] } else { key };
        self.words.get(key).and_then(|words| self.aggregate.read(words))
    }

    /// Keys, as quadwords, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u64], Value)> {
        self.words.iter().filter_map(|(key, words)| Some((&**key, self.aggregate.read(words)?)))
    }
}

impl<S: AddressSpace> Session<S> {
    /// What a map of programs of this session holds.
    ///
    /// # Panics
    /// If [`tables::map`](incise_snippet::data::tables::map) did not make it.
    pub fn map(&self, map: &Map) -> MapContents {
        let layout = map_layout(map).expect("a map with its layout");
        let read = |words: &Words| MapReader(layout).read(words);
        let (words, dropped) = self.data(map.block()).with(read);
        MapContents { aggregate: layout.aggregate(), words, dropped }
    }

    /// Forgets what a map holds. What is added meanwhile may be lost in part.
    pub fn clear_map(&self, map: &Map) {
        if let Some(layout) = map_layout(map) {
            self.data(map.block()).with(|words| layout.clear(words));
        }
    }

    /// Takes the records in a ring of programs of this session that are finished and were not read, by rising time stamps: each is its
    /// number, the time stamp, its fields, and what else is in its slot. Also how many found no room so far.
    ///
    /// # Panics
    /// If [`tables::ring`](incise_snippet::data::tables::ring) did not make it.
    pub fn records(&self, ring: &Ring) -> (Vec<Box<[u64]>>, u64) {
        let layout = ring_layout(ring).expect("a ring with its layout");
        let mut records: Vec<Box<[u64]>> = Vec::new();
        let dropped = self.data(ring.block()).with(|words| {
            let mut reader = RingReader::new(layout, words);
            reader.drain(words, 0, &mut |record| records.push(record.into()));
            reader.dropped(words)
        });
        records.sort_by_key(|record| record[1]);
        (records, dropped)
    }
}

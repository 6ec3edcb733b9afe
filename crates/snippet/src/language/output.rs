//! What a script leaves: maps and records, and how they are shown.

use super::types::Type;
use crate::tree::{Aggregate, Map, Record};

/// The maps and records of a script.
#[derive(Default, Debug)]
pub struct Output {
    /// The maps, by first use.
    pub maps: Vec<MapInfo>,
    /// The kinds of records; a record's number is its index.
    pub records: Vec<RecordInfo>,
}

/// A map of a script.
#[derive(Debug)]
pub struct MapInfo {
    /// Its name, without `@`.
    pub name: String,
    /// The types of its keys.
    pub keys: Vec<Type>,
    /// What it holds; of a plain value its type.
    pub value: Type,
    /// How values are gathered.
    pub aggregate: Aggregate,
    /// The map.
    pub map: Map,
}

/// A kind of record of a script.
#[derive(Debug)]
pub struct RecordInfo {
    /// What the reader does with it.
    pub action: Action,
    /// The types of its fields.
    pub fields: Vec<Type>,
    /// The record.
    pub record: Record,
}

/// What the reader does when a record arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Shows the fields with this format of printf(3).
    Printf(String),
    /// Shows the only field, and a new line.
    PrintValue,
    /// Shows a map; only the largest so many if given.
    Print {
        /// Its index in [`Output::maps`].
        map: usize,
        /// At most so many entries.
        top: Option<u64>,
        /// Values are divided by this.
        divide: Option<u64>,
    },
    /// Takes all keys out of a map.
    Clear(usize),
    /// Sets all values of a map to 0.
    Zero(usize),
    /// Shows the time with this format of strftime(3).
    Time(String),
    /// Ends the tracing.
    Exit,
}

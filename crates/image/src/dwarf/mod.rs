//! What the compiler left for debuggers (DWARF 4 and 5): functions, variables and where they are, types.
//!
//! Read on demand: the first question about a place indexes the units by address, and the unit that covers it; a name
//! that is not in that unit indexes all names. Nothing is followed without a bound, so that a damaged or hostile file
//! gives an error or an absence.

mod entry;
mod location;
mod names;
mod operations;
mod scope;
mod types;
mod value;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use gimli::{
    Abbreviations, DebugAbbrev, DebugAbbrevOffset, DebugInfoOffset, DwarfSections, EndianSlice, LittleEndian,
    Section, SectionId, UnitHeader, UnitType,
};
use object::{Object, ObjectSection};

use crate::LinkAddr;
use names::Names;

pub use location::{Location, NoValue, Piece};
pub use scope::{DebugFunction, DebugVariable, VariableKind};
pub use types::{DebugType, Member, Tag, TypeId, TypeKind};
pub(crate) use value::unwind_value;
pub use value::{BinaryOp, UnaryOp, Value};

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Unit<'a> = gimli::Unit<Slice<'a>>;
type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// Why there is nothing to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DwarfError {
    /// The file was made without `-g`, or stripped.
    #[error("there is no debugging information")]
    Absent,
    /// It is no ELF file.
    #[error("not an ELF file that could have debugging information")]
    NotElf,
    /// A compressed section would be larger than is believable.
    #[error("a section of debugging information would be {size} bytes long, of {packed} in the file")]
    Size {
        /// Its size when unpacked.
        size: u64,
        /// Its size in the file.
        packed: u64,
    },
    /// The information contradicts itself.
    #[error("malformed debugging information: {0}")]
    Malformed(gimli::Error),
}

impl From<gimli::Error> for DwarfError {
    fn from(error: gimli::Error) -> DwarfError {
        DwarfError::Malformed(error)
    }
}

/// How much more a packed section may be than its bytes in the file; deflate makes at most 1032 of one.
const RATIO: u64 = 1100;

/// Largest section that is unpacked, in bytes.
const LARGEST: u64 = 4 << 30;

/// Most ranges of code kept, of all units and of the functions of one.
const RANGES: usize = 1 << 21;

/// The sections that are read.
const SECTIONS: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLineStr,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

/// The debugging information of a file.
pub struct DebugInfo {
    sections: DwarfSections<Vec<u8>>,
    units: Vec<UnitPart>,
    /// Tables of abbreviations by where they begin, ascending. None reaches into the next, so that all of them together
    /// are no larger than their section.
    abbreviations: Vec<(usize, OnceLock<Option<Arc<Abbreviations>>>)>,
    /// Type units by their signature.
    signatures: HashMap<u64, u64>,
    /// Which unit has code where, ascending.
    places: OnceLock<Vec<(Range<u64>, u32)>>,
    names: OnceLock<Names>,
}

/// A unit, and what was found out about it.
struct UnitPart {
    /// Its bytes in `.debug_info`.
    range: Range<u64>,
    /// Its functions: where their code is, and their entries.
    functions: OnceLock<Vec<(Range<u64>, u64)>>,
}

impl DebugInfo {
    /// Finds the sections in a program, a library, or a debug file of one.
    ///
    /// # Errors
    /// If there are none, or they cannot be unpacked.
    pub fn parse(file: &[u8]) -> Result<DebugInfo, DwarfError> {
        let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(file)
            .map_err(|_| DwarfError::NotElf)?;
        let load = |id: SectionId| -> Result<Vec<u8>, DwarfError> {
            let section = SECTIONS.contains(&id).then(|| elf.section_by_name(id.name())).flatten();
            let Some(section) = section else { return Ok(Vec::new()) };
            let Ok(data) = section.compressed_data() else { return Ok(Vec::new()) };
            let (size, packed) = (data.uncompressed_size, data.data.len() as u64);
            if size > LARGEST || size > packed.saturating_mul(RATIO) {
                return Err(DwarfError::Size { size, packed });
            }
            Ok(data.decompress().map(|data| data.into_owned()).unwrap_or_default())
        };
        let sections = DwarfSections::load(load)?;
        let mut info = DebugInfo {
            sections,
            units: Vec::new(),
            abbreviations: Vec::new(),
            signatures: HashMap::new(),
            places: OnceLock::new(),
            names: OnceLock::new(),
        };
        info.find_units();
        if info.units.is_empty() { Err(DwarfError::Absent) } else { Ok(info) }
    }

    /// The units up to the first whose header is malformed: where the next would begin is not known then.
    fn find_units(&mut self) {
        let (mut units, mut signatures, mut tables) = (Vec::new(), HashMap::new(), Vec::new());
        let dwarf = self.borrow();
        let mut headers = dwarf.units();
        while let Ok(Some(header)) = headers.next() {
            let Some(DebugInfoOffset(start)) = header.debug_info_offset() else { continue };
            let start = start as u64;
            if let UnitType::Type { type_signature, type_offset } = header.type_() {
                signatures.insert(type_signature.0, start.saturating_add(type_offset.0 as u64));
            }
            let range = start..start.saturating_add(header.length_including_self() as u64);
            units.push(UnitPart { range, functions: OnceLock::new() });
            tables.push(header.debug_abbrev_offset().0);
        }
        drop(dwarf);
        tables.sort_unstable();
        tables.dedup();
        self.abbreviations = tables.into_iter().map(|start| (start, OnceLock::new())).collect();
        (self.units, self.signatures) = (units, signatures);
    }

    fn borrow(&self) -> gimli::Dwarf<Slice<'_>> {
        self.sections.borrow(|section| EndianSlice::new(section, LittleEndian))
    }

    fn view(&self) -> View<'_> {
        View { info: self, dwarf: self.borrow(), last: RefCell::new(None) }
    }

    /// Which unit has code at `pc`.
    fn unit_at(&self, pc: LinkAddr) -> Option<usize> {
        let places = self.places.get_or_init(|| {
            let view = self.view();
            let mut places: Vec<(Range<u64>, u32)> = Vec::new();
            for index in 0..self.units.len() {
                let Some(unit) = view.unit(index) else { continue };
                let mut entries = unit.entries();
                if entries.next_dfs().is_err() {
                    continue;
                }
                let Some(root) = entries.current() else { continue };
                let Some(mut ranges) = view.ranges(&unit, root) else { continue };
                while let Ok(Some(range)) = ranges.next() {
                    // Code that the linker left out lies at 0.
                    if range.begin != 0 && range.begin < range.end && places.len() < RANGES {
                        places.push((range.begin..range.end, index as u32));
                    }
                }
            }
            places.sort_by_key(|(range, _)| range.start);
            places
        });
        let index = places.partition_point(|(range, _)| range.start <= pc.0).checked_sub(1)?;
        // Ranges of different units do not overlap, but a damaged file may say so.
        places[..=index]
            .iter()
            .rev()
            .take(16)
            .find(|(range, _)| range.contains(&pc.0))
            .map(|(_, u)| *u as usize)
    }
}

impl std::fmt::Debug for DebugInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DebugInfo({} units)", self.units.len())
    }
}

/// The sections as the reader of them wants them, for the time of one question.
struct View<'d> {
    info: &'d DebugInfo,
    dwarf: gimli::Dwarf<Slice<'d>>,
    /// The unit that was read last.
    last: RefCell<Option<(usize, Rc<Unit<'d>>)>>,
}

/// An entry, and the unit it is in.
struct Located<'d> {
    unit: Rc<Unit<'d>>,
    /// The number of the unit.
    index: usize,
    entry: Entry<'d>,
}

impl<'d> View<'d> {
    fn unit(&self, index: usize) -> Option<Rc<Unit<'d>>> {
        if let Some((last, unit)) = &*self.last.borrow()
            && *last == index
        {
            return Some(Rc::clone(unit));
        }
        let part = self.info.units.get(index)?;
        let header = self.dwarf.unit_header(DebugInfoOffset(part.range.start as usize)).ok()?;
        let abbreviations = self.abbreviations(header.debug_abbrev_offset())?;
        let unit = Rc::new(self.opened(header, abbreviations).ok()?);
        *self.last.borrow_mut() = Some((index, Rc::clone(&unit)));
        Some(unit)
    }

    fn abbreviations(&self, at: DebugAbbrevOffset) -> Option<Arc<Abbreviations>> {
        let tables = &self.info.abbreviations;
        let index = tables.binary_search_by_key(&at.0, |(start, _)| *start).ok()?;
        let end = tables.get(index + 1).map(|(next, _)| *next);
        let read = || {
            let section = self.dwarf.debug_abbrev.reader().slice();
            let table = section.get(at.0..end.unwrap_or(section.len()))?;
            let table = DebugAbbrev::new(table, LittleEndian);
            table.abbreviations(DebugAbbrevOffset(0)).ok().map(Arc::new)
        };
        tables[index].1.get_or_init(read).clone()
    }

    /// As [`gimli::Unit::new`], without the table of lines, which is long and not asked for here.
    fn opened(
        &self,
        header: UnitHeader<Slice<'d>>,
        abbreviations: Arc<Abbreviations>,
    ) -> gimli::Result<Unit<'d>> {
        use gimli::AttributeValue as Value;
        let (encoding, file) = (header.encoding(), self.dwarf.file_type);
        let mut unit = gimli::Unit {
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(encoding, file),
            addr_base: gimli::DebugAddrBase(0),
            loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(encoding, file),
            rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(encoding, file),
            line_program: None,
            dwo_id: None,
            header,
            abbreviations,
        };
        let root = unit.entry(unit.header.root_offset())?;
        for attribute in root.attrs() {
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_str_offsets_base, Value::DebugStrOffsetsBase(base)) => {
                    unit.str_offsets_base = base;
                }
                (gimli::DW_AT_addr_base | gimli::DW_AT_GNU_addr_base, Value::DebugAddrBase(base)) => {
                    unit.addr_base = base;
                }
                (gimli::DW_AT_loclists_base, Value::DebugLocListsBase(base)) => unit.loclists_base = base,
                (
                    gimli::DW_AT_rnglists_base | gimli::DW_AT_GNU_ranges_base,
                    Value::DebugRngListsBase(base),
                ) => unit.rnglists_base = base,
                _ => {}
            }
        }
        // By index, it depends on a base.
        if let Some(low) = root.attr_value(gimli::DW_AT_low_pc)
            && let Some(low) = self.dwarf.attr_address(&unit, low)?
        {
            unit.low_pc = low;
        }
        Ok(unit)
    }

    /// The entry at an offset in `.debug_info`.
    fn entry(&self, at: u64) -> Option<Located<'d>> {
        let index = self.info.units.partition_point(|unit| unit.range.end <= at);
        let part = self.info.units.get(index).filter(|unit| unit.range.contains(&at))?;
        let unit = self.unit(index)?;
        let entry = unit.entry(gimli::UnitOffset((at - part.range.start) as usize)).ok()?;
        if entry.is_null() {
            return None;
        }
        Some(Located { unit, index, entry })
    }

    /// Where an entry of a unit is in `.debug_info`.
    fn offset(&self, index: usize, entry: &Entry<'d>) -> u64 {
        let start = self.info.units.get(index).map_or(0, |unit| unit.range.start);
        start.saturating_add(entry.offset().0 as u64)
    }
}

//! [`FileSpace`]: a program file as an address space.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use incise_image::{MemoryMap, Permissions};
use incise_isa::Addr;

use super::PAGE;
use super::append::{self, Change};
use super::code::Code;
use super::data::Data;
use super::elf::{ET_EXEC, Headers, PF_R, PF_W, PF_X, Segment};
use super::error::FileError;
use super::memory::{mapping, read_pieces};
use super::output::Output;
use super::payload::payload_address;
use super::record::{Counting, PatchEntry, Record};
use crate::view::Trampolines;
use crate::{AddressSpace, Applied, DataMapping, Displaced, Edit, Features, Landing, SpaceError};

/// Room kept free behind the program for what is appended without the engine.
const ROOM: u64 = 16 << 20;

/// A program or library in a file. Addresses are link addresses.
///
/// Nothing is written before [`save`](Self::save).
pub struct FileSpace {
    path: PathBuf,
    original: Vec<u8>,
    bytes: Vec<u8>,
    headers: Headers,
    code: Vec<Code>,
    data: Vec<Data>,
    landings: Vec<Landing>,
    displaced: Trampolines,
    patches: Vec<PatchEntry>,
    counting: Option<(Addr, Counting)>,
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    /// Size of the original, in bytes.
    pub original_len: u64,
    /// Size of the result, in bytes.
    pub len: u64,
    /// Segments added, each a mapping of the running program.
    pub mappings: usize,
}

impl FileSpace {
    /// Reads a program or library.
    ///
    /// # Errors
    /// If it cannot be read, or is none for x86-64.
    pub fn open(path: &Path) -> Result<FileSpace, FileError> {
        let bytes = fs::read(path).map_err(|error| FileError::system("reading", path, error))?;
        FileSpace::of_bytes(path, bytes)
    }

    /// The same from the contents of the file; `path` is for messages and for the place of the result.
    ///
    /// # Errors
    /// If it is no program or library for x86-64.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<FileSpace, FileError> {
        let headers =
            Headers::parse(&bytes).map_err(|source| FileError::Image { path: path.to_owned(), source })?;
        Ok(FileSpace {
            path: path.to_owned(),
            original: bytes.clone(),
            bytes,
            headers,
            code: Vec::new(),
            data: Vec::new(),
            landings: Vec::new(),
            displaced: Trampolines::default(),
            patches: Vec::new(),
            counting: None,
        })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents as they were read.
    pub fn original(&self) -> &[u8] {
        &self.original
    }

    /// Puts a change made by hand into the record.
    pub fn note(&mut self, patch: PatchEntry) {
        self.patches.push(patch);
    }

    /// Tells which counters shall be kept in files, from `at` on (the start of what one
    /// [`map_data`](AddressSpace::map_data) gave). The rest of that reservation is given up. Sets the id.
    pub fn count(&mut self, at: Addr, mut counting: Counting) {
        counting.identify(&self.original);
        self.counting = Some((at, counting));
    }

    /// The contents of the result.
    ///
    /// # Errors
    /// [`FileError::Unsupported`]: this file cannot be extended so.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FileError> {
        Ok(self.build()?.0)
    }

    /// Writes the result as [`Output`] says.
    ///
    /// # Errors
    /// Those of [`to_bytes`](Self::to_bytes), and if the file cannot be written: then what was there before stays.
    pub fn save(&self, output: &Output) -> Result<Saved, FileError> {
        output.check(&self.path)?;
        let (bytes, mappings) = self.build()?;
        output.write(&self.path, &bytes)?;
        Ok(Saved { original_len: self.original.len() as u64, len: bytes.len() as u64, mappings })
    }

    fn build(&self) -> Result<(Vec<u8>, usize), FileError> {
        append::build(&Change {
            original: &self.original,
            edited: &self.bytes,
            headers: &self.headers,
            code: &self.code,
            data: &self.data,
            landings: &self.landings,
            displaced: &self.displaced,
            record: Record {
                patches: self.patches.clone(),
                counting: self.counting.as_ref().map(|(_, counting)| counting.clone()),
                ..Record::default()
            },
            counters: self.counting.as_ref().map(|(at, counting)| (*at, counting.len)),
        })
    }

    /// The program's own addresses, and the room kept behind them: nothing can be reserved there.
    fn occupied(&self) -> u64 {
        payload_address(&self.headers, self.bytes.len() as u64)
            .saturating_add(ROOM + self.bytes.len() as u64 / 2)
            .next_multiple_of(PAGE)
    }

    fn reserved(&self) -> impl Iterator<Item = (Addr, u64)> {
        let code = self.code.iter().map(|code| (code.at, code.len));
        code.chain(self.data.iter().map(|data| (data.at, data.len)))
    }

    fn check_free(&self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let taken = SpaceError::Occupied { at, len };
        let end = at.0.checked_add(len).filter(|&end| end <= 1 << 47);
        let Some(end) = end.filter(|_| (at.0 | len).is_multiple_of(PAGE) && at.0 >= self.occupied()) else {
            return Err(taken);
        };
        let overlaps = |(start, len): (Addr, u64)| start.0 < end && at.0 < start.0 + len;
        if self.reserved().any(overlaps) { Err(taken) } else { Ok(()) }
    }

    /// Fills `into` as far as one stretch reaches, and returns how far: of a segment's file bytes, of its zeros, or
    /// of a reservation.
    fn read_some(&self, at: Addr, into: &mut [u8]) -> Option<usize> {
        if let Some(code) = self.code.iter().find(|code| code.holds(at, 1)) {
            let len = into.len().min((code.at.0 + code.len - at.0) as usize);
            code.read(at, &mut into[..len]);
            return Some(len);
        }
        let load = self.headers.loads().find(|load| at.0 >= load.vaddr && at.0 < load.vaddr + load.memsz)?;
        let offset = at.0 - load.vaddr;
        let left = load.filesz.saturating_sub(offset);
        if left == 0 {
            let len = into.len().min((load.memsz - offset) as usize);
            into[..len].fill(0);
            return Some(len);
        }
        let len = into.len().min(left as usize);
        let start = (load.offset + offset) as usize;
        into[..len].copy_from_slice(self.bytes.get(start..start + len)?);
        Some(len)
    }

    /// Where the bytes of an edit lie in the file.
    fn place(&self, edit: &Edit) -> Result<Range<usize>, SpaceError> {
        let len = edit.old.len();
        let offset = self.headers.offset_of(edit.at.0, len as u64);
        let start =
            offset.ok_or(SpaceError::Unsuitable { at: edit.at, reason: "it does not come from the file" })?;
        Ok(start as usize..start as usize + len)
    }
}

impl AddressSpace for FileSpace {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        read_pieces(at, into, |at, into| self.read_some(at, into))
    }

    /// The loaded segments, with unpermitted mappings between them: all of the program's addresses, and some
    /// room behind them, are taken.
    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        let mut mappings = Vec::new();
        let mut from = 0;
        let gap = |from: u64, to: u64| mapping(from..to, Permissions::default(), 0);
        for load in self.headers.loads() {
            if from < load.vaddr {
                mappings.push(gap(from, load.vaddr));
            }
            // What follows in the page of an executable segment may be another segment's bytes: no place for code.
            let mapped = if load.flags & PF_X != 0 { load.filesz } else { load.memsz };
            if mapped > 0 {
                mappings.push(mapping(load.vaddr..load.vaddr + mapped, permissions(load), load.offset));
            }
            from = load.vaddr + mapped;
        }
        mappings.push(gap(from, self.occupied()));
        let read = Permissions { read: true, ..Permissions::default() };
        let execute = Permissions { execute: true, ..read };
        let write = Permissions { write: true, ..read };
        mappings.extend(self.code.iter().map(|code| mapping(code.at.0..code.at.0 + code.len, execute, 0)));
        mappings.extend(self.data.iter().map(|data| mapping(data.at.0..data.at.0 + data.len, write, 0)));
        Ok(MemoryMap::of(mappings))
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.check_free(at, len)?;
        self.code.push(Code::new(at, len));
        Ok(())
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        self.check_free(at, len)?;
        let (data, mapping) = Data::new(at, len)?;
        self.data.push(data);
        Ok(mapping)
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let before = self.code.len() + self.data.len();
        self.code.retain(|code| (code.at, code.len) != (at, len));
        self.data.retain(|data| (data.at, data.len) != (at, len));
        if self.code.len() + self.data.len() == before {
            return Err(SpaceError::NotReserved { at, len });
        }
        Ok(())
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        for (at, bytes) in runs {
            let len = bytes.len() as u64;
            let code = self.code.iter_mut().find(|code| code.holds(*at, len));
            code.ok_or(SpaceError::NotReserved { at: *at, len })?.write(*at, bytes);
        }
        Ok(())
    }

    fn note_displaced(&mut self, displaced: &[Displaced]) {
        self.displaced.note(displaced);
    }

    /// The landings get into the file with a handler of its own, which the start code (`start.rs`) installs.
    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.landings = landings.to_vec();
        Ok(())
    }

    fn apply(
        &mut self,
        edits: &[Edit],
        _landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError> {
        let mut places = Vec::with_capacity(edits.len());
        for edit in edits {
            if edit.old.len() != edit.new.len() {
                return Err(SpaceError::BadEdit { at: edit.at, reason: "the lengths differ" });
            }
            let place = self.place(edit)?;
            let found = self.bytes.get(place.clone()).unwrap_or(&[]);
            if *found != *edit.old {
                return Err(SpaceError::Changed {
                    at: edit.at,
                    expected: edit.old.to_vec(),
                    found: found.to_vec(),
                });
            }
            places.push(place);
        }
        for (edit, place) in edits.iter().zip(places) {
            self.bytes[place].copy_from_slice(&edit.new);
        }
        Ok(Applied::default())
    }

    /// Nothing runs here.
    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        Ok(vec![true; ranges.len()])
    }

    fn features(&self) -> Features {
        Features {
            moves: self.headers.file_type != ET_EXEC,
            packed: true,
            still: true,
            ..Features::default()
        }
    }
}

fn permissions(load: &Segment) -> Permissions {
    Permissions {
        read: load.flags & PF_R != 0,
        write: load.flags & PF_W != 0,
        execute: load.flags & PF_X != 0,
        shared: false,
    }
}

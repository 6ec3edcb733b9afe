//! [`Loaded`]: a program's file as a process would have it, for plans that are only looked at.

use std::ops::Range;
use std::time::Instant;

use incise_image::{Image, Kind, MemoryMap, Permissions, Segment};
use incise_isa::Addr;

use super::PAGE;
use super::data::Data;
use super::memory::{mapping, read_pieces};
use crate::{AddressSpace, Applied, DataMapping, Edit, Features, Landing, SpaceError};

/// Where the kernel puts a position-independent program without address randomization.
const PROGRAM: u64 = 0x5555_5555_4000;
/// Libraries lie below this, the dynamic linker and the kernel's pages above.
const LIBRARIES: u64 = 0x7fff_f7c0_0000;
/// The end of the dynamic linker, without address randomization.
const LINKER_END: u64 = 0x7fff_f7ff_f000;
/// The stack, without address randomization.
const STACK: Range<u64> = 0x7fff_fffd_e000..0x7fff_ffff_f000;
/// What malloc(3) takes first.
const HEAP: u64 = 0x2_1000;
/// User addresses end here.
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// An address space with one program or library in it, where Linux would load it without address randomization, among
/// the mappings every process has.
///
/// Nothing runs here and nothing is written: what a transaction reserves is taken note of, all else is dropped.
pub struct Loaded<'f> {
    file: &'f [u8],
    segments: Vec<Segment>,
    bias: u64,
    around: Vec<Range<u64>>,
    code: Vec<(Addr, u64)>,
    data: Vec<Data>,
    planned: Option<Instant>,
}

impl<'f> Loaded<'f> {
    /// The program `image`, which was parsed from `file`.
    ///
    /// # Errors
    /// [`SpaceError::Unsuitable`] if its addresses are not those of a process.
    pub fn new(image: &Image, file: &'f [u8]) -> Result<Loaded<'f>, SpaceError> {
        let segments = image.segments().to_vec();
        let end = segments.iter().map(|segment| segment.range().end.0).max().unwrap_or(0);
        let bias = match image.kind() {
            Kind::Executable => 0,
            Kind::PositionIndependent | Kind::StaticPie => PROGRAM,
            Kind::SharedObject => LIBRARIES.saturating_sub(end) & !(2 * 1024 * 1024 - 1),
        };
        let last = end.checked_add(bias).filter(|last| *last <= LIBRARIES);
        let last = last.ok_or(SpaceError::Unsuitable {
            at: Addr(end),
            reason: "its segments lie where no process can have them",
        })?;
        let heap = last.next_multiple_of(PAGE);
        let mut around = vec![LIBRARIES..LINKER_END, STACK];
        around.push(match image.kind() {
            Kind::SharedObject => PROGRAM..PROGRAM + HEAP,
            _ => heap..heap + HEAP,
        });
        let (code, data) = (Vec::new(), Vec::new());
        Ok(Loaded { file, segments, bias, around, code, data, planned: None })
    }

    /// The same, but loaded `base` behind its link addresses, with its neighbours as near as they were.
    ///
    /// # Errors
    /// [`SpaceError::Unsuitable`] if it is a program that cannot be moved, `base` is not that of a page, or there is no room.
    pub fn at(image: &Image, file: &'f [u8], base: u64) -> Result<Loaded<'f>, SpaceError> {
        let mut loaded = Loaded::new(image, file)?;
        let unsuitable = |reason| SpaceError::Unsuitable { at: Addr(base), reason };
        if image.kind() == Kind::Executable {
            return Err(unsuitable("the program is linked for one address"));
        }
        if !base.is_multiple_of(PAGE) {
            return Err(unsuitable("no page begins there"));
        }
        let end = image.segments().iter().map(|segment| segment.range().end.0).max().unwrap_or(0);
        // What is put right behind it: the linker behind libraries, the heap behind a program.
        let beside = if image.kind() == Kind::SharedObject { 0 } else { loaded.around.len() - 1 };
        let Range { start, end: last } = loaded.around[beside].clone();
        let beside_end = (last - loaded.bias).checked_add(base).filter(|last| *last <= STACK.start);
        let beside_end = beside_end.ok_or(unsuitable("it would end where no process can have it"))?;
        loaded.around[beside] = beside_end - (last - start)..beside_end;
        let among = |other: &Range<u64>| other.start < beside_end.max(end + base) && base < other.end;
        if loaded.around.iter().enumerate().any(|(n, other)| n != beside && among(other)) {
            return Err(unsuitable("something else is there"));
        }
        Ok(Loaded { bias: base, ..loaded })
    }

    /// The program alone in its address space, `bias` behind its link addresses.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn alone(image: &Image, file: &'f [u8], bias: u64) -> Result<Loaded<'f>, SpaceError> {
        let loaded = Loaded::new(image, file)?;
        let end = image.segments().iter().map(|segment| segment.range().end.0).max().unwrap_or(0);
        if end.checked_add(bias).is_none_or(|last| last > HIGHEST) {
            return Err(SpaceError::Unsuitable { at: Addr(bias), reason: "the bias is too large" });
        }
        Ok(Loaded { bias, around: Vec::new(), ..loaded })
    }

    /// What is added to a link address to get the address here.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// When a transaction began to write, after all planning was done.
    pub fn planned(&self) -> Option<Instant> {
        self.planned
    }

    fn check_free(&self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let taken = SpaceError::Occupied { at, len };
        let end = at.0.checked_add(len).filter(|&end| end <= HIGHEST);
        let Some(end) = end.filter(|_| (at.0 | len).is_multiple_of(PAGE)) else { return Err(taken) };
        if self.mappings()?.is_free(&(at..Addr(end))) { Ok(()) } else { Err(taken) }
    }

    /// Fills `into` as far as the file's bytes or the zeros of one segment reach, and returns how far. Whole pages are
    /// mapped: the bytes around a segment in the file come with it, except where its own zeros begin.
    fn read_some(&self, at: Addr, into: &mut [u8]) -> Option<usize> {
        let link = at.0.checked_sub(self.bias)?;
        let pages =
            |s: &&Segment| s.link.0 / PAGE * PAGE <= link && link < s.range().end.0.next_multiple_of(PAGE);
        let own = |s: &&Segment| s.link.0 <= link && link < s.range().end.0;
        let segment = self.segments.iter().find(own).or_else(|| self.segments.iter().find(pages))?;
        let from_file = segment.link.0 + segment.file_size;
        let end = segment.range().end.0.next_multiple_of(PAGE);
        let bytes_end = if segment.mem_size > segment.file_size { from_file } else { end };
        let until = if link < bytes_end { bytes_end } else { end };
        let len = into.len().min((until - link) as usize);
        into[..len].fill(0);
        if link < bytes_end {
            let offset = (segment.file_offset.0 + link).checked_sub(segment.link.0)?;
            let bytes =
                usize::try_from(offset).ok().and_then(|offset| self.file.get(offset..)).unwrap_or(&[]);
            let there = bytes.len().min(len);
            into[..there].copy_from_slice(&bytes[..there]);
        }
        Some(len)
    }
}

impl AddressSpace for Loaded<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        read_pieces(at, into, |at, into| self.read_some(at, into))
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        let mut mappings = Vec::new();
        let mut from = 0;
        for segment in &self.segments {
            let range = segment.range();
            let start = ((range.start.0 + self.bias) / PAGE * PAGE).max(from);
            let end = (range.end.0 + self.bias).next_multiple_of(PAGE);
            if start < end {
                mappings.push(mapping(start..end, segment.permissions, 0));
                from = end;
            }
        }
        let read = Permissions { read: true, ..Permissions::default() };
        let around = self.around.iter().map(|range| mapping(range.clone(), read, 0));
        let of = |(at, len): (Addr, u64), permissions| mapping(at.0..at.0 + len, permissions, 0);
        let execute = Permissions { execute: true, ..read };
        let write = Permissions { write: true, ..read };
        let code = self.code.iter().map(|code| of(*code, execute));
        let data = self.data.iter().map(|data| of((data.at, data.len), write));
        mappings.extend(around.chain(code).chain(data));
        Ok(MemoryMap::of(mappings))
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.check_free(at, len)?;
        self.code.push((at, len));
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
        self.code.retain(|code| *code != (at, len));
        self.data.retain(|data| (data.at, data.len) != (at, len));
        if self.code.len() + self.data.len() == before {
            return Err(SpaceError::NotReserved { at, len });
        }
        Ok(())
    }

    fn write_code(&mut self, _runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        self.planned.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn publish_landings(&mut self, _landings: &[Landing]) -> Result<(), SpaceError> {
        self.planned.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn apply(
        &mut self,
        _edits: &[Edit],
        _landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError> {
        Ok(Applied::default())
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        Ok(vec![true; ranges.len()])
    }

    fn features(&self) -> Features {
        Features { still: true, ..Features::default() }
    }
}

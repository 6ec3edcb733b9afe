//! The memory map of a process, as /proc/PID/maps prints it.

use std::ops::Range;
use std::sync::Arc;

use incise_isa::Addr;

/// What a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permissions {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub execute: bool,
    /// Shared (a private mapping is copied on write).
    pub shared: bool,
}

/// One line of the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The addresses.
    pub range: Range<Addr>,
    /// What is allowed.
    pub permissions: Permissions,
    /// Offset of the first byte in the mapped file, in bytes.
    pub file_offset: u64,
    /// Device and inode of the mapped file; zeros if there is none.
    pub device: (u32, u32),
    /// Inode of the mapped file, 0 if there is none.
    pub inode: u64,
    /// Path or name in brackets, as printed, without the mark of a deleted file.
    pub name: Arc<str>,
    /// The file was deleted or replaced.
    pub deleted: bool,
}

/// All mappings of a process, sorted by address. A clone shares them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryMap {
    mappings: Arc<[Mapping]>,
}

impl MemoryMap {
    /// Parses the text of /proc/PID/maps; lines that are not of that form are left out.
    pub fn parse(text: &str) -> MemoryMap {
        let mut names = [Arc::from(""), Arc::from("")];
        MemoryMap::of(text.lines().filter_map(|line| parse_line(line, &mut names)).collect())
    }

    /// A map of `mappings`, which do not overlap.
    pub fn of(mut mappings: Vec<Mapping>) -> MemoryMap {
        mappings.sort_by_key(|m| m.range.start);
        MemoryMap { mappings: mappings.into() }
    }

    /// Whether `other` is a clone of this map.
    pub fn is(&self, other: &MemoryMap) -> bool {
        Arc::ptr_eq(&self.mappings, &other.mappings)
    }

    /// The mappings, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, Mapping> {
        self.mappings.iter()
    }

    /// The mapping that holds `at`.
    pub fn find(&self, at: Addr) -> Option<&Mapping> {
        let index = self.mappings.partition_point(|m| m.range.end <= at);
        self.mappings.get(index).filter(|m| m.range.contains(&at))
    }

    /// The mappings that share an address with `range`, ascending.
    pub fn overlapping(&self, range: &Range<Addr>) -> impl Iterator<Item = &Mapping> {
        let index = self.mappings.partition_point(|m| m.range.end <= range.start);
        let rest = self.mappings.get(index..).unwrap_or(&[]);
        rest.iter().take_while(|m| m.range.start < range.end)
    }

    /// Whether nothing is mapped in `range`.
    pub fn is_free(&self, range: &Range<Addr>) -> bool {
        let index = self.mappings.partition_point(|m| m.range.end <= range.start);
        self.mappings.get(index).is_none_or(|m| m.range.start >= range.end)
    }

    /// The unmapped ranges between `low` and `high`, ascending.
    pub fn holes(&self, low: Addr, high: Addr) -> impl Iterator<Item = Range<Addr>> + '_ {
        let ends = std::iter::once(low).chain(self.mappings.iter().map(|m| m.range.end));
        let starts = self.mappings.iter().map(|m| m.range.start).chain(std::iter::once(high));
        ends.zip(starts)
            .map(move |(start, end)| start.max(low)..end.min(high))
            .filter(|hole| hole.start < hole.end)
    }
}

/// `names`: none, and the one seen last; the segments of a file share its name.
fn parse_line(line: &str, [none, last]: &mut [Arc<str>; 2]) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let flags = fields.next()?.as_bytes();
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?;
    let name = fields.next().unwrap_or("").trim_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (name, deleted) = match name.strip_suffix(" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    if !name.is_empty() && **last != *name {
        *last = Arc::from(name);
    }
    Some(Mapping {
        range: Addr(hex(start)?)..Addr(hex(end)?),
        permissions: Permissions {
            read: flags.first() == Some(&b'r'),
            write: flags.get(1) == Some(&b'w'),
            execute: flags.get(2) == Some(&b'x'),
            shared: flags.get(3) == Some(&b's'),
        },
        file_offset: hex(offset)?,
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        name: Arc::clone(if name.is_empty() { none } else { last }),
        deleted,
    })
}

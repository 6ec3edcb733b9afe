//! Addresses inside a file. The run-time address, [`incise_isa::Addr`], is a third type.

use std::fmt;
use std::ops::{Add, Range};

/// A virtual address as the linker wrote it (`st_value`, `p_vaddr`), in bytes.
///
/// Its run-time [`Addr`](incise_isa::Addr) is this plus the bias of the module. Arithmetic wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct LinkAddr(pub u64);

/// A distance from the first byte of a file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct FileOffset(pub u64);

impl LinkAddr {
    /// The distance `self - origin` in bytes, wrapped into a signed quadword.
    pub const fn offset_from(self, origin: LinkAddr) -> i64 {
        self.0.wrapping_sub(origin.0) as i64
    }

    /// The `len` bytes that begin here; an end beyond the last address is cut off.
    pub const fn span(self, len: u64) -> Range<LinkAddr> {
        self..LinkAddr(self.0.saturating_add(len))
    }
}

impl Add<u64> for LinkAddr {
    type Output = LinkAddr;
    fn add(self, bytes: u64) -> LinkAddr {
        LinkAddr(self.0.wrapping_add(bytes))
    }
}

impl fmt::Display for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Whether one of `ranges` (ascending, disjoint) holds `at`, and which.
pub(crate) fn find_range<T: Ord + Copy>(ranges: &[Range<T>], at: T) -> Option<&Range<T>> {
    let index = ranges.partition_point(|r| r.end <= at);
    ranges.get(index).filter(|r| r.contains(&at))
}

/// Sorts `ranges`, drops empty ones and joins those that touch or overlap.
pub(crate) fn normalize<T: Ord + Copy>(mut ranges: Vec<Range<T>>) -> Vec<Range<T>> {
    ranges.retain(|r| r.start < r.end);
    ranges.sort_by_key(|r| r.start);
    let mut joined: Vec<Range<T>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

use std::fmt;
use std::ops::{Add, Range, Sub};

/// A run-time virtual address in the target's address space, in bytes.
///
/// Arithmetic wraps, as the processor's own does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Addr(pub u64);

impl Addr {
    /// The distance `self - origin` in bytes, wrapped into a signed quadword.
    pub const fn offset_from(self, origin: Addr) -> i64 {
        self.0.wrapping_sub(origin.0) as i64
    }

    /// `self + bytes`, where `bytes` may be negative.
    pub const fn offset(self, bytes: i64) -> Addr {
        Addr(self.0.wrapping_add(bytes as u64))
    }

    /// The greatest multiple of `align` (a power of two) not above `self`.
    pub const fn align_down(self, align: u64) -> Addr {
        Addr(self.0 & !(align - 1))
    }

    /// The least multiple of `align` (a power of two) not below `self`.
    pub const fn align_up(self, align: u64) -> Addr {
        Addr(self.0.wrapping_add(align - 1) & !(align - 1))
    }

    /// The `len` bytes that begin here.
    pub const fn span(self, len: u64) -> Range<Addr> {
        self..Addr(self.0.wrapping_add(len))
    }

    /// Whether a 32-bit displacement counted from `next` (the end of an instruction) reaches `self`.
    pub const fn in_rel32_of(self, next: Addr) -> bool {
        let distance = self.offset_from(next);
        distance as i32 as i64 == distance
    }
}

impl Add<u64> for Addr {
    type Output = Addr;
    fn add(self, bytes: u64) -> Addr {
        Addr(self.0.wrapping_add(bytes))
    }
}

impl Sub<u64> for Addr {
    type Output = Addr;
    fn sub(self, bytes: u64) -> Addr {
        Addr(self.0.wrapping_sub(bytes))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

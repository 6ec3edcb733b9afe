//! The address space of a trial: where code, data, stacks and landing pads lie.
//!
//! There are two neighbourhoods, `Low` inside the first 2 GiB and `High` far above 4 GiB, because
//! sign-extended immediates and 32-bit addresses reach only the first. Each has the same plan,
//! counted from its base:
//!
//! ```text
//! -2 GiB   edge below: copies whose displacement is just in, or just out of, reach (High only)
//! 0        data, read-write        \
//! 0x3000   data, read-only          |  what rip-relative operands and rel32 branches aim at
//! 0x4000   nothing mapped           |
//! 0x8000   landing pads            /
//! 256 MiB  the original
//! 512 MiB  the stack
//! 768 MiB  near copies
//! +2 GiB   edge above
//! ```
//!
//! One more place, `FAR`, is out of reach of both. Executable pages are filled with `int3`, so
//! every address that is not under test is a landing pad.

use std::ops::Range;

/// Bytes of writable data in a neighbourhood.
pub const DATA_LEN: usize = 0x3000;
/// Bytes of read-only data behind it; they read as zero.
pub const READ_ONLY_LEN: usize = 0x1000;
/// Bytes of stack in a neighbourhood.
pub const STACK_LEN: usize = 0x4000;
/// Bytes of landing pads.
pub const PADS_LEN: usize = 0x2000;
/// Bytes of each area that code under test is written to.
pub const CODE_LEN: usize = 0x2000;

const EDGE_SLACK: u64 = 0x1000;
const EDGE_LEN: usize = 0xe000;
const GIB2: u64 = 1 << 31;

/// Where copies go that reach nothing of either neighbourhood by rel32.
pub const FAR: u64 = 0x2a10_1000_0000;

/// One of the two neighbourhoods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everything below 2 GiB.
    Low,
    /// Everything above 4 GiB.
    High,
}

impl Place {
    /// Both, in the order of [`Place::index`].
    pub const ALL: [Place; 2] = [Place::Low, Place::High];

    /// Its position in [`Place::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The address the plan is counted from: the first byte of data.
    pub const fn base(self) -> u64 {
        match self {
            Place::Low => 0x1000_0000,
            Place::High => 0x2a00_1000_0000,
        }
    }

    /// The other neighbourhood.
    pub const fn other(self) -> Place {
        match self {
            Place::Low => Place::High,
            Place::High => Place::Low,
        }
    }

    /// Writable data.
    pub const fn data(self) -> Range<u64> {
        self.base()..self.base() + DATA_LEN as u64
    }

    /// Landing pads for branch targets.
    pub const fn pads(self) -> Range<u64> {
        self.base() + 0x8000..self.base() + 0x8000 + PADS_LEN as u64
    }

    /// Where originals run.
    pub const fn code(self) -> Range<u64> {
        self.base() + 0x1000_0000..self.base() + 0x1000_0000 + CODE_LEN as u64
    }

    /// The stack.
    pub const fn stack(self) -> Range<u64> {
        self.base() + 0x2000_0000..self.base() + 0x2000_0000 + STACK_LEN as u64
    }

    /// Where near copies run.
    pub const fn near(self) -> Range<u64> {
        self.base() + 0x3000_0000..self.base() + 0x3000_0000 + CODE_LEN as u64
    }

    /// Pages 2 GiB above everything rip-relative code aims at.
    pub const fn edge_above(self) -> Range<u64> {
        let start = self.base() + GIB2 - EDGE_SLACK;
        start..start + EDGE_LEN as u64
    }

    /// Pages 2 GiB below; there are none under `Low`.
    pub const fn edge_below(self) -> Option<Range<u64>> {
        match self {
            Place::Low => None,
            Place::High => {
                let start = self.base() - GIB2 - EDGE_SLACK;
                Some(start..start + EDGE_LEN as u64)
            }
        }
    }
}

/// The far area.
pub const fn far() -> Range<u64> {
    FAR..FAR + CODE_LEN as u64
}

/// Every executable area, to be mapped and filled with `int3`.
pub fn executable() -> Vec<Range<u64>> {
    let mut areas = vec![far()];
    for place in Place::ALL {
        areas.extend([place.pads(), place.code(), place.near(), place.edge_above()]);
        areas.extend(place.edge_below());
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_do_not_overlap_and_lie_in_user_space() {
        let mut areas = executable();
        for place in Place::ALL {
            areas.push(place.data().start..place.data().end + READ_ONLY_LEN as u64);
            areas.push(place.stack());
        }
        areas.sort_by_key(|area| area.start);
        for pair in areas.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?}");
        }
        assert!(areas.iter().all(|area| area.start >= 0x10000 && area.end < 1 << 47));
    }

    #[test]
    fn near_reaches_the_data_and_far_does_not() {
        let reach = |from: u64, to: u64| i32::try_from(to.wrapping_sub(from) as i64).is_ok();
        for place in Place::ALL {
            for target in [place.data(), place.pads()] {
                assert!(reach(place.near().start, target.end) && reach(place.near().end, target.start));
                assert!(reach(place.code().start, target.end) && reach(place.code().end, target.start));
                assert!(!reach(FAR, target.end) && !reach(place.other().near().start, target.start));
            }
        }
        assert!(Place::Low.near().end < GIB2);
    }
}

//! Sets of registers and flags, one word each.

use incise_isa::native::GprSet;

use super::{LiveSet, STATUS_FLAGS};

/// Registers and flags, a bit each: general-purpose registers in bits 0 to 15, status flags from bit 16 on at
/// their places in RFLAGS, vector registers in bits 32 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Set(u64);

impl Set {
    pub(crate) const EMPTY: Set = Set(0);
    pub(crate) const ALL: Set = Set::of(GprSet::ALL, STATUS_FLAGS, u32::MAX);

    pub(crate) const fn of(gprs: GprSet, flags: u64, vectors: u32) -> Set {
        Set(gprs.bits() as u64 | flags << 16 | (vectors as u64) << 32)
    }

    pub(crate) const fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub(crate) const fn minus(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    pub(crate) const fn intersects(self, other: Set) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn gprs(self) -> GprSet {
        GprSet::from_bits(self.0 as u16)
    }

    pub(crate) const fn flags(self) -> u64 {
        self.0 >> 16 & STATUS_FLAGS
    }
}

impl From<Set> for LiveSet {
    fn from(set: Set) -> LiveSet {
        LiveSet { gprs: set.gprs(), flags: set.flags(), vectors: (set.0 >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use incise_isa::native::Gpr;

    #[test]
    fn what_goes_in_comes_out() {
        let live = LiveSet { gprs: GprSet::of(&[Gpr::Rax, Gpr::R15]), flags: 0x841, vectors: 1 << 31 | 1 };
        assert_eq!(LiveSet::from(Set::of(live.gprs, live.flags, live.vectors)), live);
        assert_eq!(LiveSet::from(Set::ALL), LiveSet::ALL);
        assert_eq!(Set::ALL.minus(Set::ALL), Set::EMPTY);
    }
}

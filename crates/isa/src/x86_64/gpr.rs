//! General-purpose registers: names, hardware numbers, sets.

use std::fmt;

/// A general-purpose register. The discriminant is the hardware number (AMD APM vol. 3, table 1-9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All registers, by hardware number.
    pub const ALL: [Gpr; 16] = [
        Gpr::Rax,
        Gpr::Rcx,
        Gpr::Rdx,
        Gpr::Rbx,
        Gpr::Rsp,
        Gpr::Rbp,
        Gpr::Rsi,
        Gpr::Rdi,
        Gpr::R8,
        Gpr::R9,
        Gpr::R10,
        Gpr::R11,
        Gpr::R12,
        Gpr::R13,
        Gpr::R14,
        Gpr::R15,
    ];

    /// The hardware number, 0 to 15.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The low three bits of the number: what fits into ModRM, SIB or the opcode.
    pub(crate) const fn low(self) -> u8 {
        self as u8 & 7
    }

    /// The fourth bit of the number: what goes into REX.R, REX.X or REX.B.
    pub(crate) const fn high(self) -> u8 {
        self as u8 >> 3
    }

    /// The name of the 64-bit register, in lower case.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        NAMES[self as usize]
    }
}

impl fmt::Display for Gpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of general-purpose registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GprSet(u16);

impl GprSet {
    /// No register.
    pub const EMPTY: GprSet = GprSet(0);
    /// Every register, `rsp` included.
    pub const ALL: GprSet = GprSet(u16::MAX);

    /// The set of the registers listed.
    pub const fn of(registers: &[Gpr]) -> GprSet {
        let (mut bits, mut i) = (0, 0);
        while i < registers.len() {
            bits |= 1 << registers[i] as u16;
            i += 1;
        }
        GprSet(bits)
    }

    /// The set whose members have their bits set in `bits`, by hardware number.
    pub const fn from_bits(bits: u16) -> GprSet {
        GprSet(bits)
    }

    /// A bit for each member, by hardware number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether `register` is a member.
    pub const fn contains(self, register: Gpr) -> bool {
        self.0 & 1 << register as u16 != 0
    }

    /// Adds `register`.
    pub fn insert(&mut self, register: Gpr) {
        self.0 |= 1 << register as u16;
    }

    /// Takes `register` out.
    pub fn remove(&mut self, register: Gpr) {
        self.0 &= !(1 << register as u16);
    }

    /// The registers in either set.
    pub const fn union(self, other: GprSet) -> GprSet {
        GprSet(self.0 | other.0)
    }

    /// The registers in both sets.
    pub const fn intersection(self, other: GprSet) -> GprSet {
        GprSet(self.0 & other.0)
    }

    /// The registers that are not in the set.
    pub const fn complement(self) -> GprSet {
        GprSet(!self.0)
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members, by hardware number.
    pub fn iter(self) -> impl Iterator<Item = Gpr> {
        Gpr::ALL.into_iter().filter(move |&register| self.contains(register))
    }
}

impl FromIterator<Gpr> for GprSet {
    fn from_iter<I: IntoIterator<Item = Gpr>>(registers: I) -> GprSet {
        let mut set = GprSet::EMPTY;
        registers.into_iter().for_each(|register| set.insert(register));
        set
    }
}

impl fmt::Debug for GprSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_hardware_s() {
        assert_eq!((Gpr::Rsp.number(), Gpr::Rdi.number(), Gpr::R12.number()), (4, 7, 12));
        assert!(Gpr::ALL.iter().enumerate().all(|(number, register)| register.number() as usize == number));
        assert_eq!(Gpr::R12.to_string(), "r12");
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = GprSet::of(&[Gpr::Rbx, Gpr::R15]);
        set.insert(Gpr::Rax);
        set.remove(Gpr::R15);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Gpr::Rax, Gpr::Rbx]);
        assert_eq!(set.complement().len(), 14);
        assert!(set.intersection(set.complement()).is_empty());
        assert_eq!(set.union(set.complement()), GprSet::ALL);
    }
}

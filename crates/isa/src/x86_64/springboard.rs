//! The bytes written at a site: `jmp rel32`, whose displacement holds a trap byte at every interior
//! instruction head, so that each of them stays a good place to jump to.

use crate::Addr;

/// Length of a springboard: `jmp rel32` (AMD APM vol. 3, JMP near, opcode E9).
pub const SPRINGBOARD_LEN: usize = 5;

/// The one-byte trap, `int3`.
pub const TRAP: u8 = 0xCC;

/// Length of a trap in bytes. The processor reports the address *behind* it.
pub const TRAP_LEN: u64 = 1;

/// First bytes of an instruction that are undefined in 64-bit mode on every processor without APX
/// (AMD APM vol. 3, appendix A.1, "invalid in 64-bit mode"). 0x62 (EVEX), 0xC4/0xC5 (VEX) and 0xD5
/// (REX2) are not among them. They serve as the topmost displacement byte where `int3` would put
/// the trampoline below address 0; the processor raises SIGILL, with the address *of* the byte.
const ILLEGAL: [u8; 13] = [0x60, 0x61, 0x3F, 0x37, 0x2F, 0x27, 0x1F, 0x1E, 0x17, 0x16, 0x0E, 0x07, 0x06];

/// Whether an instruction that begins with `byte` is undefined in 64-bit mode: such a byte at a head is a trap
/// that raises SIGILL.
pub fn is_illegal(byte: u8) -> bool {
    ILLEGAL.contains(&byte)
}

/// For every byte the least one that traps and is not below it, 256 if there is none; the second table is that of
/// bytes with their topmost bit inverted.
const NEXT_TRAP: [[u16; 256]; 2] = [next_trap(0), next_trap(0x80)];

const fn next_trap(bias: u8) -> [u16; 256] {
    let mut traps = [false; 256];
    traps[(TRAP ^ bias) as usize] = true;
    let mut n = 0;
    while n < ILLEGAL.len() {
        traps[(ILLEGAL[n] ^ bias) as usize] = true;
        n += 1;
    }
    let mut table = [256; 256];
    let mut byte = 256;
    let mut next = 256;
    while byte > 0 {
        byte -= 1;
        if traps[byte] {
            next = byte as u16;
        }
        table[byte] = next;
    }
    table
}

/// The addresses at which the trampoline of a site may begin: all `a` with
/// `(a - base) & mask == value`, in reach of a signed 32-bit displacement from `base`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Placement {
    /// The address the displacement is counted from: the end of the springboard.
    pub base: Addr,
    /// Bits of the displacement that are fixed.
    pub mask: u32,
    /// Their values.
    pub value: u32,
}

impl Placement {
    /// Whether a trampoline at `at` can be reached by this springboard.
    pub fn admits(&self, at: Addr) -> bool {
        at.in_rel32_of(self.base) && (at.offset_from(self.base) as u32) & self.mask == self.value
    }

    /// The lowest admitted address that is not below `from`, if there is one below `end`.
    pub fn next(&self, from: Addr, end: Addr) -> Option<Addr> {
        let lowest = self.base.0.saturating_sub(1 << 31);
        let from = from.0.max(lowest);
        // Displacements are ordered as biased numbers, so that the search is monotonic over both signs.
        let biased = from.wrapping_sub(self.base.0) as i64 + (1 << 31);
        if !(0..1 << 32).contains(&biased) {
            return None;
        }
        let (mask, value) = (self.mask, (self.value ^ 0x8000_0000) & self.mask | self.value & !self.mask);
        let found = next_matching(biased as u32, mask, value & mask)?;
        let at = self.base.offset(i64::from(found) - (1 << 31));
        (at < end).then_some(at)
    }
}

/// The least `x >= from` with `x & mask == value`.
fn next_matching(from: u32, mask: u32, value: u32) -> Option<u32> {
    let wrong = (from ^ value) & mask;
    if wrong == 0 {
        return Some(from);
    }
    // The answer shares a prefix with `from`, then a bit goes from 0 to 1, and below it come the smallest bits that match. That bit
    // is the topmost wrong one, or, if that has to become 0, the lowest free 0 above it.
    let topmost = 1 << (31 - wrong.leading_zeros());
    let rising = if value & topmost != 0 {
        topmost
    } else {
        let free = !mask & !from & !(topmost | (topmost - 1));
        free & free.wrapping_neg()
    };
    (rising != 0).then(|| from & !(rising | (rising - 1)) | rising | value & (rising - 1))
}

/// What a byte of a springboard's displacement may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bound {
    /// Anything.
    Free,
    /// A byte that traps when it is run.
    Trap,
    /// This byte.
    Is(u8),
}

/// The displacements of `jmp rel8` that trap when they are run as an instruction, those that lead least far first.
pub fn trap_displacements() -> impl Iterator<Item = i8> {
    let mut bytes: [u8; ILLEGAL.len() + 1] = [TRAP; ILLEGAL.len() + 1];
    bytes[1..].copy_from_slice(&ILLEGAL);
    bytes.sort_unstable_by_key(|byte| (*byte as i8).unsigned_abs());
    bytes.into_iter().map(|byte| byte as i8)
}

/// The bytes inside a springboard that are not free: traps at heads, or original bytes left in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Springboard {
    site: Addr,
    /// Bit `i` is set if an original instruction begins at `site + i` (1..=4).
    heads: u8,
    /// Bits of the displacement that are the following instructions' own, and their values.
    kept: (u32, u32),
}

impl Springboard {
    /// A springboard at `site`; `heads` has bit `i` set where an original instruction begins at
    /// `site + i`. Bit 0, the site itself, is ignored.
    pub fn new(site: Addr, heads: u8) -> Springboard {
        Springboard { site, heads: heads & 0b1_1110, kept: (0, 0) }
    }

    /// A springboard for an instruction of `len` bytes at `site` (1 to 4) that leaves what is behind it in
    /// place: `following` begins with those bytes, which become the upper part of the displacement. Nothing
    /// if there are too few of them.
    pub fn punned(site: Addr, len: usize, following: &[u8]) -> Option<Springboard> {
        let mut kept = (0, 0);
        for offset in len..SPRINGBOARD_LEN {
            let byte = *following.get(offset - len)?;
            kept.0 |= 0xFF << (8 * (offset - 1));
            kept.1 |= u32::from(byte) << (8 * (offset - 1));
        }
        (1..SPRINGBOARD_LEN).contains(&len).then_some(Springboard { site, heads: 0, kept })
    }

    /// A springboard at `site` whose bytes are bound one by one: the `n`-th of `bytes` tells what the `n`-th byte
    /// of the displacement has to be.
    pub fn bound(site: Addr, bytes: [Bound; SPRINGBOARD_LEN - 1]) -> Springboard {
        let (mut heads, mut kept) = (0, (0, 0));
        for (index, byte) in bytes.into_iter().enumerate() {
            match byte {
                Bound::Free => {}
                Bound::Trap => heads |= 2 << index,
                Bound::Is(value) => {
                    kept.0 |= 0xFF << (8 * index);
                    kept.1 |= u32::from(value) << (8 * index);
                }
            }
        }
        Springboard { site, heads, kept }
    }

    /// The address of its first byte.
    pub fn site(&self) -> Addr {
        self.site
    }

    /// The address displacements are counted from.
    pub fn base(&self) -> Addr {
        self.site + SPRINGBOARD_LEN as u64
    }

    /// What byte `index` (0 to 3) of the displacement has to be.
    pub fn bound_at(&self, index: usize) -> Bound {
        let (mask, value) = self.kept;
        match self.heads & (2 << index) {
            _ if (mask >> (8 * index)) as u8 != 0 => Bound::Is((value >> (8 * index)) as u8),
            0 => Bound::Free,
            _ => Bound::Trap,
        }
    }

    /// Whether the byte at `offset` (1 to 4) is not the springboard's to choose.
    pub fn keeps(&self, offset: usize) -> bool {
        offset > 0 && (self.kept.0 >> (8 * (offset - 1))) as u8 != 0
    }

    /// How many bits of the trampoline's address are free to choose.
    pub fn freedom(&self) -> u32 {
        let heads = 8 * self.heads.count_ones();
        32 - heads - self.kept.0.count_ones()
    }

    /// Bit `i` is set where the byte at `site + i` has to stay a trap.
    pub fn heads(&self) -> u8 {
        self.heads
    }

    /// The families of trampoline addresses that keep every head a trap, best first.
    ///
    /// All interior bytes are `int3`, but for the topmost one, which decides how far away the
    /// trampoline is: `int3` there means 816 to 832 MiB below the site, and the bytes that are illegal
    /// in 64-bit mode give windows of 16 MiB above it.
    pub fn placements(&self) -> impl Iterator<Item = Placement> + use<> {
        let base = self.base();
        let (mut mask, mut value) = self.kept;
        for head in 1..4 {
            if self.heads & (1 << head) != 0 {
                mask |= 0xFF << (8 * (head - 1));
                value |= u32::from(TRAP) << (8 * (head - 1));
            }
        }
        let top_is_head = self.heads & (1 << 4) != 0;
        let tops: &'static [u8] = if top_is_head { &ILLEGAL } else { &[] };
        let first = if top_is_head {
            Placement { base, mask: mask | 0xFF00_0000, value: value | u32::from(TRAP) << 24 }
        } else {
            Placement { base, mask, value }
        };
        std::iter::once(first).chain(tops.iter().map(move |&top| Placement {
            base,
            mask: mask | 0xFF00_0000,
            value: value | u32::from(top) << 24,
        }))
    }

    /// The lowest address not below `from`, and below `end`, at which the trampoline may begin. Unlike in
    /// [`placements`](Self::placements), every head may be any byte that traps: that is many more places.
    pub fn next(&self, from: Addr, end: Addr) -> Option<Addr> {
        let base = self.base();
        let lowest = base.0.saturating_sub(1 << 31);
        // As in `Placement::next`: the topmost byte is biased, so that order is that of addresses.
        let biased = from.0.max(lowest).wrapping_sub(base.0) as i64 + (1 << 31);
        let biased = u32::try_from(biased).ok()?;
        let found = self.least(3, biased.to_le_bytes(), true)?;
        let at = base.offset(i64::from(u32::from_le_bytes(found)) - (1 << 31));
        (at < end).then_some(at)
    }

    /// The least biased displacement whose bytes up to `index` are allowed; not below `from` if `tight`.
    fn least(&self, index: usize, from: [u8; 4], tight: bool) -> Option<[u8; 4]> {
        let low = if tight { from[index] } else { 0 };
        let mut next = u16::from(low);
        loop {
            let byte = u8::try_from(self.least_byte(index, next)).ok()?;
            let rest = match index {
                0 => Some([0; 4]),
                _ => self.least(index - 1, from, tight && byte == low),
            };
            if let Some(mut found) = rest {
                found[index] = byte;
                return Some(found);
            }
            next = u16::from(byte) + 1;
        }
    }

    /// The least biased byte not below `low` that is allowed at `index`; 256 if there is none.
    fn least_byte(&self, index: usize, low: u16) -> u16 {
        let bias = if index == 3 { 0x80 } else { 0 };
        let (mask, value) = self.kept;
        if (mask >> (8 * index)) as u8 != 0 {
            let only = u16::from((value >> (8 * index)) as u8 ^ bias);
            return if only >= low { only } else { 256 };
        }
        if self.heads & (2 << index) == 0 {
            return low;
        }
        NEXT_TRAP[usize::from(bias != 0)].get(usize::from(low)).copied().unwrap_or(256)
    }

    /// Whether byte `index` of the displacement may be `byte`.
    fn allows(&self, index: usize, byte: u8) -> bool {
        let (mask, value) = self.kept;
        let kept = (mask >> (8 * index)) as u8 == 0 || (value >> (8 * index)) as u8 == byte;
        let is_head = self.heads & (2 << index) != 0;
        kept && (!is_head || byte == TRAP || is_illegal(byte))
    }

    /// The five bytes of `jmp trampoline`, or nothing if a head would not be a trap.
    pub fn encode(&self, trampoline: Addr) -> Option<[u8; SPRINGBOARD_LEN]> {
        let base = self.base();
        let displacement = (trampoline.offset_from(base) as i32).to_le_bytes();
        let allowed = (0..4).all(|index| self.allows(index, displacement[index]));
        (allowed && trampoline.in_rel32_of(base)).then(|| jump(self.site, trampoline))
    }
}

/// `jmp target` at `at`; the target must be in reach.
fn jump(at: Addr, target: Addr) -> [u8; SPRINGBOARD_LEN] {
    let displacement = target.offset_from(at + SPRINGBOARD_LEN as u64) as i32;
    let mut bytes = [0xE9, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&displacement.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interior_head_is_a_trap_byte() {
        for heads in (0u8..32).step_by(2) {
            let site = Addr(0x7f12_3456_7890);
            let board = Springboard::new(site, heads);
            for place in board.placements() {
                let at = place.next(site - (1 << 31), site + (1 << 31)).expect("a place");
                let bytes = board.encode(at).expect("admitted");
                for (offset, byte) in bytes.iter().enumerate().skip(1) {
                    let trap = *byte == TRAP || (offset == 4 && ILLEGAL.contains(byte));
                    assert!(heads & (1 << offset) == 0 || trap, "{heads:#b}: {bytes:02x?}");
                }
            }
        }
    }

    #[test]
    fn the_next_place_is_the_lowest_that_can_be_encoded() {
        let site = Addr(0x7f12_3456_7890);
        for heads in (0u8..32).step_by(2) {
            let board = Springboard::new(site, heads);
            for start in [site - 0x7fff_0000, site - 0x3456_789a, site, site + 0x5f_0000, site + 0x60ff_ff00]
            {
                let end = start + (1 << 17);
                let slow = (0..1 << 17).map(|n| start + n).find(|&at| board.encode(at).is_some());
                assert_eq!(board.next(start, end), slow, "{heads:#b} from {start}");
            }
        }
    }

    #[test]
    fn a_punned_springboard_leaves_what_follows() {
        let board =
            Springboard::punned(Addr(0x7f00_0000_1000), 3, &[0x48, 0x83, 0xFA]).expect("enough bytes");
        assert_eq!(board.freedom(), 16);
        let place = board.placements().next().expect("one family");
        let at = place.next(Addr(0x7e00_0000_0000), Addr(1 << 47)).expect("in reach");
        assert_eq!(board.encode(at).expect("admitted")[3..], [0x48, 0x83]);
        assert_eq!(Springboard::punned(Addr(0x1000), 3, &[0x48]), None);
    }

    #[test]
    fn bytes_are_bound_one_by_one() {
        let site = Addr(0x7f00_0000_1000);
        let board = Springboard::bound(site, [Bound::Free, Bound::Trap, Bound::Free, Bound::Is(0xE9)]);
        assert_eq!((board.site(), board.freedom(), board.heads()), (site, 16, 1 << 2));
        assert!(board.keeps(4) && !board.keeps(2) && !board.keeps(0));
        let at = board.next(Addr(0x7e00_0000_0000), Addr(1 << 47)).expect("in reach");
        let bytes = board.encode(at).expect("admitted");
        assert!((bytes[2] == TRAP || is_illegal(bytes[2])) && bytes[4] == 0xE9, "{bytes:02x?}");
        assert_eq!(board.encode(at + 0x100_0000), None);
    }

    #[test]
    fn displacements_that_trap_come_nearest_first() {
        let all: Vec<i8> = trap_displacements().collect();
        assert!(all.iter().all(|&to| to as u8 == TRAP || is_illegal(to as u8)));
        assert!(all.is_sorted_by_key(|to| to.unsigned_abs()));
        assert_eq!(all.len(), 14);
    }

    #[test]
    fn next_finds_the_least_admitted_address() {
        for (mask, value) in [(0, 0), (0xff, 0xcc), (0xff00_0000, 0xcc00_0000), (0xff00_00ff, 0x0600_00cc)] {
            let place = Placement { base: Addr(0x5555_0000_0005), mask, value };
            let mut from = place.base - (1 << 31);
            for step in 0..2000u64 {
                let Some(at) = place.next(from, place.base + (1 << 31)) else { break };
                assert!(at >= from && place.admits(at), "{mask:#x} {at}");
                for skipped in (from.0..at.0).take(600) {
                    assert!(!place.admits(Addr(skipped)));
                }
                from = at + 1 + step * 977;
            }
        }
    }

    #[test]
    fn a_low_site_has_no_place_below_zero() {
        let board = Springboard::new(Addr(0x40_1000), 0b1_0000);
        let below = board.placements().next().expect("int3 first");
        assert_eq!(below.next(Addr(0x1_0000), Addr(1 << 47)), None);
        let above = board.placements().nth(1).expect("an illegal byte");
        assert_eq!(above.next(Addr(0x1_0000), Addr(1 << 47)), Some(Addr(0x6040_1005)));
    }
}

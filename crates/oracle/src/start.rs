//! Makes a machine state in which an instruction does something: addresses point at data, counts
//! are small, branch targets are landing pads.

use iced_x86::{CodeSize, Instruction, InstructionInfoFactory, Register, UsedMemory};

use crate::case::{Poke, Start};
use crate::layout::{Place, STACK_LEN};
use crate::rng::Rng;
use crate::shapes::{self, Site};
use crate::special;
use crate::tape::TAPE_LEN;

/// Number of rsp.
pub const RSP: usize = 4;

/// One state in so many is left as the dice fell: most memory operands fault then.
const WILD: u64 = 14;

/// A state under construction.
pub struct Solver<'a> {
    /// The state so far.
    pub start: Start,
    /// Registers that have been decided, one bit each.
    pinned: u16,
    /// The surroundings.
    pub site: &'a Site,
    /// The dice.
    pub rng: &'a mut Rng,
}

/// A state for `insn`, which lies at `site`.
pub fn solve(insn: &Instruction, site: &Site, facts: &mut InstructionInfoFactory, rng: &mut Rng) -> Start {
    let start = noise(site, rng);
    let mut solver = Solver { start, pinned: 1 << RSP, site, rng };
    let used = facts.info(insn).used_memory();
    special::registers(&mut solver, insn);
    if !solver.rng.one_in(WILD) {
        for memory in used {
            solver.point(memory);
        }
        special::memory(&mut solver, insn, used);
    }
    solver.start
}

impl Solver<'_> {
    /// Decides a general register, unless it has been decided.
    pub fn pin(&mut self, number: usize, value: u64) {
        if !self.is_pinned(number) {
            self.start.gpr[number] = value;
            self.pinned |= 1 << number;
        }
    }

    fn is_pinned(&self, number: usize) -> bool {
        self.pinned >> number & 1 == 1
    }

    /// A landing pad of the neighbourhood.
    pub fn landing(&mut self) -> u64 {
        self.site.place.pads().start + 0x100 + self.rng.below(0x1e00)
    }

    /// Bytes in memory before the run.
    pub fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.start.pokes.push(Poke { at, bytes: bytes.to_vec() });
    }

    /// The address a memory operand has in this state (its first element, for gathers).
    pub fn address(&self, memory: &UsedMemory) -> Option<u64> {
        memory.virtual_address(0, |register, _, _| self.value(register))
    }

    fn value(&self, register: Register) -> Option<u64> {
        if register.is_segment_register() {
            return Some(self.site.segment_base(register));
        }
        if let Some(number) = number(register) {
            let whole = self.start.gpr[number];
            return Some(match register.size() {
                1 => whole & 0xff,
                2 => whole & 0xffff,
                4 => whole & 0xffff_ffff,
                _ => whole,
            });
        }
        let vector = (register.is_vector_register()).then(|| register.number() as u8)?;
        let (_, bytes) = self.start.vectors.iter().find(|(index, _)| *index == vector)?;
        Some(u64::from(bytes[0]))
    }

    /// Chooses base and index registers so that the operand points at data.
    fn point(&mut self, memory: &UsedMemory) {
        let narrow = memory.address_size() == CodeSize::Code32;
        let place = if narrow { Place::Low } else { self.site.place };
        let target = shapes::aim(place, self.rng);
        let mut rest =
            target.wrapping_sub(self.site.segment_base(memory.segment())).wrapping_sub(memory.displacement());
        let scale = u64::from(memory.scale()).max(1);
        let (base, index) = (number(memory.base()), number(memory.index()));
        if memory.index().is_vector_register() {
            self.fill_indexes(memory.index(), memory.vsib_size());
        } else if let (Some(index), true) = (index, index != base) {
            if base.is_none() && !self.is_pinned(index) {
                self.pin(index, rest / scale);
            } else if memory.index().size() > 1 {
                let small = self.rng.below(128) as i64 - 64;
                self.pin(index, small as u64);
            }
            let value = self.value(memory.index()).unwrap_or(0);
            rest = rest.wrapping_sub(value.wrapping_mul(scale));
        } else if index.is_some() {
            rest /= 1 + scale;
        }
        if let Some(base) = base {
            let dirt = if narrow { self.rng.next() << 32 } else { 0 };
            let value = if narrow { rest & 0xffff_ffff | dirt } else { rest };
            self.pin(base, value);
        }
    }

    /// Small non-negative indexes in every element of a vector register.
    fn fill_indexes(&mut self, register: Register, element: u32) {
        let mut bytes = [0; 64];
        for element in bytes.chunks_exact_mut(element.max(4) as usize) {
            element[0] = self.rng.below(64) as u8;
        }
        self.start.vectors.push((register.number() as u8, bytes));
    }
}

/// Hardware number of the general register that `register` is, or is part of.
pub fn number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

/// A state with nothing decided but a usable stack.
fn noise(site: &Site, rng: &mut Rng) -> Start {
    let stack = site.place.stack();
    let mut gpr: [u64; 16] = std::array::from_fn(|_| register(site, rng));
    let skew = rng.pick(&[0, 0, 0, 8, 8, 4, 1]);
    gpr[RSP] = stack.start + STACK_LEN as u64 / 2 + 16 * rng.below(8) + skew;
    let unmasked = rng.one_in(16);
    let (mask, sticky) =
        if unmasked { (rng.below(64) << 7, rng.below(2) * 0x20) } else { (0x1f80, rng.below(64)) };
    let mxcsr = (mask | sticky | rng.below(4) << 13 | rng.below(2) << 15 | rng.below(2) << 6) as u32;
    let x87_masks = if rng.one_in(16) { rng.below(64) } else { 0x3f };
    let control = 0x40 | x87_masks | rng.pick(&[0, 2, 3, 3, 3]) << 8 | rng.below(4) << 10;
    let flags = if x87_masks == 0x3f || rng.one_in(2) { rng.below(64) } else { 0 };
    let pending = if flags & !x87_masks & 0x3f == 0 { 0 } else { 0x8080 };
    let top = rng.below(8) << 11;
    Start {
        gpr,
        flags: rng.next(),
        fs_base: site.fs_base,
        gs_base: site.gs_base,
        mxcsr,
        x87_control: control as u16,
        x87_status: (top | flags | rng.next() & 0x4700 | pending) as u16,
        x87_tags: rng.pick(&[0xff, 0, 0x0f, 0xf0, rng.clone().next() as u8]),
        windows: std::array::from_fn(|_| rng.below(TAPE_LEN as u64) as usize & !7),
        pokes: Vec::new(),
        vectors: Vec::new(),
    }
}

fn register(site: &Site, rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..=2 => rng.next(),
        3 => rng.below(256),
        4 => (rng.below(256) as i64).wrapping_neg() as u64,
        5 => rng.next() & 0xffff_ffff,
        6 => site.place.data().start + rng.below(0x2000),
        _ => rng.pick(&[0, 1, u64::MAX, 1 << 63, 1 << 31, i64::MAX as u64, 0x7fff_ffff]),
    }
}

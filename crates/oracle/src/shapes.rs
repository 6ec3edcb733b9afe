//! Ways to write a memory operand, and what it shall point at.

use iced_x86::{Instruction, Register};

use crate::layout::{DATA_LEN, Place, READ_ONLY_LEN};
use crate::rng::Rng;

/// How an instruction's variable operand is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A register in place of memory, or no such operand at all.
    Registers,
    /// `[reg]`.
    Base,
    /// `[reg+disp8]`, among the registers r12 and rbp, which need another encoding.
    Disp8,
    /// `[reg+disp32]`.
    Disp32,
    /// `[rsp+disp8]`, in the red zone or above.
    Stack,
    /// `[reg+reg*scale+disp]`.
    Sib,
    /// `[reg*scale+disp32]`.
    Index,
    /// `[disp32]`, or the 64-bit offset of `mov al,[offset]`.
    Absolute,
    /// `[rip+disp32]`.
    Rip,
    /// `[eip+disp32]`: the address is cut to 32 bits.
    Eip,
    /// `fs:` or `gs:[rip+disp32]`.
    SegmentRip,
    /// `fs:` or `gs:[reg+disp8]`.
    SegmentBase,
    /// `[reg32+disp8]`.
    Base32,
    /// `[reg32+reg32*scale+disp]`.
    Sib32,
}

impl Shape {
    /// Every way that is not relative to the instruction pointer.
    pub const FIXED: [Shape; 10] = [
        Shape::Base,
        Shape::Disp8,
        Shape::Disp32,
        Shape::Stack,
        Shape::Sib,
        Shape::Index,
        Shape::Absolute,
        Shape::SegmentBase,
        Shape::Base32,
        Shape::Sib32,
    ];

    /// Whether addresses are 32 bits wide.
    pub const fn narrow(self) -> bool {
        matches!(self, Shape::Eip | Shape::Base32 | Shape::Sib32)
    }
}

/// Where an instruction will lie, and the segment bases it will see.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The neighbourhood.
    pub place: Place,
    /// The address.
    pub at: u64,
    /// Base of fs.
    pub fs_base: u64,
    /// Base of gs.
    pub gs_base: u64,
}

impl Site {
    /// The base of the segment a memory operand is in.
    pub fn segment_base(&self, segment: Register) -> u64 {
        match segment {
            Register::FS => self.fs_base,
            Register::GS => self.gs_base,
            _ => 0,
        }
    }
}

/// An address in the neighbourhood's data. Mostly well inside and aligned to 64; at times unaligned,
/// across the end of the writable page, read-only, or not mapped.
pub fn aim(place: Place, rng: &mut Rng) -> u64 {
    let data = place.data();
    match rng.below(32) {
        0 => data.end - rng.below(64),
        1 => data.end + rng.below(READ_ONLY_LEN as u64),
        2 => data.end + READ_ONLY_LEN as u64 - rng.below(80),
        3 => data.start - 1 - rng.below(64),
        4..=9 => data.start + 0x1000 + rng.below(0x800),
        _ => data.start + 0x1000 + 64 * rng.below(DATA_LEN as u64 / 64 / 6),
    }
}

const WIDE: [Register; 15] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Writes a memory operand of the given shape into `insn` (its kind is already `Memory`).
/// `vector_index` is the first register of the class a gather takes its indexes from.
pub fn write_memory(
    insn: &mut Instruction,
    shape: Shape,
    site: &Site,
    vector_index: Option<Register>,
    rng: &mut Rng,
) {
    let wide = |rng: &mut Rng| rng.pick(&WIDE);
    let narrow = |rng: &mut Rng| Register::EAX + (rng.pick(&WIDE) as u32 - Register::RAX as u32);
    let small = |rng: &mut Rng| (rng.below(256) as u8 as i8) as i64 as u64;
    let large = |rng: &mut Rng| (rng.below(1 << 16) as i64 - (1 << 15)) as u64;
    let (base, index, displacement, size) = match shape {
        Shape::Registers | Shape::Base => (wide(rng), Register::None, 0, 0),
        Shape::Disp8 => (wide(rng), Register::None, small(rng), 1),
        Shape::Disp32 => (wide(rng), Register::None, large(rng), 8),
        // Near rsp lies what a push in the copy would overwrite.
        Shape::Stack if rng.one_in(3) => (Register::RSP, Register::None, rng.below(32).wrapping_sub(16), 1),
        Shape::Stack => (Register::RSP, Register::None, small(rng), 1),
        Shape::Sib if rng.one_in(5) => (Register::RSP, wide(rng), rng.below(256).wrapping_sub(128), 8),
        Shape::Sib => (wide(rng), wide(rng), large(rng), 8),
        Shape::Index => (Register::None, wide(rng), 0x0800_0000, 8),
        Shape::Absolute => (Register::None, Register::None, aim(Place::Low, rng), 8),
        Shape::Rip => (Register::RIP, Register::None, aim(site.place, rng), 8),
        Shape::Eip => (Register::EIP, Register::None, aim(Place::Low, rng), 4),
        Shape::SegmentRip | Shape::SegmentBase => {
            let segment = rng.pick(&[Register::FS, Register::GS]);
            insn.set_segment_prefix(segment);
            if shape == Shape::SegmentRip {
                let target = aim(site.place, rng).wrapping_sub(site.segment_base(segment));
                (Register::RIP, Register::None, target, 8)
            } else {
                (wide(rng), Register::None, small(rng), 1)
            }
        }
        Shape::Base32 => (narrow(rng), Register::None, small(rng), 1),
        Shape::Sib32 => (narrow(rng), narrow(rng), large(rng) & 0xffff_ffff, 4),
    };
    let index = match vector_index {
        Some(first) => {
            first
                + rng.below(if insn.code().op_code().encoding() == iced_x86::EncodingKind::VEX {
                    16
                } else {
                    32
                }) as u32
        }
        None => index,
    };
    insn.set_memory_base(base);
    insn.set_memory_index(index);
    insn.set_memory_index_scale(if index == Register::None { 1 } else { rng.pick(&[1, 2, 4, 8]) });
    insn.set_memory_displacement64(displacement);
    insn.set_memory_displ_size(size);
}

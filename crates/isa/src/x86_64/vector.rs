//! Vector state to and from the stack by plain moves. (XSAVE costs ten times as much.)

use super::Assembler;

/// How much of each vector register there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VectorWidth {
    /// xmm0-15. The moves leave the upper bits alone.
    Xmm,
    /// ymm0-15.
    Ymm,
    /// zmm0-31; with them go k0-7.
    Zmm,
}

impl VectorWidth {
    /// What the processor this runs on has (AVX-512F without BW, whose mask registers are narrower, counts as AVX).
    pub fn of_this_processor() -> VectorWidth {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            VectorWidth::Zmm
        } else if is_x86_feature_detected!("avx") {
            VectorWidth::Ymm
        } else {
            VectorWidth::Xmm
        }
    }

    /// Bytes of a register.
    pub const fn bytes(self) -> i32 {
        match self {
            VectorWidth::Xmm => 16,
            VectorWidth::Ymm => 32,
            VectorWidth::Zmm => 64,
        }
    }

    /// How many registers there are.
    pub const fn registers(self) -> u8 {
        match self {
            VectorWidth::Xmm | VectorWidth::Ymm => 16,
            VectorWidth::Zmm => 32,
        }
    }
}

impl Assembler {
    /// `[rsp + displacement] = register number` (movups, vmovups). No alignment is needed, no flag touched.
    pub fn store_vector(&mut self, width: VectorWidth, number: u8, displacement: i32) {
        self.move_vector(width, number, displacement, 0x11);
    }

    /// `register number = [rsp + displacement]`.
    pub fn load_vector(&mut self, width: VectorWidth, number: u8, displacement: i32) {
        self.move_vector(width, number, displacement, 0x10);
    }

    fn move_vector(&mut self, width: VectorWidth, number: u8, displacement: i32, opcode: u8) {
        debug_assert!(number < width.registers());
        let (high, higher) = (number >> 3 & 1, number >> 4 & 1);
        match width {
            VectorWidth::Xmm if high == 0 => self.raw(&[0x0F, opcode]),
            VectorWidth::Xmm => self.raw(&[0x44, 0x0F, opcode]),
            VectorWidth::Ymm => self.raw(&[0xC5, (high ^ 1) << 7 | 0x7C, opcode]),
            VectorWidth::Zmm => {
                self.raw(&[0x62, (high ^ 1) << 7 | 0x60 | (higher ^ 1) << 4 | 1, 0x7C, 0x48, opcode]);
            }
        }
        // EVEX counts 8-bit displacements in registers (Intel SDM vol. 2, 2.7.5).
        let unit = if width == VectorWidth::Zmm { 64 } else { 1 };
        let short = (displacement % unit == 0).then(|| i8::try_from(displacement / unit).ok()).flatten();
        self.on_stack(number & 7, short, displacement);
    }

    /// `[rsp + displacement] = mask register number` (kmovq).
    pub fn store_mask(&mut self, number: u8, displacement: i32) {
        self.raw(&[0xC4, 0xE1, 0xF8, 0x91]);
        self.on_stack(number, i8::try_from(displacement).ok(), displacement);
    }

    /// `mask register number = [rsp + displacement]`.
    pub fn load_mask(&mut self, number: u8, displacement: i32) {
        self.raw(&[0xC4, 0xE1, 0xF8, 0x90]);
        self.on_stack(number, i8::try_from(displacement).ok(), displacement);
    }

    /// `dword [rsp + displacement] = mxcsr`.
    pub fn store_mxcsr(&mut self, displacement: i32) {
        self.raw(&[0x0F, 0xAE]);
        self.on_stack(3, i8::try_from(displacement).ok(), displacement);
    }

    /// `mxcsr = dword [rsp + displacement]`.
    pub fn load_mxcsr(&mut self, displacement: i32) {
        self.raw(&[0x0F, 0xAE]);
        self.on_stack(2, i8::try_from(displacement).ok(), displacement);
    }

    /// The low quadword of `xmm number` from or to `[rsp + displacement]`; the rest stays (movlps).
    pub fn low_quadword(&mut self, load: bool, number: u8, displacement: i32) {
        if number >= 8 {
            self.raw(&[0x44]);
        }
        self.raw(&[0x0F, if load { 0x12 } else { 0x13 }]);
        self.on_stack(number & 7, i8::try_from(displacement).ok(), displacement);
    }

    /// `dword [rsp + displacement] = value`.
    pub fn store_imm32(&mut self, displacement: i32, value: u32) {
        self.raw(&[0xC7]);
        self.on_stack(0, i8::try_from(displacement).ok(), displacement);
        self.raw(&value.to_le_bytes());
    }

    /// ModRM, SIB and displacement of `[rsp + displacement]`; `short` is an 8-bit one if there is.
    fn on_stack(&mut self, reg: u8, short: Option<i8>, displacement: i32) {
        match short {
            Some(short) => self.raw(&[0x44 | reg << 3, 0x24, short as u8]),
            None => {
                self.raw(&[0x84 | reg << 3, 0x24]);
                self.raw(&displacement.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr;
    use crate::x86_64::decode;

    #[test]
    fn every_register_is_stored_where_it_is_told() {
        for width in [VectorWidth::Xmm, VectorWidth::Ymm, VectorWidth::Zmm] {
            let name = ["xmm", "ymm", "zmm"][width as usize];
            for number in 0..width.registers() {
                for displacement in [0x40, 0x7c0, 0x1fc0, 0x48, 0x7, 0x123] {
                    for load in [false, true] {
                        let mut asm = Assembler::new(Addr(0x1000));
                        if load {
                            asm.load_vector(width, number, displacement);
                        } else {
                            asm.store_vector(width, number, displacement);
                        }
                        let insn = decode(asm.bytes(), Addr(0x1000)).expect("an instruction");
                        assert_eq!(insn.len(), asm.bytes().len());
                        let (register, memory) =
                            (format!("{name}{number}"), format!("[rsp+{displacement:#x}]"));
                        let text = insn.text().replace("+7]", "+0x7]");
                        let wanted = if load { [&register, &memory] } else { [&memory, &register] };
                        let operands = text.split_once(' ').expect("operands").1;
                        assert_eq!(operands, format!("{}, {}", wanted[0], wanted[1]), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn masks_and_modes() {
        let mut asm = Assembler::new(Addr(0x1000));
        asm.store_mask(3, 0x800);
        asm.load_mask(7, 0x10);
        asm.store_mxcsr(0x20);
        asm.load_mxcsr(0x200);
        let mut lines = Vec::new();
        let mut at = 0;
        while at < asm.bytes().len() {
            let insn = decode(&asm.bytes()[at..], Addr(0x1000)).expect("an instruction");
            at += insn.len();
            lines.push(insn.text());
        }
        let wanted =
            ["kmovq [rsp+0x800], k3", "kmovq k7, [rsp+0x10]", "stmxcsr [rsp+0x20]", "ldmxcsr [rsp+0x200]"];
        assert_eq!(lines, wanted);
    }
}

//! What a trampoline does around generated code.
//!
//! From the top: the red zone; the general registers that are kept; the flags, in the form of
//! [`Assembler::save_flags`]; vector state; what the code itself pushes.

use incise_isa::native::{Assembler, Gpr, VectorWidth};
use smallvec::SmallVec;

use crate::snippet::generate::{Effects, Generate, Output, PointContext, Vectors};
use crate::tactic::Refusal;
use crate::trampoline::literals::Literals;
use crate::trampoline::lower::RED_ZONE;

/// The mode of vector arithmetic after reset: nearest, exceptions masked (AMD APM vol. 1, 4.2.2).
const MXCSR: u32 = 0x1F80;

/// What a snippet reads and changes, without what no snippet can.
pub(crate) fn effects(snippet: &dyn Generate, at: &PointContext<'_>) -> Effects {
    let mut effects = snippet.effects(at);
    effects.clobbers.remove(Gpr::Rsp);
    effects.writes.remove(Gpr::Rsp);
    effects
}

/// Appends the code of `snippet`, and around it what keeps for the program what it changes.
pub(crate) fn generated(
    asm: &mut Assembler,
    snippet: &dyn Generate,
    at: &PointContext<'_>,
    literals: &mut Literals,
) -> Result<(), Refusal> {
    let effects = effects(snippet, at);
    let keep_flags = effects.flags && at.live.flags;
    let mut kept = effects.clobbers.intersection(effects.writes.complement()).intersection(at.live.gprs);
    // The flags come and go through rax.
    let reads = effects.reads.union(effects.writes).union(at.live.gprs);
    if keep_flags && reads.contains(Gpr::Rax) {
        kept.insert(Gpr::Rax);
    }
    let vectors = VectorFrame::new(effects.vectors, at);
    if effects.vectors == Vectors::All && at.features.moves {
        return Err(Refusal::NoVectorState(at.addr()));
    }
    // They stay there if nobody else wants it.
    let used = effects.clobbers.union(effects.reads).union(effects.writes).contains(Gpr::Rax);
    let spill_flags = keep_flags && (used || effects.stack || vectors.size > 0);
    let lowers = effects.stack || spill_flags || !kept.is_empty() || vectors.size > 0;

    let mut offset = 0;
    if lowers {
        asm.lea_rsp(-RED_ZONE);
        offset += RED_ZONE;
    }
    for register in kept.iter() {
        asm.push(register);
    }
    let rax_slot = 8 * kept.len() as i32;
    offset += rax_slot;
    if keep_flags {
        asm.save_flags();
    }
    if spill_flags {
        asm.push(Gpr::Rax);
        offset += 8;
        if effects.reads.contains(Gpr::Rax) {
            asm.mov_load(Gpr::Rax, Gpr::Rsp, rax_slot);
        }
    }
    offset += vectors.size;
    vectors.save(asm);
    snippet.generate(at, &mut Output { asm, literals, stack_offset: offset, vectors: &vectors })?;
    vectors.restore(asm);
    if keep_flags {
        if effects.writes.contains(Gpr::Rax) {
            asm.mov_store(Gpr::Rsp, rax_slot, Gpr::Rax);
        }
        if spill_flags {
            asm.pop(Gpr::Rax);
        }
        asm.restore_flags();
    }
    for register in kept.iter().collect::<SmallVec<[Gpr; 16]>>().into_iter().rev() {
        asm.pop(register);
    }
    if lowers {
        asm.lea_rsp(RED_ZONE);
    }
    Ok(())
}

/// Where vector state lies on the stack.
pub(crate) struct VectorFrame {
    width: VectorWidth,
    registers: SmallVec<[u8; 32]>,
    /// Whether the mask registers are kept.
    masks: bool,
    /// Whether the mode is set to the default one.
    default_mode: bool,
    /// Bytes; 0 if nothing is kept.
    size: i32,
}

impl VectorFrame {
    fn new(vectors: Vectors, at: &PointContext<'_>) -> VectorFrame {
        let (width, changed, default_mode) = match vectors {
            Vectors::None => {
                let registers = SmallVec::new();
                let (width, masks, default_mode) = (VectorWidth::Xmm, false, false);
                return VectorFrame { width, registers, masks, default_mode, size: 0 };
            }
            Vectors::Sse(registers) => (VectorWidth::Xmm, u32::from(registers), true),
            Vectors::All => (VectorWidth::of_this_processor(), u32::MAX, false),
        };
        let live = |&number: &u8| changed & at.live.vectors & 1 << number != 0;
        let registers: SmallVec<[u8; 32]> = (0..width.registers()).filter(live).collect();
        let masks = width == VectorWidth::Zmm;
        let mut frame = VectorFrame { width, registers, masks, default_mode, size: 0 };
        frame.size = frame.mode() + 16;
        frame
    }

    /// The offset of a register that is kept.
    pub(crate) fn slot(&self, number: u8) -> Option<i32> {
        let index = self.registers.iter().position(|&kept| kept == number)?;
        Some(self.width.bytes() * index as i32)
    }

    /// The offset of the mask registers.
    fn masks(&self) -> i32 {
        self.width.bytes() * self.registers.len() as i32
    }

    /// The offset of the mode, the program's and then ours.
    fn mode(&self) -> i32 {
        self.masks() + if self.masks { 64 } else { 0 }
    }

    fn save(&self, asm: &mut Assembler) {
        if self.size == 0 {
            return;
        }
        asm.lea_rsp(-self.size);
        for (index, &number) in self.registers.iter().enumerate() {
            asm.store_vector(self.width, number, self.width.bytes() * index as i32);
        }
        for number in (0..8).filter(|_| self.masks) {
            asm.store_mask(number, self.masks() + 8 * i32::from(number));
        }
        asm.store_mxcsr(self.mode());
        if self.default_mode {
            asm.store_imm32(self.mode() + 4, MXCSR);
            asm.load_mxcsr(self.mode() + 4);
        }
    }

    /// Gives the program its mode back.
    pub(crate) fn restore_mode(&self, asm: &mut Assembler) {
        if self.size > 0 {
            asm.load_mxcsr(self.mode());
        }
    }

    fn restore(&self, asm: &mut Assembler) {
        if self.size == 0 {
            return;
        }
        for (index, &number) in self.registers.iter().enumerate() {
            asm.load_vector(self.width, number, self.width.bytes() * index as i32);
        }
        for number in (0..8).filter(|_| self.masks) {
            asm.load_mask(number, self.masks() + 8 * i32::from(number));
        }
        asm.load_mxcsr(self.mode());
        asm.lea_rsp(self.size);
    }
}

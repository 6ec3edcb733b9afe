//! What compiled code reads and changes.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register as Iced};
use incise_isa::native::{Gpr, GprSet, abi};

/// What compiled code reads of the program it runs in, and what it changes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Uses {
    /// General registers of the program that it reads.
    pub reads: GprSet,
    /// General registers of the program that it sets.
    pub writes: GprSet,
    /// Vector registers whose low quadwords it reads, by bits.
    pub vector_reads: u16,
    /// Vector registers whose low quadwords it sets.
    pub vector_writes: u16,
    /// It reads the status flags.
    pub flags: bool,
    /// It needs the effective address.
    pub effective_address: bool,
    /// It needs the number of bytes accessed.
    pub bytes_accessed: bool,
    /// It needs the original address.
    pub original_address: bool,
    /// It needs the target of the jump, call or return.
    pub target: bool,
    /// It calls functions of the program, which may change all that a function may; the stack has to be aligned.
    pub calls: bool,
    /// General registers the code changes as it runs.
    pub clobbers: GprSet,
    /// Vector registers whose low 128 bits the code changes as it runs.
    pub vector_clobbers: u16,
}

impl Uses {
    /// Adds what `code` changes. What is data in it may add too much.
    pub(super) fn add_code(&mut self, code: &[u8]) {
        let changed = changed(code);
        self.clobbers = self.clobbers.union(changed.0.intersection(abi::CALLER_SAVED));
        self.vector_clobbers |= changed.1;
    }
}

/// The general and vector registers that `code` may change.
pub(super) fn changed(code: &[u8]) -> (GprSet, u16) {
    let (mut gprs, mut vectors) = (GprSet::EMPTY, 0);
    let mut factory = InstructionInfoFactory::new();
    for insn in &mut Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        for used in factory.info(&insn).used_registers() {
            if matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
                continue;
            }
            let full = used.register().full_register();
            if full.is_gpr64() {
                gprs.insert(Gpr::ALL[full as usize - Iced::RAX as usize]);
            } else if full.is_vector_register() {
                vectors |= 1 << (full.number() & 15);
            }
        }
    }
    gprs.remove(Gpr::Rsp);
    (gprs, vectors)
}

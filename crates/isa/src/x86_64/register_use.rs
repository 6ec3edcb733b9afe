//! Which registers an instruction reads, and which it overwrites for certain.

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess};

use super::{GprSet, Insn};

/// What one instruction does with registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegisterUse {
    /// General-purpose registers its effect may depend on.
    pub read: GprSet,
    /// General-purpose registers it overwrites for certain, with all their bits.
    pub overwritten: GprSet,
    /// Vector registers its effect may depend on, a bit each.
    pub vectors_read: u32,
    /// Vector registers it overwrites for certain, with all their bits up to the widest, a bit each.
    pub vectors_overwritten: u32,
}

/// What `insn` does with registers; `None` if it is not known to read and write exactly what it names.
/// Calls and system calls count as instructions by themselves, without what they run.
pub fn register_use(insn: &Insn) -> Option<RegisterUse> {
    RegisterUses::default().of(insn)
}

/// [`register_use`] for many instructions, with working memory that is used again.
pub struct RegisterUses(InstructionInfoFactory);

impl Default for RegisterUses {
    fn default() -> RegisterUses {
        RegisterUses(InstructionInfoFactory::new())
    }
}

impl RegisterUses {
    /// The same as [`register_use`].
    pub fn of(&mut self, insn: &Insn) -> Option<RegisterUse> {
        if is_opaque(insn.iced()) {
            return None;
        }
        let (gprs, vectors) = register_bits(insn.iced(), &mut self.0);
        Some(RegisterUse {
            read: GprSet::from_bits(gprs.0 as u16),
            overwritten: GprSet::from_bits(gprs.1 as u16),
            vectors_read: vectors.0,
            vectors_overwritten: vectors.1,
        })
    }
}

/// General-purpose and vector registers, read and overwritten.
pub(super) fn register_bits(
    insn: &Instruction,
    factory: &mut InstructionInfoFactory,
) -> ((u32, u32), (u32, u32)) {
    let (mut gprs, mut vectors) = ((0, 0), (0, 0));
    if insn.is_save_restore_instruction() {
        vectors.0 = u32::MAX;
    }
    for used in factory.info_options(insn, InstructionInfoOptions::NO_MEMORY_USAGE).used_registers() {
        let register = used.register();
        // A write to a part of a register keeps the rest. Writes that clear the rest are shown as
        // writes to the whole.
        let (class, whole) = if register.is_gpr() {
            (&mut gprs, register.is_gpr64())
        } else if register.is_vector_register() {
            (&mut vectors, register.is_zmm())
        } else {
            continue;
        };
        let bit = 1u32 << (register.full_register().number() & 31);
        match used.access() {
            OpAccess::Write if whole => class.1 |= bit,
            OpAccess::None | OpAccess::NoMemAccess | OpAccess::Write | OpAccess::CondWrite => {}
            _ => class.0 |= bit,
        }
    }
    (gprs, vectors)
}

/// Instructions that are not known to read and write exactly what they name. Where user mode may not run
/// `sldt`, `str` and `smsw` (UMIP), Linux acts for them and leaves the upper half of the register.
pub(super) fn is_opaque(insn: &Instruction) -> bool {
    insn.is_privileged()
        || matches!(
            insn.mnemonic(),
            Mnemonic::INVALID
                | Mnemonic::Hlt
                | Mnemonic::Xabort
                | Mnemonic::Enclu
                | Mnemonic::Getsec
                | Mnemonic::Sldt
                | Mnemonic::Str
                | Mnemonic::Smsw
                // Without a shadow stack it writes nothing.
                | Mnemonic::Rdsspd
                | Mnemonic::Rdsspq
        )
        // With REX.B, AMD processors run `pause` as `xchg eax, r8d`.
        || insn.mnemonic() == Mnemonic::Pause && insn.len() > 2
}

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
    (!is_opaque(insn.iced())).then(|| uncached(insn, &mut InstructionInfoFactory::new()))
}

fn uncached(insn: &Insn, factory: &mut InstructionInfoFactory) -> RegisterUse {
    let (gprs, vectors) = register_bits(insn.iced(), factory);
    RegisterUse {
        read: GprSet::from_bits(gprs.0 as u16),
        overwritten: GprSet::from_bits(gprs.1 as u16),
        vectors_read: vectors.0,
        vectors_overwritten: vectors.1,
    }
}

/// [`register_use`] for many instructions: it remembers what it told of the same bytes before, which comes up often.
pub struct RegisterUses {
    factory: InstructionInfoFactory,
    /// Bytes of an instruction as a number, with its length on top, and what it does; made when it is worth it.
    known: Vec<(u128, RegisterUse)>,
    /// How many were asked for before that.
    asked: usize,
}

/// So many instructions are remembered; a power of two.
const KNOWN: usize = 1024;

/// From so many instructions on, making the table takes less than it saves.
const WORTH_IT: usize = 64;

impl Default for RegisterUses {
    fn default() -> RegisterUses {
        RegisterUses { factory: InstructionInfoFactory::new(), known: Vec::new(), asked: 0 }
    }
}

impl RegisterUses {
    /// The same as [`register_use`].
    pub fn of(&mut self, insn: &Insn) -> Option<RegisterUse> {
        if is_opaque(insn.iced()) {
            return None;
        }
        if self.known.is_empty() {
            if self.asked < WORTH_IT {
                self.asked += 1;
                return Some(uncached(insn, &mut self.factory));
            }
            self.known = vec![(0, RegisterUse::default()); KNOWN];
        }
        // Registers depend on the bytes alone, not on the address.
        let mut bytes = [0; 16];
        bytes[..insn.len()].copy_from_slice(insn.bytes());
        bytes[15] = insn.len() as u8;
        let key = u128::from_le_bytes(bytes);
        let mixed = (key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let known = &mut self.known[(mixed >> (u64::BITS - KNOWN.ilog2())) as usize];
        if known.0 != key {
            *known = (key, uncached(insn, &mut self.factory));
        }
        Some(known.1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    #[test]
    fn what_is_remembered_is_that_of_the_same_bytes() {
        let mut uses = RegisterUses::default();
        // mov with each pair of registers, then with a prefix, and each again.
        for round in 0..2 {
            for code in (0xC0..=0xFFu8).flat_map(|pair| [vec![0x48, 0x89, pair], vec![0x89, pair]]) {
                let insn = decode(&code, Addr(0x1000 * (round + 1))).expect("an instruction");
                assert_eq!(uses.of(&insn), register_use(&insn), "{code:02x?}");
            }
        }
        let pause = decode(&hex("41 f3 90"), Addr(0)).or_else(|_| decode(&hex("f3 41 90"), Addr(0)));
        assert_eq!(uses.of(&pause.expect("an instruction")), None);
    }
}

//! The status flags: what one instruction reads of them and what it overwrites.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::Insn;

/// CF, PF, AF, ZF, SF, OF, as the decoder names them.
pub(super) const STATUS_FLAGS: u32 =
    RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;

/// What one instruction does with the status flags, as bits of RFLAGS (AMD APM vol. 1, 3.1.4): CF is
/// 0x1, PF 0x4, AF 0x10, ZF 0x40, SF 0x80, OF 0x800.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagUse {
    /// Flags its effect may depend on.
    pub read: u64,
    /// Flags it overwrites for certain, with a value that does not depend on the old one.
    pub overwritten: u64,
}

/// What `insn` does with the status flags.
pub fn flag_use(insn: &Insn) -> FlagUse {
    const POSITIONS: [(u32, u64); 6] = [
        (RflagsBits::CF, 0x1),
        (RflagsBits::PF, 0x4),
        (RflagsBits::AF, 0x10),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::SF, 0x80),
        (RflagsBits::OF, 0x800),
    ];
    let place = |bits: u32| POSITIONS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, place)| place).sum();
    FlagUse { read: place(read_flags(insn.iced())), overwritten: place(overwritten_flags(insn.iced())) }
}

/// The flags an instruction reads.
pub(super) fn read_flags(insn: &Instruction) -> u32 {
    match insn.mnemonic() {
        // All the way around, the result is the old one, but OF may come from CF.
        Mnemonic::Rcl | Mnemonic::Rcr => insn.rflags_read() | RflagsBits::CF,
        _ => insn.rflags_read(),
    }
}

/// The status flags an instruction overwrites, whatever its operands are.
///
/// A flag that the manuals leave undefined does not count: processors may, and some do, keep it. The
/// one exception is AF behind `and`, `or`, `xor` and `test`, which processors clear. (Zen 4 keeps it in
/// `shl` and `imul`.)
pub(super) fn overwritten_flags(insn: &Instruction) -> u32 {
    let written = insn.rflags_written();
    let all = written | insn.rflags_cleared() | insn.rflags_set();
    match insn.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => all | RflagsBits::AF,
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd => {
            if shifts(insn) {
                all
            } else {
                0
            }
        }
        // Repeated zero times, they compare nothing.
        Mnemonic::Cmpsb
        | Mnemonic::Cmpsw
        | Mnemonic::Cmpsd
        | Mnemonic::Cmpsq
        | Mnemonic::Scasb
        | Mnemonic::Scasw
        | Mnemonic::Scasd
        | Mnemonic::Scasq
            if insn.has_rep_prefix() || insn.has_repne_prefix() =>
        {
            0
        }
        // Processors without BMI run them as `bsf` and `bsr`.
        Mnemonic::Tzcnt | Mnemonic::Lzcnt => RflagsBits::ZF,
        // The manuals do not agree about OF, SF and AF.
        Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip => written,
        _ => all,
    }
}

/// Whether a shift or rotation is by a constant between 1 and the width of its operand less 1. By
/// nothing it leaves the flags alone, by more it leaves some undefined.
fn shifts(insn: &Instruction) -> bool {
    let last = insn.op_count() - 1;
    if insn.op_kind(last) != OpKind::Immediate8 {
        return false;
    }
    let bytes = match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size(),
        _ => insn.memory_size().size(),
    };
    let width = 8 * bytes as u64;
    let count = insn.immediate(last) & if width == 64 { 63 } else { 31 };
    (1..width).contains(&count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    #[test]
    fn flags_have_their_places_in_rflags() {
        for (code, read, overwritten) in [
            ("39 c8", 0, 0x8d5),      // cmp
            ("ff c0", 0, 0x8d4),      // inc
            ("f8", 0, 0x1),           // clc
            ("11 c8", 0x1, 0x8d5),    // adc
            ("0f 44 c1", 0x40, 0),    // cmovz
            ("9f", 0xd5, 0),          // lahf
            ("21 c8", 0, 0x8d5),      // and: AF is cleared
            ("0f af c1", 0, 0x801),   // imul: the others are undefined
            ("d1 e0", 0, 0x8c5),      // shl by one
            ("c1 e0 04", 0, 0xc5),    // shl by four
            ("d3 e0", 0, 0),          // shl by cl
            ("c0 d0 09", 0x1, 0),     // rcl of 9 bits by nine
            ("c0 e0 08", 0, 0),       // shl of all bits
            ("f3 0f bc c1", 0, 0x40), // tzcnt, or bsf
            ("db e9", 0, 0x45),       // fucomi
            ("48 89 c8", 0, 0),       // mov
        ] {
            let insn = decode(&hex(code), Addr(0)).expect("an instruction");
            assert_eq!(flag_use(&insn), FlagUse { read, overwritten }, "{insn:?}");
        }
    }
}

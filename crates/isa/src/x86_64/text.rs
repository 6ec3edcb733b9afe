//! Instructions as text that the assembler reads again, and the values in them.

use iced_x86::{Formatter, GasFormatter, IntelFormatter, OpKind, Register};

use super::{Insn, Syntax};
use crate::Addr;

/// A value that an instruction has in itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    /// An immediate operand, extended to 64 bits.
    Immediate(u64),
    /// The address of a memory operand that needs no register but the instruction pointer.
    Memory(Addr),
    /// The displacement of a memory operand that also has an index: the address of a table, perhaps.
    Table(u64),
}

impl Insn {
    /// The instruction as text, in the syntax asked for. What [`assemble`](super::assemble) makes of it at the same
    /// address is the same instruction.
    pub fn text_in(&self, syntax: Syntax) -> String {
        if self.bytes() == [0x66, 0x90] {
            // Formatters write `xchg ax, ax`, which it is not.
            return "data16 nop".to_owned();
        }
        let mut formatter: Box<dyn Formatter> = match syntax {
            Syntax::Intel => Box::new(IntelFormatter::new()),
            Syntax::Att => Box::new(GasFormatter::new()),
        };
        let options = formatter.options_mut();
        options.set_use_pseudo_ops(false);
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_small_hex_numbers_in_decimal(false);
        options.set_branch_leading_zeros(false);
        options.set_rip_relative_addresses(true);
        options.set_space_after_operand_separator(true);
        let mut text = String::new();
        formatter.format(self.iced(), &mut text);
        text
    }

    /// The immediates and the fixed addresses in it; where a branch goes is not among them.
    pub fn constants(&self) -> Vec<Constant> {
        let insn = self.iced();
        let mut constants = Vec::new();
        for op in 0..insn.op_count() {
            match insn.op_kind(op) {
                OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64 => constants.push(Constant::Immediate(insn.immediate(op))),
                OpKind::Memory => {
                    let displacement = insn.memory_displacement64();
                    let segment = insn.segment_prefix() != Register::None;
                    match (insn.memory_base(), insn.memory_index()) {
                        _ if segment => {}
                        (Register::RIP | Register::EIP, _) | (Register::None, Register::None) => {
                            constants.push(Constant::Memory(Addr(displacement)));
                        }
                        _ if displacement != 0 => constants.push(Constant::Table(displacement)),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        constants
    }

    /// The general register that is its first operand, by its 64-bit name, if it is written with one of the others
    /// only: `mov`, `lea`.
    pub fn loads(&self) -> Option<super::Gpr> {
        use iced_x86::Mnemonic;
        let insn = self.iced();
        let plain =
            matches!(insn.mnemonic(), Mnemonic::Mov | Mnemonic::Lea) && insn.op0_kind() == OpKind::Register;
        let full = insn.op0_register().full_register();
        let number = full.number();
        (plain && full.is_gpr64()).then(|| super::Gpr::ALL[number])
    }

    /// Whether it is `lea`: a memory operand that is only computed.
    pub fn is_address_computation(&self) -> bool {
        self.iced().mnemonic() == iced_x86::Mnemonic::Lea
    }

    /// Whether it is a conditional branch on flags, `jcc`: those that can be inverted. `loop` and `jrcxz` are not.
    pub fn is_conditional_jump(&self) -> bool {
        self.iced().code().is_jcc_short_or_near()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    #[test]
    fn text_is_read_again_in_both_syntaxes() {
        let at = Addr(0x40_1000);
        for bytes in [
            "83 7d fc 00",
            "7f 11",
            "48 8d 3d b7 0e 00 00",
            "bf 10 20 40 00",
            "e8 ff fe ff ff",
            "64 48 8b 04 25 28 00 00 00",
        ] {
            let insn = decode(&hex(bytes), at).expect("an instruction");
            for syntax in [Syntax::Intel, Syntax::Att] {
                let text = insn.text_in(syntax);
                let again = super::super::assemble(&text, at, syntax, &|_| None);
                assert_eq!(again, Ok(hex(bytes)), "{text}");
            }
        }
        let insn = decode(&hex("7f 11"), at).expect("an instruction");
        assert_eq!(insn.text_in(Syntax::Intel), "jg short 0x401013");
    }

    #[test]
    fn constants_are_immediates_and_addresses() {
        let constants =
            |bytes: &str| decode(&hex(bytes), Addr(0x40_1000)).expect("an instruction").constants();
        assert_eq!(constants("bf 10 20 40 00"), [Constant::Immediate(0x40_2010)]);
        assert_eq!(constants("48 8d 3d b7 0e 00 00"), [Constant::Memory(Addr(0x40_1ebe))]);
        assert_eq!(constants("ff 24 c5 00 20 40 00"), [Constant::Table(0x40_2000)]);
        assert_eq!(constants("83 7d fc 00"), [Constant::Table(u64::MAX - 3), Constant::Immediate(0)]);
        assert_eq!(constants("7f 11"), []);
    }
}

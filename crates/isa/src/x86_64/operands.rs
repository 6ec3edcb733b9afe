//! Operands as text, and what an instruction does with memory.

use iced_x86::{
    Formatter, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, NasmFormatter, OpAccess,
};

use super::Insn;

/// What an instruction does with memory, also where no operand says so: `push`, `ret`, `movs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// It may read memory.
    pub reads: bool,
    /// It may write memory.
    pub writes: bool,
    /// Bytes of its widest access, where the instruction tells.
    pub size: Option<u32>,
}

impl Insn {
    /// Each operand as [`text`](Self::text) has it.
    pub fn operands(&self) -> Vec<String> {
        let mut formatter = NasmFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        let count = formatter.operand_count(self.iced());
        let operand = |index| {
            let mut text = String::new();
            formatter.format_operand(self.iced(), &mut text, index).ok().map(|()| text)
        };
        (0..count).filter_map(operand).collect()
    }

    /// What it does with memory. A call counts by itself: it writes the address it returns to.
    pub fn memory_use(&self) -> MemoryUse {
        use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info_options(self.iced(), InstructionInfoOptions::NO_REGISTER_USAGE);
        let mut all = MemoryUse::default();
        for used in info.used_memory() {
            let access = used.access();
            let reads = matches!(access, Read | CondRead | ReadWrite | ReadCondWrite);
            let writes = matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite);
            all.reads |= reads;
            all.writes |= writes;
            let size = used.memory_size().size() as u32;
            if (reads || writes) && size > 0 {
                all.size = all.size.max(Some(size));
            }
        }
        all
    }
}

/// The mnemonics there are, in lower case.
pub fn mnemonics() -> impl Iterator<Item = String> {
    Mnemonic::values().map(|mnemonic| format!("{mnemonic:?}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::MemoryUse;
    use crate::Addr;
    use crate::x86_64::{Insn, decode};

    fn insn(bytes: &[u8]) -> Insn {
        decode(bytes, Addr(0x1000)).expect("an instruction")
    }

    #[test]
    fn what_is_read_and_written() {
        let all = |bytes| insn(bytes).memory_use();
        // mov rax, [rsp+8]; mov [rsp+8], eax; inc dword [rax]; push rax; ret
        assert_eq!(
            all(&[0x48, 0x8b, 0x44, 0x24, 8]),
            MemoryUse { reads: true, writes: false, size: Some(8) }
        );
        assert_eq!(all(&[0x89, 0x44, 0x24, 8]), MemoryUse { reads: false, writes: true, size: Some(4) });
        assert_eq!(all(&[0xff, 0x00]), MemoryUse { reads: true, writes: true, size: Some(4) });
        assert_eq!(all(&[0x50]), MemoryUse { reads: false, writes: true, size: Some(8) });
        assert_eq!(all(&[0xc3]), MemoryUse { reads: true, writes: false, size: Some(8) });
        // lea rax, [rsp+8]; nop dword [rax]; mov eax, ecx
        for nothing in [&[0x48, 0x8d, 0x44, 0x24, 8][..], &[0x0f, 0x1f, 0x00], &[0x89, 0xc8]] {
            assert_eq!(all(nothing), MemoryUse::default(), "{}", insn(nothing));
        }
    }

    #[test]
    fn operands_are_those_of_the_text() {
        for bytes in [&[0x48, 0x8b, 0x44, 0x24, 8][..], &[0x89, 0xc8], &[0x6b, 0xc0, 9], &[0xc3]] {
            let insn = insn(bytes);
            let text = insn.text();
            let behind = text.split_once(' ').map_or("", |(_, behind)| behind);
            assert_eq!(insn.operands().join(", "), behind);
        }
    }
}

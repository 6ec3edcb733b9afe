//! Walking stacks in the program, by a table made of its unwind tables: programs of distributions keep no frame pointers.
//!
//! The table is a quadword with the number of rows, then the rows, ascending by address, 16 bytes each: the address from which it holds;
//! a byte that says how the caller is found ([`FrameRule`]), a byte of zero, 16 bits: where the caller's `rbp` lies from the frame
//! address, 0 if it is unchanged; 32 bits: how far the frame address is from `rsp` or `rbp`.

use incise_image::FrameRule;

use crate::tree::Block;

const UNKNOWN: u8 = 0;
const OUTERMOST: u8 = 1;
const BY_RSP: u8 = 2;
const BY_RBP: u8 = 3;

/// A table of rows, which have to ascend by address.
pub fn table(rows: impl Iterator<Item = (u64, FrameRule)>) -> Block {
    let mut bytes = vec![0; 8];
    for (at, rule) in rows {
        let (kind, frame, rbp) = match rule {
            FrameRule::Unknown => (UNKNOWN, 0, 0),
            FrameRule::Outermost => (OUTERMOST, 0, 0),
            FrameRule::Caller { by_rbp: false, frame, rbp } => (BY_RSP, frame, rbp),
            FrameRule::Caller { by_rbp: true, frame, rbp } => (BY_RBP, frame, rbp),
        };
        bytes.extend(at.to_le_bytes());
        bytes.extend([kind, 0]);
        bytes.extend(rbp.to_le_bytes());
        bytes.extend(frame.to_le_bytes());
    }
    let count = (bytes.len() as u64 - 8) / 16;
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    Block::new(bytes.len() as u64, 64, bytes)
}

/// A function that writes up to `rdx` return addresses to `rsi`. In: `rdi` and `rcx` are the thread's `rbp` and `rsp` at the instruction
/// `r8`; `r9` is the table.
pub(crate) fn routine() -> String {
    format!(
        "1: test edx, edx
         jz 9f
         # The last row that does not begin behind r8; indices are those of quadwords.
         xor eax, eax
         mov r10, [r9]
         add r10, r10
         2: cmp rax, r10
         jae 3f
         lea r11, [rax+r10]
         shr r11, 1
         and r11, -2
         cmp [r9+r11*8+8], r8
         ja 4f
         lea rax, [r11+2]
         jmp 2b
         4: mov r10, r11
         jmp 2b
         3: sub rax, 2
         js 6f
         mov r11, [r9+rax*8+16]
         movzx eax, r11b
         cmp eax, {OUTERMOST}
         jb 6f
         je 9f
         mov r10, r11
         sar r10, 32
         cmp eax, {BY_RBP}
         je 5f
         add r10, rcx
         jmp 7f
         5: add r10, rdi
         # Frames lie one above the other.
         7: cmp r10, rcx
         jbe 9f
         mov r8, [r10-8]
         shl r11, 32
         sar r11, 48
         jz 5f
         mov rdi, [r10+r11]
         5: mov rcx, r10
         8: test r8, r8
         jz 9f
         mov [rsi], r8
         add rsi, 8
         dec edx
         # A call may be the last instruction of its function.
         dec r8
         jmp 1b
         6: cmp rdi, rcx
         jb 9f
         mov r8, [rdi+8]
         lea rcx, [rdi+16]
         mov rdi, [rdi]
         jmp 8b
         9: ret"
    )
}

/// Its instructions that may fault: then the walk is over.
pub(crate) const LOADS: [&[u8]; 4] =
    [&[0x4D, 0x8B, 0x42, 0xF8], &[0x4B, 0x8B, 0x3C, 0x1A], &[0x4C, 0x8B, 0x47, 0x08], &[0x48, 0x8B, 0x3F]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_where_they_are_said_to_be() {
        let code = super::super::operation::assemble(&routine());
        for load in LOADS {
            let places = code.windows(load.len()).filter(|window| *window == load).count();
            assert_eq!(places, 1, "{load:x?}");
        }
        assert_eq!(code.last(), Some(&0xC3));
    }
}

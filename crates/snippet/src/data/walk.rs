//! Walking stacks in the program, by a table made of its unwind tables: programs of distributions keep no frame pointers.
//!
//! The table is a quadword that says how many bytes behind it the rows in force begin, and room for two lots of rows, so that one can be
//! filled while the program reads the other. A lot is a quadword with the number of rows, then the rows, ascending by address, 16 bytes
//! each: the address from which it holds; a byte that says how the caller is found ([`FrameRule`]), a byte of zero, 16 bits: where the
//! caller's `rbp` lies from the frame address, 0 if it is unchanged; 32 bits: how far the frame address is from `rsp` or `rbp`.

use std::sync::atomic::Ordering;

use incise_image::FrameRule;

use super::Words;
use crate::tree::Block;

const UNKNOWN: u8 = 0;
const OUTERMOST: u8 = 1;
const BY_RSP: u8 = 2;
const BY_RBP: u8 = 3;

/// Rows that there is room for beside those at first unless more was asked for: what is loaded later.
pub const SPARE: usize = 1 << 16;

/// A row as two quadwords.
fn words_of((at, rule): (u64, FrameRule)) -> [u64; 2] {
    let (kind, frame, rbp) = match rule {
        FrameRule::Unknown => (UNKNOWN, 0, 0),
        FrameRule::Outermost => (OUTERMOST, 0, 0),
        FrameRule::Caller { by_rbp: false, frame, rbp } => (BY_RSP, frame, rbp),
        FrameRule::Caller { by_rbp: true, frame, rbp } => (BY_RBP, frame, rbp),
    };
    let word = u64::from(kind) | u64::from(rbp as u16) << 16 | u64::from(frame as u32) << 32;
    [at, word]
}

/// A table of rows, which have to ascend by address, with room for `spare` more.
pub fn table(rows: impl Iterator<Item = (u64, FrameRule)>, spare: usize) -> Block {
    let mut words = vec![8, 0];
    words.extend(rows.flat_map(words_of));
    let count = words.len() / 2 - 1;
    words[1] = count as u64;
    let size = 8 + 2 * 8 * (1 + 2 * (count + spare));
    let bytes = words.into_iter().flat_map(u64::to_le_bytes).collect();
    Block::new(size as u64, 64, bytes)
}

/// Has a table, which the program may be reading, tell of other rows. What has no room is left out; how many those are.
pub fn refill(table: &Words, mut rows: impl Iterator<Item = (u64, FrameRule)>) -> usize {
    let lot = (table.len() - 1) / 2;
    let inactive = if table[0].load(Ordering::Relaxed) == 8 { 1 + lot } else { 1 };
    let room = &table[inactive..inactive + lot];
    let mut count = 0;
    for (words, row) in room[1..].chunks_exact(2).zip(&mut rows) {
        words.iter().zip(words_of(row)).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        count += 1;
    }
    room[0].store(count, Ordering::Relaxed);
    table[0].store(8 * inactive as u64, Ordering::Release);
    rows.count()
}

/// A function that writes up to `rdx` return addresses to `rsi`. In: `rdi` and `rcx` are the thread's `rbp` and `rsp` at the instruction
/// `r8`; `r9` is the table.
pub(crate) fn routine() -> String {
    format!(
        "add r9, [r9]
         1: test edx, edx
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
    fn another_lot_of_rows_takes_the_place_of_the_first() {
        let row = |at| (at, FrameRule::Caller { by_rbp: true, frame: 16, rbp: -16 });
        let block = table([row(0x10), row(0x20)].into_iter(), SPARE);
        let mut words: Vec<std::sync::atomic::AtomicU64> = block
            .initial()
            .chunks(8)
            .map(|w| u64::from_le_bytes(w.try_into().expect("whole")).into())
            .collect();
        words.resize_with(block.size() as usize / 8, || 0.into());
        let in_force = || {
            let at = words[0].load(Ordering::Relaxed) as usize / 8;
            let count = words[at].load(Ordering::Relaxed) as usize;
            (0..count).map(|row| words[at + 1 + 2 * row].load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        assert_eq!(in_force(), [0x10, 0x20]);
        for more in [3, 1, 5] {
            assert_eq!(refill(&words, (0..more).map(|n| row(0x100 * n))), 0);
            assert_eq!(in_force(), (0..more).map(|n| 0x100 * n).collect::<Vec<_>>());
        }
        // What has no room is left out.
        assert_eq!(refill(&words, (0..200_000).map(row)), 200_000 - 2 - SPARE);
        assert_eq!(in_force().len(), 2 + SPARE);
    }

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

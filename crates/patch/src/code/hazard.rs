//! Direct branches into the few bytes behind a site.
//!
//! A trap byte inside a springboard keeps such a branch correct, but each time it is taken costs a signal.
//! The scan looks at every byte position as if an instruction began there: it needs no disassembly, takes
//! time linear in the bytes, and errs only on the safe side.

use incise_isa::Addr;

/// How far a short branch leads, from its first byte: 126 bytes back, 129 forth.
pub(crate) const SHORT_REACH: u64 = 129;

/// Calls `found` with the target of everything in `code` that may be a short branch.
///
/// Encodings: AMD APM vol. 3, Jcc, JMP, JrCXZ, LOOPcc (70-7F, EB, E0-E3 rel8).
pub(crate) fn short_branches(code: &[u8], start: Addr, mut found: impl FnMut(Addr)) {
    for (offset, pair) in code.windows(2).enumerate() {
        if matches!(pair[0], 0x70..=0x7F | 0xEB | 0xE0..=0xE3) {
            found(start.offset(offset as i64 + 2 + i64::from(pair[1] as i8)));
        }
    }
}

/// Calls `found` with the target of everything in `code` that may be a near branch or call.
///
/// Encodings: AMD APM vol. 3, JMP, CALL, Jcc (E9, E8, 0F 80-8F rel32).
pub(crate) fn near_branches(code: &[u8], start: Addr, mut found: impl FnMut(Addr)) {
    for opcode in memchr::memchr3_iter(0xE8, 0xE9, 0x0F, code) {
        let field = match code[opcode] {
            0x0F if matches!(code.get(opcode + 1), Some(0x80..=0x8F)) => opcode + 2,
            0x0F => continue,
            _ => opcode + 1,
        };
        if let Some(&[a, b, c, d]) = code.get(field..field + 4) {
            found(start.offset(field as i64 + 4 + i64::from(i32::from_le_bytes([a, b, c, d]))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(code: &[u8]) -> Vec<u64> {
        let mut targets = Vec::new();
        short_branches(code, Addr(0x1000), |target| targets.push(target.0));
        targets
    }

    #[test]
    fn finds_short_branches_both_ways() {
        // 1000: nop; nop; 1002: jmp 1001
        assert_eq!(short(&[0x90, 0x90, 0xEB, 0xFD]), [0x1001]);
        // 1000: jne 1003
        assert_eq!(short(&[0x75, 0x01, 0x90, 0x90]), [0x1003]);
        // 1000: loop 1000
        assert_eq!(short(&[0xE2, 0xFE, 0x90]), [0x1000]);
        assert_eq!(short(&[0x75, 0x7F]), [0x1000 + 129], "the farthest");
        assert_eq!(short(&[0x90, 0x75]), [0; 0], "cut off");
    }

    #[test]
    fn finds_near_branches_and_calls() {
        let mut code = vec![0x90; 64];
        code[20..25].copy_from_slice(&[0xE8, 0x01, 0x00, 0x00, 0x00]); // call 101a
        code[40..45].copy_from_slice(&[0xE9, 0xD5, 0xFF, 0xFF, 0xFF]); // jmp 1002
        code[50..56].copy_from_slice(&[0x0F, 0x84, 0xC9, 0xFF, 0xFF, 0xFF]); // je 1001
        code[56..62].copy_from_slice(&[0x0F, 0xAF, 0xC9, 0xFF, 0xFF, 0xFF]); // no branch
        let mut targets = Vec::new();
        near_branches(&code, Addr(0x1000), |target| targets.push(target.0));
        assert_eq!(targets, [0x101A, 0x1002, 0x1001]);
    }
}

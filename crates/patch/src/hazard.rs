//! Direct branches into the few bytes behind a site.
//!
//! A trap byte inside a springboard keeps such a branch correct, but each time it is taken costs a signal.
//! The scan looks at every byte position as if an instruction began there: it needs no disassembly, takes
//! time linear in the bytes, and errs only on the safe side.

use std::ops::Range;

use incise_isa::Addr;

/// A branch found by [`short_branch_into`] or [`near_branches`]: where it leads.
type Target = Addr;

/// The first address in `targets` that a short branch in `code`, which begins at `start`, may lead to.
///
/// Encodings: AMD APM vol. 3, Jcc, JMP, JrCXZ, LOOPcc (70-7F, EB, E0-E3 rel8). They reach 128 bytes back and
/// 127 forth.
pub(crate) fn short_branch_into(
    code: &[u8],
    start: Addr,
    targets: Range<Addr>,
    is_head: impl Fn(Addr) -> bool,
) -> Option<Target> {
    let low = targets.start.offset_from(start);
    let width = targets.end.offset_from(targets.start);
    let from = (low - 130).max(0) as usize;
    let to = ((low + width + 128).max(0) as usize).min(code.len().saturating_sub(1));
    (from..to)
        .filter(|&i| matches!(code[i], 0x70..=0x7F | 0xEB | 0xE0..=0xE3))
        .map(|i| start.offset(i as i64 + 2 + i64::from(code[i + 1] as i8)))
        .find(|&target| targets.contains(&target) && is_head(target))
}

/// Calls `found` with the target of everything in `code` that may be a near branch or call.
///
/// Encodings: AMD APM vol. 3, JMP, CALL, Jcc (E9, E8, 0F 80-8F rel32).
pub(crate) fn near_branches(code: &[u8], start: Addr, mut found: impl FnMut(Target)) {
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

    fn short(code: &[u8], targets: Range<u64>) -> Option<u64> {
        short_branch_into(code, Addr(0x1000), Addr(targets.start)..Addr(targets.end), |_| true).map(|a| a.0)
    }

    #[test]
    fn finds_short_branches_both_ways() {
        // 1000: nop; nop; 1002: jmp 1001
        assert_eq!(short(&[0x90, 0x90, 0xEB, 0xFD], 0x1001..0x1005), Some(0x1001));
        // 1000: jne 1003
        assert_eq!(short(&[0x75, 0x01, 0x90, 0x90], 0x1003..0x1005), Some(0x1003));
        // 1000: loop 1000
        assert_eq!(short(&[0xE2, 0xFE, 0x90], 0x1000..0x1001), Some(0x1000));
        assert_eq!(short(&[0x75, 0x00, 0x90, 0x90], 0x1003..0x1005), None);
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

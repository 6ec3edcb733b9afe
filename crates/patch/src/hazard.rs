//! Direct branches into the few bytes behind a site.
//!
//! A trap byte inside a springboard keeps such a branch correct, but each time it is taken costs a signal.
//! The scan looks at every byte position as if an instruction began there: it needs no disassembly, takes
//! time linear in the bytes, and errs only on the safe side.

use std::ops::Range;

use incise_isa::Addr;

/// The first of `targets` (a few adjacent addresses) that a direct branch in `code`, which begins at `start`,
/// may lead to.
///
/// Encodings: AMD APM vol. 3, Jcc, JMP, JrCXZ, LOOPcc (70-7F, EB, E0-E3 rel8; E9, E8, 0F 80-8F rel32).
pub(crate) fn branch_into(
    code: &[u8],
    start: Addr,
    targets: Range<Addr>,
    is_head: impl Fn(Addr) -> bool,
) -> Option<Addr> {
    let low = targets.start.offset_from(start);
    let width = targets.end.offset_from(targets.start) as u64;
    let hit = |position: i64, displacement: i64| {
        let target = position + displacement;
        let into = target.wrapping_sub(low) as u64;
        (into < width).then(|| start.offset(target)).filter(|&at| is_head(at))
    };
    // Short branches reach 128 bytes back and 127 forth.
    let near = (low - 130).max(0) as usize
        ..((low + width as i64 + 128).max(0) as usize).min(code.len().saturating_sub(1));
    for i in near {
        if matches!(code[i], 0x70..=0x7F | 0xEB | 0xE0..=0xE3)
            && let Some(at) = hit(i as i64 + 2, i64::from(code[i + 1] as i8))
        {
            return Some(at);
        }
    }
    for (i, window) in code.windows(4).enumerate().skip(1) {
        let displacement = i32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        let into = (i as i64 + 4 + i64::from(displacement)).wrapping_sub(low) as u64;
        if into < width {
            let near_jump = matches!(code[i - 1], 0xE8 | 0xE9);
            let near_branch = i >= 2 && code[i - 2] == 0x0F && matches!(code[i - 1], 0x80..=0x8F);
            if (near_jump || near_branch)
                && let Some(at) = hit(i as i64 + 4, i64::from(displacement))
            {
                return Some(at);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &[u8], targets: Range<u64>) -> Option<u64> {
        branch_into(code, Addr(0x1000), Addr(targets.start)..Addr(targets.end), |_| true).map(|a| a.0)
    }

    #[test]
    fn finds_short_branches_both_ways() {
        // 1000: nop; nop; 1002: jmp 1001
        assert_eq!(found(&[0x90, 0x90, 0xEB, 0xFD], 0x1001..0x1005), Some(0x1001));
        // 1000: jne 1003
        assert_eq!(found(&[0x75, 0x01, 0x90, 0x90], 0x1003..0x1005), Some(0x1003));
        // 1000: loop 1000
        assert_eq!(found(&[0xE2, 0xFE, 0x90], 0x1000..0x1001), Some(0x1000));
        assert_eq!(found(&[0x75, 0x00, 0x90, 0x90], 0x1003..0x1005), None);
    }

    #[test]
    fn finds_near_branches_and_calls() {
        let mut code = vec![0x90; 64];
        code[40..45].copy_from_slice(&[0xE9, 0xD5, 0xFF, 0xFF, 0xFF]); // jmp 1002
        assert_eq!(found(&code, 0x1001..0x1005), Some(0x1002));
        code[40..46].copy_from_slice(&[0x0F, 0x84, 0xD3, 0xFF, 0xFF, 0xFF]); // je 1001
        assert_eq!(found(&code, 0x1001..0x1005), Some(0x1001));
        code[40..46].copy_from_slice(&[0x90, 0x81, 0xD3, 0xFF, 0xFF, 0xFF]); // no branch
        assert_eq!(found(&code, 0x1001..0x1005), None);
    }
}

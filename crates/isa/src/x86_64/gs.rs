//! Code that sets or reads the base of the gs segment.

use memchr::memmem;

/// `arch_prctl(2)` (asm/unistd_64.h).
const SYS_ARCH_PRCTL: u8 = 158;
/// `ARCH_SET_GS` and `ARCH_GET_GS` (asm/prctl.h) end so; the first byte is 1 or 4.
const ARCH_GS: [u8; 3] = [0x10, 0, 0];
/// So far apart, at the most, are a number of a system call and its argument.
const NEAR: usize = 64;

/// Whether `code` looks as if it set or read the base of gs: by `rdgsbase` or `wrgsbase`, or by the system call, with its
/// number and what it is to do close together. Finds too much rather than too little, but cannot see what is computed.
pub fn uses_gs_base(code: &[u8]) -> bool {
    memmem::find_iter(code, &[0x0F, 0xAE]).any(|at| is_gs_base(code, at))
        || memmem::find_iter(code, &[SYS_ARCH_PRCTL, 0, 0, 0]).any(|at| is_arch_prctl(code, at))
}

/// `f3 [rex] 0f ae /1` or `/3` with a register (AMD APM vol. 3, RDGSBASE and WRGSBASE); `at` is that of `0f`.
fn is_gs_base(code: &[u8], at: usize) -> bool {
    let before = |count: usize| at.checked_sub(count).and_then(|at| code.get(at));
    let rex = before(1).is_some_and(|byte| byte & 0xF0 == 0x40);
    let repeated = before(1 + usize::from(rex)) == Some(&0xF3);
    repeated && code.get(at + 2).is_some_and(|modrm| matches!(modrm & 0xF8, 0xC8 | 0xD8))
}

/// Whether the number at `at` is loaded into eax or edi, and near it one for gs into edi or esi.
fn is_arch_prctl(code: &[u8], at: usize) -> bool {
    let loads = |code: &[u8], at: usize, registers: [u8; 2]| {
        let opcode = at.checked_sub(1).and_then(|at| code.get(at));
        opcode.is_some_and(|opcode| {
            // mov r32, imm32 (b8+r) and mov r/m64, imm32 (c7 /0, modrm c0+r).
            registers.iter().any(|register| [0xB8 | register, 0xC0 | register].contains(opcode))
        })
    };
    let around = &code[at.saturating_sub(NEAR)..code.len().min(at + NEAR)];
    loads(code, at, [0, 7])
        && memmem::find_iter(around, &ARCH_GS).any(|behind| {
            let first = behind.checked_sub(1).map(|first| around[first]);
            matches!(first, Some(1 | 4)) && loads(around, behind - 1, [7, 6])
        })
}

#[cfg(test)]
mod tests {
    use super::uses_gs_base;
    use crate::x86_64::assembler::{Syntax, assemble};

    fn uses(text: &str) -> bool {
        let at = crate::Addr(0x1000);
        uses_gs_base(&assemble(text, at, Syntax::Intel, &|_| None).expect("assembles"))
    }

    #[test]
    fn instructions_and_system_calls_on_the_gs_base_are_seen() {
        assert!(uses("nop; wrgsbase rax; ret"));
        assert!(uses("rdgsbase r12"));
        assert!(uses("wrgsbase ecx"));
        assert!(uses("mov eax, 158; mov rsi, rdi; mov edi, 0x1001; syscall"));
        assert!(uses("mov edi, 158; mov rdx, rax; mov esi, 0x1004; call 0x2000"));
    }

    #[test]
    fn fs_fences_and_other_system_calls_are_not() {
        assert!(!uses("rdfsbase rax; wrfsbase rbx; lfence; mfence; incsspq rax"));
        assert!(!uses("mov eax, 158; mov edi, 0x1002; syscall"));
        assert!(!uses("mov eax, 1; mov edi, 0x1001; syscall; mov edx, 158"));
    }
}

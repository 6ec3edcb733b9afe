//! Code that sets or reads the base of the gs segment.

use memchr::memmem;

/// `arch_prctl(2)` (asm/unistd_64.h).
const SYS_ARCH_PRCTL: u8 = 158;
/// `ARCH_SET_GS` and `ARCH_GET_GS` (asm/prctl.h).
const ARCH_GS: [u32; 2] = [0x1001, 0x1004];
/// What else it is called for (the same), by all but the last four bits: fs, cpuid, the vdso, tagged addresses, shadow stacks.
const ARCH_OTHERS: [u32; 6] = [0x1000, 0x1010, 0x2000, 0x3000, 0x4000, 0x5000];
/// So far apart, at the most, are a number of a system call and its argument.
const NEAR: usize = 64;
/// So far behind the number of a system call, at the most, is the call.
const CALL: usize = 32;

/// Whether `code` looks as if it set or read the base of gs: by `rdgsbase` or `wrgsbase`, or by the system call `arch_prctl`, if
/// what it is called for is gs or cannot be seen close to the call. `wrapper`: the C library's function of that name may be in
/// it, and is not counted. `makes_calls`: whether the call at an offset (`e8`, or `ff 15`), if it is one, may be that of
/// `syscall(3)`. Finds too much rather than too little, but cannot see what is made at run time.
pub fn uses_gs_base(code: &[u8], wrapper: bool, makes_calls: &dyn Fn(usize) -> bool) -> bool {
    // Both at once in a piece that stays in the cache; it takes some bytes around one to judge.
    const PIECE: usize = 1 << 18;
    const AROUND: usize = 2 * NEAR;
    let piece = |start: usize| (start, &code[start..code.len().min(start + PIECE + AROUND)]);
    (0..code.len()).step_by(PIECE).map(piece).any(|(start, piece)| {
        memmem::find_iter(piece, &[0x0F, 0xAE]).any(|at| is_gs_base(code, start + at))
            || memmem::find_iter(piece, &[SYS_ARCH_PRCTL, 0, 0, 0])
                .any(|at| is_arch_prctl(code, start + at, wrapper, makes_calls))
    })
}

/// `f3 [rex] 0f ae /1` or `/3` with a register (AMD APM vol. 3, RDGSBASE and WRGSBASE); `at` is that of `0f`.
fn is_gs_base(code: &[u8], at: usize) -> bool {
    let before = |count: usize| at.checked_sub(count).and_then(|at| code.get(at));
    let rex = before(1).is_some_and(|byte| byte & 0xF0 == 0x40);
    let repeated = before(1 + usize::from(rex)) == Some(&0xF3);
    repeated && code.get(at + 2).is_some_and(|modrm| matches!(modrm & 0xF8, 0xC8 | 0xD8))
}

/// Whether the number of the system call at `at` is loaded into eax or edi (for `syscall(3)`), for gs or who knows what.
fn is_arch_prctl(code: &[u8], at: usize, wrapper: bool, makes_calls: &dyn Fn(usize) -> bool) -> bool {
    const EAX: u8 = 0;
    const ESI: u8 = 6;
    const EDI: u8 = 7;
    let behind = &code[(at + 4).min(code.len())..code.len().min(at + 4 + CALL)];
    let calls = if loads(code, at, EAX) {
        memmem::find(behind, &[0x0F, 0x05]).is_some()
    } else if loads(code, at, EDI) {
        // call rel32, or through a slot of the linkage table.
        let direct = memchr::memchr_iter(0xE8, behind);
        direct.chain(memmem::find_iter(behind, &[0xFF, 0x15])).any(|call| makes_calls(at + 4 + call))
    } else {
        return false;
    };
    let around = &code[at.saturating_sub(NEAR)..code.len().min(at + 4 + NEAR)];
    let codes = || {
        let word =
            |at: usize| u32::from_le_bytes([around[at], around[at + 1], around[at + 2], around[at + 3]]);
        let loaded = |at: &usize| loads(around, *at, EDI) || loads(around, *at, ESI);
        (1..around.len().saturating_sub(3)).filter(loaded).map(word)
    };
    let is_other = |code: u32| ARCH_OTHERS.contains(&(code & !0xF)) && !ARCH_GS.contains(&code);
    codes().any(|code| ARCH_GS.contains(&code)) || (calls && !wrapper && !codes().any(is_other))
}

/// Whether the constant at `at` is loaded into a register: mov r32, imm32 (b8+r), mov r/m64, imm32 (c7 /0, modrm c0+r).
fn loads(code: &[u8], at: usize, register: u8) -> bool {
    let opcode = at.checked_sub(1).and_then(|at| code.get(at));
    opcode.is_some_and(|opcode| [0xB8 | register, 0xC0 | register].contains(opcode))
}

#[cfg(test)]
mod tests {
    use super::uses_gs_base;
    use crate::x86_64::assembler::{Syntax, assemble};

    fn uses(text: &str) -> bool {
        let at = crate::Addr(0x1000);
        uses_gs_base(&assemble(text, at, Syntax::Intel, &|_| None).expect("assembles"), false, &|_| true)
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
    fn system_calls_for_something_unknown_are_seen_but_in_the_library() {
        let wrapper = "mov eax, 158; syscall; cmp rax, -4095; ret";
        assert!(uses(wrapper));
        assert!(uses("mov edi, 158; mov esi, eax; call 0x2000"));
        let bytes = assemble(wrapper, crate::Addr(0x1000), Syntax::Intel, &|_| None).expect("assembles");
        assert!(!uses_gs_base(&bytes, true, &|_| true));
    }

    #[test]
    fn numbers_given_to_other_functions_are_no_system_calls() {
        let code =
            assemble("mov edi, 158; mov esi, 0; call 0x2000", crate::Addr(0), Syntax::Intel, &|_| None);
        let code = code.expect("assembles");
        let call = code.len() - 5;
        assert!(uses_gs_base(&code, false, &|at| at == call));
        assert!(!uses_gs_base(&code, false, &|at| at != call));
    }

    #[test]
    fn what_lies_across_pieces_is_seen() {
        for before in (1 << 18) - 8..(1 << 18) + 8 {
            let mut code = vec![0x90; before];
            code.extend([0xF3, 0x48, 0x0F, 0xAE, 0xD8]);
            code.extend([0x90; 600]);
            assert!(uses_gs_base(&code, false, &|_| true), "{before}");
        }
    }

    #[test]
    fn fs_fences_and_other_system_calls_are_not() {
        assert!(!uses("rdfsbase rax; wrfsbase rbx; lfence; mfence; incsspq rax"));
        assert!(!uses("mov eax, 158; mov edi, 0x1002; syscall"));
        assert!(!uses("mov eax, 1; mov edi, 0x1001; syscall; mov edx, 158"));
    }
}

//! The calling conventions of System V (x86-64 psABI 1.0, section 3.2) and of Linux system calls
//! (psABI, appendix A.2).

use super::{Gpr, GprSet};

/// Bytes under `rsp` that belong to the running function (psABI 3.2.2): signal handlers leave them
/// alone, and so must whatever is put between two instructions.
pub const RED_ZONE: u64 = 128;

/// Alignment of `rsp` before a `call`, in bytes (psABI 3.2.2).
pub const STACK_ALIGN: u64 = 16;

/// Registers of the first six integer arguments, in order.
pub const ARGUMENTS: [Gpr; 6] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9];

/// Registers of an integer result, low half first.
pub const RESULTS: [Gpr; 2] = [Gpr::Rax, Gpr::Rdx];

/// Registers that a function gives back as it found them.
pub const CALLEE_SAVED: GprSet =
    GprSet::of(&[Gpr::Rbx, Gpr::Rsp, Gpr::Rbp, Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15]);

/// Registers that a call may change.
pub const CALLER_SAVED: GprSet = CALLEE_SAVED.complement();

/// Register of the system call number, and of its result.
pub const SYSCALL_NUMBER: Gpr = Gpr::Rax;

/// Registers of the arguments of a system call, in order.
pub const SYSCALL_ARGUMENTS: [Gpr; 6] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8, Gpr::R9];

/// What the `syscall` instruction overwrites: `rcx` with the next address, `r11` with the flags
/// (AMD APM vol. 3, SYSCALL); the result is in [`SYSCALL_NUMBER`].
pub const SYSCALL_CLOBBERED: GprSet = GprSet::of(&[Gpr::Rcx, Gpr::R11]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_results_may_be_changed_by_a_call() {
        assert!(ARGUMENTS.iter().chain(&RESULTS).all(|&register| CALLER_SAVED.contains(register)));
        assert_eq!(CALLER_SAVED.len() + CALLEE_SAVED.len(), 16);
    }

    #[test]
    fn a_system_call_keeps_its_arguments() {
        assert!(SYSCALL_ARGUMENTS.iter().all(|&register| !SYSCALL_CLOBBERED.contains(register)));
    }
}

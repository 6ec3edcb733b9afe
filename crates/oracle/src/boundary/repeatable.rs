//! Which instructions can be compared at all.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// Whether an instruction has the same effect each time and everywhere: no system call, no clock, no random number,
/// nothing that a debugger or the address of the code changes by nature.
pub(super) fn is_repeatable(bytes: &[u8]) -> bool {
    let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let unsteady = matches!(
        insn.mnemonic(),
        Mnemonic::INVALID
            | Mnemonic::Syscall
            | Mnemonic::Sysenter
            | Mnemonic::Int
            | Mnemonic::Int1
            | Mnemonic::Int3
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Rdrand
            | Mnemonic::Rdseed
            | Mnemonic::Rdpid
            | Mnemonic::Rdpru
            | Mnemonic::Cpuid
            | Mnemonic::Xbegin
            | Mnemonic::Xend
            | Mnemonic::Popf
            | Mnemonic::Popfq
            | Mnemonic::Iret
            | Mnemonic::Iretq
            | Mnemonic::Retf
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fldenv
            | Mnemonic::Frstor
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
            | Mnemonic::Wrfsbase
            | Mnemonic::Wrgsbase
    );
    // A segment register: the address spaces of the two processes have the same, but a stack segment holds traps back.
    !unsteady && !insn.op0_register().is_segment_register()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_nature_is_left_out() {
        assert!(is_repeatable(&[0x48, 0x89, 0xD8]));
        assert!(is_repeatable(&[0xF3, 0xA4]));
        for unsteady in
            [&[0x0F, 0x05][..], &[0x0F, 0x31], &[0xCC], &[0x9D], &[0x8E, 0xD8], &[0x0F, 0xAE, 0x00]]
        {
            assert!(!is_repeatable(unsteady), "{unsteady:x?}");
        }
    }
}

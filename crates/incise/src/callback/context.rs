//! What a callback sees.

use incise_isa::native::Gpr;

/// The registers of the probed program at the point.
///
/// Changes to general registers and flags take effect when the callback returns. Those to rsp and rip are
/// ignored.
#[repr(C)]
#[derive(Debug)]
pub struct Context {
    /// General registers by hardware number: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15.
    pub gregs: [u64; 16],
    /// rflags; where a function begins, only CF PF AF ZF SF and OF are the program's. These and DF are put back as the
    /// callback leaves them.
    pub flags: u64,
    /// Address of the probed instruction.
    pub rip: u64,
    /// The saved vector registers, register 0 first, [`VectorState::register_len`] bytes each; null if none
    /// are kept. Changes take effect.
    pub vector: *mut u8,
}

impl Context {
    /// A general register's value.
    pub fn gpr(&self, register: Gpr) -> u64 {
        self.gregs[usize::from(register.number())]
    }

    /// A general register, to be changed.
    pub fn gpr_mut(&mut self, register: Gpr) -> &mut u64 {
        &mut self.gregs[usize::from(register.number())]
    }
}

/// The vector registers a callback may change, which are kept around it by plain moves. (XSAVE costs ten
/// times as much.) x87 state is the callback's to keep: compiled code touches it only for `long double`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum VectorState {
    /// None: for callbacks compiled without vector code (`-mgeneral-regs-only`).
    None,
    /// xmm0-15 and mxcsr: for callbacks whose vector code is SSE, and not compiled for AVX.
    Sse,
    /// ymm0-15, as the lower halves of zmm0-15 where the processor has them, and mxcsr.
    Avx,
    /// zmm0-31, k0-7 and mxcsr.
    Avx512,
    /// All that this processor has.
    #[default]
    Full,
}

impl VectorState {
    /// The most of this state that the processor has.
    pub fn supported(self) -> VectorState {
        let best = match (has_zmm(), is_x86_feature_detected!("avx")) {
            (true, _) => VectorState::Avx512,
            (false, true) => VectorState::Avx,
            (false, false) => VectorState::Sse,
        };
        self.min(best)
    }

    /// Bytes kept of each vector register on this processor.
    pub fn register_len(self) -> usize {
        match self.supported() {
            VectorState::None => 0,
            VectorState::Sse => 16,
            // An instruction on a ymm register sets the upper half of the zmm register to zero.
            VectorState::Avx if has_zmm() => 64,
            VectorState::Avx => 32,
            VectorState::Avx512 | VectorState::Full => 64,
        }
    }
}

fn has_zmm() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

//! What a run left behind, and how two runs are told apart.

use std::fmt;

use crate::xstate::Xstate;

/// Most copies of one original in one trial.
pub const MAX_COPIES: usize = 6;
/// Most differences kept per copy.
pub const MAX_DETAILS: usize = 4;

/// Processor exceptions by vector (SDM vol. 3A, table 6-1), as `uc_mcontext` gives them.
pub mod trap {
    /// #DE, divide error.
    pub const DIVIDE: u64 = 0;
    /// #DB, debug: a single step, or `int1`.
    pub const DEBUG: u64 = 1;
    /// #BP, `int3`: here it means that a landing was reached.
    pub const BREAKPOINT: u64 = 3;
    /// #UD, an instruction this processor does not have.
    pub const UNDEFINED: u64 = 6;
    /// #MF, x87 exception.
    pub const X87: u64 = 16;
    /// #XM, SIMD floating-point exception.
    pub const SIMD: u64 = 19;
}

/// The machine when the run stopped, at a landing or by a fault.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Signal number.
    pub signal: i32,
    /// si_code.
    pub code: i32,
    /// si_addr.
    pub address: u64,
    /// Exception vector.
    pub trap: u64,
    /// Error code of the exception.
    pub error: u64,
    /// Instruction pointer of the signal frame.
    pub ip: u64,
    /// General registers, hardware numbering.
    pub gpr: [u64; 16],
    /// rflags.
    pub flags: u64,
    /// Bases of fs and gs.
    pub bases: [u64; 2],
    /// Selectors: ds es fs gs ss cs.
    pub selectors: [u16; 6],
    /// Vectors, masks, x87.
    pub xstate: Xstate,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Aspect {
    /// Where control went: fell through, arrived at a target, faulted.
    Where,
    /// Signal, si_code, exception or error code.
    Fault,
    /// The address in the fault report.
    FaultAddress,
    /// A general register; the index is its hardware number.
    Gpr,
    /// rflags.
    Flags,
    /// A segment selector: ds es fs gs ss cs.
    Selector,
    /// The base of fs (0) or gs (1).
    Base,
    /// A vector register; the index is the register.
    Vector,
    /// An opmask register.
    Mask,
    /// mxcsr.
    Mxcsr,
    /// x87 state: 0-7 the registers, 8 control, 9 status, 10 tags, 11 data pointer.
    X87,
    /// Data memory; the index is unused, the address is in `at`.
    Data,
    /// The stack at or above the stack pointer.
    Stack,
    /// The 128 bytes under the stack pointer.
    RedZone,
}

impl Aspect {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Aspect::Where => "where",
            Aspect::Fault => "fault",
            Aspect::FaultAddress => "fault-address",
            Aspect::Gpr => "register",
            Aspect::Flags => "flags",
            Aspect::Selector => "selector",
            Aspect::Base => "segment-base",
            Aspect::Vector => "vector",
            Aspect::Mask => "opmask",
            Aspect::Mxcsr => "mxcsr",
            Aspect::X87 => "x87",
            Aspect::Data => "data",
            Aspect::Stack => "stack",
            Aspect::RedZone => "red-zone",
        }
    }
}

/// One difference: what the original left and what the copy left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// What differs.
    pub aspect: Aspect,
    /// Which one, or the address for memory.
    pub at: u64,
    /// The original's value.
    pub expected: u64,
    /// The copy's value.
    pub actual: u64,
}

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.aspect.name())?;
        match self.aspect {
            Aspect::Gpr => write!(f, " {}", GPR[self.at as usize & 15])?,
            Aspect::Data | Aspect::Stack | Aspect::RedZone => write!(f, " at {:#x}", self.at)?,
            Aspect::Where | Aspect::Flags | Aspect::Mxcsr => {}
            _ => write!(f, " {}", self.at)?,
        }
        write!(f, ": expected {:#x}, got {:#x}", self.expected, self.actual)
    }
}

/// How a run ended, for the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// It was not run.
    #[default]
    NotRun,
    /// Behind the last instruction.
    FellThrough,
    /// At a landing elsewhere.
    Arrived,
    /// By an exception other than #UD.
    Faulted,
    /// By #UD: this processor does not have the instruction.
    Undefined,
}

/// The judgement on one copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyVerdict {
    /// Whether both runs were made.
    pub run: bool,
    /// A fault inside a sequence: general registers were left out of the comparison.
    pub registers_skipped: bool,
    /// A call that faulted had pushed its return address in the copy, not in the original.
    pub pushed_early: bool,
    /// The differences found, first the gravest.
    pub details: [Option<Detail>; MAX_DETAILS],
}

impl CopyVerdict {
    /// Whether the copy did what the original did.
    pub fn equal(&self) -> bool {
        self.run && self.details[0].is_none()
    }

    /// Notes a difference; those beyond [`MAX_DETAILS`] are dropped.
    pub fn add(&mut self, aspect: Aspect, at: u64, expected: u64, actual: u64) {
        if let Some(free) = self.details.iter_mut().find(|detail| detail.is_none()) {
            *free = Some(Detail { aspect, at, expected, actual });
        }
    }
}

/// The judgement on a trial.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// How the original ended.
    pub original: Ending,
    /// Each copy's judgement.
    pub copies: [CopyVerdict; MAX_COPIES],
}

//! The relocation oracle: the processor judges displaced code.
//!
//! For every encoding form the decoder lists, instructions are made with many operands. Each runs
//! natively at its own address and, as relocated, at others: within rel32 of what it refers to, out
//! of it, and just at the edge. Both start from the same random machine state in a forked child. All
//! that a program could see must then be equal: general registers, flags, vectors, masks, x87,
//! segments, data, stack and red zone, where control went, and the fault if there was one.
//!
//! Copies for programs that may be loaded anywhere are made for other addresses than those they run at.
//!
//! An instruction that this processor does not have raises #UD in both places. Its rip-relative copies
//! are judged by decoding them instead.
//!
//! Left out, because displacing changes them by nature: the instruction pointer and opcode that x87
//! keeps of its last instruction, and the memory below the red zone. When an instruction faults that
//! became a sequence, the general registers inside the sequence are not compared, and a call may have
//! pushed its return address; both are counted.

//!
//! The boundary oracle ([`boundary`]) does the same for whole programs: every instruction is patched by the engine, and
//! every address at which one began is entered beside the original.

#![deny(unsafe_code)]

pub mod assembly;
pub mod boundary;
mod case;
mod compare;
mod forms;
mod generate;
mod layout;
mod mutate;
mod native;
mod operands;
mod outcome;
mod reading;
mod relocator;
mod report;
mod rng;
mod shapes;
mod special;
mod start;
mod tape;
mod trials;
mod xstate;

pub use native::NativeError;
pub use relocator::{Incise, Movable, Refusal, Relocator, Verbatim};
pub use report::{Finding, Report};
pub use trials::{Options, run};

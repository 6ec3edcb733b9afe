//! Programs become machine code.
//!
//! A program is compiled once, to a function that takes the address of a [`frame`] with the registers of the program it reads.
//! Where its blocks are is told later ([`Compiled::link`]). What needs memory of a special layout
//! (maps, rings) are routines that [`Operations`] provides; they are put behind the function.
//!
//! A load or store that faults goes on behind the call of the function ([`Compiled::faults`]): what it has on the stack is
//! dropped, and the fault is counted, as every end of a run before its time. (So does one that is not aligned where the program has
//! alignment checks on, the flag AC.)

mod atomic;
mod builder;
mod bytes;
mod call;
mod expr;
pub mod frame;
mod link;
mod operations;
mod routines;
mod scalar;
mod stmt;
mod uses;
mod wrapper;

pub use link::{Compiled, OutOfReach};
pub use operations::{NoOperations, Operation, Operations};
pub use uses::Uses;

use crate::tree::Program;

/// How to compile.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// What maps and rings do.
    pub operations: &'a dyn Operations,
    /// Where a thread of the target finds its number, counted from its thread pointer; without it, it asks the kernel.
    pub thread_at: Option<i32>,
    /// The code holds the addresses of its blocks, which may be anywhere. Otherwise it refers to them by distance, so that it can be
    /// loaded at another address together with them, and they have to be in reach.
    pub absolute: bool,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Settings { operations: &NoOperations, thread_at: None, absolute: false }
    }
}

/// Why a program cannot be compiled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Nothing provides the operation here.
    #[error("{0} cannot be used here: nothing provides it")]
    Missing(String),
    /// The program asks for what code at a point cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The code generator failed: a defect.
    #[error("the code generator failed: {0}")]
    Internal(String),
}

/// Compiles a program.
///
/// # Errors
/// [`CompileError`].
pub fn compile(program: &Program, settings: &Settings<'_>) -> Result<Compiled, CompileError> {
    builder::Builder::new(program, settings)?.finish()
}

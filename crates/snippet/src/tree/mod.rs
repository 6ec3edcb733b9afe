//! The tree: typed expressions and statements.
//!
//! Trees are made by functions and methods that cannot be chained wrongly without being noticed: an operand of a wrong
//! type makes the expression *invalid*, which [`Program::new`] reports with the first cause. So a tree reads like
//! what it means:
//!
//! ```
//! use incise_snippet::tree::{Program, Stmt, Storage, Type, Variable, arg};
//!
//! let large = Variable::new("large", Type::U64, Storage::Global);
//! let program = Program::new([Stmt::when(arg(0).gt(100), [large.add(1)])])?;
//! assert_eq!(program.to_string(), "if (arg0 > 100) {\n    large += 1;\n}\n");
//! # Ok::<(), incise_snippet::tree::TreeError>(())
//! ```
//!
//! # What is defined
//!
//! Nothing is undefined. Integers wrap at their width; a shift counts modulo the width; a conversion from a float
//! saturates, and gives 0 for what is no number; the least integer divided by -1 is itself. A run *ends early*, which its program counts
//! by [`Fault`], at a load or store that the memory does not allow, a division by zero, an index outside an array, a loop over its
//! budget. What a run did before it ended stays done.

mod block;
mod build;
mod check;
mod display;
mod error;
mod expr;
mod operand;
mod operator;
mod program;
mod stmt;
mod table;
mod types;

pub use block::{Block, BlockId, RESTARTED, Storage, THREADS, Variable};
pub(crate) use block::{CPUS, SLOT, STRIDE};
pub use build::{
    arg, constant, cpu, cycles, float_arg, float_retval, nanoseconds, pid, point, register, retval, tid,
};
pub use error::TreeError;
pub use expr::{Callee, Expr, Node, PointFact, Register, SystemFact};
pub use operand::Operand;
pub use operator::{AtomicOp, BinaryOp, UnaryOp};
pub use program::{Fault, Local, LocalArray, LocalId, LocalVar, Program, ProgramBuilder, Replaced};
pub use stmt::{Case, Place, Stmt};
pub use table::{Aggregate, Field, Map, Record, Ring, Update};
pub use types::{Constant, Type};

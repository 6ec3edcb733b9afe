//! Programs of the tree, compiled for the code of one session.
//!
//! ```
//! use incise::snippet::{Program, Stmt, Storage, Type, Variable, arg};
//! use incise::{Query, Session};
//!
//! let session = Session::own()?;
//! let large = Variable::new("large", Type::U64, Storage::Global);
//! let program = Program::new([Stmt::when(arg(0).gt(100), [large.add(1)])])?;
//! let compiled = session.program(&program)?;
//! let mut batch = session.batch();
//! for point in &session.find(Query::functions("libc!malloc"))? {
//!     batch.push_back(point, &compiled);
//! }
//! batch.commit()?;
//! let _more = Box::new([0u8; 4096]);
//! assert!(session.variable(&large).get() >= 1);
//! session.remove_all()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod code;
mod evaluate;
mod guarded;
mod inline;
mod language;
mod once;
mod tables;
mod variable;

pub(crate) use cache::Cache;
pub use evaluate::{Evaluated, evaluate};
pub use language::Language;
pub(crate) use once::Choose;
pub use once::{Once, Ran};
pub use tables::MapContents;
pub use variable::Value;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use incise_patch::{Data, Generated, Snippet};
use incise_snippet::compile::{self, CompileError, Operations, Settings, compile};
use incise_snippet::data::tables::Tables;
use incise_snippet::inline::Inline;
use incise_snippet::tree::{Block, Fault, Program, Variable};
use incise_space::AddressSpace;

use crate::session::{Error, Session};
use code::Code;
use guarded::{Guarded, Holds};
use inline::{InLine, qualifies};

/// A program that was compiled for a session, to be inserted at any number of points. Clones are the same.
#[derive(Clone, Debug)]
pub struct Compiled {
    code: Holds,
    /// Counts runs that ended early.
    faults: Data,
}

impl Compiled {
    /// Compiles a program; `data` gives its blocks their memory.
    pub(crate) fn new(
        program: &Program,
        operations: &dyn Operations,
        absolute: bool,
        data: &mut dyn FnMut(&Block) -> Data,
    ) -> Result<Compiled, CompileError> {
        if let Some(inline) = qualifies(program) {
            return Ok(Compiled::in_line(inline, None, data));
        }
        Compiled::called(program, operations, absolute, data)
    }

    fn in_line(inline: Inline, rseq: Option<i32>, data: &mut dyn FnMut(&Block) -> Data) -> Compiled {
        let data: Vec<Data> = inline.blocks().iter().map(data).collect();
        let faults = data[0].clone();
        Compiled { code: Holds::InLine(Arc::new(InLine::new(inline, data, rseq))), faults }
    }

    /// Runs of each of these end early by themselves: the block that counts them is made anew.
    fn of_code(code: compile::Compiled, program: &Program, data: &mut dyn FnMut(&Block) -> Data) -> Compiled {
        let (faults, others) = (&code.blocks()[0], &code.blocks()[1..]);
        let faults = Data::new(faults.size(), faults.align(), faults.initial());
        let data = std::iter::once(faults.clone()).chain(others.iter().map(data)).collect();
        let code = Code::new(code, data, program.replaces());
        Compiled { code: Holds::Called(Arc::new(code)), faults }
    }

    /// The same, always as a function that is called.
    fn called(
        program: &Program,
        operations: &dyn Operations,
        absolute: bool,
        data: &mut dyn FnMut(&Block) -> Data,
    ) -> Result<Compiled, CompileError> {
        let code = compile(program, &Settings { operations, thread_at: None, absolute })?;
        Ok(Compiled::of_code(code, program, data))
    }

    /// Whether it is put in line at its points, not called.
    pub fn is_inline(&self) -> bool {
        matches!(self.code, Holds::InLine(_))
    }

    /// The snippet that runs it.
    pub fn snippet(&self) -> Snippet {
        Snippet::Generated(Generated(match &self.code {
            Holds::InLine(code) => code.clone(),
            Holds::Called(code) => code.clone(),
        }))
    }

    /// The snippet that runs this program, and then `then` if it returned something that is not zero. A counter, or a snippet
    /// that generates code and reads no vector registers, can be guarded so; nothing is returned for others.
    pub fn guard(&self, then: impl Into<Snippet>) -> Option<Snippet> {
        Guarded::new(self.code.clone(), then.into()).map(Snippet::generated)
    }

    /// How many runs ended early for this reason, at all points, since it was compiled.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.with(|words| words.get(fault as usize).map_or(0, |word| word.load(Ordering::Relaxed)))
    }
}

impl From<&Compiled> for Snippet {
    fn from(compiled: &Compiled) -> Snippet {
        compiled.snippet()
    }
}

impl<S: AddressSpace> Session<S> {
    /// Compiles a program. A short one is put in line at its points, others are called. Its maps and rings are those that
    /// [`data::tables`](incise_snippet::data::tables) makes. The same program is compiled once.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn program(&self, program: &Program) -> Result<Compiled, Error> {
        if let Some(inline) = qualifies(program) {
            let rseq = self.rseq_offset();
            return Ok(Compiled::in_line(inline, rseq, &mut |block| self.data(block)));
        }
        let absolute = !self.with_space(|space| space.features().moves);
        let settings = Settings { operations: &Tables, thread_at: None, absolute };
        let code = self.with_code(|cache| cache.get(program, &settings))?;
        Ok(Compiled::of_code(code, program, &mut |block| self.data(block)))
    }

    /// Compiles a program; `operations` are those of maps and rings of another kind.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn program_with(&self, program: &Program, operations: &dyn Operations) -> Result<Compiled, Error> {
        let absolute = !self.with_space(|space| space.features().moves);
        Ok(Compiled::new(program, operations, absolute, &mut |block| self.data(block))?)
    }

    /// Compiles a program to a function that trampolines call, even if it would be put in line.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn called(&self, program: &Program, operations: &dyn Operations) -> Result<Compiled, Error> {
        let absolute = !self.with_space(|space| space.features().moves);
        Ok(Compiled::called(program, operations, absolute, &mut |block| self.data(block))?)
    }

    /// A variable of programs of this session, as it is in the target.
    pub fn variable(&self, variable: &Variable) -> Value {
        Value::new(variable, self.data(variable.block()))
    }
}

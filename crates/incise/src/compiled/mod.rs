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

mod code;
mod inline;
mod variable;

pub use variable::Value;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use incise_patch::{Data, Generate, Generated, Snippet};
use incise_snippet::compile::{CompileError, NoOperations, Operations, Settings, compile};
use incise_snippet::tree::{Block, Fault, Program, Variable};
use incise_space::AddressSpace;

use crate::session::{Error, Session};
use code::Code;
use inline::{InLine, qualifies};

/// A program that was compiled for a session, to be inserted at any number of points. Clones are the same.
#[derive(Clone, Debug)]
pub struct Compiled {
    code: Arc<dyn Generate>,
    /// Counts runs that ended early.
    faults: Data,
    inline: bool,
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
            let data: Vec<Data> = inline.blocks().iter().map(data).collect();
            let faults = data[0].clone();
            return Ok(Compiled { code: Arc::new(InLine::new(inline, data)), faults, inline: true });
        }
        Compiled::called(program, operations, absolute, data)
    }

    /// The same, always as a function that is called.
    fn called(
        program: &Program,
        operations: &dyn Operations,
        absolute: bool,
        data: &mut dyn FnMut(&Block) -> Data,
    ) -> Result<Compiled, CompileError> {
        let compiled = compile(program, &Settings { operations, thread_at: None, absolute })?;
        let data: Vec<Data> = compiled.blocks().iter().map(data).collect();
        let faults = data[0].clone();
        Ok(Compiled { code: Arc::new(Code::new(compiled, data)), faults, inline: false })
    }

    /// Whether it is put in line at its points, not called.
    pub fn is_inline(&self) -> bool {
        self.inline
    }

    /// The snippet that runs it.
    pub fn snippet(&self) -> Snippet {
        Snippet::Generated(Generated(self.code.clone()))
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
    /// Compiles a program that uses no map and no ring. A short one is put in line at its points, others are called.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn program(&self, program: &Program) -> Result<Compiled, Error> {
        self.program_with(program, &NoOperations)
    }

    /// Compiles a program; `operations` are those of its maps and rings.
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

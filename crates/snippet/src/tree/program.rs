//! A program: statements that are known to be right, and the locals they use.

use std::fmt;
use std::sync::Arc;

use super::check;
use super::error::TreeError;
use super::expr::{Expr, Node};
use super::operand::Operand;
use super::stmt::{Place, Stmt};
use super::types::Type;

/// Names a local variable of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LocalId(pub u32);

/// A local variable: it lives as long as a run, and begins as zero.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// Its name, for people.
    pub name: String,
    /// Its type, a scalar or text; of an array, that of its elements, a scalar.
    pub ty: Type,
    /// How many elements, if it is an array.
    pub len: Option<u32>,
}

impl Local {
    /// Quadwords that it takes.
    pub(crate) fn words(&self) -> u64 {
        match (self.len, self.ty) {
            (None, Type::Text(_)) => u64::from(self.ty.size() / 8),
            (len, _) => u64::from(len.unwrap_or(1)),
        }
    }
}

/// Why a run ended early. Each program counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fault {
    /// A load or store where memory does not allow it.
    Memory = 0,
    /// A division by zero.
    Division = 1,
    /// An index outside an array.
    Index = 2,
    /// More rounds of loops than the budget has.
    Budget = 3,
    /// More threads than there are slots for.
    Threads = 4,
    /// It was reached from a function it called itself.
    Reentered = 5,
}

impl Fault {
    /// All of them, by number.
    pub const ALL: [Fault; 6] =
        [Fault::Memory, Fault::Division, Fault::Index, Fault::Budget, Fault::Threads, Fault::Reentered];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Memory => "at memory that is not there",
            Fault::Division => "at a division by zero",
            Fault::Index => "at an index outside an array",
            Fault::Budget => "in a loop of too many rounds",
            Fault::Threads => "in more threads than there is room for",
            Fault::Reentered => "in a function that it called itself",
        })
    }
}

/// Rounds that the loops of one run may make together, unless told otherwise.
const BUDGET: u32 = 1 << 16;
/// Bytes that all locals may have together.
const LOCALS_MAX: u64 = 64 << 10;

/// What a snippet does: a tree that was checked. Clones are the same program.
#[derive(Clone, PartialEq, Debug)]
pub struct Program(Arc<Inner>);

#[derive(PartialEq, Debug)]
struct Inner {
    body: Vec<Stmt>,
    locals: Vec<Local>,
    budget: u32,
    replaces: Option<(Replaced, Type)>,
}

/// What a program can run in place of: see [`ProgramBuilder::replace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// The function at whose entry it is.
    Function,
    /// The call before which it is.
    Call,
}

impl Program {
    /// A program without locals.
    ///
    /// # Errors
    /// The first thing that is wrong with the tree.
    pub fn new(body: impl IntoIterator<Item = Stmt>) -> Result<Program, TreeError> {
        ProgramBuilder::new().finish(body)
    }

    /// What it does.
    pub fn body(&self) -> &[Stmt] {
        &self.0.body
    }

    /// Its locals, by number.
    pub fn locals(&self) -> &[Local] {
        &self.0.locals
    }

    /// Rounds its loops may make in one run.
    pub fn budget(&self) -> u32 {
        self.0.budget
    }

    /// The same program, in place of something: see [`ProgramBuilder::replace`].
    pub fn replacing(&self, what: Replaced, ty: Type) -> Program {
        let Inner { body, locals, budget, .. } = &*self.0;
        let (body, locals, budget) = (body.clone(), locals.clone(), *budget);
        Program(Arc::new(Inner { body, locals, budget, replaces: Some((what, ty)) }))
    }

    /// What it runs in place of where it returns a value, and the type of that.
    pub fn replaces(&self) -> Option<(Replaced, Type)> {
        self.0.replaces
    }
}

/// Declares locals, then makes the program.
#[derive(Clone, Debug)]
pub struct ProgramBuilder {
    locals: Vec<Local>,
    budget: u32,
    replaces: Option<(Replaced, Type)>,
}

impl Default for ProgramBuilder {
    fn default() -> ProgramBuilder {
        ProgramBuilder { locals: Vec::new(), budget: BUDGET, replaces: None }
    }
}

impl ProgramBuilder {
    /// No locals, and the usual budget.
    pub fn new() -> ProgramBuilder {
        ProgramBuilder::default()
    }

    /// How many rounds the loops of one run may make together.
    pub fn budget(&mut self, rounds: u32) -> &mut ProgramBuilder {
        self.budget = rounds;
        self
    }

    /// Where the program returns a value, the function at whose entry it is does not run, or the call before which it is is not
    /// made, and that is what the caller gets. Where it returns none, all goes on as if it were not there. A function that it calls is
    /// not replaced by it once more, so that the original can be called. `ty` is the type of what it returns.
    pub fn replace(&mut self, what: Replaced, ty: Type) -> &mut ProgramBuilder {
        self.replaces = Some((what, ty));
        self
    }

    /// Declares a local scalar, or text.
    pub fn local(&mut self, name: &str, ty: Type) -> LocalVar {
        self.locals.push(Local { name: name.to_owned(), ty, len: None });
        LocalVar { id: LocalId(self.locals.len() as u32 - 1), ty }
    }

    /// Declares a local array.
    pub fn array(&mut self, name: &str, ty: Type, len: u32) -> LocalArray {
        self.locals.push(Local { name: name.to_owned(), ty, len: Some(len) });
        LocalArray { id: LocalId(self.locals.len() as u32 - 1), ty }
    }

    /// The program.
    ///
    /// # Errors
    /// The first thing that is wrong with the tree.
    pub fn finish(self, body: impl IntoIterator<Item = Stmt>) -> Result<Program, TreeError> {
        let body: Vec<Stmt> = body.into_iter().collect();
        let mut size = 0;
        for (index, local) in self.locals.iter().enumerate() {
            let text = matches!(local.ty, Type::Text(_)) && local.len.is_none();
            if !local.ty.is_scalar() && !text {
                return Err(TreeError::Local(index as u32));
            }
            size += local.words() * 8;
        }
        if size > LOCALS_MAX {
            return Err(TreeError::Limit { what: "bytes of locals", value: size, most: LOCALS_MAX });
        }
        check::statements(&body, &self.locals)?;
        let ProgramBuilder { locals, budget, replaces } = self;
        Ok(Program(Arc::new(Inner { body, locals, budget, replaces })))
    }
}

/// A declared local scalar.
#[derive(Clone, Copy, Debug)]
pub struct LocalVar {
    id: LocalId,
    ty: Type,
}

impl LocalVar {
    /// Its value.
    pub fn get(self) -> Expr {
        Expr::from_node(self.ty, Node::Local(self.id))
    }

    /// Gives it a value.
    pub fn set(self, value: impl Into<Operand>) -> Stmt {
        Stmt::assign(self.place(), value)
    }

    /// It as a place.
    pub fn place(self) -> Place {
        Place::Local(self.id, self.ty)
    }
}

/// A declared local array.
#[derive(Clone, Copy, Debug)]
pub struct LocalArray {
    id: LocalId,
    ty: Type,
}

impl LocalArray {
    /// The value of an element.
    pub fn get(self, index: impl Into<Operand>) -> Expr {
        let index = Expr::from(index.into().with(Type::U64).converted(Type::U64));
        match index.check() {
            Ok(()) => Expr::from_node(self.ty, Node::Element(self.id, index)),
            Err(error) => Expr::invalid(error),
        }
    }

    /// Gives an element a value.
    pub fn set(self, index: impl Into<Operand>, value: impl Into<Operand>) -> Stmt {
        Stmt::assign(self.place(index), value)
    }

    /// An element as a place.
    pub fn place(self, index: impl Into<Operand>) -> Place {
        let index = Expr::from(index.into().with(Type::U64).converted(Type::U64));
        Place::Element(self.id, self.ty, Box::new(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Storage, Variable, arg, constant};

    #[test]
    fn what_is_wrong_is_found_when_the_program_is_made() {
        let wrong = Program::new([Stmt::when(arg(0), [])]).expect_err("no condition");
        assert_eq!(wrong.to_string(), "a condition has to be bool, not u64");
        let wrong = Program::new([Stmt::Break]).expect_err("nothing to leave");
        assert_eq!(wrong, TreeError::Outside("break"));
        let sum = arg(0).add(constant(Type::F64, 1.5)).gt(3);
        let wrong = Program::new([Stmt::when(sum, [])]).expect_err("mixed types");
        assert_eq!(wrong.to_string(), "`+` cannot take u64 and f64");
        let hits = Variable::new("hits", Type::U8, Storage::Global);
        let wrong = Program::new([hits.add(256)]).expect_err("too large");
        assert_eq!(wrong.to_string(), "256 is no value of u8");
        let per_cpu = Variable::new("n", Type::U64, Storage::PerCpu);
        assert!(Program::new([per_cpu.set(1)]).is_err());
    }

    #[test]
    fn deep_trees_are_refused() {
        let deep = (0..1000).fold(arg(0), |expr, _| expr.add(1));
        let wrong = Program::new([Stmt::Evaluate(deep)]).expect_err("too deep");
        assert_eq!(wrong, TreeError::Limit { what: "levels of a tree", value: 201, most: 200 });
    }

    #[test]
    fn locals_are_those_that_were_declared() {
        let mut builder = ProgramBuilder::new();
        let (n, a) = (builder.local("n", Type::I32), builder.array("a", Type::U8, 4));
        let body = [n.set(3), a.set(n.get(), 7), Stmt::give(a.get(2))];
        assert!(builder.finish(body.clone()).is_ok());
        assert_eq!(Program::new(body).expect_err("not declared"), TreeError::Local(0));
    }
}

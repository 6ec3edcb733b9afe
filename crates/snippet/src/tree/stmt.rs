//! Statements.

use super::block::{Storage, Variable};
use super::error::TreeError;
use super::expr::{Expr, Register};
use super::operand::Operand;
use super::program::LocalId;
use super::table::{Map, Record, Ring, Update};
use super::types::Type;

/// What can be given a value.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// A local variable, and its type.
    Local(LocalId, Type),
    /// An element of a local array, and its type.
    Element(LocalId, Type, Box<Expr>),
    /// A variable.
    Variable(Variable),
    /// A register of the program; it has the value when the probed instruction runs.
    Register(Register),
    /// Memory of the program at an address, as a value of the type.
    Memory(Type, Box<Expr>),
}

impl Place {
    /// The type of its value.
    pub fn ty(&self) -> Type {
        match self {
            Place::Local(_, ty) | Place::Element(_, ty, _) | Place::Memory(ty, _) => *ty,
            Place::Variable(variable) => variable.ty(),
            Place::Register(_) => Type::U64,
        }
    }
}

/// One label, or several, of a `switch`, and the statements behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// The values it is for, as quadwords; of the default, none.
    pub values: Vec<u64>,
    /// What runs. It goes on with the next case unless it leaves by [`Stmt::Break`].
    pub body: Vec<Stmt>,
}

/// What a snippet does.
#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// Could not be made.
    Invalid(TreeError),
    /// One after the other.
    Sequence(Vec<Stmt>),
    /// Evaluates, for what it does on the way.
    Evaluate(Expr),
    /// Gives a place a value of its type.
    Assign(Place, Expr),
    /// Adds to a variable, exactly under any number of threads.
    Add(Variable, Expr),
    /// The first if true, else the second.
    If(Expr, Vec<Stmt>, Vec<Stmt>),
    /// Runs `body`, then `step`, again and again, as long as `before` is true before and `after` behind it.
    Loop {
        /// Tested before each round.
        before: Option<Expr>,
        /// Each round.
        body: Vec<Stmt>,
        /// Behind each round, also one that [`Stmt::Continue`] left.
        step: Vec<Stmt>,
        /// Tested behind each round.
        after: Option<Expr>,
    },
    /// Goes to the case that has the value; without one, to the default.
    Switch(Expr, Vec<Case>),
    /// Leaves the innermost loop or switch.
    Break,
    /// Goes on with the next round of the innermost loop.
    Continue,
    /// Ends the run, with a value.
    Return(Option<Expr>),
    /// Changes the value of a map at a key.
    Update(Map, Vec<Expr>, Update),
    /// Takes a key out of a map.
    Delete(Map, Vec<Expr>),
    /// Appends a record to a ring; if it is full, counts one as lost.
    Emit(Ring, Record, Vec<Expr>),
    /// Sends the program SIGSTOP.
    Stop,
    /// Runs a trap for the debugger that is attached.
    Debugger,
}

impl Stmt {
    /// `place = value`.
    pub fn assign(place: Place, value: impl Into<Operand>) -> Stmt {
        if let Place::Variable(variable) = &place
            && variable.storage() == Storage::PerCpu
        {
            return Stmt::Invalid(TreeError::Storage(
                variable.name().to_owned(),
                "set, only added to: it is per CPU",
            ));
        }
        if let Place::Register(Register::Flags) = place {
            return Stmt::Invalid(TreeError::Storage("flags".to_owned(), "written"));
        }
        let ty = place.ty();
        let value = value.into().with(ty);
        let value = match (&place, ty, value.ty()) {
            (Place::Local(..), Type::Text(room), Type::Text(len)) if len <= room => value,
            _ => value.expect_type("what is assigned", ty),
        };
        Stmt::Assign(place, value)
    }

    /// `if (condition) { then }`.
    pub fn when(condition: Expr, then: impl IntoIterator<Item = Stmt>) -> Stmt {
        Stmt::either(condition, then, [])
    }

    /// `if (condition) { then } else { otherwise }`.
    pub fn either(
        condition: Expr,
        then: impl IntoIterator<Item = Stmt>,
        otherwise: impl IntoIterator<Item = Stmt>,
    ) -> Stmt {
        let condition = condition.expect_type("a condition", Type::Bool);
        Stmt::If(condition, then.into_iter().collect(), otherwise.into_iter().collect())
    }

    /// `while (condition) { body }`.
    pub fn repeat_while(condition: Expr, body: impl IntoIterator<Item = Stmt>) -> Stmt {
        let before = Some(condition.expect_type("a condition", Type::Bool));
        Stmt::Loop { before, body: body.into_iter().collect(), step: Vec::new(), after: None }
    }

    /// `return value`.
    pub fn give(value: Expr) -> Stmt {
        Stmt::Return(Some(value))
    }
}

//! Expressions.

use std::sync::Arc;

use incise_isa::Addr;
use incise_isa::native::Gpr;

use super::block::{Block, Variable};
use super::error::TreeError;
use super::operator::{AtomicOp, BinaryOp, UnaryOp};
use super::program::LocalId;
use super::stmt::Place;
use super::table::Map;
use super::types::{Constant, Type};

/// A typed expression. Clones share their nodes.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    ty: Type,
    node: Arc<Node>,
}

/// What an expression is.
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    /// Could not be made.
    Invalid(TreeError),
    /// A number.
    Constant(Constant),
    /// Bytes without a zero.
    Text(Arc<[u8]>),
    /// A local variable.
    Local(LocalId),
    /// An element of a local array. An index outside ends the run.
    Element(LocalId, Expr),
    /// A variable.
    Variable(Variable),
    /// A register of the program.
    Register(Register),
    /// The n-th integer argument at a function's entry, from 0; from the seventh on it lies on the stack.
    Argument(u8),
    /// The n-th float argument, of the first eight.
    FloatArgument(u8),
    /// What a function returns in its integer register, at its exit.
    Returned,
    /// What a function returns in its float register, at its exit.
    FloatReturned,
    /// About the point.
    Point(PointFact),
    /// About the thread and the machine.
    System(SystemFact),
    /// Memory of the program. Where nothing can be read the run ends.
    Load(Expr),
    /// Bytes of memory up to a zero, the length of the type, or, if there is one, so many (a `u64`).
    ReadText(Expr, Option<Expr>),
    /// The name of the thread.
    Command,
    /// Return addresses of the thread, found by a table as of [`walk`](crate::data::walk), or without one by frame pointers.
    Stack(Option<Block>),
    /// One operand.
    Unary(UnaryOp, Expr),
    /// Two operands of one type, a pointer and an integer, or a value and how far to shift it.
    Binary(BinaryOp, Expr, Expr),
    /// The second is evaluated only if the first is true.
    And(Expr, Expr),
    /// The second is evaluated only if the first is false.
    Or(Expr, Expr),
    /// The second if the first is true, else the third; only that one is evaluated.
    Choose(Expr, Expr, Expr),
    /// A conversion that keeps the value as well as the type allows.
    Cast(Expr),
    /// The same bits as another type of that size.
    Reinterpret(Expr),
    /// A call.
    Call(Callee, Arc<[Expr]>),
    /// Changes a place at once; the value before.
    Atomic(AtomicOp, Place, Expr),
    /// Stores the second value if the place holds the first; the value before.
    CompareExchange(Place, Expr, Expr),
    /// The plain value of a map at a key; 0 if there is none.
    MapValue(Map, Arc<[Expr]>),
    /// Whether a map has a key.
    MapHas(Map, Arc<[Expr]>),
}

/// A register of the program, as it is before the probed instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Register {
    /// All 64 bits of a general register.
    General(Gpr),
    /// The status flags, as bits of RFLAGS. Not to be written.
    Flags,
    /// The lowest 64 bits of a vector register, 0 to 15.
    Vector(u8),
}

/// A fact about the point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PointFact {
    /// The address of the memory operand of the probed instruction; 0 if it has none.
    EffectiveAddress,
    /// How many bytes it reads or writes there; 0 if none.
    BytesAccessed,
    /// The address of the probed instruction.
    OriginalAddress,
    /// Where the probed jump, call or return goes; 0 of others.
    Target,
}

/// A fact about the thread or the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SystemFact {
    /// The number of the thread in the kernel.
    Thread,
    /// The number of the process.
    Process,
    /// The number of the CPU.
    Cpu,
    /// The processor's time stamp counter.
    Cycles,
    /// CLOCK_MONOTONIC in nanoseconds.
    Nanoseconds,
}

/// What is called: a function with the system's calling convention at an address in the target. A host callback is one
/// in the own process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callee {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Where it is.
    pub at: Addr,
    /// What it returns; nothing is shown as `u64` that is not to be used.
    pub returns: Type,
    /// Takes a variable number of arguments (so `al` tells how many are floats).
    pub variadic: bool,
}

impl Expr {
    /// An expression of `ty`, whose node the caller vouches for.
    pub(crate) fn from_node(ty: Type, node: Node) -> Expr {
        Expr { ty, node: Arc::new(node) }
    }

    /// One that could not be made.
    pub(crate) fn invalid(error: TreeError) -> Expr {
        Expr::from_node(Type::U64, Node::Invalid(error))
    }

    /// Its type.
    pub fn ty(&self) -> Type {
        self.ty
    }

    /// What it is.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its value if it is a constant.
    pub fn as_constant(&self) -> Option<Constant> {
        match *self.node {
            Node::Constant(constant) => Some(constant),
            _ => None,
        }
    }

    /// Itself, unless it has another type.
    pub(crate) fn expect_type(self, what: &'static str, wanted: Type) -> Expr {
        if self.ty == wanted || matches!(*self.node, Node::Invalid(_)) {
            self
        } else {
            Expr::invalid(TreeError::Mismatch { what, wanted, found: self.ty })
        }
    }

    /// An operator with one operand.
    ///
    /// # Errors
    /// If it is not for such an operand.
    pub fn unary(op: UnaryOp, operand: Expr) -> Result<Expr, TreeError> {
        operand.check()?;
        if !op.takes(operand.ty) {
            return Err(TreeError::Operand { operator: op.name(), ty: operand.ty });
        }
        Ok(Expr::from_node(operand.ty, Node::Unary(op, operand)))
    }

    /// An operator with two operands.
    ///
    /// # Errors
    /// If it is not for such operands.
    pub fn binary(op: BinaryOp, left: Expr, right: Expr) -> Result<Expr, TreeError> {
        left.check()?;
        right.check()?;
        let Some(ty) = op.result(left.ty, right.ty) else {
            return Err(TreeError::Operands { operator: op.name(), left: left.ty, right: right.ty });
        };
        Ok(Expr::from_node(ty, Node::Binary(op, left, right)))
    }

    /// A conversion between scalar types. To bool: whether it is not zero.
    ///
    /// # Errors
    /// If either is no scalar.
    pub fn converted(self, to: Type) -> Result<Expr, TreeError> {
        self.check()?;
        if self.ty == to {
            return Ok(self);
        }
        if !self.ty.is_scalar() || !to.is_scalar() {
            return Err(TreeError::Cast { from: self.ty, to });
        }
        Ok(Expr::from_node(to, Node::Cast(self)))
    }

    /// The same bits as another type of the same size.
    ///
    /// # Errors
    /// If the sizes differ, or a bool is asked for.
    pub fn reinterpreted(self, to: Type) -> Result<Expr, TreeError> {
        self.check()?;
        if self.ty == to {
            return Ok(self);
        }
        if !self.ty.is_scalar() || !to.is_scalar() || self.ty.bits() != to.bits() {
            return Err(TreeError::Cast { from: self.ty, to });
        }
        Ok(Expr::from_node(to, Node::Reinterpret(self)))
    }

    /// The error of an expression that could not be made.
    ///
    /// # Errors
    /// That one.
    pub fn check(&self) -> Result<(), TreeError> {
        match &*self.node {
            Node::Invalid(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl From<Result<Expr, TreeError>> for Expr {
    fn from(result: Result<Expr, TreeError>) -> Expr {
        result.unwrap_or_else(Expr::invalid)
    }
}

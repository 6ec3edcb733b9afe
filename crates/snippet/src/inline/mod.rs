//! Short programs in line: code for one point, with the registers that are free there.
//!
//! What qualifies ([`Inline::of`]): `if`, sequences, additions of a constant to variables, global or per CPU; conditions from comparisons,
//! `&&`, `||`, `!`; integers and pointers made of constants, registers, arguments in registers, loads, `+ - & | ^ << >>`, casts;
//! at the end `return` of a condition, on which other code may depend ([`Inline::begin`]).
//! Everything else is [compiled](crate::compile) and called.
//!
//! Registers that the program does not need at the point are taken first; with those, and with flags that are not needed,
//! nothing has to be saved.

mod emit;
mod per_cpu;
mod value;

use incise_isa::native::{Gpr, GprSet, abi};

use crate::tree::{Block, Expr, Node, Program, Register, Stmt, Storage, Type};
pub use emit::{Begun, Emitted, Target, Unfit};

/// A program that can be put in line.
#[derive(Clone, Debug)]
pub struct Inline {
    program: Program,
    /// What it returns at its end.
    condition: Option<Expr>,
    reads: GprSet,
    /// The first counts faults.
    blocks: Vec<Block>,
}

/// Longer programs are called, so that trampolines stay small.
const NODES_MAX: usize = 40;

impl Inline {
    /// The program in line, if it is short and simple enough.
    pub fn of(program: &Program) -> Option<Inline> {
        let faults = Block::new(crate::tree::Fault::ALL.len() as u64 * 8, 8, Vec::new());
        let mut look = Look { reads: GprSet::EMPTY, blocks: vec![faults], nodes: 0 };
        if !program.locals().is_empty() || program.replaces().is_some() {
            return None;
        }
        let (body, condition) = parts(program.body());
        look.statements(body)?;
        condition.map(|condition| look.condition(condition)).unwrap_or(Some(()))?;
        (look.nodes <= NODES_MAX).then(|| Inline {
            program: program.clone(),
            condition: condition.cloned(),
            reads: look.reads,
            blocks: look.blocks,
        })
    }

    /// Whether it returns a condition.
    pub fn returns(&self) -> bool {
        self.condition.is_some()
    }

    /// The registers of the program in which it runs that it reads.
    pub fn reads(&self) -> GprSet {
        self.reads
    }

    /// The blocks it uses. The first counts faults: a quadword for each, by number.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// The statements of a program, and the condition that it returns at its end.
fn parts(body: &[Stmt]) -> (&[Stmt], Option<&Expr>) {
    match body.split_last() {
        Some((Stmt::Return(Some(value)), before)) if value.ty() == Type::Bool => (before, Some(value)),
        _ => (body, None),
    }
}

/// Looks whether a program qualifies.
struct Look {
    reads: GprSet,
    blocks: Vec<Block>,
    nodes: usize,
}

impl Look {
    fn statements(&mut self, body: &[Stmt]) -> Option<()> {
        body.iter().try_for_each(|stmt| self.statement(stmt))
    }

    fn statement(&mut self, stmt: &Stmt) -> Option<()> {
        self.nodes += 1;
        match stmt {
            Stmt::Sequence(body) => self.statements(body),
            Stmt::If(condition, then, otherwise) => {
                self.condition(condition)?;
                self.statements(then)?;
                self.statements(otherwise)
            }
            Stmt::Add(variable, value) => {
                let small = value.as_constant().is_some_and(|value| is_immediate(value.quadword()));
                if variable.storage() == Storage::PerThread || variable.ty().size() != 8 || !small {
                    return None;
                }
                self.block(variable.block());
                Some(())
            }
            _ => None,
        }
    }

    fn block(&mut self, block: &Block) {
        if !self.blocks.contains(block) {
            self.blocks.push(block.clone());
        }
    }

    fn condition(&mut self, expr: &Expr) -> Option<()> {
        self.nodes += 1;
        match expr.node() {
            Node::Constant(_) => Some(()),
            Node::And(a, b) | Node::Or(a, b) => {
                self.condition(a)?;
                self.condition(b)
            }
            Node::Unary(crate::tree::UnaryOp::LogicNot, a) => self.condition(a),
            Node::Binary(op, a, b) if op.is_comparison() && is_integer(a.ty()) => {
                self.value(a)?;
                self.value(b)
            }
            // Whether a number is not zero.
            Node::Cast(a) if is_integer(a.ty()) => self.value(a),
            _ => None,
        }
    }

    fn value(&mut self, expr: &Expr) -> Option<()> {
        use crate::tree::BinaryOp;
        self.nodes += 1;
        match expr.node() {
            Node::Constant(_) => Some(()),
            Node::Register(Register::General(gpr)) if *gpr != Gpr::Rsp => {
                self.reads.insert(*gpr);
                Some(())
            }
            Node::Argument(n) => {
                self.reads.insert(*abi::ARGUMENTS.get(usize::from(*n))?);
                Some(())
            }
            Node::Returned => {
                self.reads.insert(Gpr::Rax);
                Some(())
            }
            Node::Variable(variable) if variable.storage() == Storage::Global && is_integer(expr.ty()) => {
                self.block(variable.block());
                Some(())
            }
            Node::Load(address) if is_integer(expr.ty()) => self.value(address),
            Node::Cast(a) | Node::Reinterpret(a) if is_integer(a.ty()) && is_integer(expr.ty()) => {
                self.value(a)
            }
            Node::Binary(op, a, b) => {
                let simple = matches!(
                    op,
                    BinaryOp::Add
                        | BinaryOp::Subtract
                        | BinaryOp::BitAnd
                        | BinaryOp::BitOr
                        | BinaryOp::BitXor
                );
                let shift =
                    matches!(op, BinaryOp::ShiftLeft | BinaryOp::ShiftRight) && b.as_constant().is_some();
                if !(simple || shift) || !is_integer(expr.ty()) || !is_integer(b.ty()) {
                    return None;
                }
                self.value(a)?;
                self.value(b)
            }
            _ => None,
        }
    }
}

/// An integer or a pointer.
pub(crate) fn is_integer(ty: Type) -> bool {
    ty.is_integer() || ty == Type::Pointer
}

/// Whether instructions can hold the quadword: 32 bits that are sign-extended.
pub(crate) fn is_immediate(value: u64) -> bool {
    value as i32 as u64 == value
}

//! What a tree has to be, to be a program: types that fit, locals that were declared, nothing left that is not entered.

use super::error::TreeError;
use super::expr::{Expr, Node};
use super::program::{Local, LocalId};
use super::stmt::{Place, Stmt};
use super::table::Update;
use super::types::Type;

/// How deep a tree may be.
const DEPTH_MAX: u32 = 200;

/// What can be left where a statement stands.
#[derive(Clone, Copy, Default)]
struct Around {
    breakable: bool,
    continuable: bool,
}

/// Checks what uses these locals.
struct Check<'a> {
    locals: &'a [Local],
}

/// Whether statements are right, with these locals.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn statements(body: &[Stmt], locals: &[Local]) -> Result<(), TreeError> {
    Check { locals }.statements(body, Around::default(), 0)
}

impl Check<'_> {
    fn deeper(depth: u32) -> Result<u32, TreeError> {
        if depth >= DEPTH_MAX {
            let (value, most) = (u64::from(depth) + 1, u64::from(DEPTH_MAX));
            return Err(TreeError::Limit { what: "levels of a tree", value, most });
        }
        Ok(depth + 1)
    }

    fn statements(&self, body: &[Stmt], around: Around, depth: u32) -> Result<(), TreeError> {
        let depth = Check::deeper(depth)?;
        body.iter().try_for_each(|stmt| self.statement(stmt, around, depth))
    }

    fn statement(&self, stmt: &Stmt, around: Around, depth: u32) -> Result<(), TreeError> {
        match stmt {
            Stmt::Invalid(error) => Err(error.clone()),
            Stmt::Sequence(body) => self.statements(body, around, depth),
            Stmt::Evaluate(value) | Stmt::Add(_, value) => self.expr(value, depth),
            Stmt::Assign(place, value) => {
                self.place(place, depth)?;
                self.expr(value, depth)
            }
            Stmt::If(condition, then, otherwise) => {
                self.condition(condition, depth)?;
                self.statements(then, around, depth)?;
                self.statements(otherwise, around, depth)
            }
            Stmt::Loop { before, body, step, after } => {
                for condition in before.iter().chain(after) {
                    self.condition(condition, depth)?;
                }
                self.statements(body, Around { breakable: true, continuable: true }, depth)?;
                self.statements(step, Around::default(), depth)
            }
            Stmt::Switch(value, cases) => {
                self.expr(value, depth)?;
                if !value.ty().is_integer() {
                    return Err(TreeError::Operand { operator: "switch", ty: value.ty() });
                }
                let around = Around { breakable: true, ..around };
                cases.iter().try_for_each(|case| self.statements(&case.body, around, depth))
            }
            Stmt::Break if !around.breakable => Err(TreeError::Outside("break")),
            Stmt::Continue if !around.continuable => Err(TreeError::Outside("continue")),
            Stmt::Return(Some(value)) => {
                self.expr(value, depth)?;
                if value.ty().is_scalar() {
                    Ok(())
                } else {
                    Err(TreeError::Operand { operator: "return", ty: value.ty() })
                }
            }
            Stmt::Update(_, keys, update) => {
                keys.iter().try_for_each(|key| self.expr(key, depth))?;
                match update {
                    Update::Value(value) => self.expr(value, depth),
                    Update::One => Ok(()),
                }
            }
            Stmt::Delete(_, values) | Stmt::Emit(_, _, values) => {
                values.iter().try_for_each(|value| self.expr(value, depth))
            }
            Stmt::Break | Stmt::Continue | Stmt::Return(None) | Stmt::Stop | Stmt::Debugger => Ok(()),
        }
    }

    fn condition(&self, condition: &Expr, depth: u32) -> Result<(), TreeError> {
        self.expr(condition, depth)?;
        if condition.ty() == Type::Bool {
            return Ok(());
        }
        Err(TreeError::Mismatch { what: "a condition", wanted: Type::Bool, found: condition.ty() })
    }

    fn place(&self, place: &Place, depth: u32) -> Result<(), TreeError> {
        match place {
            Place::Local(id, ty) => self.local(*id, *ty, false),
            Place::Element(id, ty, index) => {
                self.local(*id, *ty, true)?;
                self.expr(index, depth)
            }
            Place::Memory(_, address) => self.expr(address, depth),
            Place::Variable(_) | Place::Register(_) => Ok(()),
        }
    }

    fn local(&self, id: LocalId, ty: Type, array: bool) -> Result<(), TreeError> {
        let declared = self.locals.get(id.0 as usize);
        // Of a text the first bytes can be taken alone.
        let fits =
            |have| have == ty || matches!((have, ty), (Type::Text(have), Type::Text(len)) if len <= have);
        if declared.is_some_and(|local| fits(local.ty) && local.len.is_some() == array) {
            return Ok(());
        }
        Err(TreeError::Local(id.0))
    }

    fn expr(&self, expr: &Expr, depth: u32) -> Result<(), TreeError> {
        let depth = Check::deeper(depth)?;
        let all = |exprs: &[Expr]| exprs.iter().try_for_each(|expr| self.expr(expr, depth));
        match expr.node() {
            Node::Invalid(error) => Err(error.clone()),
            Node::Local(id) => self.local(*id, expr.ty(), false),
            Node::Element(id, index) => {
                self.local(*id, expr.ty(), true)?;
                self.expr(index, depth)
            }
            Node::Constant(_)
            | Node::Text(_)
            | Node::Variable(_)
            | Node::Register(_)
            | Node::Argument(_)
            | Node::FloatArgument(_)
            | Node::Returned
            | Node::FloatReturned
            | Node::Point(_)
            | Node::System(_)
            | Node::Command
            | Node::Stack(_) => Ok(()),
            Node::Load(a) | Node::Unary(_, a) | Node::Cast(a) | Node::Reinterpret(a) => self.expr(a, depth),
            Node::ReadText(a, most) => {
                self.expr(a, depth)?;
                most.as_ref().map_or(Ok(()), |most| self.expr(most, depth))
            }
            Node::Binary(_, a, b) | Node::And(a, b) | Node::Or(a, b) => {
                self.expr(a, depth)?;
                self.expr(b, depth)
            }
            Node::Choose(a, b, c) => {
                self.expr(a, depth)?;
                self.expr(b, depth)?;
                self.expr(c, depth)
            }
            Node::Call(_, values) | Node::MapValue(_, values) | Node::MapHas(_, values) => all(values),
            Node::Atomic(_, place, value) => {
                self.place(place, depth)?;
                self.expr(value, depth)
            }
            Node::CompareExchange(place, expected, new) => {
                self.place(place, depth)?;
                self.expr(expected, depth)?;
                self.expr(new, depth)
            }
        }
    }
}

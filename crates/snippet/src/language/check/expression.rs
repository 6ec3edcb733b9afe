//! Expressions: what they are worth, and what they do on the way, from left to right.

use super::{Check, Checked, Value};
use crate::language::ast::{BinaryOp, Expr, ExprKind, UnaryOp};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};
use crate::tree::{self, Node, Stmt};

/// The least bytes of a text in a `$name` variable.
const SCRATCH_TEXT: u16 = 64;

impl Check<'_> {
    /// A condition.
    pub(super) fn condition(&mut self, expr: &Expr) -> Checked<tree::Expr> {
        if let ExprKind::Map { name, keys } = &expr.kind
            && let Some(has) = self.map_holds(name, keys)?
        {
            return Ok(has);
        }
        if let ExprKind::Assign { op: None, value, .. } = &expr.kind
            && matches!(value.kind, ExprKind::Int { .. } | ExprKind::Char(_) | ExprKind::Str(_))
        {
            let error = Diagnostic::error(expr.span, "this gives a value where a condition is expected");
            return Err(error.help("to compare, write `==`"));
        }
        let value = self.value(expr)?;
        self.truth(value, expr.span)
    }

    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &Expr) -> Checked<Value> {
        match &expr.kind {
            ExprKind::Int { value, unsigned, long } => Ok(literal(*value, *unsigned, *long)),
            ExprKind::Float { value, single: true } => {
                Ok(Value { ty: Type::Float, expr: tree::Constant::f32(*value as f32).into() })
            }
            ExprKind::Float { value, .. } => {
                Ok(Value { ty: Type::Double, expr: tree::Constant::f64(*value).into() })
            }
            ExprKind::Char(byte) => Ok(literal((*byte).into(), false, false)),
            ExprKind::Str(text) => self.text(text, expr.span),
            ExprKind::Positional(n) => self.positional(*n, expr.span),
            ExprKind::ArgumentCount => {
                let count = (1..).take_while(|n| self.scope.argument(*n).is_some()).count();
                Ok(literal(count as u64, false, true))
            }
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right, expr.span),
            ExprKind::Unary(UnaryOp::AddressOf, operand) => self.address_of(operand),
            ExprKind::Unary(UnaryOp::Not, operand) => {
                let holds = self.condition(operand)?;
                Ok(Value { ty: Type::Bool, expr: holds.is_false() })
            }
            ExprKind::Unary(op @ (UnaryOp::Negate | UnaryOp::Plus | UnaryOp::Complement), operand) => {
                let value = self.value(operand)?;
                let value = self.promoted(value, operand.span)?;
                let fits = value.ty.is_integral() || (value.ty.is_float() && *op != UnaryOp::Complement);
                if !fits {
                    let sign = match op {
                        UnaryOp::Negate => "-",
                        UnaryOp::Plus => "+",
                        _ => "~",
                    };
                    let message = format!("`{sign}` is not for {}", value.ty.described());
                    return self.error(operand.span, message);
                }
                let changed = match op {
                    UnaryOp::Negate => value.expr.neg(),
                    UnaryOp::Complement => value.expr.not(),
                    _ => value.expr,
                };
                Ok(Value { ty: value.ty, expr: self.sound(changed, expr.span)? })
            }
            ExprKind::Step { up, postfix, target } => self.step(*up, *postfix, target, expr.span),
            ExprKind::Assign { op, target, value } => self.assign(*op, target, value, expr.span),
            ExprKind::Conditional { condition, then, otherwise } => {
                self.choose(condition, then.as_deref(), otherwise, expr.span)
            }
            ExprKind::Comma(first, second) => {
                self.effect(first)?;
                self.value(second)
            }
            ExprKind::Cast(ty, operand) => {
                let ty = self.type_of(ty)?;
                let value = self.value(operand)?;
                if ty == Type::Void {
                    return Ok(Value { ty, expr: value.expr });
                }
                self.converted(value, &ty, expr.span)
            }
            ExprKind::SizeofType(ty) => {
                let ty = self.type_of(ty)?;
                let size = self.size_of(&ty, expr.span)?;
                Ok(literal(size, true, true))
            }
            ExprKind::Sizeof(operand) => {
                // Not evaluated.
                let (target, _) = self.apart(|check| check.target(operand));
                let ty = match (target, self.type_called(operand)) {
                    (Ok(target), _) => target.ty().clone(),
                    (Err(_), Some(ty)) => ty,
                    (Err(error), None) => return Err(error),
                };
                let size = self.size_of(&ty, operand.span)?;
                Ok(literal(size, true, true))
            }
            ExprKind::Call(callee, arguments) => self.call(callee, arguments, expr.span),
            ExprKind::Map { name, keys } => self.map_value(name, keys, expr.span),
            ExprKind::Name(_)
            | ExprKind::Scratch(_)
            | ExprKind::Index(..)
            | ExprKind::Member { .. }
            | ExprKind::Unary(UnaryOp::Deref, _) => {
                let target = self.target(expr)?;
                self.read(target, expr.span)
            }
        }
    }

    /// The type of the program that an expression would be the name of: `sizeof(node)`.
    fn type_called(&self, expr: &Expr) -> Option<Type> {
        match &expr.kind {
            ExprKind::Name(name) if name.domain.is_none() => self.scope.named_type(None, &name.path),
            _ => None,
        }
    }

    /// Evaluates for the effect.
    pub(super) fn effect(&mut self, expr: &Expr) -> Checked<()> {
        match &expr.kind {
            ExprKind::Step { up, target, .. } => self.step(*up, false, target, expr.span).map(|_| ()),
            // What was assigned is not read again.
            ExprKind::Assign { op, target, value } => self.assign(*op, target, value, expr.span).map(|_| ()),
            ExprKind::Comma(first, second) => {
                self.effect(first)?;
                self.effect(second)
            }
            _ => {
                let value = self.value(expr)?;
                if has_effect(&value.expr) {
                    self.out.push(Stmt::Evaluate(value.expr));
                }
                Ok(())
            }
        }
    }

    /// The value, kept in a local variable, so that what follows cannot change it.
    pub(super) fn kept(&mut self, value: Value) -> Value {
        let text = matches!(value.expr.ty(), tree::Type::Text(_));
        let fixed = matches!(value.expr.node(), Node::Constant(_) | Node::Text(_) | Node::Command);
        if fixed || !(value.expr.ty().is_scalar() || text) {
            return value;
        }
        let local = self.builder.local("", value.expr.ty());
        self.out.push(local.set(value.expr));
        Value { ty: value.ty, expr: local.get() }
    }

    fn choose(
        &mut self,
        condition: &Expr,
        then: Option<&Expr>,
        otherwise: &Expr,
        span: Span,
    ) -> Checked<Value> {
        // `a ?: b` has a's value, evaluated once.
        let first = match then {
            Some(_) => None,
            None => {
                let value = self.value(condition)?;
                Some(self.kept(value))
            }
        };
        let holds = match &first {
            Some(value) => self.truth(value.clone(), condition.span)?,
            None => self.condition(condition)?,
        };
        let (yes, mut yes_work) = self.apart(|check| match (then, first) {
            (Some(then), _) => check.value(then),
            (None, Some(value)) => Ok(value),
            (None, None) => check.error(span, "a value is missing"),
        });
        let (no, mut no_work) = self.apart(|check| check.value(otherwise));
        let (yes, no) = (yes?, no?);
        let ty = if yes.ty == no.ty {
            yes.ty.clone()
        } else if yes.ty.is_arithmetic() && no.ty.is_arithmetic() {
            Self::common(&yes.ty, &no.ty)
        } else if yes.ty.is_address() {
            yes.ty.clone()
        } else if let (Type::Text(a), Type::Text(b)) = (&yes.ty, &no.ty) {
            Type::Text(*a.max(b))
        } else {
            no.ty.clone()
        };
        if ty == Type::Void {
            self.out.push(Stmt::either(holds, yes_work, no_work));
            return Ok(literal(0, false, false));
        }
        let (yes, no) = (self.converted(yes, &ty, span)?, self.converted(no, &ty, span)?);
        if yes_work.is_empty() && no_work.is_empty() {
            return Ok(Value { ty, expr: self.sound(holds.choose(yes.expr, no.expr), span)? });
        }
        if let Type::Frames(_) = ty {
            return self.error(span, "a stack cannot be chosen here; use if and else");
        }
        let local = self.builder.local("", ty.lowered().unwrap_or(yes.expr.ty()));
        yes_work.push(local.set(yes.expr));
        no_work.push(local.set(no.expr));
        self.out.push(Stmt::either(holds, yes_work, no_work));
        Ok(Value { ty, expr: local.get() })
    }

    fn assign(&mut self, op: Option<BinaryOp>, target: &Expr, value: &Expr, span: Span) -> Checked<Value> {
        if let ExprKind::Map { name, keys } = &target.kind {
            return self.map_assign(name, keys, op, value, span);
        }
        if let (ExprKind::Scratch(name), None) = (&target.kind, op) {
            let value = self.value(value)?;
            let value = self.widened(value, span)?;
            return self.set_scratch(name, value, span);
        }
        let place = self.target(target)?;
        let place = self.steady(place);
        let (new, work) = self.apart(|check| check.value(value));
        let old = match op {
            Some(_) => {
                let old = self.read(place.clone(), target.span)?;
                Some(if work.is_empty() { old } else { self.kept(old) })
            }
            None => None,
        };
        self.out.extend(work);
        let new = match (op, old) {
            (Some(op), Some(old)) => self.operate(op, old, new?, span)?,
            _ => new?,
        };
        self.write(&place, new, target.span, span)
    }

    pub(super) fn set_scratch(&mut self, name: &str, value: Value, span: Span) -> Checked<Value> {
        let known = self.scratch.get(name).map(|(ty, _)| ty.clone());
        let value = match (value.ty, known) {
            // A later text may be longer than the first.
            (Type::Text(len), known) => {
                let room = match known {
                    Some(Type::Text(room)) => room,
                    _ => len.max(SCRATCH_TEXT),
                };
                Value { ty: Type::Text(room), expr: value.expr.cut(room) }
            }
            (ty, _) => Value { ty, expr: value.expr },
        };
        let text = matches!(value.ty, Type::Text(_));
        let Some(lowered) = value.ty.lowered().filter(|ty| text || ty.is_scalar()) else {
            let message = format!("{} cannot be kept in a variable", value.ty.described());
            let help = "use it where it is wanted: as a key, or an argument of printf";
            return Err(Diagnostic::error(span, message).help(help));
        };
        let (ty, local) = match self.scratch.get(name) {
            Some(known) => known.clone(),
            None => {
                let local = self.builder.local(&format!("${name}"), lowered);
                self.scratch.insert(name.to_owned(), (value.ty.clone(), local));
                (value.ty.clone(), local)
            }
        };
        let value = self.converted(value, &ty, span)?;
        self.out.push(local.set(value.expr));
        Ok(Value { ty, expr: local.get() })
    }

    fn step(&mut self, up: bool, postfix: bool, target: &Expr, span: Span) -> Checked<Value> {
        let op = if up { BinaryOp::Add } else { BinaryOp::Sub };
        if let ExprKind::Map { name, keys } = &target.kind {
            return self.map_step(name, keys, op, postfix, span);
        }
        let place = self.target(target)?;
        let place = self.steady(place);
        let mut old = self.read(place.clone(), target.span)?;
        if postfix {
            old = self.kept(old);
        }
        let new = self.operate(op, old.clone(), literal(1, false, false), span)?;
        let new = self.write(&place, new, target.span, span)?;
        Ok(if postfix { old } else { new })
    }

    /// The value of an expression that must be a known integer.
    pub(super) fn constant_integer(&mut self, expr: &Expr) -> Checked<i64> {
        let value = self.value(expr)?;
        fold(&value.expr).ok_or_else(|| {
            let error = Diagnostic::error(expr.span, "a constant is expected here");
            error.help("a number that is known before the program runs: 3, 1 << 4, sizeof(x)")
        })
    }
}

/// The value of an expression of constants.
pub(super) fn fold(expr: &tree::Expr) -> Option<i64> {
    let value = match expr.node() {
        Node::Constant(constant) => constant.quadword() as i64,
        Node::Cast(inner) => fold(inner)?,
        Node::Unary(tree::UnaryOp::Negate, inner) => fold(inner)?.wrapping_neg(),
        Node::Unary(tree::UnaryOp::Not, inner) => !fold(inner)?,
        Node::Binary(op, left, right) => {
            let (left, right) = (fold(left)?, fold(right)?);
            match op {
                tree::BinaryOp::Add => left.wrapping_add(right),
                tree::BinaryOp::Subtract => left.wrapping_sub(right),
                tree::BinaryOp::Multiply => left.wrapping_mul(right),
                tree::BinaryOp::ShiftLeft => left.wrapping_shl(right as u32),
                tree::BinaryOp::BitOr => left | right,
                tree::BinaryOp::BitAnd => left & right,
                tree::BinaryOp::Divide => left.checked_div(right)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    expr.ty().is_scalar().then(|| expr.ty().extend(value as u64) as i64)
}

/// A number with the type C gives it; a literal without a mark that is too large for `int` is a `long`.
pub(super) fn literal(value: u64, unsigned: bool, long: bool) -> Value {
    let ty = match (unsigned, long) {
        (false, false) if value <= i32::MAX as u64 => Type::INT,
        (false, _) if value <= i64::MAX as u64 => Type::LONG,
        (true, false) if value <= u64::from(u32::MAX) => Type::Int { bytes: 4, signed: false },
        _ => Type::UNSIGNED_LONG,
    };
    let lowered = ty.lowered().unwrap_or(tree::Type::U64);
    Value { ty, expr: tree::Constant::new(lowered, value).into() }
}

/// Whether evaluating does more than give a value. Loads do: they can end the run.
fn has_effect(expr: &tree::Expr) -> bool {
    match expr.node() {
        Node::Call(..)
        | Node::Atomic(..)
        | Node::CompareExchange(..)
        | Node::Load(_)
        | Node::ReadText(..) => true,
        Node::Unary(_, a) | Node::Cast(a) | Node::Reinterpret(a) | Node::Element(_, a) => has_effect(a),
        Node::Binary(_, a, b) | Node::And(a, b) | Node::Or(a, b) => has_effect(a) || has_effect(b),
        Node::Choose(a, b, c) => has_effect(a) || has_effect(b) || has_effect(c),
        Node::MapValue(_, keys) | Node::MapHas(_, keys) => keys.iter().any(has_effect),
        _ => false,
    }
}

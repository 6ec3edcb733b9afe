//! Operators of C on two values, pointers among them.

use super::{Check, Checked, Value};
use crate::language::ast::{BinaryOp, Expr, ExprKind};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};
use crate::tree::{self, Stmt};

impl Check<'_> {
    /// Two values; the left one is kept if the right one does something.
    fn both(&mut self, left: &Expr, right: &Expr) -> Checked<(Value, Value)> {
        let mut first = self.value(left)?;
        let (second, work) = self.apart(|check| check.value(right));
        if !work.is_empty() {
            first = self.kept(first);
            self.out.extend(work);
        }
        Ok((first, second?))
    }

    pub(super) fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr, span: Span) -> Checked<Value> {
        if matches!(op, BinaryOp::LogicalAnd | BinaryOp::LogicalOr) {
            let first = self.condition(left)?;
            let (second, mut work) = self.apart(|check| check.condition(right));
            let (second, and) = (second?, op == BinaryOp::LogicalAnd);
            if work.is_empty() {
                let expr = if and { first.and(second) } else { first.or(second) };
                return Ok(Value { ty: Type::Bool, expr: self.sound(expr, span)? });
            }
            let local = self.builder.local("", tree::Type::Bool);
            work.push(local.set(second));
            self.out.push(local.set(first));
            let goes_on = if and { local.get() } else { local.get().is_false() };
            self.out.push(Stmt::when(goes_on, work));
            return Ok(Value { ty: Type::Bool, expr: local.get() });
        }
        if op == BinaryOp::Match {
            return self.error(span, "`~` compares names with a pattern, which only filters of points do");
        }
        if matches!(op, BinaryOp::Div | BinaryOp::Rem) && matches!(right.kind, ExprKind::Int { value: 0, .. })
        {
            let error = Diagnostic::error(right.span, "this divides by zero");
            return Err(error.help("each run would end here"));
        }
        let (first, second) = self.both(left, right)?;
        self.operate(op, first, second, span)
    }

    /// An operator of C on two values.
    pub(super) fn operate(&mut self, op: BinaryOp, left: Value, right: Value, span: Span) -> Checked<Value> {
        use BinaryOp::{Add, Eq, Ge, Gt, Le, Lt, Ne, Shl, Shr, Sub};
        let comparison = matches!(op, Lt | Le | Gt | Ge | Eq | Ne);
        let wrong = || {
            let message =
                format!("`{}` is not for {} and {}", op.symbol(), left.ty.described(), right.ty.described());
            let error = Diagnostic::error(span, message);
            Err(match (&left.ty, &right.ty) {
                (Type::Text(_), Type::Text(_)) => {
                    error.help("texts are compared by == and !=, their beginnings by strncmp(a, b, bytes)")
                }
                (Type::Text(_), Type::Pointer(_)) | (Type::Pointer(_), Type::Text(_)) => {
                    error.help("the text a pointer points to is str(p)")
                }
                (Type::Text(_), _) | (_, Type::Text(_)) => {
                    error.help("a text is compared with a text: comm == \"sh\"")
                }
                (a, b) if a.is_float() || b.is_float() => error.help("convert it: (long)x"),
                _ => error.help("of a function the name is its address; call it: inf`name()"),
            })
        };
        if let (Type::Text(_), Type::Text(_)) = (&left.ty, &right.ty) {
            if !matches!(op, Eq | Ne) {
                return wrong();
            }
            return self.finish(op, Type::Bool, left.expr, right.expr, span);
        }
        if left.ty.is_address() || right.ty.is_address() {
            let integral = |value: &Value| value.ty.is_integral() || value.ty.is_address();
            if comparison && integral(&left) && integral(&right) {
                let (a, b) = (left.expr.cast(tree::Type::Pointer), right.expr.cast(tree::Type::Pointer));
                return self.finish(op, Type::Bool, a, b, span);
            }
            return match (op, left.ty.is_address(), right.ty.is_address()) {
                (Add, true, false) if right.ty.is_integral() => self.moved(left, right, false, span),
                (Add, false, true) if left.ty.is_integral() => self.moved(right, left, false, span),
                (Sub, true, false) if right.ty.is_integral() => self.moved(left, right, true, span),
                (Sub, true, true) => {
                    let size = self.pointee_size(&left.ty, span)?.max(1);
                    let bytes = left.expr.sub(right.expr);
                    let expr = if size == 1 { bytes } else { bytes.div(size) };
                    Ok(Value { ty: Type::LONG, expr: self.sound(expr, span)? })
                }
                _ => wrong(),
            };
        }
        let fits = left.ty.is_arithmetic() && right.ty.is_arithmetic();
        let only_integers =
            matches!(op, Shl | Shr | BinaryOp::Rem | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
        if !fits || (only_integers && (left.ty.is_float() || right.ty.is_float())) {
            return wrong();
        }
        if matches!(op, Shl | Shr) {
            let (left, right) = (self.promoted(left, span)?, self.promoted(right, span)?);
            return self.finish(op, left.ty, left.expr, right.expr, span);
        }
        let common = Self::common(&left.ty, &right.ty);
        let (left, right) = (self.converted(left, &common, span)?, self.converted(right, &common, span)?);
        self.finish(op, if comparison { Type::Bool } else { common }, left.expr, right.expr, span)
    }

    fn finish(
        &self,
        op: BinaryOp,
        ty: Type,
        left: tree::Expr,
        right: tree::Expr,
        span: Span,
    ) -> Checked<Value> {
        let expr = match op {
            BinaryOp::Mul => left.mul(right),
            BinaryOp::Div => left.div(right),
            BinaryOp::Rem => left.rem(right),
            BinaryOp::Add => left.add(right),
            BinaryOp::Sub => left.sub(right),
            BinaryOp::Shl => left.shl(right),
            BinaryOp::Shr => left.shr(right),
            BinaryOp::Lt => left.lt(right),
            BinaryOp::Le => left.le(right),
            BinaryOp::Gt => left.gt(right),
            BinaryOp::Ge => left.ge(right),
            BinaryOp::Eq => left.eq(right),
            BinaryOp::Ne => left.ne(right),
            BinaryOp::And => left.bitand(right),
            BinaryOp::Xor => left.bitxor(right),
            BinaryOp::Or => left.bitor(right),
            BinaryOp::LogicalAnd => left.and(right),
            BinaryOp::LogicalOr | BinaryOp::Match => left.or(right),
        };
        Ok(Value { ty, expr: self.sound(expr, span)? })
    }

    fn pointee_size(&self, pointer: &Type, span: Span) -> Checked<u64> {
        match pointer {
            Type::Pointer(to) => self.size_of(to, span),
            _ => Ok(1),
        }
    }

    /// A pointer moved by so many elements.
    pub(super) fn moved(&mut self, pointer: Value, by: Value, back: bool, span: Span) -> Checked<Value> {
        let size = self.pointee_size(&pointer.ty, span)?;
        let count = by.expr.cast(tree::Type::I64);
        let bytes = if size == 1 { count } else { count.mul(size) };
        let expr = if back { pointer.expr.sub(bytes) } else { pointer.expr.add(bytes) };
        Ok(Value { ty: pointer.ty, expr: self.sound(expr, span)? })
    }
}

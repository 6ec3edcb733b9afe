//! Conversions of C.

use super::{Check, Checked, Value};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};
use crate::tree;

impl Check<'_> {
    /// `value` as a condition: whether it is not zero.
    pub(super) fn truth(&self, value: Value, span: Span) -> Checked<tree::Expr> {
        match value.ty {
            Type::Bool => Ok(value.expr),
            Type::Int { .. } | Type::Float | Type::Double | Type::Pointer(_) | Type::Symbol => {
                self.sound(value.expr.cast(tree::Type::Bool), span)
            }
            ty @ Type::Text(_) => {
                let error = Diagnostic::error(span, format!("{} is no condition", ty.described()));
                Err(error.help("compare it: comm == \"sh\", str(p) != \"\""))
            }
            ty => self.error(span, format!("{} is no condition", ty.described())),
        }
    }

    /// `value` converted to `ty`, as an assignment does.
    pub(super) fn converted(&self, value: Value, ty: &Type, span: Span) -> Checked<Value> {
        let same = value.ty == *ty;
        let fits = match (&value.ty, ty) {
            (from, to) if from.is_arithmetic() && to.is_arithmetic() => true,
            (from, to) if from.is_integral() && to.is_address() => true,
            (from, to) if from.is_address() && (to.is_address() || to.is_integral()) => true,
            (Type::Text(len), Type::Text(room)) => len <= room,
            (Type::Frames(len), Type::Frames(room)) => len == room,
            _ => same,
        };
        let Some(lowered) = ty.lowered().filter(|_| fits) else {
            let message = format!("{} cannot become {}", value.ty.described(), ty.described());
            let error = Diagnostic::error(span, message).label(format!("this is {}", value.ty.described()));
            return Err(match (&value.ty, ty) {
                (Type::Text(_), _) => {
                    error.help("a text is a key, a field of printf, or compared by == and !=")
                }
                (_, Type::Text(_)) => error.help("the text a pointer points to is str(p)"),
                (Type::Pointer(_), to) if to.is_float() => error.help("what it points to is *p"),
                _ => error,
            });
        };
        let expr = if lowered.is_scalar() { value.expr.cast(lowered) } else { value.expr };
        Ok(Value { ty: ty.clone(), expr: self.sound(expr, span)? })
    }

    /// Small integers become `int`, as in any arithmetic.
    pub(super) fn promoted(&self, value: Value, span: Span) -> Checked<Value> {
        match value.ty {
            Type::Bool | Type::Int { bytes: 1 | 2, .. } => self.converted(value, &Type::INT, span),
            _ => Ok(value),
        }
    }

    /// The type two arithmetic values have together.
    pub(super) fn common(left: &Type, right: &Type) -> Type {
        match (left, right) {
            (Type::Double, _) | (_, Type::Double) => Type::Double,
            (Type::Float, _) | (_, Type::Float) => Type::Float,
            (&Type::Int { bytes: a, signed: s }, &Type::Int { bytes: b, signed: t }) => {
                let bytes = a.max(b).max(4);
                // Of equal rank, the unsigned one wins; a wider one holds all of a narrower one.
                let unsigned = (a == bytes && !s) || (b == bytes && !t);
                Type::Int { bytes, signed: !unsigned }
            }
            _ => Type::INT,
        }
    }

    /// An integer widened to 8 bytes, for keys, fields and `$name` variables.
    pub(super) fn widened(&self, value: Value, span: Span) -> Checked<Value> {
        match value.ty {
            Type::Int { signed: false, .. } => self.converted(value, &Type::UNSIGNED_LONG, span),
            Type::Int { .. } | Type::Bool => self.converted(value, &Type::LONG, span),
            Type::Float => self.converted(value, &Type::Double, span),
            _ => Ok(value),
        }
    }
}

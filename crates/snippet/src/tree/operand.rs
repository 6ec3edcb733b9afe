//! What operators combine with.

use super::error::TreeError;
use super::expr::Expr;
use super::types::{Constant, Type};

/// What an operator combines with: an expression, or a number that takes the type of the other side.
#[derive(Clone, Debug)]
pub enum Operand {
    /// An expression.
    Expr(Expr),
    /// A number.
    Literal(i128),
    /// A number with a fraction.
    Float(f64),
}

impl Operand {
    /// As an expression; a number becomes one of `ty`.
    pub(crate) fn with(self, ty: Type) -> Expr {
        match self {
            Operand::Expr(expr) => expr,
            Operand::Literal(value) => match Constant::integer(ty, value) {
                Some(constant) => constant.into(),
                None => Expr::invalid(TreeError::Literal { value, ty }),
            },
            Operand::Float(value) if ty == Type::F32 => Constant::f32(value as f32).into(),
            Operand::Float(value) => Constant::f64(value).into(),
        }
    }
}

impl From<Expr> for Operand {
    fn from(expr: Expr) -> Operand {
        Operand::Expr(expr)
    }
}

impl From<f64> for Operand {
    fn from(value: f64) -> Operand {
        Operand::Float(value)
    }
}

macro_rules! literals {
    ($($ty:ty),*) => {$(
        impl From<$ty> for Operand {
            fn from(value: $ty) -> Operand {
                Operand::Literal(value as i128)
            }
        }
    )*};
}

literals!(i32, i64, u32, u64, usize, bool);

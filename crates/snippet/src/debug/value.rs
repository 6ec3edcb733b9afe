//! Values of DWARF as expressions.

use incise_image::dwarf::{BinaryOp, UnaryOp, Value};
use incise_isa::native::Gpr;

use super::Debug;
use crate::tree::{Constant, Expr, Register, Type, register as read};

/// A register by its DWARF number (System V ABI, figure 3.36).
pub(super) fn register(number: u8) -> Option<Register> {
    use Gpr::{R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi, Rsp};
    const GENERAL: [Gpr; 16] = [Rax, Rdx, Rcx, Rbx, Rsi, Rdi, Rbp, Rsp, R8, R9, R10, R11, R12, R13, R14, R15];
    match number {
        0..=15 => Some(Register::General(GENERAL[usize::from(number)])),
        17..=32 => Some(Register::Vector(number - 17)),
        _ => None,
    }
}

fn number(value: u64) -> Expr {
    Constant::new(Type::U64, value).into()
}

/// At most eight bytes, the first the lowest.
pub(super) fn constant_of(bytes: &[u8]) -> Expr {
    let mut quadword = [0; 8];
    let len = bytes.len().min(8);
    quadword[..len].copy_from_slice(&bytes[..len]);
    number(u64::from_le_bytes(quadword))
}

/// So many bytes of memory, at most eight, without touching those behind.
pub(super) fn bytes_at(address: Expr, len: u64) -> Option<Expr> {
    let load = |at: u64, ty: Type| address.clone().add(at).load(ty).cast(Type::U64);
    let mut value: Option<Expr> = None;
    let mut at = 0;
    for (bytes, ty) in [(8, Type::U64), (4, Type::U32), (2, Type::U16), (1, Type::U8)] {
        if len - at >= bytes {
            let part = load(at, ty);
            value = Some(match value {
                None => part,
                Some(low) => low.bitor(part.shl(at * 8)),
            });
            at += bytes;
        }
    }
    value
}

impl Debug<'_> {
    /// A value as a `u64`.
    pub(super) fn expression(&self, value: &Value) -> Expr {
        match value {
            Value::Constant(value) => number(*value),
            Value::Address(at) => number(at.0.wrapping_add(self.bias)),
            Value::Register(n) => register(*n).map_or_else(|| number(0), read),
            Value::Load(address, bytes) => {
                let ty = match bytes {
                    1 => Type::U8,
                    2 => Type::U16,
                    4 => Type::U32,
                    _ => Type::U64,
                };
                self.expression(address).load(ty).cast(Type::U64)
            }
            Value::Unary(op, operand) => {
                let operand = self.expression(operand);
                match op {
                    UnaryOp::Absolute => operand.cast(Type::I64).abs().cast(Type::U64),
                    UnaryOp::Negate => operand.neg(),
                    UnaryOp::Not => operand.not(),
                }
            }
            Value::Binary(op, left, right) => binary(*op, self.expression(left), self.expression(right)),
            Value::Extend(value, bytes, signed) => {
                let ty = match (bytes, signed) {
                    (1, true) => Type::I8,
                    (2, true) => Type::I16,
                    (4, true) => Type::I32,
                    (1, false) => Type::U8,
                    (2, false) => Type::U16,
                    (4, false) => Type::U32,
                    _ => Type::U64,
                };
                self.expression(value).cast(ty).cast(Type::U64)
            }
        }
    }
}

fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    let signed = |expr: Expr| expr.cast(Type::I64);
    let compared = |expr: Expr| expr.cast(Type::U64);
    match op {
        BinaryOp::And => left.bitand(right),
        BinaryOp::Div => signed(left).div(signed(right)).cast(Type::U64),
        BinaryOp::Minus => left.sub(right),
        BinaryOp::Mod => left.rem(right),
        BinaryOp::Mul => left.mul(right),
        BinaryOp::Or => left.bitor(right),
        BinaryOp::Plus => left.add(right),
        BinaryOp::Shl => left.shl(right),
        BinaryOp::Shr => left.shr(right),
        BinaryOp::Shra => signed(left).shr(right).cast(Type::U64),
        BinaryOp::Xor => left.bitxor(right),
        BinaryOp::Eq => compared(left.eq(right)),
        BinaryOp::Ge => compared(signed(left).ge(signed(right))),
        BinaryOp::Gt => compared(signed(left).gt(signed(right))),
        BinaryOp::Le => compared(signed(left).le(signed(right))),
        BinaryOp::Lt => compared(signed(left).lt(signed(right))),
        BinaryOp::Ne => compared(left.ne(right)),
    }
}

//! Values that are known when the program is at a place.

use std::sync::Arc;

use gimli::{Encoding, Expression, Operation};

use super::Slice;
use crate::LinkAddr;

/// A value that is known when the program is at the place. Arithmetic wraps at 64 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number.
    Constant(u64),
    /// The run-time address of a link address.
    Address(LinkAddr),
    /// A general register by its DWARF number, 0 to 15 (System V ABI, figure 3.36).
    Register(u8),
    /// So many bytes of memory at an address, zero-extended.
    Load(Arc<Value>, u8),
    /// One operand.
    Unary(UnaryOp, Arc<Value>),
    /// Two operands.
    Binary(BinaryOp, Arc<Value>, Arc<Value>),
    /// The lowest so many bytes, extended to 64 bits, by their sign if so.
    Extend(Arc<Value>, u8, bool),
}

/// An operator with one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnaryOp {
    /// The amount of a signed number.
    Absolute,
    /// The negative.
    Negate,
    /// All bits inverted.
    Not,
}

/// An operator with two operands. Comparisons are signed and give 1 or 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the operators of DWARF by their names")]
pub enum BinaryOp {
    And,
    /// Signed.
    Div,
    Minus,
    /// Unsigned.
    Mod,
    Mul,
    Or,
    Plus,
    Shl,
    /// Unsigned.
    Shr,
    /// Signed.
    Shra,
    Xor,
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
    Ne,
}

/// The value of an expression of unwind information, which begins with an empty stack.
pub(crate) fn unwind_value(expression: Expression<Slice<'_>>, encoding: Encoding) -> Option<Value> {
    let mut stack: Vec<Value> = Vec::new();
    let mut operations = expression.operations(encoding);
    for _ in 0..64 {
        let Ok(Some(operation)) = operations.next() else { break };
        let plus = |value: Value, by: i64| {
            Value::Binary(BinaryOp::Plus, value.into(), Value::Constant(by as u64).into())
        };
        match operation {
            Operation::RegisterOffset { register, offset, .. } if register.0 < 16 => {
                stack.push(plus(Value::Register(register.0 as u8), offset));
            }
            Operation::UnsignedConstant { value } => stack.push(Value::Constant(value)),
            Operation::SignedConstant { value } => stack.push(Value::Constant(value as u64)),
            Operation::Deref { size: 8, space: false, .. } => {
                let address = stack.pop()?;
                stack.push(Value::Load(address.into(), 8));
            }
            Operation::PlusConstant { value } => {
                let operand = stack.pop()?;
                stack.push(plus(operand, value as i64));
            }
            Operation::Plus => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                stack.push(Value::Binary(BinaryOp::Plus, left.into(), right.into()));
            }
            // Anything else is that of linkage stubs and handlers, which have no variables.
            _ => return None,
        }
    }
    stack.pop()
}

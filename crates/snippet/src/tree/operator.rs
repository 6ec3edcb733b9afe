//! Operators: their names, and the types they are for.

use super::types::Type;

/// An operator with one operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnaryOp {
    /// The negative, wrapping.
    Negate,
    /// All bits inverted.
    Not,
    /// True if false.
    LogicNot,
    /// How many bits are set.
    CountOnes,
    /// How many bits before the highest that is set; the width for 0.
    LeadingZeros,
    /// How many bits behind the lowest that is set; the width for 0.
    TrailingZeros,
    /// Bytes in reverse order.
    SwapBytes,
    /// The amount without the sign; the least integer is its own.
    Absolute,
    /// The square root of a float.
    SquareRoot,
}

impl UnaryOp {
    /// All of them.
    pub const ALL: [UnaryOp; 9] = [
        UnaryOp::Negate,
        UnaryOp::Not,
        UnaryOp::LogicNot,
        UnaryOp::CountOnes,
        UnaryOp::LeadingZeros,
        UnaryOp::TrailingZeros,
        UnaryOp::SwapBytes,
        UnaryOp::Absolute,
        UnaryOp::SquareRoot,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            UnaryOp::Negate => "-",
            UnaryOp::Not => "~",
            UnaryOp::LogicNot => "!",
            UnaryOp::CountOnes => "popcount",
            UnaryOp::LeadingZeros => "clz",
            UnaryOp::TrailingZeros => "ctz",
            UnaryOp::SwapBytes => "bswap",
            UnaryOp::Absolute => "abs",
            UnaryOp::SquareRoot => "sqrt",
        }
    }

    /// Whether it is for a type. The result has the same.
    pub const fn takes(self, ty: Type) -> bool {
        match self {
            UnaryOp::Negate => ty.is_integer() || ty.is_float(),
            UnaryOp::Not | UnaryOp::CountOnes | UnaryOp::LeadingZeros | UnaryOp::TrailingZeros => {
                ty.is_integer()
            }
            UnaryOp::SwapBytes => ty.is_integer() && ty.size() > 1,
            UnaryOp::LogicNot => matches!(ty, Type::Bool),
            UnaryOp::Absolute => ty.is_signed() || ty.is_float(),
            UnaryOp::SquareRoot => ty.is_float(),
        }
    }
}

/// An operator with two operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    /// Towards zero. By an integer zero the run ends.
    Divide,
    /// Has the sign of the dividend. By zero the run ends. Not of floats.
    Remainder,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    /// Keeps the sign of a signed value.
    ShiftRight,
    RotateLeft,
    RotateRight,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Minimum,
    Maximum,
}

impl BinaryOp {
    /// All of them.
    pub const ALL: [BinaryOp; 20] = [
        BinaryOp::Add,
        BinaryOp::Subtract,
        BinaryOp::Multiply,
        BinaryOp::Divide,
        BinaryOp::Remainder,
        BinaryOp::BitAnd,
        BinaryOp::BitOr,
        BinaryOp::BitXor,
        BinaryOp::ShiftLeft,
        BinaryOp::ShiftRight,
        BinaryOp::RotateLeft,
        BinaryOp::RotateRight,
        BinaryOp::Equal,
        BinaryOp::NotEqual,
        BinaryOp::Less,
        BinaryOp::LessEqual,
        BinaryOp::Greater,
        BinaryOp::GreaterEqual,
        BinaryOp::Minimum,
        BinaryOp::Maximum,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Remainder => "%",
            BinaryOp::BitAnd => "&",
            BinaryOp::BitOr => "|",
            BinaryOp::BitXor => "^",
            BinaryOp::ShiftLeft => "<<",
            BinaryOp::ShiftRight => ">>",
            BinaryOp::RotateLeft => "rotl",
            BinaryOp::RotateRight => "rotr",
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterEqual => ">=",
            BinaryOp::Minimum => "min",
            BinaryOp::Maximum => "max",
        }
    }

    /// Compares, so that the result is a bool.
    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            BinaryOp::Equal
                | BinaryOp::NotEqual
                | BinaryOp::Less
                | BinaryOp::LessEqual
                | BinaryOp::Greater
                | BinaryOp::GreaterEqual
        )
    }

    /// Shifts or rotates, so that the right operand may be any integer.
    pub const fn is_shift(self) -> bool {
        matches!(
            self,
            BinaryOp::ShiftLeft | BinaryOp::ShiftRight | BinaryOp::RotateLeft | BinaryOp::RotateRight
        )
    }

    /// The type of the result, if the operator is for such operands.
    pub fn result(self, left: Type, right: Type) -> Option<Type> {
        use BinaryOp::*;
        match self {
            Equal | NotEqual if matches!((left, right), (Type::Text(_), Type::Text(_))) => Some(Type::Bool),
            Equal | NotEqual => (left == right && left.is_scalar()).then_some(Type::Bool),
            Less | LessEqual | Greater | GreaterEqual => {
                (left == right && left.is_scalar() && left != Type::Bool).then_some(Type::Bool)
            }
            ShiftLeft | ShiftRight | RotateLeft | RotateRight => {
                (left.is_integer() && right.is_integer()).then_some(left)
            }
            Add | Subtract if left == Type::Pointer && matches!(right, Type::I64 | Type::U64) => Some(left),
            Subtract if left == Type::Pointer && right == left => Some(Type::I64),
            Add | Subtract | Multiply | Divide | Minimum | Maximum => {
                (left == right && (left.is_integer() || left.is_float())).then_some(left)
            }
            Remainder => (left == right && left.is_integer()).then_some(left),
            BitAnd | BitOr | BitXor => {
                (left == right && (left.is_integer() || left == Type::Bool)).then_some(left)
            }
        }
    }
}

/// How [`Node::Atomic`](super::Node::Atomic) changes a place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtomicOp {
    Add,
    Subtract,
    And,
    Or,
    Xor,
    Exchange,
    Minimum,
    Maximum,
}

impl AtomicOp {
    /// All of them.
    pub const ALL: [AtomicOp; 8] = [
        AtomicOp::Add,
        AtomicOp::Subtract,
        AtomicOp::And,
        AtomicOp::Or,
        AtomicOp::Xor,
        AtomicOp::Exchange,
        AtomicOp::Minimum,
        AtomicOp::Maximum,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            AtomicOp::Add => "atomic_add",
            AtomicOp::Subtract => "atomic_sub",
            AtomicOp::And => "atomic_and",
            AtomicOp::Or => "atomic_or",
            AtomicOp::Xor => "atomic_xor",
            AtomicOp::Exchange => "atomic_exchange",
            AtomicOp::Minimum => "atomic_min",
            AtomicOp::Maximum => "atomic_max",
        }
    }
}

//! The words trees are built with.

use std::sync::Arc;

use super::block::{Block, Variable};
use super::error::TreeError;
use super::expr::{Callee, Expr, Node, PointFact, Register, SystemFact};
use super::operand::Operand;
use super::operator::{AtomicOp, BinaryOp, UnaryOp};
use super::stmt::Place;
use super::types::{Constant, Type};

impl From<Constant> for Expr {
    fn from(constant: Constant) -> Expr {
        Expr::from_node(constant.ty, Node::Constant(constant))
    }
}

impl From<bool> for Expr {
    fn from(value: bool) -> Expr {
        Constant::new(Type::Bool, value.into()).into()
    }
}

/// The number `value` as one of `ty`.
pub fn constant(ty: Type, value: impl Into<Operand>) -> Expr {
    value.into().with(ty).expect_type("a constant", ty)
}

/// The n-th integer argument, from 0, at the entry of a function.
pub fn arg(n: u8) -> Expr {
    Expr::from_node(Type::U64, Node::Argument(n))
}

/// The n-th float argument, from 0 to 7, at the entry of a function.
pub fn float_arg(n: u8) -> Expr {
    if n > 7 {
        return Expr::invalid(TreeError::Limit { what: "float arguments", value: n.into(), most: 7 });
    }
    Expr::from_node(Type::F64, Node::FloatArgument(n))
}

/// What a function returns, at its exit.
pub fn retval() -> Expr {
    Expr::from_node(Type::U64, Node::Returned)
}

/// What a function returns in its float register, at its exit: [`Type::F32`] or [`Type::F64`].
pub fn float_retval(ty: Type) -> Expr {
    match ty {
        Type::F32 | Type::F64 => Expr::from_node(ty, Node::FloatReturned),
        _ => Expr::invalid(TreeError::Operand { operator: "fretval", ty }),
    }
}

/// A register of the program.
pub fn register(register: Register) -> Expr {
    if let Register::Vector(n @ 16..) = register {
        return Expr::invalid(TreeError::Limit { what: "vector registers", value: n.into(), most: 15 });
    }
    Expr::from_node(Type::U64, Node::Register(register))
}

/// A fact about the point.
pub fn point(fact: PointFact) -> Expr {
    let ty = match fact {
        PointFact::BytesAccessed => Type::U64,
        _ => Type::Pointer,
    };
    Expr::from_node(ty, Node::Point(fact))
}

fn system(fact: SystemFact, ty: Type) -> Expr {
    Expr::from_node(ty, Node::System(fact))
}

/// The number of the thread.
pub fn tid() -> Expr {
    system(SystemFact::Thread, Type::U32)
}

/// The number of the process.
pub fn pid() -> Expr {
    system(SystemFact::Process, Type::U32)
}

/// The number of the CPU the thread is on.
pub fn cpu() -> Expr {
    system(SystemFact::Cpu, Type::U32)
}

/// The processor's time stamp counter.
pub fn cycles() -> Expr {
    system(SystemFact::Cycles, Type::U64)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn nanoseconds() -> Expr {
    system(SystemFact::Nanoseconds, Type::U64)
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(self, right: impl Into<Operand>) -> Expr {
            let right = right.into();
            let ty = match self.ty() {
                Type::Pointer if matches!(right, Operand::Literal(_)) && !BinaryOp::$op.is_comparison() => Type::I64,
                ty => ty,
            };
            let right = right.with(ty);
            Expr::binary(BinaryOp::$op, self, right).into()
        }
    )*};
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(self) -> Expr {
            Expr::unary(UnaryOp::$op, self).into()
        }
    )*};
}

#[allow(
    clippy::should_implement_trait,
    reason = "these build an expression, and take more than the traits do"
)]
impl Expr {
    binary! {
        /// `self + right`.
        add = Add;
        /// `self - right`.
        sub = Subtract;
        /// `self * right`.
        mul = Multiply;
        /// `self / right`.
        div = Divide;
        /// `self % right`.
        rem = Remainder;
        /// `self & right`.
        bitand = BitAnd;
        /// `self | right`.
        bitor = BitOr;
        /// `self ^ right`.
        bitxor = BitXor;
        /// `self << right`.
        shl = ShiftLeft;
        /// `self >> right`.
        shr = ShiftRight;
        /// Rotated left.
        rotl = RotateLeft;
        /// Rotated right.
        rotr = RotateRight;
        /// `self == right`.
        eq = Equal;
        /// `self != right`.
        ne = NotEqual;
        /// `self < right`.
        lt = Less;
        /// `self <= right`.
        le = LessEqual;
        /// `self > right`.
        gt = Greater;
        /// `self >= right`.
        ge = GreaterEqual;
        /// The less of both.
        min = Minimum;
        /// The greater of both.
        max = Maximum;
    }

    unary! {
        /// `-self`.
        neg = Negate;
        /// `~self`.
        not = Not;
        /// `!self`.
        is_false = LogicNot;
        /// How many bits are set.
        count_ones = CountOnes;
        /// How many bits before the highest that is set.
        leading_zeros = LeadingZeros;
        /// How many bits behind the lowest that is set.
        trailing_zeros = TrailingZeros;
        /// Bytes in reverse order.
        swap_bytes = SwapBytes;
        /// Without the sign.
        abs = Absolute;
        /// The square root.
        sqrt = SquareRoot;
    }

    /// `self && right`.
    pub fn and(self, right: Expr) -> Expr {
        self.logic(right, Node::And)
    }

    /// `self || right`.
    pub fn or(self, right: Expr) -> Expr {
        self.logic(right, Node::Or)
    }

    fn logic(self, right: Expr, node: fn(Expr, Expr) -> Node) -> Expr {
        let left = self.expect_type("a condition", Type::Bool);
        let right = right.expect_type("a condition", Type::Bool);
        match left.check().and(right.check()) {
            Ok(()) => Expr::from_node(Type::Bool, node(left, right)),
            Err(error) => Expr::invalid(error),
        }
    }

    /// `self ? yes : no`.
    pub fn choose(self, yes: Expr, no: impl Into<Operand>) -> Expr {
        let condition = self.expect_type("a condition", Type::Bool);
        let no = no.into().with(yes.ty());
        let ty = match (yes.ty(), no.ty()) {
            (Type::Text(a), Type::Text(b)) => Type::Text(a.max(b)),
            (ty, _) => ty,
        };
        let no = if matches!(ty, Type::Text(_)) && matches!(no.ty(), Type::Text(_)) {
            no
        } else {
            no.expect_type("the other value", ty)
        };
        match condition.check().and(yes.check()).and(no.check()) {
            Ok(()) => Expr::from_node(ty, Node::Choose(condition, yes, no)),
            Err(error) => Expr::invalid(error),
        }
    }

    /// Converted to a scalar type.
    pub fn cast(self, to: Type) -> Expr {
        self.converted(to).into()
    }

    /// The same bits as a type of the same size.
    pub fn reinterpret(self, to: Type) -> Expr {
        self.reinterpreted(to).into()
    }

    /// The value of `ty` whose bits are the lowest of `bits`, a `u64`; what is above does not matter.
    pub fn from_bits(bits: Expr, ty: Type) -> Expr {
        match ty {
            Type::F64 => bits.reinterpret(Type::F64),
            Type::F32 => bits.cast(Type::U32).reinterpret(Type::F32),
            // Any byte but zero is true.
            Type::Bool => bits.cast(Type::U8).cast(Type::Bool),
            _ => bits.cast(ty),
        }
    }

    /// Its bits, extended to a `u64`.
    pub fn to_bits(self) -> Expr {
        match self.ty() {
            Type::F64 => self.reinterpret(Type::U64),
            Type::F32 => self.reinterpret(Type::U32).cast(Type::U64),
            _ => self.cast(Type::U64),
        }
    }

    /// The scalar of `ty` in the program's memory at this address (a pointer or a `u64`).
    pub fn load(self, ty: Type) -> Expr {
        match self.address() {
            Ok(address) if ty.is_scalar() => Expr::from_node(ty, Node::Load(address)),
            Ok(_) => Expr::invalid(TreeError::Operand { operator: "load", ty }),
            Err(error) => Expr::invalid(error),
        }
    }

    /// The text in the program's memory at this address, of which at most `len` bytes are read.
    pub fn text(self, len: u16) -> Expr {
        match self.address() {
            Ok(_) if len > 4096 => {
                Expr::invalid(TreeError::Limit { what: "bytes of text", value: len.into(), most: 4096 })
            }
            Ok(address) => Expr::from_node(Type::Text(len.max(1)), Node::ReadText(address, None)),
            Err(error) => Expr::invalid(error),
        }
    }

    /// The same, of which at most `most` bytes are read too, a `u64` that is known as it runs.
    pub fn text_up_to(self, most: Expr, len: u16) -> Expr {
        let most = most.expect_type("how many bytes", Type::U64);
        let text = self.text(len);
        match (text.node(), most.check()) {
            (Node::ReadText(address, _), Ok(())) => {
                Expr::from_node(text.ty(), Node::ReadText(address.clone(), Some(most)))
            }
            (_, Err(error)) => Expr::invalid(error),
            _ => text,
        }
    }

    /// A text of which at most `len` bytes are taken, as a key takes them.
    pub fn cut(&self, len: u16) -> Expr {
        let (Type::Text(have), true) = (self.ty(), len > 0) else { return self.clone() };
        if have <= len {
            return self.clone();
        }
        match self.node() {
            Node::Text(bytes) => Expr::bytes(&bytes[..bytes.len().min(len.into())]),
            Node::Choose(condition, yes, no) => {
                let node = Node::Choose(condition.clone(), yes.cut(len), no.cut(len));
                Expr::from_node(Type::Text(len), node)
            }
            // What reads or copies it stops there.
            node => Expr::from_node(Type::Text(len), node.clone()),
        }
    }

    /// Itself as a pointer.
    pub(crate) fn address(self) -> Result<Expr, TreeError> {
        self.check()?;
        match self.ty() {
            Type::Pointer => Ok(self),
            Type::U64 | Type::I64 => self.converted(Type::Pointer),
            ty => Err(TreeError::Operand { operator: "*", ty }),
        }
    }

    /// A constant text.
    pub fn bytes(text: &[u8]) -> Expr {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        match u16::try_from(end) {
            Ok(len) if len <= 4096 => Expr::from_node(Type::Text(len.max(1)), Node::Text(text[..end].into())),
            _ => Expr::invalid(TreeError::Limit { what: "bytes of text", value: end as u64, most: 4096 }),
        }
    }

    /// The name of the thread, as the kernel has it.
    pub fn command() -> Expr {
        Expr::from_node(Type::Text(16), Node::Command)
    }

    /// The innermost return addresses of the thread, at most `depth`, found by frame pointers.
    pub fn stack(depth: u8) -> Expr {
        Expr::from_node(Type::Frames(depth.max(1)), Node::Stack(None))
    }

    /// The same, found by a table as of [`walk`](crate::data::walk).
    pub fn stack_by(depth: u8, table: &Block) -> Expr {
        Expr::from_node(Type::Frames(depth.max(1)), Node::Stack(Some(table.clone())))
    }

    /// A call of a function with integers, pointers and floats; at most six of the former, eight of the latter.
    pub fn call(callee: Callee, arguments: Vec<Expr>) -> Expr {
        for argument in &arguments {
            if let Err(error) = argument.check() {
                return Expr::invalid(error);
            }
            if !argument.ty().is_scalar() {
                return Expr::invalid(TreeError::Operand { operator: "call", ty: argument.ty() });
            }
        }
        let floats = arguments.iter().filter(|argument| argument.ty().is_float()).count();
        let (what, value, most) = if floats > 8 {
            ("float arguments", floats, 8)
        } else {
            ("arguments", arguments.len() - floats, 6)
        };
        if value > most {
            return Expr::invalid(TreeError::Limit { what, value: value as u64, most: most as u64 });
        }
        Expr::from_node(callee.returns, Node::Call(callee, arguments.into()))
    }

    /// Changes a variable or memory at once; the value before.
    pub fn atomic(op: AtomicOp, place: Place, value: impl Into<Operand>) -> Expr {
        let ty = place.ty();
        if !(ty.is_integer() || ty == Type::Pointer) || !is_shared(&place) {
            return Expr::invalid(TreeError::Operand { operator: op.name(), ty });
        }
        let value = value.into().with(ty).expect_type("the value", ty);
        match value.check() {
            Ok(()) => Expr::from_node(ty, Node::Atomic(op, place, value)),
            Err(error) => Expr::invalid(error),
        }
    }

    /// Stores `new` if the place holds `expected`; the value before.
    pub fn compare_exchange(place: Place, expected: Expr, new: Expr) -> Expr {
        let ty = place.ty();
        if !(ty.is_integer() || ty == Type::Pointer) || !is_shared(&place) {
            return Expr::invalid(TreeError::Operand { operator: "compare_exchange", ty });
        }
        let expected = expected.expect_type("the value expected", ty);
        let new = new.expect_type("the new value", ty);
        match expected.check().and(new.check()) {
            Ok(()) => Expr::from_node(ty, Node::CompareExchange(place, expected, new)),
            Err(error) => Expr::invalid(error),
        }
    }
}

/// Whether other threads can see the place.
fn is_shared(place: &Place) -> bool {
    matches!(place, Place::Variable(_) | Place::Memory(..))
}

impl Variable {
    /// It as a place.
    pub fn place(&self) -> Place {
        Place::Variable(self.clone())
    }
}

impl Place {
    /// Memory of the program at `address` as a value of `ty`.
    pub fn memory(ty: Type, address: Expr) -> Place {
        let address = address.address().unwrap_or_else(Expr::invalid);
        Place::Memory(ty, Box::new(address))
    }
}

impl Callee {
    /// A function at an address that returns a quadword.
    pub fn new(name: &str, at: incise_isa::Addr) -> Callee {
        Callee { name: Arc::from(name), at, returns: Type::U64, variadic: false }
    }
}

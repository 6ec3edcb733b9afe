//! Where a variable is: DWARF expressions, computed as far as they can be without the program.

use std::sync::Arc;

use gimli::{AttributeValue, Encoding, Expression, Operation};

use super::types::TypeKind;
use super::{Located, Slice, Unit, View};
use crate::LinkAddr;

/// Most nodes of a value, each counted as often as it is used.
const NODES: u32 = 256;

/// Most operations of an expression, and most pieces.
const OPERATIONS: usize = 512;

/// How deep expressions may use others.
const DEPTH: u32 = 4;

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

/// Where a variable is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// In memory at this address.
    Memory(Value),
    /// In a register by its DWARF number: 0 to 15 general, 17 to 32 vector.
    Register(u8),
    /// Nowhere, but this is its value.
    Value(Value),
    /// Nowhere, but these are its bytes.
    Bytes(Vec<u8>),
    /// In pieces, the one at its lowest address first.
    Pieces(Vec<Piece>),
}

/// A part of a variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its size in bits.
    pub bits: u64,
    /// Where it is; `None` if it was optimized out. No pieces.
    pub location: Option<Location>,
}

/// Why a variable has no value at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoValue {
    /// The compiler needed it no more, or not at all.
    #[error("optimized out")]
    OptimizedOut,
    /// It is what it was when the function was called, which nothing holds any more.
    #[error("known at the entry of the function only")]
    Entry,
    /// Each thread has its own.
    #[error("it is a variable of each thread")]
    Thread,
    /// A pointer to something that has no address.
    #[error("what it points to was optimized out")]
    ImplicitPointer,
    /// The expression uses something that has no counterpart here.
    #[error("the compiler describes it by {0}, which is not supported")]
    Unsupported(&'static str),
    /// The unwind information does not tell the frame.
    #[error("there is no unwind information for this place")]
    NoFrame,
    /// The expression makes no sense.
    #[error("malformed debugging information")]
    Malformed,
}

impl From<gimli::Error> for NoValue {
    fn from(_: gimli::Error) -> NoValue {
        NoValue::Malformed
    }
}

/// What expressions may ask about the place.
pub(super) struct Context<'a, 'd> {
    pub view: &'a View<'d>,
    /// Number of the unit.
    pub index: usize,
    pub unit: &'a Unit<'d>,
    pub pc: LinkAddr,
    /// The function that has a frame.
    pub function: Option<&'a Located<'d>>,
    /// `pc` is its first instruction.
    pub at_entry: bool,
    /// The canonical frame address.
    pub cfa: &'a dyn Fn() -> Result<Value, NoValue>,
}

/// A value with the number of its nodes, and how many bytes of what kind it has, if not a generic one.
#[derive(Clone)]
struct Item {
    value: Value,
    nodes: u32,
    kind: Option<(u8, bool)>,
}

impl Item {
    fn leaf(value: Value) -> Item {
        Item { value, nodes: 1, kind: None }
    }
}

impl<'d> Context<'_, 'd> {
    /// Where the variable is whose attribute says `value`.
    pub fn location(&self, value: AttributeValue<Slice<'d>>) -> Result<Location, NoValue> {
        let expression = self.expression_at(value)?;
        self.evaluate(expression, 0)
    }

    /// The expression that holds at the place.
    fn expression_at(&self, value: AttributeValue<Slice<'d>>) -> Result<Expression<Slice<'d>>, NoValue> {
        /// Most entries of a list that are read.
        const ENTRIES: usize = 65536;
        match value {
            AttributeValue::Exprloc(expression) => return Ok(expression),
            AttributeValue::Block(block) => return Ok(Expression(block)),
            _ => {}
        }
        let mut list = self.view.dwarf.attr_locations(self.unit, value)?.ok_or(NoValue::OptimizedOut)?;
        for _ in 0..ENTRIES {
            let Some(entry) = list.next()? else { break };
            if (entry.range.begin..entry.range.end).contains(&self.pc.0) {
                return Ok(entry.data);
            }
        }
        Err(NoValue::OptimizedOut)
    }

    fn evaluate(&self, expression: Expression<Slice<'d>>, depth: u32) -> Result<Location, NoValue> {
        if depth > DEPTH {
            return Err(NoValue::Malformed);
        }
        let mut run = Run { context: self, stack: Vec::new(), depth };
        let (mut pieces, mut simple) = (Vec::new(), None);
        let mut operations = expression.operations(self.unit.encoding());
        let mut count = 0;
        let mut any = false;
        while let Some(operation) = operations.next()? {
            count += 1;
            any = true;
            if count > OPERATIONS {
                return Err(NoValue::Malformed);
            }
            match operation {
                Operation::Register { register } => {
                    simple = Some(Location::Register(
                        u8::try_from(register.0)
                            .ok()
                            .filter(|n| matches!(n, 0..=15 | 17..=32))
                            .ok_or(NoValue::Unsupported("a special register"))?,
                    ));
                }
                Operation::ImplicitValue { data } => simple = Some(Location::Bytes(data.slice().to_vec())),
                Operation::StackValue => simple = Some(Location::Value(run.pop()?.value)),
                Operation::ImplicitPointer { .. } => return Err(NoValue::ImplicitPointer),
                Operation::Piece { size_in_bits, bit_offset } => {
                    if bit_offset.is_some_and(|offset| offset != 0) {
                        return Err(NoValue::Unsupported("bits inside a register"));
                    }
                    let location = match simple.take() {
                        Some(simple) => Some(simple),
                        None => run.stack.pop().map(|item| Location::Memory(item.value)),
                    };
                    pieces.push(Piece { bits: size_in_bits, location });
                }
                Operation::Uninitialized => {}
                operation => run.operation(operation)?,
            }
        }
        if !any {
            return Err(NoValue::OptimizedOut);
        }
        if !pieces.is_empty() {
            if pieces.iter().all(|piece| piece.location.is_none()) {
                return Err(NoValue::OptimizedOut);
            }
            return Ok(Location::Pieces(pieces));
        }
        match simple {
            Some(simple) => Ok(simple),
            None => Ok(Location::Memory(run.pop()?.value)),
        }
    }

    /// The base of the function's frame.
    fn frame_base(&self, depth: u32) -> Result<Value, NoValue> {
        let function = self.function.ok_or(NoValue::Malformed)?;
        let base = function.entry.attr_value(gimli::DW_AT_frame_base).ok_or(NoValue::Malformed)?;
        match self.evaluate(self.expression_at(base)?, depth + 1)? {
            Location::Register(n @ 0..=15) => Ok(Value::Register(n)),
            Location::Memory(value) | Location::Value(value) => Ok(value),
            _ => Err(NoValue::Unsupported("a frame base in pieces")),
        }
    }
}

struct Run<'c, 'a, 'd> {
    context: &'c Context<'a, 'd>,
    stack: Vec<Item>,
    depth: u32,
}

impl<'d> Run<'_, '_, 'd> {
    fn pop(&mut self) -> Result<Item, NoValue> {
        self.stack.pop().ok_or(NoValue::Malformed)
    }

    fn push(&mut self, item: Item) -> Result<(), NoValue> {
        if item.nodes > NODES {
            return Err(NoValue::Unsupported("an expression that is too long"));
        }
        self.stack.push(item);
        Ok(())
    }

    fn unary(&mut self, op: UnaryOp) -> Result<(), NoValue> {
        let Item { value, nodes, kind } = self.pop()?;
        self.typed(Value::Unary(op, value.into()), nodes + 1, kind)
    }

    fn binary(&mut self, op: BinaryOp) -> Result<(), NoValue> {
        let (right, left) = (self.pop()?, self.pop()?);
        let nodes = left.nodes + right.nodes + 1;
        let value = match (op, &left.value, &right.value) {
            (BinaryOp::Plus, Value::Constant(a), Value::Constant(b)) => Value::Constant(a.wrapping_add(*b)),
            (BinaryOp::Plus, Value::Address(at), Value::Constant(by)) => Value::Address(*at + *by),
            _ => Value::Binary(op, left.value.into(), right.value.into()),
        };
        let compares = matches!(
            op,
            BinaryOp::Eq | BinaryOp::Ge | BinaryOp::Gt | BinaryOp::Le | BinaryOp::Lt | BinaryOp::Ne
        );
        self.typed(value, nodes, if compares { None } else { left.kind })
    }

    /// Pushes a value of a kind, cut to what that holds.
    fn typed(&mut self, value: Value, nodes: u32, kind: Option<(u8, bool)>) -> Result<(), NoValue> {
        match kind {
            Some((bytes, signed)) if bytes < 8 => {
                let value = Value::Extend(value.into(), bytes, signed);
                self.push(Item { value, nodes: nodes + 1, kind })
            }
            _ => self.push(Item { value, nodes, kind }),
        }
    }

    /// The kind of a base type; `None` is the generic one.
    fn kind(&self, base: gimli::UnitOffset<usize>) -> Result<Option<(u8, bool)>, NoValue> {
        if base.0 == 0 {
            return Ok(None);
        }
        let context = self.context;
        let start = context.view.info.units.get(context.index).map_or(0, |unit| unit.range.start);
        match context.view.describe_scalar(start.saturating_add(base.0 as u64)) {
            Some(TypeKind::Integer { bytes, signed }) => Ok(Some((bytes, signed))),
            Some(TypeKind::Bool) => Ok(Some((1, false))),
            _ => Err(NoValue::Unsupported("arithmetic with other than integers")),
        }
    }

    fn plus(&mut self, value: Value, nodes: u32, offset: i64) -> Result<(), NoValue> {
        let value = match (value, offset) {
            (value, 0) => value,
            (Value::Address(at), offset) => Value::Address(at + offset as u64),
            (value, offset) => {
                Value::Binary(BinaryOp::Plus, value.into(), Value::Constant(offset as u64).into())
            }
        };
        self.push(Item { value, nodes: nodes + 2, kind: None })
    }

    fn register(&self, register: gimli::Register) -> Result<Value, NoValue> {
        match register.0 {
            n @ 0..=15 => Ok(Value::Register(n as u8)),
            _ => Err(NoValue::Unsupported("a special register")),
        }
    }

    fn address(&self, index: gimli::DebugAddrIndex<usize>) -> Result<u64, NoValue> {
        Ok(self.context.view.dwarf.address(self.context.unit, index)?)
    }

    fn operation(&mut self, operation: Operation<Slice<'d>>) -> Result<(), NoValue> {
        match operation {
            Operation::Nop => Ok(()),
            Operation::UnsignedConstant { value } => self.push(Item::leaf(Value::Constant(value))),
            Operation::SignedConstant { value } => self.push(Item::leaf(Value::Constant(value as u64))),
            Operation::Address { address } => self.push(Item::leaf(Value::Address(LinkAddr(address)))),
            Operation::AddressIndex { index } => {
                let address = self.address(index)?;
                self.push(Item::leaf(Value::Address(LinkAddr(address))))
            }
            Operation::ConstantIndex { index } => {
                let value = self.address(index)?;
                self.push(Item::leaf(Value::Constant(value)))
            }
            Operation::RegisterOffset { register, offset, base_type } => {
                let kind = self.kind(base_type)?;
                let value = self.register(register)?;
                match kind {
                    None => self.plus(value, 1, offset),
                    Some(_) => self.typed(value, 1, kind),
                }
            }
            Operation::FrameOffset { offset } => {
                let base = self.context.frame_base(self.depth)?;
                self.plus(base, 8, offset)
            }
            Operation::CallFrameCFA => {
                let cfa = (self.context.cfa)()?;
                self.push(Item { value: cfa, nodes: 8, kind: None })
            }
            Operation::Deref { base_type, size, space: false } => {
                let kind = self.kind(base_type)?;
                let address = self.pop()?;
                if !matches!(size, 1 | 2 | 4 | 8) {
                    return Err(NoValue::Unsupported("a load of an odd size"));
                }
                let value = Value::Load(address.value.into(), size);
                self.typed(value, address.nodes + 1, kind)
            }
            Operation::Drop => self.pop().map(|_| ()),
            Operation::Pick { index } => {
                let from_top = usize::from(index) + 1;
                let at = self.stack.len().checked_sub(from_top).ok_or(NoValue::Malformed)?;
                let item = self.stack[at].clone();
                self.push(item)
            }
            Operation::Swap => {
                let (a, b) = (self.pop()?, self.pop()?);
                self.stack.extend([a, b]);
                Ok(())
            }
            Operation::Rot => {
                let (a, b, c) = (self.pop()?, self.pop()?, self.pop()?);
                self.stack.extend([a, c, b]);
                Ok(())
            }
            Operation::Abs => self.unary(UnaryOp::Absolute),
            Operation::Neg => self.unary(UnaryOp::Negate),
            Operation::Not => self.unary(UnaryOp::Not),
            Operation::And => self.binary(BinaryOp::And),
            Operation::Div => self.binary(BinaryOp::Div),
            Operation::Minus => self.binary(BinaryOp::Minus),
            Operation::Mod => self.binary(BinaryOp::Mod),
            Operation::Mul => self.binary(BinaryOp::Mul),
            Operation::Or => self.binary(BinaryOp::Or),
            Operation::Plus => self.binary(BinaryOp::Plus),
            Operation::Shl => self.binary(BinaryOp::Shl),
            Operation::Shr => self.binary(BinaryOp::Shr),
            Operation::Shra => self.binary(BinaryOp::Shra),
            Operation::Xor => self.binary(BinaryOp::Xor),
            Operation::Eq => self.binary(BinaryOp::Eq),
            Operation::Ge => self.binary(BinaryOp::Ge),
            Operation::Gt => self.binary(BinaryOp::Gt),
            Operation::Le => self.binary(BinaryOp::Le),
            Operation::Lt => self.binary(BinaryOp::Lt),
            Operation::Ne => self.binary(BinaryOp::Ne),
            Operation::PlusConstant { value } => {
                let item = self.pop()?;
                self.plus(item.value, item.nodes, value as i64)
            }
            Operation::TypedLiteral { base_type, value } => {
                let kind = self.kind(base_type)?;
                let mut bytes = [0; 8];
                let literal = value.slice();
                let len = literal.len().min(8);
                bytes[..len].copy_from_slice(&literal[..len]);
                self.typed(Value::Constant(u64::from_le_bytes(bytes)), 1, kind)
            }
            Operation::Convert { base_type } | Operation::Reinterpret { base_type } => {
                let kind = self.kind(base_type)?;
                let item = self.pop()?;
                self.typed(item.value, item.nodes, kind)
            }
            Operation::EntryValue { expression } => self.entry_value(Expression(expression)),
            Operation::Call { .. } => Err(NoValue::Unsupported("another description")),
            Operation::TLS => Err(NoValue::Thread),
            Operation::ParameterRef { .. } | Operation::VariableValue { .. } => {
                Err(NoValue::Unsupported("what its caller knows"))
            }
            Operation::Bra { .. } | Operation::Skip { .. } => Err(NoValue::Unsupported("a branch")),
            Operation::PushObjectAddress => Err(NoValue::Unsupported("the address of an object")),
            _ => Err(NoValue::Unsupported("an unknown operation")),
        }
    }

    /// What an expression was when the function was called: the same, if nothing has run yet.
    fn entry_value(&mut self, expression: Expression<Slice<'d>>) -> Result<(), NoValue> {
        if !self.context.at_entry {
            return Err(NoValue::Entry);
        }
        match self.context.evaluate(expression, self.depth + 1)? {
            Location::Register(n @ 0..=15) => self.push(Item::leaf(Value::Register(n))),
            Location::Memory(value) | Location::Value(value) => {
                self.push(Item { value, nodes: 16, kind: None })
            }
            _ => Err(NoValue::Entry),
        }
    }
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

//! The operations of DWARF expressions, on a stack of values.

use gimli::{Expression, Operation};

use super::Slice;
use super::location::{Context, Location, NoValue};
use super::types::TypeKind;
use super::value::{BinaryOp, UnaryOp, Value};
use crate::LinkAddr;

/// Most nodes of a value, each counted as often as it is used.
const NODES: u32 = 256;

/// A value with the number of its nodes, and how many bytes of what kind it has, if not a generic one.
#[derive(Clone)]
pub(super) struct Item {
    pub value: Value,
    nodes: u32,
    kind: Option<(u8, bool)>,
}

impl Item {
    fn leaf(value: Value) -> Item {
        Item { value, nodes: 1, kind: None }
    }
}

/// An expression while it is computed.
pub(super) struct Run<'c, 'a, 'd> {
    context: &'c Context<'a, 'd>,
    pub stack: Vec<Item>,
    depth: u32,
}

impl<'c, 'a, 'd> Run<'c, 'a, 'd> {
    pub fn new(context: &'c Context<'a, 'd>, depth: u32) -> Run<'c, 'a, 'd> {
        Run { context, stack: Vec::new(), depth }
    }

    pub fn pop(&mut self) -> Result<Item, NoValue> {
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

    pub fn operation(&mut self, operation: Operation<Slice<'d>>) -> Result<(), NoValue> {
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

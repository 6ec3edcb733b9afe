//! Where a variable is: DWARF expressions, computed as far as they can be without the program.

use gimli::{AttributeValue, Expression, Operation};

use super::operations::Run;
use super::value::Value;
use super::{Located, Slice, Unit, View};
use crate::LinkAddr;

/// Most operations of an expression, and most pieces.
const OPERATIONS: usize = 512;

/// How deep expressions may use others.
const DEPTH: u32 = 4;

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

    pub(super) fn evaluate(
        &self,
        expression: Expression<Slice<'d>>,
        depth: u32,
    ) -> Result<Location, NoValue> {
        if depth > DEPTH {
            return Err(NoValue::Malformed);
        }
        let mut run = Run::new(self, depth);
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
    pub(super) fn frame_base(&self, depth: u32) -> Result<Value, NoValue> {
        let function = self.function.ok_or(NoValue::Malformed)?;
        let base = function.entry.attr_value(gimli::DW_AT_frame_base).ok_or(NoValue::Malformed)?;
        match self.evaluate(self.expression_at(base)?, depth + 1)? {
            Location::Register(n @ 0..=15) => Ok(Value::Register(n)),
            Location::Memory(value) | Location::Value(value) => Ok(value),
            _ => Err(NoValue::Unsupported("a frame base in pieces")),
        }
    }
}

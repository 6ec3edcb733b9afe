//! Changes of a place at once.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, MemFlagsData, Value};

use super::CompileError;
use super::builder::{Lower, own, theirs};
use crate::tree::{AtomicOp, Place, Type};

impl Lower<'_> {
    /// Changes a place; gives the value before.
    pub(super) fn atomic(
        &mut self,
        op: AtomicOp,
        place: &Place,
        value: Value,
    ) -> Result<Value, CompileError> {
        let ty = place.ty();
        let Some((at, flags)) = self.shared(place)? else {
            let before = self.fetch(place)?;
            let after = self.changed(op, ty, before, value);
            self.store(place, after)?;
            return Ok(before);
        };
        let op = match (op, ty.is_signed()) {
            (AtomicOp::Add, _) => AtomicRmwOp::Add,
            (AtomicOp::Subtract, _) => AtomicRmwOp::Sub,
            (AtomicOp::And, _) => AtomicRmwOp::And,
            (AtomicOp::Or, _) => AtomicRmwOp::Or,
            (AtomicOp::Xor, _) => AtomicRmwOp::Xor,
            (AtomicOp::Exchange, _) => AtomicRmwOp::Xchg,
            (AtomicOp::Minimum, true) => AtomicRmwOp::Smin,
            (AtomicOp::Minimum, false) => AtomicRmwOp::Umin,
            (AtomicOp::Maximum, true) => AtomicRmwOp::Smax,
            (AtomicOp::Maximum, false) => AtomicRmwOp::Umax,
        };
        let before = self.b.ins().atomic_rmw(super::builder::clif(ty), flags, op, at, value);
        Ok(if ty == Type::Bool { self.b.ins().band_imm_u(before, 1) } else { before })
    }

    /// Stores `new` if the place holds `expected`; gives the value before.
    pub(super) fn compare_exchange(
        &mut self,
        place: &Place,
        expected: Value,
        new: Value,
    ) -> Result<Value, CompileError> {
        let Some((at, flags)) = self.shared(place)? else {
            let before = self.fetch(place)?;
            let same = self.b.ins().icmp(IntCC::Equal, before, expected);
            let after = self.b.ins().select(same, new, before);
            self.store(place, after)?;
            return Ok(before);
        };
        Ok(self.b.ins().atomic_cas(flags, at, expected, new))
    }

    /// The address of a place that others may change too.
    fn shared(&mut self, place: &Place) -> Result<Option<(Value, MemFlagsData)>, CompileError> {
        Ok(match place {
            Place::Memory(_, address) => Some((self.scalar(address)?, theirs())),
            Place::Variable(variable) => Some((self.variable(variable)?, own())),
            Place::Local(..) | Place::Element(..) | Place::Register(_) => None,
        })
    }

    fn changed(&mut self, op: AtomicOp, ty: Type, before: Value, value: Value) -> Value {
        let less = if ty.is_signed() { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
        match op {
            AtomicOp::Add => self.b.ins().iadd(before, value),
            AtomicOp::Subtract => self.b.ins().isub(before, value),
            AtomicOp::And => self.b.ins().band(before, value),
            AtomicOp::Or => self.b.ins().bor(before, value),
            AtomicOp::Xor => self.b.ins().bxor(before, value),
            AtomicOp::Exchange => value,
            AtomicOp::Minimum => {
                let less = self.b.ins().icmp(less, before, value);
                self.b.ins().select(less, before, value)
            }
            AtomicOp::Maximum => {
                let less = self.b.ins().icmp(less, before, value);
                self.b.ins().select(less, value, before)
            }
        }
    }
}

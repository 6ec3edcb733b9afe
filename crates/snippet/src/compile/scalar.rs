//! Operators on scalars: what each is at every type, as the interpreter has it.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::builder::{Lower, clif};
use super::expr::plain;
use crate::tree::{BinaryOp, Fault, Type, UnaryOp};

impl Lower<'_> {
    /// The operator with one operand.
    pub(super) fn unary(&mut self, op: UnaryOp, ty: Type, a: Value) -> Value {
        let width = i64::from(ty.bits());
        match op {
            UnaryOp::Negate if ty.is_float() => self.b.ins().fneg(a),
            UnaryOp::Negate => self.b.ins().ineg(a),
            UnaryOp::Not => self.b.ins().bnot(a),
            UnaryOp::LogicNot => self.b.ins().bxor_imm_u(a, 1),
            UnaryOp::CountOnes => self.b.ins().popcnt(a),
            UnaryOp::LeadingZeros => {
                let wide = self.unsigned(a, ty);
                let zeros = self.b.ins().clz(wide);
                let zeros = self.b.ins().iadd_imm_s(zeros, width - 64);
                self.fit(zeros, ty)
            }
            UnaryOp::TrailingZeros if width == 64 => self.b.ins().ctz(a),
            UnaryOp::TrailingZeros => {
                let wide = self.unsigned(a, ty);
                let stop = self.quadword(1 << width);
                let marked = self.b.ins().bor(wide, stop);
                let zeros = self.b.ins().ctz(marked);
                self.fit(zeros, ty)
            }
            UnaryOp::SwapBytes => self.b.ins().bswap(a),
            UnaryOp::Absolute if ty.is_float() => self.b.ins().fabs(a),
            UnaryOp::Absolute => {
                let negative = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, a, 0);
                let other = self.b.ins().ineg(a);
                self.b.ins().select(negative, other, a)
            }
            UnaryOp::SquareRoot => self.b.ins().sqrt(a),
        }
    }

    /// An integer as a quadword, zeros above.
    fn unsigned(&mut self, a: Value, ty: Type) -> Value {
        if clif(ty) == types::I64 { a } else { self.b.ins().uextend(types::I64, a) }
    }

    /// The operator with two operands.
    pub(super) fn binary(&mut self, op: BinaryOp, (ty, right): (Type, Type), a: Value, b: Value) -> Value {
        if op.is_comparison() {
            return self.compare(op, ty, a, b);
        }
        if ty.is_float() {
            return self.floats(op, ty, a, b);
        }
        let signed = ty.is_signed();
        match op {
            BinaryOp::Add => self.b.ins().iadd(a, b),
            BinaryOp::Subtract => self.b.ins().isub(a, b),
            BinaryOp::Multiply => self.b.ins().imul(a, b),
            BinaryOp::Divide | BinaryOp::Remainder => self.divide(op, signed, a, b),
            BinaryOp::BitAnd => self.b.ins().band(a, b),
            BinaryOp::BitOr => self.b.ins().bor(a, b),
            BinaryOp::BitXor => self.b.ins().bxor(a, b),
            BinaryOp::ShiftLeft | BinaryOp::ShiftRight | BinaryOp::RotateLeft | BinaryOp::RotateRight => {
                let b = self.count(b, right, ty);
                match op {
                    BinaryOp::ShiftLeft => self.b.ins().ishl(a, b),
                    BinaryOp::ShiftRight if signed => self.b.ins().sshr(a, b),
                    BinaryOp::ShiftRight => self.b.ins().ushr(a, b),
                    BinaryOp::RotateLeft => self.b.ins().rotl(a, b),
                    _ => self.b.ins().rotr(a, b),
                }
            }
            _ => {
                let less = if signed { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
                let less = self.b.ins().icmp(less, a, b);
                if op == BinaryOp::Minimum {
                    self.b.ins().select(less, a, b)
                } else {
                    self.b.ins().select(less, b, a)
                }
            }
        }
    }

    /// How far to shift a value of `ty`, as a value of that width: modulo the width.
    fn count(&mut self, b: Value, from: Type, ty: Type) -> Value {
        let wide = self.unsigned(b, from);
        let masked = self.b.ins().band_imm_u(wide, i64::from(ty.bits()) - 1);
        self.fit(masked, ty)
    }

    fn divide(&mut self, op: BinaryOp, signed: bool, a: Value, b: Value) -> Value {
        let zero = self.b.ins().icmp_imm_u(IntCC::Equal, b, 0);
        self.fault_if(zero, Fault::Division);
        let divide = op == BinaryOp::Divide;
        if !signed {
            return if divide { self.b.ins().udiv(a, b) } else { self.b.ins().urem(a, b) };
        }
        // The least integer divided by -1 would trap: by -1 everything is negated, without a remainder.
        let minus = self.b.ins().icmp_imm_s(IntCC::Equal, b, -1);
        let ty = self.b.func.dfg.value_type(b);
        let one = self.b.ins().iconst(ty, 1);
        let safe = self.b.ins().select(minus, one, b);
        if divide {
            let quotient = self.b.ins().sdiv(a, safe);
            let negated = self.b.ins().ineg(a);
            self.b.ins().select(minus, negated, quotient)
        } else {
            self.b.ins().srem(a, safe)
        }
    }

    fn compare(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Value {
        if ty.is_float() {
            let code = match op {
                BinaryOp::Equal => FloatCC::Equal,
                BinaryOp::NotEqual => FloatCC::NotEqual,
                BinaryOp::Less => FloatCC::LessThan,
                BinaryOp::LessEqual => FloatCC::LessThanOrEqual,
                BinaryOp::Greater => FloatCC::GreaterThan,
                _ => FloatCC::GreaterThanOrEqual,
            };
            return self.b.ins().fcmp(code, a, b);
        }
        let code = match (op, ty.is_signed()) {
            (BinaryOp::Equal, _) => IntCC::Equal,
            (BinaryOp::NotEqual, _) => IntCC::NotEqual,
            (BinaryOp::Less, true) => IntCC::SignedLessThan,
            (BinaryOp::LessEqual, true) => IntCC::SignedLessThanOrEqual,
            (BinaryOp::Greater, true) => IntCC::SignedGreaterThan,
            (_, true) => IntCC::SignedGreaterThanOrEqual,
            (BinaryOp::Less, false) => IntCC::UnsignedLessThan,
            (BinaryOp::LessEqual, false) => IntCC::UnsignedLessThanOrEqual,
            (BinaryOp::Greater, false) => IntCC::UnsignedGreaterThan,
            (_, false) => IntCC::UnsignedGreaterThanOrEqual,
        };
        self.b.ins().icmp(code, a, b)
    }

    fn floats(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Value {
        match op {
            BinaryOp::Add => self.b.ins().fadd(a, b),
            BinaryOp::Subtract => self.b.ins().fsub(a, b),
            BinaryOp::Multiply => self.b.ins().fmul(a, b),
            BinaryOp::Divide => self.b.ins().fdiv(a, b),
            _ => self.extreme(op == BinaryOp::Minimum, ty, a, b),
        }
    }

    /// The least or greatest of two floats. Of numbers of which one is none it is that one; the negative zero is the less.
    fn extreme(&mut self, least: bool, ty: Type, a: Value, b: Value) -> Value {
        let integer = if ty == Type::F32 { types::I32 } else { types::I64 };
        let less = self.b.ins().fcmp(FloatCC::LessThan, a, b);
        let chosen = if least { self.b.ins().select(less, a, b) } else { self.b.ins().select(less, b, a) };
        // Equal floats have the same bits but for zeros, whose signs are joined or taken away.
        let equal = self.b.ins().fcmp(FloatCC::Equal, a, b);
        let (x, y) = (self.b.ins().bitcast(integer, plain(), a), self.b.ins().bitcast(integer, plain(), b));
        let joined = if least { self.b.ins().bor(x, y) } else { self.b.ins().band(x, y) };
        let joined = self.b.ins().bitcast(clif(ty), plain(), joined);
        let chosen = self.b.ins().select(equal, joined, chosen);
        let none = self.b.ins().fcmp(FloatCC::Unordered, b, b);
        let chosen = self.b.ins().select(none, b, chosen);
        let none = self.b.ins().fcmp(FloatCC::Unordered, a, a);
        self.b.ins().select(none, a, chosen)
    }

    /// A conversion.
    pub(super) fn convert(&mut self, from: Type, to: Type, a: Value) -> Value {
        match (from.is_float(), to) {
            (true, Type::Bool) => {
                let zero = self.constant(from, 0);
                self.b.ins().fcmp(FloatCC::NotEqual, a, zero)
            }
            (false, Type::Bool) => self.b.ins().icmp_imm_u(IntCC::NotEqual, a, 0),
            (true, Type::F64) if from == Type::F32 => self.b.ins().fpromote(types::F64, a),
            (true, Type::F32) if from == Type::F64 => self.b.ins().fdemote(types::F32, a),
            (true, _) if to.is_float() => a,
            (true, _) => self.integer_of(to, a),
            (false, _) if to.is_float() => {
                let wide = self.quadword_of(a, from);
                if from.is_signed() {
                    self.b.ins().fcvt_from_sint(clif(to), wide)
                } else {
                    self.b.ins().fcvt_from_uint(clif(to), wide)
                }
            }
            (false, _) => {
                let wide = self.quadword_of(a, from);
                self.fit(wide, to)
            }
        }
    }

    /// A float as an integer: the nearest there is; 0 for what is no number.
    fn integer_of(&mut self, to: Type, a: Value) -> Value {
        let bits = to.bits();
        if !to.is_signed() {
            let wide = self.b.ins().fcvt_to_uint_sat(types::I64, a);
            if bits == 64 {
                return wide;
            }
            let most = self.quadword(to.mask());
            let over = self.b.ins().icmp(IntCC::UnsignedGreaterThan, wide, most);
            let kept = self.b.ins().select(over, most, wide);
            return self.fit(kept, to);
        }
        let wide = self.b.ins().fcvt_to_sint_sat(types::I64, a);
        if bits == 64 {
            return wide;
        }
        let half = 1i64 << (bits - 1);
        let (least, most) = (self.quadword(-half as u64), self.quadword(half as u64 - 1));
        let over = self.b.ins().icmp(IntCC::SignedGreaterThan, wide, most);
        let kept = self.b.ins().select(over, most, wide);
        let under = self.b.ins().icmp(IntCC::SignedLessThan, kept, least);
        let kept = self.b.ins().select(under, least, kept);
        self.fit(kept, to)
    }

    /// The same bits as another type.
    pub(super) fn reinterpret(&mut self, from: Type, to: Type, a: Value) -> Value {
        if clif(from) == clif(to) { a } else { self.b.ins().bitcast(clif(to), plain(), a) }
    }
}

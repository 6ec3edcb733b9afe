//! Operators on scalars: what each is at every type.

use crate::tree::{BinaryOp, Constant, Type, UnaryOp};

fn float(value: Constant) -> f64 {
    match value.ty {
        Type::F32 => f32::from_bits(value.bits as u32).into(),
        _ => f64::from_bits(value.bits),
    }
}

/// An `f64` in the type, rounded once. (For `+ - * /` and roots of two `f32`, rounding to `f64` first changes nothing.)
fn of_float(ty: Type, value: f64) -> Constant {
    match ty {
        Type::F32 => Constant::f32(value as f32),
        _ => Constant::f64(value),
    }
}

/// The operator with one operand.
pub fn unary(op: UnaryOp, a: Constant) -> Constant {
    let (ty, bits) = (a.ty, a.bits);
    let sign = 1 << (ty.bits() - 1);
    let result = match op {
        UnaryOp::Negate if ty.is_float() => bits ^ sign,
        UnaryOp::Negate => bits.wrapping_neg(),
        UnaryOp::Not => !bits,
        UnaryOp::LogicNot => bits ^ 1,
        UnaryOp::CountOnes => bits.count_ones().into(),
        UnaryOp::LeadingZeros => (bits.leading_zeros() - (64 - ty.bits())).into(),
        UnaryOp::TrailingZeros => bits.trailing_zeros().min(ty.bits()).into(),
        UnaryOp::SwapBytes => bits.swap_bytes() >> (64 - ty.bits()),
        UnaryOp::Absolute if ty.is_float() => bits & !sign,
        UnaryOp::Absolute => (a.quadword() as i64).wrapping_abs() as u64,
        UnaryOp::SquareRoot => of_float(ty, float(a).sqrt()).bits,
    };
    Constant::new(ty, result)
}

/// The operator with two operands; `None` for a division of integers by zero.
pub fn binary(op: BinaryOp, a: Constant, b: Constant) -> Option<Constant> {
    let ty = op.result(a.ty, b.ty).unwrap_or(a.ty);
    if op.is_comparison() {
        return Some(Constant::new(Type::Bool, compare(op, a, b).into()));
    }
    if a.ty.is_float() {
        return Some(floats(op, a, b));
    }
    let (width, signed) = (u64::from(a.ty.bits()), a.ty.is_signed());
    let (x, y) = (a.quadword(), b.quadword());
    let shift = (y & (width - 1)) as u32;
    let rotated = |left: u32| {
        let left = left % width as u32;
        if left == 0 { a.bits } else { a.bits << left | a.bits >> (width as u32 - left) }
    };
    let less = if signed { (x as i64) < y as i64 } else { x < y };
    let bits = match op {
        BinaryOp::Add => x.wrapping_add(y),
        BinaryOp::Subtract => x.wrapping_sub(y),
        BinaryOp::Multiply => x.wrapping_mul(y),
        BinaryOp::Divide | BinaryOp::Remainder if y == 0 => return None,
        BinaryOp::Divide if signed => (x as i64).wrapping_div(y as i64) as u64,
        BinaryOp::Divide => x / y,
        BinaryOp::Remainder if signed => (x as i64).wrapping_rem(y as i64) as u64,
        BinaryOp::Remainder => x % y,
        BinaryOp::BitAnd => x & y,
        BinaryOp::BitOr => x | y,
        BinaryOp::BitXor => x ^ y,
        BinaryOp::ShiftLeft => x << shift,
        BinaryOp::ShiftRight if signed => ((x as i64) >> shift) as u64,
        BinaryOp::ShiftRight => x >> shift,
        BinaryOp::RotateLeft => rotated(shift),
        BinaryOp::RotateRight => rotated(width as u32 - shift),
        BinaryOp::Minimum => {
            if less {
                x
            } else {
                y
            }
        }
        BinaryOp::Maximum => {
            if less {
                y
            } else {
                x
            }
        }
        // Comparisons, done above.
        _ => 0,
    };
    Some(Constant::new(ty, bits))
}

fn compare(op: BinaryOp, a: Constant, b: Constant) -> bool {
    let order = if a.ty.is_float() {
        float(a).partial_cmp(&float(b))
    } else if a.ty.is_signed() {
        Some((a.quadword() as i64).cmp(&(b.quadword() as i64)))
    } else {
        Some(a.bits.cmp(&b.bits))
    };
    match op {
        BinaryOp::Equal => order.is_some_and(|order| order.is_eq()),
        BinaryOp::NotEqual => !order.is_some_and(|order| order.is_eq()),
        BinaryOp::Less => order.is_some_and(|order| order.is_lt()),
        BinaryOp::LessEqual => order.is_some_and(|order| order.is_le()),
        BinaryOp::Greater => order.is_some_and(|order| order.is_gt()),
        _ => order.is_some_and(|order| order.is_ge()),
    }
}

/// The least and greatest of numbers of which one is none is that one.
fn floats(op: BinaryOp, a: Constant, b: Constant) -> Constant {
    let (x, y) = (float(a), float(b));
    let nan = if x.is_nan() { a } else { b };
    let zeros = x == 0.0 && y == 0.0;
    match op {
        BinaryOp::Add => of_float(a.ty, x + y),
        BinaryOp::Subtract => of_float(a.ty, x - y),
        BinaryOp::Multiply => of_float(a.ty, x * y),
        BinaryOp::Divide => of_float(a.ty, x / y),
        BinaryOp::Minimum | BinaryOp::Maximum if x.is_nan() || y.is_nan() => nan,
        // The negative zero is the less.
        BinaryOp::Minimum if zeros => Constant::new(a.ty, a.bits | b.bits),
        BinaryOp::Maximum if zeros => Constant::new(a.ty, a.bits & b.bits),
        BinaryOp::Minimum => {
            if x < y {
                a
            } else {
                b
            }
        }
        _ => {
            if x < y {
                b
            } else {
                a
            }
        }
    }
}

/// A conversion.
pub fn convert(a: Constant, to: Type) -> Constant {
    let from = a.ty;
    if to == Type::Bool {
        let zero = if from.is_float() { float(a) == 0.0 } else { a.bits == 0 };
        return Constant::new(to, (!zero).into());
    }
    match (from.is_float(), to.is_float()) {
        (true, true) => of_float(to, float(a)),
        (true, false) => {
            let value = float(a);
            let bits = if to.is_signed() {
                let half = 1i64.checked_shl(to.bits() - 1).unwrap_or(i64::MIN);
                let (least, most) = if to.bits() == 64 { (i64::MIN, i64::MAX) } else { (-half, half - 1) };
                (value as i64).clamp(least, most) as u64
            } else {
                (value as u64).min(to.mask())
            };
            Constant::new(to, bits)
        }
        (false, true) => match (to, from.is_signed()) {
            (Type::F32, true) => Constant::f32(a.quadword() as i64 as f32),
            (Type::F32, false) => Constant::f32(a.bits as f32),
            (_, true) => Constant::f64(a.quadword() as i64 as f64),
            (_, false) => Constant::f64(a.bits as f64),
        },
        (false, false) => Constant::new(to, a.quadword()),
    }
}

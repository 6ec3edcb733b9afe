use crate::tree::{BinaryOp, Constant, Type, UnaryOp};

use super::{binary, convert, unary};

fn of(ty: Type, value: i128) -> Constant {
    Constant::integer(ty, value).expect("a value of the type")
}

#[test]
fn operators_are_those_of_the_machine_at_every_byte() {
    for x in i8::MIN..=i8::MAX {
        for y in i8::MIN..=i8::MAX {
            let (a, b) = (of(Type::I8, x.into()), of(Type::I8, y.into()));
            let (ua, ub) = (Constant::new(Type::U8, a.bits), Constant::new(Type::U8, b.bits));
            let (ux, uy) = (x as u8, y as u8);
            let signed = |op| binary(op, a, b).map(|c| c.quadword() as i64);
            let unsigned = |op| binary(op, ua, ub).map(|c| c.quadword());
            assert_eq!(signed(BinaryOp::Add), Some(x.wrapping_add(y).into()));
            assert_eq!(signed(BinaryOp::Multiply), Some(x.wrapping_mul(y).into()));
            assert_eq!(unsigned(BinaryOp::Subtract), Some(ux.wrapping_sub(uy).into()));
            let quotient = (y != 0).then(|| x.wrapping_div(y).into());
            assert_eq!(signed(BinaryOp::Divide), quotient, "{x} / {y}");
            assert_eq!(signed(BinaryOp::Remainder), (y != 0).then(|| x.wrapping_rem(y).into()));
            assert_eq!(unsigned(BinaryOp::Remainder), ux.checked_rem(uy).map(u64::from));
            assert_eq!(signed(BinaryOp::ShiftRight), Some((x >> (uy & 7)).into()));
            assert_eq!(unsigned(BinaryOp::ShiftRight), Some((ux >> (uy & 7)).into()));
            assert_eq!(unsigned(BinaryOp::ShiftLeft), Some((ux << (uy & 7)).into()));
            assert_eq!(unsigned(BinaryOp::RotateLeft), Some(ux.rotate_left((uy & 7).into()).into()));
            assert_eq!(unsigned(BinaryOp::RotateRight), Some(ux.rotate_right((uy & 7).into()).into()));
            assert_eq!(signed(BinaryOp::Less), Some((x < y).into()));
            assert_eq!(unsigned(BinaryOp::GreaterEqual), Some((ux >= uy).into()));
            assert_eq!(signed(BinaryOp::Minimum), Some(x.min(y).into()));
        }
        let a = Constant::new(Type::U8, of(Type::I8, x.into()).bits);
        let ux = x as u8;
        assert_eq!(unary(UnaryOp::LeadingZeros, a).bits, ux.leading_zeros().into());
        assert_eq!(unary(UnaryOp::TrailingZeros, a).bits, ux.trailing_zeros().into());
        assert_eq!(
            unary(UnaryOp::Absolute, of(Type::I8, x.into())).quadword() as i64,
            x.wrapping_abs().into()
        );
    }
}

#[test]
fn conversions_saturate_or_keep_what_fits() {
    let f = Constant::f64;
    for (from, to, wanted) in [
        (f(300.7), Type::U8, of(Type::U8, 255)),
        (f(-300.7), Type::I8, of(Type::I8, -128)),
        (f(f64::NAN), Type::I64, of(Type::I64, 0)),
        (f(1e300), Type::I64, of(Type::I64, i64::MAX.into())),
        (f(-1.0), Type::U64, of(Type::U64, 0)),
        (f(0.5), Type::Bool, of(Type::Bool, 1)),
        (of(Type::I8, -1), Type::U32, of(Type::U32, u32::MAX.into())),
        (of(Type::U64, 0x1_ff80), Type::I8, of(Type::I8, -128)),
        (of(Type::I32, -3), Type::F32, Constant::f32(-3.0)),
    ] {
        assert_eq!(convert(from, to), wanted, "{from} to {to}");
    }
}

use crate::tree::{
    BinaryOp, Callee, Constant, Expr, Fault, Map, PointFact, Program, ProgramBuilder, Record, Register, Ring,
    Stmt, Storage, SystemFact, Type, UnaryOp, Variable, arg,
};

use super::{Datum, World, binary, convert, run, unary};

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

/// A world with sixteen bytes of memory at 0x1000 and one variable.
#[derive(Default)]
struct Small {
    memory: [u8; 16],
    value: u64,
}

impl World for Small {
    fn read(&mut self, at: u64, into: &mut [u8]) -> bool {
        let Some(from) = at.checked_sub(0x1000).filter(|from| from + into.len() as u64 <= 16) else {
            return false;
        };
        into.copy_from_slice(&self.memory[from as usize..][..into.len()]);
        true
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Some(to) = at.checked_sub(0x1000).filter(|to| to + bytes.len() as u64 <= 16) else {
            return false;
        };
        self.memory[to as usize..][..bytes.len()].copy_from_slice(bytes);
        true
    }
    fn register(&mut self, _: Register) -> u64 {
        0
    }
    fn set_register(&mut self, _: Register, _: u64) {}
    fn argument(&mut self, n: u8) -> u64 {
        0x1000 + u64::from(n)
    }
    fn float(&mut self, _: Option<u8>) -> u64 {
        0
    }
    fn returned(&mut self) -> u64 {
        0
    }
    fn point(&mut self, _: PointFact) -> u64 {
        0
    }
    fn system(&mut self, _: SystemFact) -> u64 {
        0
    }
    fn command(&mut self) -> Vec<u8> {
        Vec::new()
    }
    fn stack(&mut self, _: u8) -> Vec<u64> {
        Vec::new()
    }
    fn variable(&mut self, _: &Variable) -> u64 {
        self.value
    }
    fn set_variable(&mut self, _: &Variable, bits: u64) {
        self.value = bits;
    }
    fn call(&mut self, _: &Callee, _: &[Constant]) -> u64 {
        0
    }
    fn map_value(&mut self, _: &Map, _: &[Datum]) -> Option<u64> {
        None
    }
    fn update(&mut self, _: &Map, _: &[Datum], _: Option<Constant>) {}
    fn delete(&mut self, _: &Map, _: &[Datum]) {}
    fn emit(&mut self, _: &Ring, _: &Record, _: &[Datum]) {}
    fn stop(&mut self, _: bool) {}
}

#[test]
fn a_loop_sums_what_it_is_told_to() {
    let mut builder = ProgramBuilder::new();
    let (n, sum) = (builder.local("n", Type::I32), builder.local("sum", Type::I32));
    let body = [sum.set(sum.get().add(n.get())), n.set(n.get().add(1))];
    let program = builder.finish([Stmt::repeat_while(n.get().lt(10), body), Stmt::give(sum.get())]);
    let result = run(&program.expect("a program"), &mut Small::default());
    assert_eq!(result, Ok(Some(of(Type::I32, 45))));
}

#[test]
fn a_run_that_ends_early_keeps_what_it_did() {
    let v = Variable::new("v", Type::U64, Storage::Global);
    let always = Expr::from(true);
    for (bad, fault) in [
        (Stmt::Evaluate(arg(9).load(Type::U64)), Fault::Memory),
        (Stmt::Evaluate(arg(0).div(v.get().sub(1))), Fault::Division),
        (Stmt::repeat_while(always, []), Fault::Budget),
    ] {
        let program = Program::new([v.add(1), bad, v.add(1)]).expect("a program");
        let mut world = Small::default();
        assert_eq!(run(&program, &mut world), Err(fault));
        assert_eq!(world.value, 1);
    }
}

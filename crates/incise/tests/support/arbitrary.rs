//! Any programs, made from bytes: an empty rest always gives the simplest choice, so that fewer bytes are simpler programs.

use incise::isa::native::Gpr;
use incise::snippet::{
    AtomicOp, BinaryOp, Case, Constant, Expr, LocalArray, LocalVar, Place, PointFact, Program,
    ProgramBuilder, Register, Stmt, Storage, Type, UnaryOp, Variable, arg, constant, float_arg, point,
    register, retval,
};

/// Makes programs that read and write memory at `page`, which has [`PAGE`] bytes.
pub struct Maker<'a> {
    bytes: std::slice::Iter<'a, u8>,
    page: u64,
    variables: Vec<Variable>,
    locals: Vec<(LocalVar, Type)>,
    arrays: Vec<(LocalArray, Type, u32)>,
    /// With their lengths.
    texts: Vec<(LocalVar, u16)>,
    /// Statements and expressions that may still come.
    left: u32,
    loops: u32,
    breakable: u32,
}

/// Bytes of memory that programs use.
pub const PAGE: usize = 4096;

const INTEGERS: [Type; 8] =
    [Type::U64, Type::I64, Type::U32, Type::I32, Type::U16, Type::I16, Type::U8, Type::I8];

impl<'a> Maker<'a> {
    pub fn new(bytes: &'a [u8], page: u64) -> Maker<'a> {
        let variable = |ty: Type| Variable::new(&format!("{ty}"), ty, Storage::Global);
        let variables = Type::SCALARS.into_iter().map(variable).collect();
        let (locals, arrays, texts) = (Vec::new(), Vec::new(), Vec::new());
        let bytes = bytes.iter();
        Maker { bytes, page, variables, locals, arrays, texts, left: 120, loops: 0, breakable: 0 }
    }

    /// The program, and the variables it may use.
    pub fn program(mut self) -> (Program, Vec<Variable>) {
        let mut builder = ProgramBuilder::new();
        builder.budget(20);
        for (index, ty) in Type::SCALARS.into_iter().enumerate() {
            self.locals.push((builder.local(&format!("l{index}"), ty), ty));
        }
        for (index, ty) in [Type::U8, Type::I64, Type::F32].into_iter().enumerate() {
            let len = [3, 5, 20][index];
            self.arrays.push((builder.array(&format!("a{index}"), ty, len), ty, len));
        }
        for len in [5, 16, 21] {
            self.texts.push((builder.local(&format!("t{len}"), Type::Text(len)), len));
        }
        let body = self.statements(6);
        // What locals hold in the end is to be seen.
        let shown: Vec<Stmt> = self
            .locals
            .iter()
            .zip(&self.variables)
            .filter(|((_, ty), _)| *ty != Type::Bool)
            .map(|((local, ty), variable)| {
                let zero = constant(*ty, 0);
                Stmt::when(local.get().ne(zero), [variable.set(local.get())])
            })
            .collect();
        let all = body.into_iter().chain(shown);
        (builder.finish(all).expect("a program"), self.variables)
    }

    /// A program that may be put in line, and the variables it may use.
    pub fn short(mut self) -> (Program, Vec<Variable>) {
        let body = self.short_statements(2);
        (Program::new(body).expect("a program"), self.variables)
    }

    fn short_statements(&mut self, depth: u32) -> Vec<Stmt> {
        let count = 1 + self.below(2);
        (0..count)
            .map(|_| {
                if depth > 0 && self.below(3) != 0 {
                    let condition = self.short_condition(2);
                    let then = self.short_statements(depth - 1);
                    let otherwise =
                        if self.below(2) == 0 { Vec::new() } else { self.short_statements(depth - 1) };
                    return Stmt::either(condition, then, otherwise);
                }
                let ty = self.pick(&[Type::U64, Type::I64]);
                let amount = self.pick(&[1u64, 2, 300]);
                let found = self.variables.iter().find(|variable| variable.ty() == ty);
                found.expect("one of each type").add(amount)
            })
            .collect()
    }

    fn short_condition(&mut self, depth: u32) -> Expr {
        if depth > 0 && self.below(3) == 2 {
            let (left, right) = (self.short_condition(depth - 1), self.short_condition(depth - 1));
            return match self.below(3) {
                0 => left.and(right),
                1 => left.or(right),
                _ => Expr::unary(UnaryOp::LogicNot, left).into(),
            };
        }
        let ty = self.pick(&INTEGERS);
        if self.below(6) == 0 {
            return self.short_value(ty, 2).cast(Type::Bool);
        }
        let comparisons: Vec<BinaryOp> = BinaryOp::ALL.into_iter().filter(|op| op.is_comparison()).collect();
        let op = self.pick(&comparisons);
        let left = self.short_value(ty, 2);
        Expr::binary(op, left, self.short_value(ty, 2)).into()
    }

    fn short_value(&mut self, ty: Type, depth: u32) -> Expr {
        let choice = if depth == 0 { self.below(4) } else { self.below(9) };
        let depth = depth.saturating_sub(1);
        match choice {
            0 => self.value(ty),
            1 => arg(self.below(6) as u8).cast(ty),
            2 => register(Register::General(self.gpr())).cast(ty),
            3 => {
                let found = self.variables.iter().find(|variable| variable.ty() == ty);
                found.expect("one of each type").get()
            }
            4 => self.address_or_register(depth).load(ty),
            5 => {
                let from = self.pick(&INTEGERS);
                self.short_value(from, depth).cast(ty)
            }
            6 => {
                let (op, by) = (self.pick(&[BinaryOp::ShiftLeft, BinaryOp::ShiftRight]), self.byte());
                Expr::binary(op, self.short_value(ty, depth), constant(Type::U64, u64::from(by))).into()
            }
            _ => {
                let op = self.pick(&[
                    BinaryOp::Add,
                    BinaryOp::Subtract,
                    BinaryOp::BitAnd,
                    BinaryOp::BitOr,
                    BinaryOp::BitXor,
                ]);
                let left = self.short_value(ty, depth);
                Expr::binary(op, left, self.short_value(ty, depth)).into()
            }
        }
    }

    fn address_or_register(&mut self, depth: u32) -> Expr {
        let at = constant(Type::U64, self.page + u64::from(self.byte()) * 8);
        match self.below(4) {
            0 => self.short_value(Type::U64, depth).cast(Type::Pointer),
            1 => at.add(self.short_value(Type::U64, depth).bitand(0x7f)).cast(Type::Pointer),
            _ => at.cast(Type::Pointer),
        }
    }

    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn statements(&mut self, most: usize) -> Vec<Stmt> {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.statement()).collect()
    }

    fn spend(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }

    fn statement(&mut self) -> Stmt {
        if !self.spend() {
            return Stmt::Sequence(Vec::new());
        }
        match self.below(12) {
            0 if self.below(4) == 3 => {
                let (local, len) = self.pick(&self.texts.clone());
                let text = self.text(2);
                local.set(text.cut(len))
            }
            0..4 => {
                let place = self.place();
                let value = self.expr(place.ty(), 4);
                Stmt::Assign(place, value)
            }
            4 => {
                let index = self.below(9) + 1;
                let variable = self.variables[index].clone();
                if variable.ty().is_float() {
                    return Stmt::Sequence(Vec::new());
                }
                let value = self.expr(variable.ty(), 3);
                variable.add(value)
            }
            5 | 6 => {
                let condition = self.expr(Type::Bool, 3);
                Stmt::either(condition, self.statements(3), self.statements(2))
            }
            7 => {
                let (loops, breakable) = (self.loops, self.breakable);
                self.loops += 1;
                self.breakable += 1;
                let before = (self.below(2) == 0).then(|| self.expr(Type::Bool, 3));
                let body = self.statements(3);
                let after = (self.below(2) == 0).then(|| self.expr(Type::Bool, 2));
                (self.loops, self.breakable) = (0, 0);
                let step = self.statements(1);
                (self.loops, self.breakable) = (loops, breakable);
                Stmt::Loop { before, body, step, after }
            }
            8 => {
                let ty = self.pick(&INTEGERS);
                let value = self.expr(ty, 3);
                self.breakable += 1;
                let count = 1 + self.below(4);
                let mut cases: Vec<Case> = (0..count)
                    .map(|_| {
                        let values = (0..1 + self.below(2)).map(|_| self.below(6) as u64).collect();
                        Case { values, body: self.statements(2) }
                    })
                    .collect();
                if self.below(2) == 0 {
                    let at = self.below(cases.len());
                    cases[at].values.clear();
                }
                self.breakable -= 1;
                Stmt::Switch(value, cases)
            }
            9 if self.breakable > 0 => Stmt::Break,
            10 if self.loops > 0 => Stmt::Continue,
            11 if self.below(4) == 0 => Stmt::Return(None),
            _ => {
                let ty = self.pick(&Type::SCALARS);
                Stmt::Evaluate(self.expr(ty, 4))
            }
        }
    }

    fn place(&mut self) -> Place {
        match self.below(10) {
            0..3 => {
                let (local, _) = self.pick(&self.locals.clone());
                local.place()
            }
            3 => {
                let (array, _, len) = self.pick(&self.arrays.clone());
                let index = self.index(len);
                array.place(index)
            }
            4..7 => {
                let index = self.below(self.variables.len());
                Place::Variable(self.variables[index].clone())
            }
            7 => Place::Register(Register::General(self.gpr())),
            8 if self.below(2) == 0 => Place::Register(Register::Vector(self.below(16) as u8)),
            _ => {
                // What is no number has several forms, which memory would show.
                let ty = self.pick(&INTEGERS);
                Place::Memory(ty, Box::new(self.address()))
            }
        }
    }

    fn gpr(&mut self) -> Gpr {
        match self.below(16) {
            4 => Gpr::Rdi,
            n => Gpr::ALL[n],
        }
    }

    fn index(&mut self, len: u32) -> Expr {
        let index = self.below(len as usize + 1) as u64;
        match self.below(3) {
            0 => self.expr(Type::U64, 2).rem(u64::from(len)),
            _ => constant(Type::U64, index),
        }
    }

    fn address(&mut self) -> Expr {
        let at = match self.below(12) {
            0 => 8,
            1 => 0xdead_0000_0000_0000,
            2 => u64::MAX - 3,
            3 => 0x7fff_ffff_f000,
            // Across the end of what is mapped.
            4 => self.page + PAGE as u64 - 2,
            _ => self.page + u64::from(self.byte()) * 8,
        };
        let at = constant(Type::U64, at);
        let at = if self.below(3) == 0 { at.add(self.expr(Type::U64, 2).bitand(0xff)) } else { at };
        at.cast(Type::Pointer)
    }

    fn expr(&mut self, ty: Type, depth: u32) -> Expr {
        if depth == 0 || !self.spend() {
            return self.leaf(ty);
        }
        let depth = depth - 1;
        match self.below(14) {
            0 | 1 => self.leaf(ty),
            2 | 3 => {
                let from = self.pick(&Type::SCALARS);
                self.expr(from, depth).cast(ty)
            }
            4 => {
                let (condition, yes) = (self.expr(Type::Bool, depth), self.expr(ty, depth));
                condition.choose(yes, self.expr(ty, depth))
            }
            5 => self.address().load(ty),
            6 => {
                let op = self.pick(&UnaryOp::ALL);
                let operand = self.expr(ty, depth);
                if op.takes(ty) { Expr::unary(op, operand).into() } else { operand }
            }
            7 if ty == Type::Bool => {
                let (left, right) = (self.expr(Type::Bool, depth), self.expr(Type::Bool, depth));
                if self.below(2) == 0 { left.and(right) } else { left.or(right) }
            }
            8 if ty.is_integer() || ty == Type::Pointer => {
                let op = self.pick(&AtomicOp::ALL);
                let place = if self.below(2) == 0 {
                    // The interpreter computes it twice, and what crosses cache lines takes long.
                    let at = if self.below(8) == 0 { 8 } else { self.page + u64::from(self.byte()) * 8 };
                    Place::Memory(ty, Box::new(constant(Type::Pointer, at)))
                } else {
                    let found = self.variables.iter().find(|variable| variable.ty() == ty);
                    Place::Variable(found.expect("one of each type").clone())
                };
                if self.below(4) == 0 {
                    let (expected, new) = (self.expr(ty, 1), self.expr(ty, 1));
                    return Expr::compare_exchange(place, expected, new);
                }
                Expr::atomic(op, place, self.expr(ty, depth))
            }
            _ => self.binary(ty, depth),
        }
    }

    fn binary(&mut self, ty: Type, depth: u32) -> Expr {
        if ty == Type::Bool && self.below(8) == 1 {
            let (text, other) = (self.text(2), self.text(1));
            let op = if self.below(2) == 0 { BinaryOp::Equal } else { BinaryOp::NotEqual };
            return Expr::binary(op, text, other).into();
        }
        let op = self.pick(&BinaryOp::ALL);
        let left_ty = if ty == Type::Bool { self.pick(&Type::SCALARS) } else { ty };
        let right_ty = match left_ty {
            _ if op.is_shift() => self.pick(&INTEGERS),
            Type::Pointer if !op.is_comparison() => Type::U64,
            ty => ty,
        };
        if op.result(left_ty, right_ty) != Some(ty) {
            return self.expr(ty, depth);
        }
        let left = self.expr(left_ty, depth);
        Expr::binary(op, left, self.expr(right_ty, depth)).into()
    }

    fn text(&mut self, depth: u32) -> Expr {
        let len = 1 + self.below(20) as u16;
        match self.below(if depth == 0 { 4 } else { 7 }) {
            0 => self.address().text(len),
            1 => Expr::bytes(&b"abcdefghijklmnopqrstuvwxyz"[..self.below(20)]),
            2 | 3 => self.pick(&self.texts.clone()).0.get(),
            4 => self.text(depth - 1).cut(len),
            5 => {
                let (address, most) = (self.address(), self.expr(Type::U64, 2));
                address.text_up_to(most, len)
            }
            _ => {
                let condition = self.expr(Type::Bool, 2);
                condition.choose(self.text(depth - 1), self.text(depth - 1))
            }
        }
    }

    fn leaf(&mut self, ty: Type) -> Expr {
        match self.below(8) {
            0..3 => self.value(ty),
            3 => {
                let found = self.locals.iter().find(|(_, of)| *of == ty);
                found.expect("one of each type").0.get()
            }
            4 => {
                let (array, _, len) = self.pick(&self.arrays.clone());
                let index = constant(Type::U64, u64::from(len) - 1);
                array.get(index).cast(ty)
            }
            5 => {
                let found = self.variables.iter().find(|variable| variable.ty() == ty);
                found.expect("one of each type").get()
            }
            _ => match self.below(7) {
                0 => arg(self.below(6) as u8).cast(ty),
                1 => float_arg(self.below(8) as u8).cast(ty),
                2 => retval().cast(ty),
                3 => register(Register::General(self.gpr())).cast(ty),
                4 => register(Register::Vector(self.below(16) as u8)).cast(ty),
                5 => register(Register::Flags).cast(ty),
                _ => {
                    let facts = [
                        PointFact::OriginalAddress,
                        PointFact::EffectiveAddress,
                        PointFact::BytesAccessed,
                        PointFact::Target,
                    ];
                    point(self.pick(&facts)).cast(ty)
                }
            },
        }
    }

    fn value(&mut self, ty: Type) -> Expr {
        let bits = match self.below(8) {
            0 => u64::from(self.byte()),
            1 => u64::MAX,
            2 => 1 << 63 >> self.below(64),
            3 => i64::MIN as u64,
            4 => return constant(Type::I64, i64::from(self.byte() as i8)).cast(ty),
            5 => return constant(Type::F64, f64::from(self.byte()) * 1e17 - 1e18).cast(ty),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        };
        let constant = Constant::new(ty, bits);
        match ty {
            Type::F64 if f64::from_bits(constant.bits).is_nan() => Constant::f64(f64::NAN).into(),
            Type::F32 if f32::from_bits(constant.bits as u32).is_nan() => {
                Expr::from(Constant::f64(f64::NAN)).cast(ty)
            }
            _ => constant.into(),
        }
    }
}

/// What is no number comes in many forms, which are the same here.
pub fn canonical(value: Constant) -> Constant {
    match value.ty {
        Type::F64 if f64::from_bits(value.bits).is_nan() => Constant::f64(f64::NAN),
        Type::F32 if f32::from_bits(value.bits as u32).is_nan() => Constant::f32(f32::NAN),
        _ => value,
    }
}

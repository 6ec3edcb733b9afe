//! Expressions.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use incise_isa::native::Gpr;

use super::builder::{Home, Lower, clif, own, theirs};
use super::link::Piece;
use super::operations::Operation;
use super::{CompileError, frame, routines};
use crate::tree::{
    Expr, Fault, LocalId, Map, Node, PointFact, Register, Storage, SystemFact, Type, Variable,
};

/// The registers of the first integer arguments, and where the return address and the others are from `rsp` on.
const ARGUMENTS: [Gpr; 6] = incise_isa::native::abi::ARGUMENTS;

impl Lower<'_> {
    /// The value of a scalar expression.
    pub(super) fn scalar(&mut self, expr: &Expr) -> Result<Value, CompileError> {
        let ty = expr.ty();
        Ok(match expr.node() {
            Node::Invalid(error) => return Err(CompileError::Internal(error.to_string())),
            Node::Constant(constant) => self.constant(ty, constant.bits),
            Node::Local(id) => match self.home(*id)? {
                Home::Scalar(variable) => self.b.use_var(variable),
                Home::Array(..) => return Err(wrong("an array is no value")),
            },
            Node::Element(id, index) => {
                let at = self.element(*id, index)?;
                self.b.ins().load(clif(ty), own(), at, 0)
            }
            Node::Variable(variable) => self.variable_value(variable)?,
            Node::Register(register) => self.register(*register),
            Node::Argument(n) => self.argument(*n, ty),
            Node::FloatArgument(n) => self.float(*n, ty)?,
            Node::FloatReturned => self.float(0, ty)?,
            Node::Returned => {
                self.parts.uses.reads.insert(Gpr::Rax);
                let value = self.framed(frame::gpr(Gpr::Rax));
                self.fit(value, ty)
            }
            Node::Point(fact) => self.point(*fact, ty),
            Node::System(fact) => self.system(*fact, ty)?,
            Node::Load(address) => {
                let at = self.scalar(address)?;
                self.load(at, ty)
            }
            Node::Unary(op, a) => {
                let a = self.scalar(a)?;
                self.unary(*op, ty, a)
            }
            Node::Binary(op, a, b) if !a.ty().is_scalar() => self.compare_bytes(*op, a, b)?,
            Node::Binary(op, a, b) => {
                let (types, a) = ((a.ty(), b.ty()), self.scalar(a)?);
                let b = self.scalar(b)?;
                self.binary(*op, types, a, b)
            }
            Node::And(a, b) => self.both(a, b, true)?,
            Node::Or(a, b) => self.both(a, b, false)?,
            Node::Choose(condition, yes, no) => {
                let condition = self.scalar(condition)?;
                self.either(condition, ty, |lower| lower.scalar(yes), |lower| lower.scalar(no))?
            }
            Node::Cast(a) => {
                let (from, a) = (a.ty(), self.scalar(a)?);
                self.convert(from, ty, a)
            }
            Node::Reinterpret(a) => {
                let (from, a) = (a.ty(), self.scalar(a)?);
                self.reinterpret(from, ty, a)
            }
            Node::Call(callee, arguments) => self.call(callee, arguments, ty)?,
            Node::Atomic(op, place, value) => {
                let value = self.scalar(value)?;
                self.atomic(*op, place, value)?
            }
            Node::CompareExchange(place, expected, new) => {
                let (expected, new) = (self.scalar(expected)?, self.scalar(new)?);
                self.compare_exchange(place, expected, new)?
            }
            Node::MapValue(map, keys) => {
                let [value, _] = self.get(map, keys)?;
                self.of_quadword(value, ty)
            }
            Node::MapHas(map, keys) => {
                let [_, has] = self.get(map, keys)?;
                self.fit(has, ty)
            }
            Node::Text(_) | Node::ReadText(..) | Node::Command | Node::Stack(_) => {
                return Err(CompileError::Unsupported(format!("{ty} is no value here")));
            }
        })
    }

    pub(super) fn home(&self, id: LocalId) -> Result<Home, CompileError> {
        self.locals.get(id.0 as usize).copied().ok_or_else(|| wrong("no such local"))
    }

    /// The address of an element.
    pub(super) fn element(&mut self, id: LocalId, index: &Expr) -> Result<Value, CompileError> {
        let index = self.scalar(index)?;
        let Home::Array(slot, len) = self.home(id)? else { return Err(wrong("a scalar has no elements")) };
        let outside = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, index, i64::from(len));
        self.fault_if(outside, Fault::Index);
        let offset = self.b.ins().ishl_imm_u(index, 3);
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        Ok(self.b.ins().iadd(base, offset))
    }

    /// The address of a variable, for this thread or CPU.
    pub(super) fn variable(&mut self, variable: &Variable) -> Result<Value, CompileError> {
        use crate::tree::{CPUS, STRIDE, THREADS};
        let block = self.block(variable.block());
        Ok(match variable.storage() {
            Storage::Global => block,
            Storage::PerThread => {
                let code = routines::thread_slot(THREADS, self.settings.thread_at)?;
                let [at] = self.call_routine(Piece::code(code), &[block]);
                let none = self.b.ins().icmp_imm_u(IntCC::Equal, at, 0);
                self.fault_if(none, Fault::Threads);
                at
            }
            Storage::PerCpu => {
                let code = routines::cpu_slot(CPUS, STRIDE)?;
                let [at] = self.call_routine(Piece::code(code), &[block]);
                at
            }
        })
    }

    /// The value of a variable, for this thread or CPU.
    pub(super) fn variable_value(&mut self, variable: &Variable) -> Result<Value, CompileError> {
        let (at, ty) = (self.variable(variable)?, clif(variable.ty()));
        let value = self.b.ins().load(ty, own(), at, 0);
        if variable.storage() != Storage::PerCpu || !ty.is_int() {
            return Ok(value);
        }
        let restarted = self.b.ins().load(ty, own(), at, crate::tree::RESTARTED as i32);
        Ok(self.b.ins().iadd(value, restarted))
    }

    pub(super) fn register(&mut self, register: Register) -> Value {
        let offset = match register {
            Register::General(gpr) => {
                self.parts.uses.reads.insert(gpr);
                frame::gpr(gpr)
            }
            Register::Flags => {
                self.parts.uses.flags = true;
                frame::FLAGS
            }
            Register::Vector(n) => {
                self.parts.uses.vector_reads |= 1 << (n & 15);
                frame::vector(n & 15)
            }
        };
        self.framed(offset)
    }

    fn argument(&mut self, n: u8, ty: Type) -> Value {
        let value = match ARGUMENTS.get(usize::from(n)) {
            Some(register) => self.register(Register::General(*register)),
            None => {
                let rsp = self.register(Register::General(Gpr::Rsp));
                // The first quadword is the return address (psABI x86-64, 3.2.3).
                self.b.ins().load(types::I64, theirs(), rsp, (i32::from(n) - 5) * 8)
            }
        };
        self.fit(value, ty)
    }

    fn float(&mut self, n: u8, ty: Type) -> Result<Value, CompileError> {
        let value = self.register(Register::Vector(n));
        Ok(self.of_quadword(value, ty))
    }

    pub(super) fn point(&mut self, fact: PointFact, ty: Type) -> Value {
        let uses = &mut self.parts.uses;
        match fact {
            PointFact::EffectiveAddress => uses.effective_address = true,
            PointFact::BytesAccessed => uses.bytes_accessed = true,
            PointFact::OriginalAddress => uses.original_address = true,
            PointFact::Target => uses.target = true,
        }
        let value = self.framed(frame::fact(fact));
        self.fit(value, ty)
    }

    fn system(&mut self, fact: SystemFact, ty: Type) -> Result<Value, CompileError> {
        let code = routines::system(fact, self.settings.thread_at)?;
        let [value] = self.call_routine(Piece::code(code), &[]);
        Ok(self.fit(value, ty))
    }

    pub(super) fn framed(&mut self, offset: i32) -> Value {
        self.b.ins().load(types::I64, own(), self.frame, offset)
    }

    /// Memory of the program.
    pub(super) fn load(&mut self, at: Value, ty: Type) -> Value {
        let value = self.b.ins().load(clif(ty), theirs(), at, 0);
        if ty == Type::Bool { self.b.ins().icmp_imm_u(IntCC::NotEqual, value, 0) } else { value }
    }

    /// The lowest bits of a quadword, as an integer type wants them.
    pub(super) fn fit(&mut self, value: Value, ty: Type) -> Value {
        match ty {
            Type::Bool => {
                let byte = self.b.ins().ireduce(types::I8, value);
                self.b.ins().band_imm_u(byte, 1)
            }
            _ if ty.is_float() => self.of_quadword(value, ty),
            _ if clif(ty) == types::I64 => value,
            _ => self.b.ins().ireduce(clif(ty), value),
        }
    }

    /// A value of any type from its bits in a quadword.
    pub(super) fn of_quadword(&mut self, value: Value, ty: Type) -> Value {
        match ty {
            Type::F64 => self.b.ins().bitcast(types::F64, plain(), value),
            Type::F32 => {
                let low = self.b.ins().ireduce(types::I32, value);
                self.b.ins().bitcast(types::F32, plain(), low)
            }
            _ => self.fit(value, ty),
        }
    }

    /// A value as a quadword: with its sign, or the bits of a float.
    pub(super) fn quadword_of(&mut self, value: Value, ty: Type) -> Value {
        match ty {
            Type::F64 => self.b.ins().bitcast(types::I64, plain(), value),
            Type::F32 => {
                let bits = self.b.ins().bitcast(types::I32, plain(), value);
                self.b.ins().uextend(types::I64, bits)
            }
            _ if clif(ty) == types::I64 => value,
            _ if ty.is_signed() => self.b.ins().sextend(types::I64, value),
            _ => self.b.ins().uextend(types::I64, value),
        }
    }

    fn both(&mut self, a: &Expr, b: &Expr, and: bool) -> Result<Value, CompileError> {
        let first = self.scalar(a)?;
        if and {
            self.either(first, Type::Bool, |lower| lower.scalar(b), |lower| Ok(lower.constant(Type::Bool, 0)))
        } else {
            self.either(first, Type::Bool, |lower| Ok(lower.constant(Type::Bool, 1)), |lower| lower.scalar(b))
        }
    }

    /// One of two values; only that one is computed.
    fn either(
        &mut self,
        condition: Value,
        ty: Type,
        yes: impl FnOnce(&mut Self) -> Result<Value, CompileError>,
        no: impl FnOnce(&mut Self) -> Result<Value, CompileError>,
    ) -> Result<Value, CompileError> {
        let (then, otherwise, behind) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let result = self.b.append_block_param(behind, clif(ty));
        self.branch(condition, then, otherwise);
        self.b.switch_to_block(then);
        let value = yes(self)?;
        self.goto(behind, &[value]);
        self.b.switch_to_block(otherwise);
        let value = no(self)?;
        self.goto(behind, &[value]);
        self.b.switch_to_block(behind);
        Ok(result)
    }

    fn get(&mut self, map: &Map, keys: &[Expr]) -> Result<[Value; 2], CompileError> {
        let keys = self.keys(map.keys(), keys)?;
        let code = self.operation(Operation::Get(map))?;
        let block = self.block(map.block());
        Ok(self.call_routine(Piece::code(code), &[block, keys]))
    }

    pub(super) fn operation(&mut self, operation: Operation<'_>) -> Result<Vec<u8>, CompileError> {
        let routine = self.settings.operations.routine(operation);
        routine.ok_or_else(|| CompileError::Missing(operation.name()))
    }
}

/// For the bits of a register, which have no order in memory.
pub(super) fn plain() -> cranelift_codegen::ir::MemFlagsData {
    cranelift_codegen::ir::MemFlagsData::new()
}

/// A program that was checked has no such thing.
pub(super) fn wrong(what: &str) -> CompileError {
    CompileError::Internal(what.to_owned())
}

//! Statements.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, Value, types};
use incise_isa::native::Gpr;

use super::builder::{Home, Lower, clif, own, status, theirs};
use super::expr::wrong;
use super::link::Piece;
use super::operations::Operation;
use super::{CompileError, frame, routines};
use crate::tree::{Case, Expr, Fault, Place, Register, Stmt, Storage, Type, Update};

impl Lower<'_> {
    /// Statements one behind the other.
    pub(super) fn body(&mut self, body: &[Stmt]) -> Result<(), CompileError> {
        body.iter().try_for_each(|stmt| self.statement(stmt))
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<(), CompileError> {
        match stmt {
            Stmt::Invalid(error) => return Err(CompileError::Internal(error.to_string())),
            Stmt::Sequence(body) => self.body(body)?,
            Stmt::Evaluate(value) if value.ty().is_scalar() => {
                self.scalar(value)?;
            }
            Stmt::Evaluate(value) => {
                let size = u64::from(value.ty().size());
                let slot = self.slot(size);
                self.bytes(value, slot, 0, size)?;
            }
            Stmt::Assign(Place::Local(id, ty @ Type::Text(_)), value) => {
                let Home::Array(slot, _) = self.home(*id)? else { return Err(wrong("a scalar is no text")) };
                self.bytes(value, slot, 0, u64::from(ty.size()))?;
            }
            Stmt::Assign(place, value) => {
                let value = self.scalar(value)?;
                self.store(place, value)?;
            }
            Stmt::Add(variable, value) => {
                let value = self.scalar(value)?;
                let at = self.variable(variable)?;
                self.b.ins().atomic_rmw(clif(variable.ty()), own(), AtomicRmwOp::Add, at, value);
            }
            Stmt::If(condition, then, otherwise) => {
                let condition = self.scalar(condition)?;
                let (yes, no) = (self.b.create_block(), self.b.create_block());
                let behind = self.b.create_block();
                self.branch(condition, yes, no);
                for (block, body) in [(yes, then), (no, otherwise)] {
                    self.b.switch_to_block(block);
                    self.body(body)?;
                    self.goto(behind, &[]);
                }
                self.b.switch_to_block(behind);
            }
            Stmt::Loop { before, body, step, after } => {
                self.rounds(before.as_ref(), body, step, after.as_ref())?;
            }
            Stmt::Switch(value, cases) => self.switch(value, cases)?,
            Stmt::Break => {
                let (to, _) = *self.around.last().ok_or_else(|| wrong("nothing to leave"))?;
                self.goto(to, &[]);
                self.unreachable();
            }
            Stmt::Continue => {
                let to = self.around.iter().rev().find_map(|(_, to)| *to);
                self.goto(to.ok_or_else(|| wrong("nothing to go on with"))?, &[]);
                self.unreachable();
            }
            Stmt::Return(value) => {
                match value {
                    Some(value) => {
                        let ty = value.ty();
                        let value = self.scalar(value)?;
                        let value = self.quadword_of(value, ty);
                        self.leave(value, status::VALUE);
                    }
                    None => {
                        let zero = self.quadword(0);
                        self.leave(zero, status::NOTHING);
                    }
                }
                self.unreachable();
            }
            Stmt::Update(map, keys, update) => {
                let keys = self.keys(map.keys(), keys)?;
                let value = match update {
                    Update::One => self.quadword(1),
                    Update::Value(value) => {
                        let ty = value.ty();
                        let value = self.scalar(value)?;
                        self.quadword_of(value, ty)
                    }
                };
                let code = self.operation(Operation::Update(map))?;
                let block = self.block(map.block());
                self.call_routine::<0>(Piece::code(code), &[block, keys, value]);
            }
            Stmt::Delete(map, keys) => {
                let keys = self.keys(map.keys(), keys)?;
                let code = self.operation(Operation::Delete(map))?;
                let block = self.block(map.block());
                self.call_routine::<0>(Piece::code(code), &[block, keys]);
            }
            Stmt::Emit(ring, record, values) => {
                let fields: Vec<_> = record.fields().iter().map(|field| field.ty).collect();
                let fields = self.keys(&fields, values)?;
                let code = self.operation(Operation::Emit(ring, record))?;
                let block = self.block(ring.block());
                self.call_routine::<0>(Piece::code(code), &[block, fields]);
            }
            Stmt::Stop => {
                self.call_routine::<0>(Piece::code(routines::stop()?), &[]);
            }
            Stmt::Debugger => {
                self.call_routine::<0>(Piece::code(routines::debugger()?), &[]);
            }
        }
        Ok(())
    }

    fn rounds(
        &mut self,
        before: Option<&Expr>,
        body: &[Stmt],
        step: &[Stmt],
        after: Option<&Expr>,
    ) -> Result<(), CompileError> {
        let [head, next, behind] = std::array::from_fn(|_| self.b.create_block());
        self.goto(head, &[]);
        self.b.switch_to_block(head);
        if let Some(condition) = before {
            let condition = self.scalar(condition)?;
            let on = self.b.create_block();
            self.branch(condition, on, behind);
            self.b.switch_to_block(on);
        }
        let left = self.b.use_var(self.budget);
        let none = self.b.ins().icmp_imm_u(IntCC::Equal, left, 0);
        self.fault_if(none, Fault::Budget);
        let fewer = self.b.ins().iadd_imm_s(left, -1);
        self.b.def_var(self.budget, fewer);
        self.around.push((behind, Some(next)));
        self.body(body)?;
        self.around.pop();
        self.goto(next, &[]);
        self.b.switch_to_block(next);
        self.body(step)?;
        match after {
            Some(condition) => {
                let condition = self.scalar(condition)?;
                self.branch(condition, head, behind);
            }
            None => self.goto(head, &[]),
        }
        self.b.switch_to_block(behind);
        Ok(())
    }

    fn switch(&mut self, value: &Expr, cases: &[Case]) -> Result<(), CompileError> {
        let ty = value.ty();
        let value = self.scalar(value)?;
        let blocks: Vec<_> = cases.iter().map(|_| self.b.create_block()).collect();
        let behind = self.b.create_block();
        for (case, block) in cases.iter().zip(&blocks) {
            for wanted in &case.values {
                let wanted = self.constant(ty, *wanted);
                let same = self.b.ins().icmp(IntCC::Equal, value, wanted);
                let on = self.b.create_block();
                self.branch(same, *block, on);
                self.b.switch_to_block(on);
            }
        }
        let default = cases.iter().position(|case| case.values.is_empty());
        self.goto(default.map_or(behind, |index| blocks[index]), &[]);
        self.around.push((behind, None));
        for (index, case) in cases.iter().enumerate() {
            self.b.switch_to_block(blocks[index]);
            self.body(&case.body)?;
            self.goto(blocks.get(index + 1).copied().unwrap_or(behind), &[]);
        }
        self.around.pop();
        self.b.switch_to_block(behind);
        Ok(())
    }

    /// The value of a place.
    pub(super) fn fetch(&mut self, place: &Place) -> Result<Value, CompileError> {
        let ty = place.ty();
        Ok(match place {
            Place::Local(id, _) => match self.home(*id)? {
                Home::Scalar(variable) => self.b.use_var(variable),
                Home::Array(..) => return Err(wrong("an array is no value")),
            },
            Place::Element(id, _, index) => {
                let at = self.element(*id, index)?;
                self.b.ins().load(clif(ty), own(), at, 0)
            }
            Place::Variable(variable) => self.variable_value(variable)?,
            Place::Register(register) => self.register(*register),
            Place::Memory(_, address) => {
                let at = self.scalar(address)?;
                self.load(at, ty)
            }
        })
    }

    /// Gives a place a value.
    pub(super) fn store(&mut self, place: &Place, value: Value) -> Result<(), CompileError> {
        match place {
            Place::Local(id, _) => match self.home(*id)? {
                Home::Scalar(variable) => self.b.def_var(variable, value),
                Home::Array(..) => return Err(wrong("an array is no place")),
            },
            Place::Element(id, _, index) => {
                let at = self.element(*id, index)?;
                self.b.ins().store(own(), value, at, 0);
            }
            Place::Variable(variable) => {
                if variable.storage() == Storage::PerCpu {
                    return Err(wrong("a variable per CPU is only added to"));
                }
                let at = self.variable(variable)?;
                self.b.ins().store(own(), value, at, 0);
            }
            Place::Register(register) => self.set_register(*register, value)?,
            Place::Memory(_, address) => {
                let at = self.scalar(address)?;
                self.b.ins().store(theirs(), value, at, 0);
            }
        }
        Ok(())
    }

    fn set_register(&mut self, register: Register, value: Value) -> Result<(), CompileError> {
        let uses = &mut self.parts.uses;
        let offset = match register {
            Register::General(Gpr::Rsp) => {
                return Err(CompileError::Unsupported(
                    "rsp cannot be set: the trampoline needs it".to_owned(),
                ));
            }
            // What is not set on some way keeps its value, so it has to be there.
            Register::General(gpr) => {
                uses.reads.insert(gpr);
                uses.writes.insert(gpr);
                frame::gpr(gpr)
            }
            Register::Vector(n) => {
                uses.vector_reads |= 1 << (n & 15);
                uses.vector_writes |= 1 << (n & 15);
                frame::vector(n & 15)
            }
            Register::Flags => return Err(wrong("flags are not set")),
        };
        debug_assert_eq!(self.b.func.dfg.value_type(value), types::I64);
        self.b.ins().store(own(), value, self.frame, offset);
        Ok(())
    }
}

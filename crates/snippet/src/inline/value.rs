//! Values in registers: each is kept as a quadword that has the value of its type.

use incise_isa::native::Gpr;

use super::emit::{Emitter, Unfit};
use super::is_immediate;
use crate::tree::{BinaryOp, Expr, Node, Register, Type};

/// Where the value of an expression is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Where {
    /// In a register of ours, which may be changed.
    Own(Gpr),
    /// In a register of the program.
    Theirs(Gpr),
    /// A constant that instructions can hold.
    Immediate(i32),
}

impl Emitter<'_> {
    /// Computes a value, as a quadword with the sign it has.
    pub(super) fn value(&mut self, expr: &Expr) -> Result<Where, Unfit> {
        let ty = expr.ty();
        match expr.node() {
            Node::Constant(constant) => self.constant(constant.quadword()),
            Node::Register(Register::General(gpr)) => Ok(self.narrow(Where::Theirs(*gpr), ty)?),
            Node::Returned => self.narrow(Where::Theirs(Gpr::Rax), ty),
            Node::Argument(n) => {
                let register = incise_isa::native::abi::ARGUMENTS.get(usize::from(*n)).ok_or(Unfit)?;
                self.narrow(Where::Theirs(*register), ty)
            }
            Node::Variable(variable) => {
                let index = self.block_index(variable.block()).ok_or(Unfit)?;
                let to = self.scratch()?;
                self.address_of(index, to)?;
                self.load(to, to, 0, ty);
                Ok(Where::Own(to))
            }
            Node::Load(address) => {
                let (base, displacement) = self.address(address)?;
                let (base, to) = match base {
                    Where::Own(base) => (base, base),
                    Where::Theirs(base) => (base, self.scratch()?),
                    Where::Immediate(value) => {
                        let to = self.scratch()?;
                        self.asm.mov_imm(to, i64::from(value) as u64);
                        (to, to)
                    }
                };
                self.note_fault();
                self.load(to, base, displacement, ty);
                Ok(Where::Own(to))
            }
            Node::Cast(a) | Node::Reinterpret(a) => {
                let value = self.value(a)?;
                if fits(a.ty(), ty) { Ok(value) } else { self.narrow(value, ty) }
            }
            Node::Binary(op, a, b) => self.arithmetic(*op, ty, a, b),
            _ => Err(Unfit),
        }
    }

    fn constant(&mut self, value: u64) -> Result<Where, Unfit> {
        if is_immediate(value) {
            return Ok(Where::Immediate(value as i32));
        }
        let to = self.scratch()?;
        self.asm.mov_imm(to, value);
        Ok(Where::Own(to))
    }

    /// An address, with a constant that is added to it apart.
    fn address(&mut self, expr: &Expr) -> Result<(Where, i32), Unfit> {
        if let Node::Binary(BinaryOp::Add, a, b) = expr.node()
            && let Some(constant) = b.as_constant()
            && is_immediate(constant.quadword())
        {
            return Ok((self.value(a)?, constant.quadword() as i32));
        }
        Ok((self.value(expr)?, 0))
    }

    /// Makes the lowest bits of a quadword a value of `ty`.
    fn narrow(&mut self, value: Where, ty: Type) -> Result<Where, Unfit> {
        if ty.size() == 8 {
            return Ok(value);
        }
        if let Where::Immediate(value) = value {
            let value = ty.extend(i64::from(value) as u64);
            return self.constant(value);
        }
        let (to, from) = match value {
            Where::Own(register) => (register, register),
            Where::Theirs(register) => (self.scratch()?, register),
            Where::Immediate(_) => return Err(Unfit),
        };
        self.extend(to, from, ty);
        Ok(Where::Own(to))
    }

    fn arithmetic(&mut self, op: BinaryOp, ty: Type, a: &Expr, b: &Expr) -> Result<Where, Unfit> {
        let left = self.value(a)?;
        let left = self.own(left)?;
        if let BinaryOp::ShiftLeft | BinaryOp::ShiftRight = op {
            let count = b.as_constant().ok_or(Unfit)?.quadword() & (u64::from(ty.bits()) - 1);
            self.shift(left, op == BinaryOp::ShiftLeft, ty.is_signed(), count as u8);
            return self.narrow(Where::Own(left), ty);
        }
        let right = self.value(b)?;
        // add, or, and, sub, xor (AMD APM vol. 3, A.1).
        let code = match op {
            BinaryOp::Add => 0,
            BinaryOp::BitOr => 1,
            BinaryOp::BitAnd => 4,
            BinaryOp::Subtract => 5,
            BinaryOp::BitXor => 6,
            _ => return Err(Unfit),
        };
        self.alu(code, left, right);
        self.release(right);
        self.narrow(Where::Own(left), ty)
    }

    /// The value in a register that may be changed.
    pub(super) fn own(&mut self, value: Where) -> Result<Gpr, Unfit> {
        match value {
            Where::Own(register) => Ok(register),
            Where::Theirs(register) => {
                let to = self.scratch()?;
                self.asm.mov(to, register);
                Ok(to)
            }
            Where::Immediate(value) => {
                let to = self.scratch()?;
                self.asm.mov_imm(to, i64::from(value) as u64);
                Ok(to)
            }
        }
    }
}

/// Whether a quadword with a value of `from` has the same value of `to`.
fn fits(from: Type, to: Type) -> bool {
    to.size() == 8 || (from.size() < to.size() && (!from.is_signed() || to.is_signed())) || from == to
}

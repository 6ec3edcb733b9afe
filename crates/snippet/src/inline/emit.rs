//! The code of a program in line.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, GprSet, Live};

use super::value::Where;
use super::{Inline, parts};
use crate::tree::{BinaryOp, Block, Expr, Fault, Node, Stmt, Storage, Type, UnaryOp};

/// The program cannot be put in line at this point: there are not enough registers, or a branch would be too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the program does not fit in line here")]
pub struct Unfit;

/// The point that code is made for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where the blocks are.
    pub blocks: &'a [Addr],
    /// What the program needs behind the point.
    pub live: Live,
    /// Registers that are not to be changed whether it needs them or not.
    pub untouched: GprSet,
    /// The code may be loaded at another address: it must hold none.
    pub moves: bool,
    /// Where each thread has its area for restartable sequences, counted from its thread pointer, if it has one.
    pub rseq: Option<i32>,
}

/// What was emitted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Emitted {
    /// General registers that are changed.
    pub clobbers: GprSet,
    /// Instructions that may fault and where to go on then, as offsets in the code of the assembler.
    pub faults: Vec<(usize, usize)>,
    /// 32-bit displacements in the code, each with the bytes that have to lie behind the code, to which it leads.
    pub literals: Vec<(usize, Vec<u8>)>,
}

/// How many registers may be in use at a time.
const SCRATCH_MAX: usize = 6;

impl Inline {
    /// Appends the code. It changes flags.
    ///
    /// # Errors
    /// [`Unfit`]; what was appended is of no use then.
    pub fn emit(&self, asm: &mut Assembler, target: &Target<'_>) -> Result<Emitted, Unfit> {
        let begun = self.begin(asm, target)?;
        self.end(asm, target, begun)
    }

    /// Appends the code up to where it has returned true; what is appended behind runs then only. [`end`](Self::end) has to
    /// follow.
    ///
    /// # Errors
    /// [`Unfit`]; what was appended is of no use then.
    pub fn begin(&self, asm: &mut Assembler, target: &Target<'_>) -> Result<Begun, Unfit> {
        let dead = target.live.gprs.complement();
        let taken = self.reads.union(target.untouched);
        let usable = |gpr: &Gpr| *gpr != Gpr::Rsp && !taken.contains(*gpr);
        // What is dead needs no saving; of the others those with short encodings first.
        let free = dead.iter().chain(target.live.gprs.iter()).filter(usable).take(SCRATCH_MAX).collect();
        let begun = Begun { free, ..Begun::default() };
        let mut emitter = Emitter { asm, blocks: &self.blocks, target, begun };
        let (body, condition) = parts(self.program.body());
        emitter.statements(body)?;
        if let Some(condition) = condition {
            emitter.begun.otherwise = emitter.unless(condition)?;
        }
        Ok(emitter.begun)
    }

    /// Appends where the code goes on if it returned false, or ended early.
    ///
    /// # Errors
    /// [`Unfit`]; what was appended is of no use then.
    pub fn end(&self, asm: &mut Assembler, target: &Target<'_>, begun: Begun) -> Result<Emitted, Unfit> {
        Emitter { asm, blocks: &self.blocks, target, begun }.finish()
    }
}

/// Code that has begun.
#[derive(Default, Debug)]
pub struct Begun {
    /// Registers to take, the best first.
    free: Vec<Gpr>,
    used: GprSet,
    /// Instructions that may fault.
    pending: Vec<usize>,
    /// Jumps to the end.
    otherwise: Jumps,
    /// Instructions that may fault, with where to go on.
    pub(super) faults: Vec<(usize, usize)>,
    pub(super) literals: Vec<(usize, Vec<u8>)>,
}

pub(super) struct Emitter<'a> {
    pub(super) asm: &'a mut Assembler,
    blocks: &'a [Block],
    pub(super) target: &'a Target<'a>,
    pub(super) begun: Begun,
}

/// Where a branch goes: displacements to fill in.
type Jumps = Vec<usize>;

impl Emitter<'_> {
    fn finish(mut self) -> Result<Emitted, Unfit> {
        let mut faults = std::mem::take(&mut self.begun.faults);
        if !self.begun.pending.is_empty() {
            // Only faults come here; what is in registers is not needed any more.
            let over = self.jump();
            let fixup = self.asm.bytes().len();
            self.add(0, Fault::Memory as i32 * 8, 1)?;
            self.join(over);
            faults.extend(self.begun.pending.iter().map(|load| (*load, fixup)));
        }
        std::mem::take(&mut self.begun.otherwise).into_iter().for_each(|jump| self.join(jump));
        Ok(Emitted { clobbers: self.begun.used, faults, literals: self.begun.literals })
    }

    fn statements(&mut self, body: &[Stmt]) -> Result<(), Unfit> {
        body.iter().try_for_each(|stmt| self.statement(stmt))
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<(), Unfit> {
        match stmt {
            Stmt::Sequence(body) => self.statements(body),
            Stmt::Add(variable, value) => {
                let index = self.block_index(variable.block()).ok_or(Unfit)?;
                let value = value.as_constant().ok_or(Unfit)?.quadword() as i32;
                match variable.storage() {
                    Storage::PerCpu => self.add_per_cpu(index, value),
                    _ => self.add(index, 0, value),
                }
            }
            Stmt::If(condition, then, otherwise) => {
                let no = self.unless(condition)?;
                self.statements(then)?;
                if otherwise.is_empty() {
                    no.into_iter().for_each(|jump| self.join(jump));
                    return Ok(());
                }
                let over = self.jump();
                no.into_iter().for_each(|jump| self.join(jump));
                self.statements(otherwise)?;
                self.join(over);
                Ok(())
            }
            _ => Err(Unfit),
        }
    }

    /// Adds to the quadword of a block, for all threads.
    pub(super) fn add(&mut self, block: usize, offset: i32, value: i32) -> Result<(), Unfit> {
        let at = self.target.blocks[block] + offset as u64;
        if self.reaches(at) {
            match value {
                1 => self.asm.lock_inc(at).map_err(|_| Unfit)?,
                _ => self.add_near(at, value),
            }
            return Ok(());
        }
        if self.target.moves {
            return Err(Unfit);
        }
        let base = self.scratch()?;
        self.asm.mov_imm(base, at.0);
        match value {
            1 => self.asm.lock_inc_at(base),
            _ => {
                let (rex, modrm) = (0x48 | base.number() >> 3, base.number() & 7);
                // [r12] needs a SIB byte, [r13] a displacement: both always.
                self.asm.raw(&[0xF0, rex, 0x81, 0x80 | modrm]);
                if modrm == 4 {
                    self.asm.raw(&[0x24]);
                }
                self.asm.raw(&[0; 4]);
                self.asm.raw(&value.to_le_bytes());
            }
        }
        self.release(Where::Own(base));
        Ok(())
    }

    /// `lock add qword [at], value`.
    fn add_near(&mut self, at: Addr, value: i32) {
        // The displacement is counted from behind the constant.
        self.asm.relative(&[0xF0, 0x48, 0x81, 0x05], at - 4);
        self.asm.raw(&value.to_le_bytes());
    }

    fn reaches(&self, at: Addr) -> bool {
        const SLACK: i64 = 1 << 16;
        at.offset(SLACK).in_rel32_of(self.asm.here()) && at.offset(-SLACK).in_rel32_of(self.asm.here())
    }

    /// Code that goes on behind itself if the condition holds; the jumps that are taken if not.
    fn unless(&mut self, condition: &Expr) -> Result<Jumps, Unfit> {
        match condition.node() {
            Node::Constant(constant) if constant.bits != 0 => Ok(Vec::new()),
            Node::Constant(_) => Ok(vec![self.jump()]),
            Node::And(a, b) => {
                let mut no = self.unless(a)?;
                no.extend(self.unless(b)?);
                Ok(no)
            }
            Node::Or(a, b) => {
                let second = self.unless(a)?;
                let yes = self.jump();
                second.into_iter().for_each(|jump| self.join(jump));
                let no = self.unless(b)?;
                self.join(yes);
                Ok(no)
            }
            Node::Unary(UnaryOp::LogicNot, a) => {
                let yes = self.unless(a)?;
                let no = self.jump();
                yes.into_iter().for_each(|jump| self.join(jump));
                Ok(vec![no])
            }
            Node::Binary(op, a, b) => self.compare(*op, a, b),
            Node::Cast(a) => {
                let value = self.in_register(a)?;
                self.compare_with(value, Where::Immediate(0));
                self.release(value);
                Ok(vec![self.branch(EQUAL)])
            }
            _ => Err(Unfit),
        }
    }

    fn compare(&mut self, op: BinaryOp, a: &Expr, b: &Expr) -> Result<Jumps, Unfit> {
        let left = self.in_register(a)?;
        let right = self.value(b)?;
        self.compare_with(left, right);
        self.release(left);
        self.release(right);
        // Conditions of jumps (AMD APM vol. 3, table B-1). All values have the sign they have as quadwords.
        let code = match (op, a.ty().is_signed()) {
            (BinaryOp::Equal, _) => EQUAL ^ 1,
            (BinaryOp::NotEqual, _) => EQUAL,
            (BinaryOp::Less, false) => BELOW ^ 1,
            (BinaryOp::GreaterEqual, false) => BELOW,
            (BinaryOp::LessEqual, false) => NOT_ABOVE ^ 1,
            (BinaryOp::Greater, false) => NOT_ABOVE,
            (BinaryOp::Less, true) => LESS ^ 1,
            (BinaryOp::GreaterEqual, true) => LESS,
            (BinaryOp::LessEqual, true) => NOT_GREATER ^ 1,
            (BinaryOp::Greater, true) => NOT_GREATER,
            _ => return Err(Unfit),
        };
        Ok(vec![self.branch(code)])
    }

    fn in_register(&mut self, expr: &Expr) -> Result<Where, Unfit> {
        Ok(match self.value(expr)? {
            immediate @ Where::Immediate(_) => Where::Own(self.own(immediate)?),
            other => other,
        })
    }

    fn compare_with(&mut self, left: Where, right: Where) {
        match (left, right) {
            (Where::Own(register) | Where::Theirs(register), Where::Immediate(0)) => {
                let number = register.number();
                // test register, register
                let (high, both) = ((number >> 3) * 5, (number & 7) * 9);
                self.asm.raw(&[0x48 | high, 0x85, 0xC0 | both]);
            }
            (Where::Own(register) | Where::Theirs(register), right) => self.alu(7, register, right),
            (Where::Immediate(_), _) => {}
        }
    }

    /// `left = left op right`; the number of the operation is that in opcodes.
    pub(super) fn alu(&mut self, code: u8, left: Gpr, right: Where) {
        let number = left.number();
        match right {
            Where::Own(right) | Where::Theirs(right) => {
                let rex = 0x48 | (right.number() >> 3) << 2 | number >> 3;
                self.asm.raw(&[rex, code << 3 | 1, 0xC0 | (right.number() & 7) << 3 | number & 7]);
            }
            Where::Immediate(value) => {
                let (rex, modrm) = (0x48 | number >> 3, 0xC0 | code << 3 | number & 7);
                match i8::try_from(value) {
                    Ok(short) => self.asm.raw(&[rex, 0x83, modrm, short as u8]),
                    Err(_) => {
                        self.asm.raw(&[rex, 0x81, modrm]);
                        self.asm.raw(&value.to_le_bytes());
                    }
                }
            }
        }
    }

    pub(super) fn shift(&mut self, register: Gpr, left: bool, signed: bool, count: u8) {
        let number = register.number();
        let code = match (left, signed) {
            (true, _) => 4,
            (false, false) => 5,
            (false, true) => 7,
        };
        self.asm.raw(&[0x48 | number >> 3, 0xC1, 0xC0 | code << 3 | number & 7, count]);
    }

    /// `to = [base + displacement]`, a value of `ty` as a quadword.
    pub(super) fn load(&mut self, to: Gpr, base: Gpr, displacement: i32, ty: Type) {
        self.extending(to, base, ty);
        self.asm.raw(&[0x80 | (to.number() & 7) << 3 | base.number() & 7]);
        // [r12] needs a SIB byte.
        if base.number() & 7 == 4 {
            self.asm.raw(&[0x24]);
        }
        self.asm.raw(&displacement.to_le_bytes());
    }

    /// `to = the lowest bits of from`, a value of `ty` as a quadword.
    pub(super) fn extend(&mut self, to: Gpr, from: Gpr, ty: Type) {
        self.extending(to, from, ty);
        self.asm.raw(&[0xC0 | (to.number() & 7) << 3 | from.number() & 7]);
    }

    /// Prefix and opcode of a move to a quadword that extends a value of `ty` (AMD APM vol. 3, MOV, MOVSXD, MOVSX, MOVZX).
    fn extending(&mut self, to: Gpr, from: Gpr, ty: Type) {
        let opcode: &[u8] = match (ty.size(), ty.is_signed()) {
            (8, _) | (4, false) => &[0x8B],
            (4, true) => &[0x63],
            (2, true) => &[0x0F, 0xBF],
            (2, false) => &[0x0F, 0xB7],
            (_, true) => &[0x0F, 0xBE],
            (_, false) => &[0x0F, 0xB6],
        };
        // Without REX.W a move of 32 bits clears the upper half.
        let wide = if ty.size() == 4 && !ty.is_signed() { 0 } else { 8 };
        self.asm.raw(&[0x40 | wide | (to.number() >> 3) << 2 | from.number() >> 3]);
        self.asm.raw(opcode);
    }

    /// `to = address of a block`.
    pub(super) fn address_of(&mut self, block: usize, to: Gpr) -> Result<(), Unfit> {
        let at = self.target.blocks[block];
        if self.reaches(at) {
            let rex = 0x48 | (to.number() >> 3) << 2;
            self.asm.relative(&[rex, 0x8D, 0x05 | (to.number() & 7) << 3], at);
        } else if self.target.moves {
            return Err(Unfit);
        } else {
            self.asm.mov_imm(to, at.0);
        }
        Ok(())
    }

    pub(super) fn block_index(&self, block: &Block) -> Option<usize> {
        self.blocks.iter().position(|known| known == block)
    }

    pub(super) fn scratch(&mut self) -> Result<Gpr, Unfit> {
        if self.begun.free.is_empty() {
            return Err(Unfit);
        }
        let register = self.begun.free.remove(0);
        self.begun.used.insert(register);
        Ok(register)
    }

    /// Gives a register back, to be taken next.
    pub(super) fn release(&mut self, value: Where) {
        if let Where::Own(register) = value {
            self.begun.free.insert(0, register);
        }
    }

    /// The next instruction may fault.
    pub(super) fn note_fault(&mut self) {
        self.begun.pending.push(self.asm.bytes().len());
    }

    pub(super) fn jump(&mut self) -> usize {
        self.asm.raw(&[0xE9, 0, 0, 0, 0]);
        self.asm.bytes().len()
    }

    pub(super) fn branch(&mut self, condition: u8) -> usize {
        self.asm.raw(&[0x0F, 0x80 | condition, 0, 0, 0, 0]);
        self.asm.bytes().len()
    }

    /// Leads a jump, whose displacement ends at `end`, here.
    pub(super) fn join(&mut self, end: usize) {
        let distance = (self.asm.bytes().len() - end) as u32;
        self.asm.set(end - 4, &distance.to_le_bytes());
    }
}

const BELOW: u8 = 2;
const EQUAL: u8 = 4;
const NOT_ABOVE: u8 = 6;
const LESS: u8 = 12;
const NOT_GREATER: u8 = 14;

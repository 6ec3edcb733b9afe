//! An interpreter of the tree: what every lowering has to agree with.
//!
//! Pure: memory, registers, variables and tables are those of a [`World`].

mod scalar;
#[cfg(test)]
mod tests;

pub use scalar::{binary, convert, unary};

use crate::tree::{
    AtomicOp, BinaryOp, Callee, Constant, Expr, Fault, LocalId, Map, Node, Place, PointFact, Program, Record,
    Register, Ring, Stmt, SystemFact, Type, Update, Variable,
};

/// The value of an expression.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Datum {
    /// Of a scalar type.
    Scalar(Constant),
    /// A text or return addresses: whole quadwords, zero behind what there is.
    Bytes(Vec<u8>),
}

/// What a run of a program sees and changes.
pub trait World {
    /// Reads memory; `false` where it cannot be read.
    fn read(&mut self, at: u64, into: &mut [u8]) -> bool;
    /// Writes memory; `false` where it cannot be written.
    fn write(&mut self, at: u64, bytes: &[u8]) -> bool;
    /// A register of the program.
    fn register(&mut self, register: Register) -> u64;
    /// Changes a register of the program.
    fn set_register(&mut self, register: Register, value: u64);
    /// An integer argument.
    fn argument(&mut self, n: u8) -> u64;
    /// The bits of a float argument, or of a returned float for `None`.
    fn float(&mut self, n: Option<u8>) -> u64;
    /// What a function returns.
    fn returned(&mut self) -> u64;
    /// A fact about the point.
    fn point(&mut self, fact: PointFact) -> u64;
    /// A fact about the thread or machine.
    fn system(&mut self, fact: SystemFact) -> u64;
    /// The name of the thread, 16 bytes.
    fn command(&mut self) -> Vec<u8>;
    /// Return addresses, at most `depth`.
    fn stack(&mut self, depth: u8) -> Vec<u64>;
    /// The bits of a variable.
    fn variable(&mut self, variable: &Variable) -> u64;
    /// Changes a variable.
    fn set_variable(&mut self, variable: &Variable, bits: u64);
    /// Calls a function.
    fn call(&mut self, callee: &Callee, arguments: &[Constant]) -> u64;
    /// The bits of the plain value at a key, if there is one.
    fn map_value(&mut self, map: &Map, keys: &[Datum]) -> Option<u64>;
    /// Updates a map; `None` counts one.
    fn update(&mut self, map: &Map, keys: &[Datum], value: Option<Constant>);
    /// Takes a key out.
    fn delete(&mut self, map: &Map, keys: &[Datum]);
    /// Appends a record.
    fn emit(&mut self, ring: &Ring, record: &Record, values: &[Datum]);
    /// [`Stmt::Stop`] or, if so, [`Stmt::Debugger`].
    fn stop(&mut self, debugger: bool);
}

/// Runs a program once. Gives the value it returns, if it does.
///
/// # Errors
/// Why the run ended early; what it did before stays done.
pub fn run(program: &Program, world: &mut dyn World) -> Result<Option<Constant>, Fault> {
    let locals = program.locals().iter().map(|local| vec![0; local.words() as usize]).collect();
    let mut run = Run { world, locals, budget: program.budget() };
    match run.all(program.body())? {
        Leave::Return(value) => Ok(value),
        _ => Ok(None),
    }
}

/// How a statement was left.
enum Leave {
    End,
    Break,
    Continue,
    Return(Option<Constant>),
}

struct Run<'w> {
    world: &'w mut dyn World,
    locals: Vec<Vec<u64>>,
    budget: u32,
}

impl Run<'_> {
    fn all(&mut self, body: &[Stmt]) -> Result<Leave, Fault> {
        for stmt in body {
            match self.statement(stmt)? {
                Leave::End => {}
                leave => return Ok(leave),
            }
        }
        Ok(Leave::End)
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<Leave, Fault> {
        match stmt {
            // A program holds none.
            Stmt::Invalid(_) => {}
            Stmt::Sequence(body) => return self.all(body),
            Stmt::Evaluate(value) => {
                self.datum(value)?;
            }
            Stmt::Assign(Place::Local(id, Type::Text(_)), value) => {
                let Datum::Bytes(bytes) = self.datum(value)? else { return Ok(Leave::End) };
                let words = bytes.chunks(8).chain(std::iter::repeat(&[][..]));
                for (word, chunk) in self.locals[id.0 as usize].iter_mut().zip(words) {
                    let mut quadword = [0; 8];
                    quadword[..chunk.len()].copy_from_slice(chunk);
                    *word = u64::from_le_bytes(quadword);
                }
            }
            Stmt::Assign(place, value) => {
                let value = self.scalar(value)?;
                self.store(place, value.bits)?;
            }
            Stmt::Add(variable, value) => {
                let value = self.scalar(value)?;
                let before = self.world.variable(variable);
                self.world.set_variable(variable, before.wrapping_add(value.bits) & variable.ty().mask());
            }
            Stmt::If(condition, then, otherwise) => {
                let body = if self.truth(condition)? { then } else { otherwise };
                return self.all(body);
            }
            Stmt::Loop { before, body, step, after } => {
                return self.rounds(before.as_ref(), body, step, after.as_ref());
            }
            Stmt::Switch(value, cases) => {
                let value = self.scalar(value)?;
                let wanted = |case: &crate::tree::Case| {
                    case.values.iter().any(|v| Constant::new(value.ty, *v).bits == value.bits)
                };
                let default = || cases.iter().position(|case| case.values.is_empty());
                let first = cases.iter().position(wanted).or_else(default).unwrap_or(cases.len());
                for case in &cases[first..] {
                    match self.all(&case.body)? {
                        Leave::End => {}
                        Leave::Break => return Ok(Leave::End),
                        leave => return Ok(leave),
                    }
                }
            }
            Stmt::Break => return Ok(Leave::Break),
            Stmt::Continue => return Ok(Leave::Continue),
            Stmt::Return(value) => {
                let value = value.as_ref().map(|value| self.scalar(value)).transpose()?;
                return Ok(Leave::Return(value));
            }
            Stmt::Update(map, keys, update) => {
                let keys = self.data(keys)?;
                let value = match update {
                    Update::One => None,
                    Update::Value(value) => Some(self.scalar(value)?),
                };
                self.world.update(map, &keys, value);
            }
            Stmt::Delete(map, keys) => {
                let keys = self.data(keys)?;
                self.world.delete(map, &keys);
            }
            Stmt::Emit(ring, record, values) => {
                let values = self.data(values)?;
                self.world.emit(ring, record, &values);
            }
            Stmt::Stop => self.world.stop(false),
            Stmt::Debugger => self.world.stop(true),
        }
        Ok(Leave::End)
    }

    fn rounds(
        &mut self,
        before: Option<&Expr>,
        body: &[Stmt],
        step: &[Stmt],
        after: Option<&Expr>,
    ) -> Result<Leave, Fault> {
        loop {
            if let Some(condition) = before
                && !self.truth(condition)?
            {
                return Ok(Leave::End);
            }
            self.budget = self.budget.checked_sub(1).ok_or(Fault::Budget)?;
            match self.all(body)? {
                Leave::Break => return Ok(Leave::End),
                Leave::Return(value) => return Ok(Leave::Return(value)),
                Leave::End | Leave::Continue => {}
            }
            if let Leave::Return(value) = self.all(step)? {
                return Ok(Leave::Return(value));
            }
            if let Some(condition) = after
                && !self.truth(condition)?
            {
                return Ok(Leave::End);
            }
        }
    }

    fn truth(&mut self, condition: &Expr) -> Result<bool, Fault> {
        Ok(self.scalar(condition)?.bits != 0)
    }

    fn data(&mut self, exprs: &[Expr]) -> Result<Vec<Datum>, Fault> {
        exprs.iter().map(|expr| self.datum(expr)).collect()
    }

    /// The value of a scalar expression; of another, nothing that is used.
    fn scalar(&mut self, expr: &Expr) -> Result<Constant, Fault> {
        match self.datum(expr)? {
            Datum::Scalar(constant) => Ok(constant),
            Datum::Bytes(_) => Ok(Constant::new(expr.ty(), 0)),
        }
    }

    fn datum(&mut self, expr: &Expr) -> Result<Datum, Fault> {
        let ty = expr.ty();
        let bytes = |mut bytes: Vec<u8>| {
            bytes.resize(ty.size() as usize, 0);
            Ok(Datum::Bytes(bytes))
        };
        let bits = match expr.node() {
            Node::Invalid(_) => 0,
            Node::Text(text) => return bytes(text.to_vec()),
            Node::Command => return bytes(shortened(self.world.command(), ty)),
            Node::ReadText(address, most) => {
                let at = self.scalar(address)?.bits;
                let most = most.as_ref().map_or(Ok(u64::MAX), |most| Ok(self.scalar(most)?.bits))?;
                return bytes(self.text(at, ty, most)?);
            }
            Node::Local(id) if matches!(ty, Type::Text(_)) => {
                let words = self.locals[id.0 as usize].iter();
                return bytes(shortened(words.flat_map(|word| word.to_le_bytes()).collect(), ty));
            }
            Node::Stack(_) => {
                let depth = (ty.size() / 8) as u8;
                return bytes(self.world.stack(depth).iter().flat_map(|at| at.to_le_bytes()).collect());
            }
            Node::Constant(constant) => constant.bits,
            Node::Local(id) => self.locals[id.0 as usize][0],
            Node::Element(id, index) => {
                let index = self.index(*id, index)?;
                self.locals[id.0 as usize][index]
            }
            Node::Variable(variable) => self.world.variable(variable),
            Node::Register(register) => self.world.register(*register),
            Node::Argument(n) => self.world.argument(*n),
            Node::FloatArgument(n) => self.world.float(Some(*n)),
            Node::FloatReturned => self.world.float(None),
            Node::Returned => self.world.returned(),
            Node::Point(fact) => self.world.point(*fact),
            Node::System(fact) => self.world.system(*fact),
            Node::Load(address) => {
                let at = self.scalar(address)?.bits;
                self.load(at, ty)?
            }
            Node::Unary(op, a) => unary(*op, self.scalar(a)?).bits,
            Node::Binary(op, a, b) => return self.binary(*op, a, b),
            Node::And(a, b) => (self.truth(a)? && self.truth(b)?).into(),
            Node::Or(a, b) => (self.truth(a)? || self.truth(b)?).into(),
            Node::Choose(condition, yes, no) => {
                let chosen = if self.truth(condition)? { yes } else { no };
                return match self.datum(chosen)? {
                    Datum::Bytes(chosen) => bytes(chosen),
                    scalar @ Datum::Scalar(_) => Ok(scalar),
                };
            }
            Node::Cast(a) => convert(self.scalar(a)?, ty).bits,
            Node::Reinterpret(a) => self.scalar(a)?.bits,
            Node::Call(callee, arguments) => {
                let arguments: Result<Vec<_>, _> = arguments.iter().map(|a| self.scalar(a)).collect();
                self.world.call(callee, &arguments?)
            }
            Node::Atomic(op, place, value) => {
                let value = self.scalar(value)?;
                let before = Constant::new(ty, self.fetch(place)?);
                self.store(place, atomic(*op, before, value))?;
                before.bits
            }
            Node::CompareExchange(place, expected, new) => {
                let (expected, new) = (self.scalar(expected)?, self.scalar(new)?);
                let before = self.fetch(place)?;
                self.store(place, if before == expected.bits { new.bits } else { before })?;
                before
            }
            Node::MapValue(map, keys) => {
                let keys = self.data(keys)?;
                self.world.map_value(map, &keys).unwrap_or(0)
            }
            Node::MapHas(map, keys) => {
                let keys = self.data(keys)?;
                self.world.map_value(map, &keys).is_some().into()
            }
        };
        Ok(Datum::Scalar(Constant::new(ty, bits)))
    }

    fn binary(&mut self, op: BinaryOp, a: &Expr, b: &Expr) -> Result<Datum, Fault> {
        let (a, b) = (self.datum(a)?, self.datum(b)?);
        let result = match (a, b) {
            (Datum::Scalar(a), Datum::Scalar(b)) => binary(op, a, b).ok_or(Fault::Division)?,
            (Datum::Bytes(a), Datum::Bytes(b)) => {
                let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let equal = a[..end(&a)] == b[..end(&b)];
                Constant::new(Type::Bool, (equal == (op == BinaryOp::Equal)).into())
            }
            _ => Constant::new(Type::Bool, 0),
        };
        Ok(Datum::Scalar(result))
    }

    fn index(&mut self, id: LocalId, index: &Expr) -> Result<usize, Fault> {
        let index = self.scalar(index)?.bits;
        let len = self.locals[id.0 as usize].len() as u64;
        if index < len { Ok(index as usize) } else { Err(Fault::Index) }
    }

    fn load(&mut self, at: u64, ty: Type) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        if !self.world.read(at, &mut bytes[..ty.size() as usize]) {
            return Err(Fault::Memory);
        }
        let bits = u64::from_le_bytes(bytes);
        // Any byte but zero is true.
        Ok(if ty == Type::Bool { u64::from(bits != 0) } else { bits })
    }

    fn text(&mut self, at: u64, ty: Type, most: u64) -> Result<Vec<u8>, Fault> {
        let Type::Text(room) = ty else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        for offset in 0..u64::from(room).min(most) {
            match self.load(at.wrapping_add(offset), Type::U8)? as u8 {
                0 => break,
                byte => text.push(byte),
            }
        }
        Ok(text)
    }

    fn fetch(&mut self, place: &Place) -> Result<u64, Fault> {
        match place {
            Place::Local(id, _) => Ok(self.locals[id.0 as usize][0]),
            Place::Element(id, _, index) => {
                let index = self.index(*id, index)?;
                Ok(self.locals[id.0 as usize][index])
            }
            Place::Variable(variable) => Ok(self.world.variable(variable)),
            Place::Register(register) => Ok(self.world.register(*register)),
            Place::Memory(ty, address) => {
                let at = self.scalar(address)?.bits;
                self.load(at, *ty)
            }
        }
    }

    fn store(&mut self, place: &Place, bits: u64) -> Result<(), Fault> {
        match place {
            Place::Local(id, _) => self.locals[id.0 as usize][0] = bits,
            Place::Element(id, _, index) => {
                let index = self.index(*id, index)?;
                self.locals[id.0 as usize][index] = bits;
            }
            Place::Variable(variable) => self.world.set_variable(variable, bits),
            Place::Register(register) => self.world.set_register(*register, bits),
            Place::Memory(ty, address) => {
                let at = self.scalar(address)?.bits;
                if !self.world.write(at, &bits.to_le_bytes()[..ty.size() as usize]) {
                    return Err(Fault::Memory);
                }
            }
        }
        Ok(())
    }
}

/// The bytes of a text that is `ty`.
fn shortened(mut bytes: Vec<u8>, ty: Type) -> Vec<u8> {
    if let Type::Text(len) = ty {
        bytes.truncate(len.into());
    }
    bytes
}

fn atomic(op: AtomicOp, before: Constant, value: Constant) -> u64 {
    let less = if before.ty.is_signed() {
        (before.quadword() as i64) < value.quadword() as i64
    } else {
        before.bits < value.bits
    };
    let after = match op {
        AtomicOp::Add => before.bits.wrapping_add(value.bits),
        AtomicOp::Subtract => before.bits.wrapping_sub(value.bits),
        AtomicOp::And => before.bits & value.bits,
        AtomicOp::Or => before.bits | value.bits,
        AtomicOp::Xor => before.bits ^ value.bits,
        AtomicOp::Exchange => value.bits,
        AtomicOp::Minimum => {
            if less {
                before.bits
            } else {
                value.bits
            }
        }
        AtomicOp::Maximum => {
            if less {
                value.bits
            } else {
                before.bits
            }
        }
    };
    after & before.ty.mask()
}

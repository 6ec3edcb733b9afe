//! Parameters at the entry of a function, before it has put them where its variables are: in registers and on the
//! stack as the System V ABI has them (3.2.3).
//!
//! That of Rust differs: aggregates of more than two quadwords are passed by their address.

use incise_image::LinkAddr;
use incise_image::dwarf::{DebugVariable, Location, TypeId, TypeKind, Value, VariableKind};
use incise_isa::native::Gpr;

use super::Debug;
use crate::language::{Home, Part};
use crate::tree::{self, Register};

/// Registers of integers, in order.
const INTEGERS: [Gpr; 6] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9];

/// How many vector registers hold floats.
const FLOATS: u8 = 8;

/// The registers that quadwords of a value go into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Integer,
    Float,
}

/// How a value is passed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Passed {
    /// In registers, one for each quadword, if there are so many left.
    Registers(Vec<Class>),
    /// On the stack: so many bytes, at a multiple of 8 or 16.
    Stack { bytes: u64, align: u64 },
    /// By its address.
    Address,
}

/// What is taken already.
#[derive(Default)]
struct Taken {
    integers: u8,
    floats: u8,
    stack: u64,
}

/// Most parameters that are looked at.
const PARAMETERS: usize = 256;

/// Most parts of a value that is passed in registers.
const PARTS: usize = 64;

impl Debug<'_> {
    /// Where a parameter is at the entry of its function; `None` if `pc` is not that, or its place cannot be told.
    pub(super) fn argument(
        &self,
        wanted: &DebugVariable,
        pc: LinkAddr,
        all: &[DebugVariable],
    ) -> Option<Result<Home, &'static str>> {
        let function = self.info.function_at(pc).filter(|function| function.entry == pc)?;
        let is_rust = function.is_rust;
        let mut parameters: Vec<&DebugVariable> = all
            .iter()
            .filter(|variable| variable.kind == VariableKind::Parameter && variable.inlined.is_none())
            .take(PARAMETERS)
            .collect();
        parameters.sort_by_key(|parameter| parameter.order());
        let mut taken = Taken::default();
        // What is returned in memory has its address passed first.
        let returned = function.returns.and_then(|id| self.passed(id, is_rust));
        if matches!(returned, Some(Passed::Stack { .. } | Passed::Address)) {
            taken.integers += 1;
        }
        for parameter in parameters {
            let id = parameter.ty?;
            // A class that cannot be copied by its bytes is passed by its address.
            let location = self.info.location(self.image, parameter, pc);
            let by_address = matches!(&location, Ok(Location::Memory(Value::Load(..))));
            if parameter == wanted && !matches!(&location, Ok(Location::Memory(at)) if in_frame(at)) {
                return None;
            }
            let passed = if by_address { Passed::Address } else { self.passed(id, is_rust)? };
            let home = taken.place(&passed);
            if parameter == wanted {
                let size = self.size_of(id, 0)?;
                return Some(Ok(self.at_home(id, home, size)));
            }
        }
        None
    }

    fn at_home(&self, id: TypeId, place: Place, size: u64) -> Home {
        let scalar = self.language_type(id, 0).lowered().is_some();
        match place {
            Place::Registers(registers) => match (&registers[..], scalar) {
                ([one], true) => Home::Register(*one),
                _ => {
                    let parts = registers.iter().enumerate().map(|(index, register)| {
                        let offset = index as u64 * 8;
                        let bytes = size.saturating_sub(offset).clamp(1, 8) as u8;
                        Part { offset, bytes, value: Some(tree::register(*register)) }
                    });
                    Home::Parts(parts.collect())
                }
            },
            // Behind the return address.
            Place::Stack(offset) => {
                let sp = tree::register(Register::General(Gpr::Rsp));
                Home::Memory(sp.add(offset + 8).cast(tree::Type::Pointer))
            }
            Place::Address(register) => Home::Memory(tree::register(register).cast(tree::Type::Pointer)),
            Place::AddressOnStack(offset) => {
                let sp = tree::register(Register::General(Gpr::Rsp));
                Home::Memory(sp.add(offset + 8).load(tree::Type::Pointer))
            }
        }
    }

    /// How a value of a type is passed; `None` if that cannot be told.
    fn passed(&self, id: TypeId, is_rust: bool) -> Option<Passed> {
        let found = self.info.type_of(id)?;
        let size = self.size_of(id, 0);
        match found.kind {
            TypeKind::Float { .. } => Some(Passed::Registers(vec![Class::Float])),
            TypeKind::Structure { .. } | TypeKind::Array(..) => {
                let size = size?;
                if size == 0 {
                    return Some(Passed::Registers(Vec::new()));
                }
                if size > 16 {
                    return Some(match is_rust {
                        true => Passed::Address,
                        false => Passed::Stack { bytes: size, align: 8 },
                    });
                }
                let mut classes = vec![None; size.div_ceil(8) as usize];
                self.classify(id, 0, &mut classes, &mut 0)?;
                // Padding alone counts as float.
                let classes = classes.into_iter().map(|class| class.unwrap_or(Class::Float));
                Some(Passed::Registers(classes.collect()))
            }
            // `long double` goes onto the stack; what is returned of it is in no memory, but then nothing is taken.
            TypeKind::Other(16) => Some(Passed::Stack { bytes: 16, align: 16 }),
            TypeKind::Other(_) => None,
            TypeKind::Void | TypeKind::Function => Some(Passed::Registers(Vec::new())),
            _ => Some(Passed::Registers(vec![Class::Integer])),
        }
    }

    /// Notes for each quadword of an aggregate whether it has anything but floats in it.
    fn classify(&self, id: TypeId, at: u64, classes: &mut [Option<Class>], seen: &mut usize) -> Option<()> {
        *seen += 1;
        // Sixteen bytes have no more parts; a type that has itself as a part is none.
        if *seen > PARTS {
            return None;
        }
        match self.info.type_of(id)?.kind {
            TypeKind::Structure { members, .. } => {
                for member in members {
                    self.classify(member.ty, at.checked_add(member.offset)?, classes, seen)?;
                }
            }
            TypeKind::Array(of, counts) => {
                let size = self.size_of(of, 0)?.max(1);
                let count: u64 = counts.into_iter().try_fold(1, u64::checked_mul)?;
                for index in 0..count.min(16) {
                    self.classify(of, at.checked_add(index * size)?, classes, seen)?;
                }
            }
            TypeKind::Other(_) => return None,
            TypeKind::Void | TypeKind::Function => {}
            kind => {
                let class =
                    if matches!(kind, TypeKind::Float { .. }) { Class::Float } else { Class::Integer };
                if let Some(found) = classes.get_mut((at / 8) as usize)
                    && *found != Some(Class::Integer)
                {
                    *found = Some(class);
                }
            }
        }
        Some(())
    }
}

/// Whether an address depends on the frame only, which the function has yet to make.
fn in_frame(address: &Value) -> bool {
    match address {
        // rbp and rsp.
        Value::Register(n) => matches!(n, 6 | 7),
        Value::Constant(_) => true,
        Value::Address(_) => false,
        Value::Load(value, _) | Value::Unary(_, value) | Value::Extend(value, ..) => in_frame(value),
        Value::Binary(_, left, right) => in_frame(left) && in_frame(right),
    }
}

/// Where an argument is.
enum Place {
    Registers(Vec<Register>),
    /// So many bytes behind the return address.
    Stack(u64),
    /// Where a register points.
    Address(Register),
    /// Where a quadword of the stack points.
    AddressOnStack(u64),
}

impl Taken {
    fn place(&mut self, passed: &Passed) -> Place {
        match passed {
            Passed::Registers(classes) => {
                let integers = classes.iter().filter(|class| **class == Class::Integer).count() as u8;
                let floats = classes.len() as u8 - integers;
                // All of a value is in registers, or nothing of it.
                if self.integers + integers > INTEGERS.len() as u8 || self.floats + floats > FLOATS {
                    return Place::Stack(self.on_stack(classes.len() as u64 * 8, 8));
                }
                let registers = classes.iter().map(|class| match class {
                    Class::Integer => {
                        self.integers += 1;
                        Register::General(INTEGERS[usize::from(self.integers) - 1])
                    }
                    Class::Float => {
                        self.floats += 1;
                        Register::Vector(self.floats - 1)
                    }
                });
                Place::Registers(registers.collect())
            }
            Passed::Stack { bytes, align } => Place::Stack(self.on_stack(*bytes, *align)),
            Passed::Address if usize::from(self.integers) < INTEGERS.len() => {
                self.integers += 1;
                Place::Address(Register::General(INTEGERS[usize::from(self.integers) - 1]))
            }
            Passed::Address => Place::AddressOnStack(self.on_stack(8, 8)),
        }
    }

    fn on_stack(&mut self, bytes: u64, align: u64) -> u64 {
        let at = self.stack.next_multiple_of(align);
        self.stack = at.saturating_add(bytes.next_multiple_of(8));
        at
    }
}

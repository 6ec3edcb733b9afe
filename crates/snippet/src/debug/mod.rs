//! Variables and types of a program, as the language sees them: what the compiler left for debuggers, as expressions of
//! the tree.

mod abi;
mod types;
mod value;

use incise_image::dwarf::{DebugInfo, DebugVariable, Location, VariableKind};
use incise_image::{Image, LinkAddr};

use crate::language::ast::Domain;
use crate::language::{Home, Part, ProgramVariable, Type};
use crate::tree;

/// Names of a module of the program at one place, or without a place.
#[derive(Clone, Copy, Debug)]
pub struct Debug<'a> {
    /// What the compiler left.
    pub info: &'a DebugInfo,
    /// The module.
    pub image: &'a Image,
    /// Run-time addresses less link addresses.
    pub bias: u64,
    /// Tells its types from those of other modules: a number below 2^16.
    pub module: u16,
    /// Where the snippet is to run, in this module.
    pub place: Option<LinkAddr>,
}

impl Debug<'_> {
    /// A variable that is seen from the place; see [`Scope::variable`](crate::language::Scope::variable).
    ///
    /// # Errors
    /// Why a variable that exists has no value at the place.
    pub fn variable(&self, domain: Domain, name: &str) -> Result<Option<ProgramVariable>, String> {
        let kind = match domain {
            Domain::Local => Some(VariableKind::Local),
            Domain::Parameter => Some(VariableKind::Parameter),
            Domain::Default => None,
            Domain::Global | Domain::Inferior => {
                return match self.info.global(name, self.place) {
                    // Its location depends on no place, but a global may not have one.
                    Some(variable) => self.found(&variable, self.place.unwrap_or(LinkAddr(0)), &[]).map(Some),
                    None => Ok(None),
                };
            }
            _ => return Ok(None),
        };
        let Some(pc) = self.place else { return Ok(None) };
        let variables = self.info.variables_at(pc);
        match variables.iter().find(|found| found.name == name && kind.is_none_or(|kind| found.kind == kind))
        {
            Some(variable) => self.found(variable, pc, &variables).map(Some),
            None => Ok(None),
        }
    }

    /// The names of parameters and variables that are seen from the place.
    pub fn local_names(&self) -> Vec<String> {
        let variables = self.place.map(|pc| self.info.variables_at(pc)).unwrap_or_default();
        variables.into_iter().map(|variable| variable.name).collect()
    }

    /// Calls `tell` with the name of each global variable, type and enumerator of the module.
    pub fn each_global_name(&self, tell: &mut dyn FnMut(&str)) {
        self.info.each_name(tell);
    }

    fn found(
        &self,
        variable: &DebugVariable,
        pc: LinkAddr,
        all: &[DebugVariable],
    ) -> Result<ProgramVariable, String> {
        let ty = variable.ty.ok_or("its type is not known")?;
        let referred = self.referred(ty);
        if variable.kind == VariableKind::Parameter
            && variable.settled
            && variable.inlined.is_none()
            && let Some(home) = self.argument(variable, pc, all)
        {
            let home = home.map_err(str::to_owned)?;
            return Ok(self.followed(home, self.language_type(ty, 0), referred));
        }
        let location = self.info.location(self.image, variable, pc).map_err(|why| why.to_string())?;
        let language = self.language_type(ty, 0);
        let home = self.home(location, &language, self.size_of(ty, 0))?;
        Ok(self.followed(home, language, referred))
    }

    /// The variable itself, or what it refers to if it is a reference of C++.
    fn followed(&self, home: Home, ty: Type, referred: Option<Type>) -> ProgramVariable {
        let Some(to) = referred else { return ProgramVariable { ty, home } };
        let address = match home {
            Home::Memory(at) => at.load(tree::Type::Pointer),
            Home::Register(register) => tree::register(register).cast(tree::Type::Pointer),
            Home::Value(value) => value.cast(tree::Type::Pointer),
            Home::Parts(parts) => match parts.into_iter().next() {
                Some(Part { value: Some(value), .. }) => value.cast(tree::Type::Pointer),
                _ => tree::Constant::new(tree::Type::Pointer, 0).into(),
            },
        };
        ProgramVariable { ty: to, home: Home::Memory(address) }
    }

    /// Where something of a type is, as the language has it.
    fn home(&self, location: Location, ty: &Type, size: Option<u64>) -> Result<Home, String> {
        let scalar = ty.lowered().is_some();
        let whole = |value: tree::Expr| match ty.lowered() {
            Some(lowered) => Home::Value(tree::Expr::from_bits(value, lowered)),
            None => Home::Parts(vec![Part {
                offset: 0,
                bytes: size.unwrap_or(8).min(8) as u8,
                value: Some(value),
            }]),
        };
        Ok(match location {
            Location::Memory(address) => Home::Memory(self.expression(&address).cast(tree::Type::Pointer)),
            Location::Register(number) => {
                let register = value::register(number).ok_or("it is in a special register")?;
                if scalar { Home::Register(register) } else { whole(tree::register(register)) }
            }
            Location::Value(value) => whole(self.expression(&value)),
            Location::Bytes(bytes) => {
                let parts = bytes.chunks(8).take(4096).enumerate().map(|(index, chunk)| Part {
                    offset: index as u64 * 8,
                    bytes: chunk.len() as u8,
                    value: Some(value::constant_of(chunk)),
                });
                let parts: Vec<Part> = parts.collect();
                match (&parts[..], scalar) {
                    ([Part { value: Some(value), .. }], true) => whole(value.clone()),
                    (_, false) => Home::Parts(parts),
                    _ => return Err("optimized out".to_owned()),
                }
            }
            Location::Pieces(pieces) => {
                let mut parts = Vec::new();
                let mut offset = 0;
                for piece in pieces {
                    let bytes = piece.bits / 8;
                    if piece.bits % 8 != 0 || (piece.location.is_some() && bytes > 1 << 16) {
                        return Err("it is split at odd places".to_owned());
                    }
                    parts.extend(self.piece(piece.location, offset, bytes)?);
                    offset += bytes;
                }
                match (&parts[..], scalar) {
                    ([Part { value: Some(value), offset: 0, .. }], true) => whole(value.clone()),
                    _ => Home::Parts(parts),
                }
            }
        })
    }

    /// A piece in parts of at most eight bytes.
    fn piece(&self, location: Option<Location>, offset: u64, bytes: u64) -> Result<Vec<Part>, String> {
        let steps = (0..bytes).step_by(8).map(|at| (at, (bytes - at).min(8)));
        let mut parts = Vec::new();
        for (at, len) in steps {
            let value = match &location {
                None => None,
                Some(Location::Memory(address)) => {
                    let at = self.expression(address).add(at).cast(tree::Type::Pointer);
                    value::bytes_at(at, len)
                }
                Some(Location::Register(number)) if at == 0 => value::register(*number).map(tree::register),
                Some(Location::Value(value)) if at == 0 => Some(self.expression(value)),
                Some(Location::Bytes(all)) => {
                    let all = all.get(at as usize..(at + len) as usize);
                    all.map(value::constant_of)
                }
                _ => None,
            };
            parts.push(Part { offset: offset + at, bytes: len as u8, value });
        }
        Ok(parts)
    }
}

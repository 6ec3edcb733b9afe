//! Types by their names: those that a script declares, laid out as the ABI does, those of the program, and how large they are.

use super::{Check, Checked, Compiler};
use crate::language::ast::{Expr, ExprKind, StructDeclaration, Tag, TypeName};
use crate::language::types::{Member, Structure, Type};
use crate::language::{Diagnostic, Span, suggest};

/// Types that are known everywhere, for suggestions.
const WORDS: [&str; 18] = [
    "int", "long", "char", "short", "unsigned", "float", "double", "bool", "void", "size_t", "int8_t",
    "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t",
];

/// How deep names of types may lead to others.
const TYPE_DEPTH: u32 = 64;

impl Compiler {
    /// Lays out a declared structure as the System V ABI does.
    pub(super) fn declare(&mut self, declaration: &StructDeclaration) {
        let name = declaration.name.clone();
        let (mut size, mut align, mut members) = (0u64, 1u64, Vec::new());
        for member in &declaration.members {
            let Some(ty) = self.plain_type(&member.ty) else { continue };
            let (bytes, alignment) = self.layout(&ty, 0);
            let (mut offset, mut bits) = (size.next_multiple_of(alignment), None);
            match member.bits {
                Some(width) if u64::from(width) <= bytes * 8 => {
                    // A bit field goes on in the unit before it if that has room.
                    let used = self.bits_used(&members);
                    let unit = used / (bytes * 8).max(1);
                    let start = if used % (bytes * 8) + u64::from(width) > bytes * 8 {
                        (unit + 1) * bytes * 8
                    } else {
                        used
                    };
                    let start =
                        if declaration.union { 0 } else { start.max(if used == 0 { size * 8 } else { 0 }) };
                    offset = start / (bytes * 8) * bytes;
                    bits = Some(((start % (bytes * 8)) as u8, width as u8));
                    size = size.max((start + u64::from(width)).div_ceil(8));
                }
                _ if declaration.union => {
                    offset = 0;
                    size = size.max(bytes);
                }
                _ => size = offset.saturating_add(bytes),
            }
            align = align.max(alignment);
            members.push(Member { name: member.name.clone(), ty, offset, bits });
        }
        let tag = if declaration.union { Tag::Union } else { Tag::Struct };
        let structure = Structure { name: name.clone(), tag, size: size.next_multiple_of(align), members };
        self.structures.insert(name, Type::Structure(structure.into()));
    }

    /// Bits up to the end of the last member if that is a bit field.
    fn bits_used(&self, members: &[Member]) -> u64 {
        let last = members.last();
        last.and_then(|m| m.bits.map(|(at, width)| m.offset * 8 + u64::from(at) + u64::from(width)))
            .unwrap_or(0)
    }

    /// Size and alignment of a type of a declared structure.
    fn layout(&self, ty: &Type, depth: u32) -> (u64, u64) {
        match ty {
            Type::Array(of, count) => {
                let (size, align) = self.layout(of, depth);
                (size.saturating_mul(*count), align)
            }
            Type::Structure(structure) if depth < TYPE_DEPTH => {
                let aligns = structure.members.iter().map(|member| self.layout(&member.ty, depth + 1).1);
                (structure.size, aligns.max().unwrap_or(1))
            }
            Type::Named(_, name) if depth < TYPE_DEPTH => {
                self.structures.get(&**name).map_or((0, 1), |ty| self.layout(ty, depth + 1))
            }
            other => {
                let size = other.lowered().map_or(0, |ty| u64::from(ty.size()));
                (size, size.max(1))
            }
        }
    }

    /// A type without asking the program; array lengths have to be plain numbers.
    fn plain_type(&self, name: &TypeName) -> Option<Type> {
        let mut ty = name.base.clone();
        for _ in 0..name.pointers {
            ty = ty.pointer();
        }
        for length in name.arrays.iter().rev() {
            let ExprKind::Int { value, .. } = length.as_ref()?.kind else { return None };
            ty = Type::Array(ty.into(), value);
        }
        Some(ty)
    }
}

impl Check<'_> {
    /// The type a name of a type means.
    pub(super) fn type_of(&mut self, name: &TypeName) -> Checked<Type> {
        // Something behind a pointer may stay unknown until it is used.
        let mut ty = if name.pointers > 0 { name.base.clone() } else { self.resolve(&name.base, name.span)? };
        for _ in 0..name.pointers {
            ty = ty.pointer();
        }
        for length in name.arrays.iter().rev() {
            let Some(length) = length else { return self.error(name.span, "this array needs a length") };
            ty = Type::Array(ty.into(), self.array_length(length)?);
        }
        Ok(ty)
    }

    pub(super) fn array_length(&mut self, length: &Expr) -> Checked<u64> {
        match self.constant_integer(length)? {
            count @ 1..=8192 => Ok(count as u64),
            count => self.error(length.span, format!("an array has 1 to 8192 elements, not {count}")),
        }
    }

    /// The type a named one stands for.
    pub(super) fn resolve(&self, ty: &Type, span: Span) -> Checked<Type> {
        let mut ty = ty.clone();
        for _ in 0..TYPE_DEPTH {
            let (found, name) = match &ty {
                Type::Named(tag, name) => {
                    let found = self.shared.structures.get(&**name).cloned();
                    (found.or_else(|| self.scope.named_type(*tag, name)), name)
                }
                Type::Program(known) => (self.scope.program_type(known.number), &known.name),
                _ => return Ok(ty),
            };
            ty = match found {
                Some(found) => found,
                None => {
                    let error = Diagnostic::error(span, format!("the type `{ty}` is not known"));
                    let mut near = suggest::nearest(name, WORDS.into_iter());
                    near.extend(self.scope.suggest(name));
                    near.truncate(3);
                    let error = if matches!(&**name, "var" | "let" | "auto" | "string" | "goto") {
                        error.help(match &**name {
                            "goto" => "there is no goto; leave loops by break and continue",
                            "string" => "$name = str(p) keeps a text",
                            _ => "give the type, or use a $name: long x = 3; $x = 3;",
                        })
                    } else if near.is_empty() {
                        error.help("the program's debugging information does not tell it; declare it: struct name { … };")
                    } else {
                        error.did_you_mean(&near)
                    };
                    return Err(error);
                }
            };
        }
        self.error(span, "this type is defined by itself")
    }

    /// Size of a value in bytes.
    pub(super) fn size_of(&self, ty: &Type, span: Span) -> Checked<u64> {
        match self.resolve(ty, span)? {
            Type::Void => Ok(1),
            Type::Array(of, count) => Ok(self.size_of(&of, span)?.saturating_mul(count)),
            Type::Structure(structure) => Ok(structure.size),
            other => Ok(other.lowered().map_or(0, |ty| u64::from(ty.size()))),
        }
    }
}

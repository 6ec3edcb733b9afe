//! Types of DWARF as types of the language.

use incise_image::LinkAddr;
use incise_image::dwarf::{Tag as DebugTag, TypeId, TypeKind};

use super::Debug;
use crate::language::ast::Tag;
use crate::language::{Member, ProgramType, Structure, Type};

/// How deep pointers and arrays of a type are followed.
const DEPTH: u32 = 16;

/// Bits of a number of a type that tell it from others of its module.
const BITS: u32 = 48;

impl Debug<'_> {
    /// The module that a number of a [`ProgramType`] belongs to.
    pub fn module_of(number: u64) -> u16 {
        (number >> BITS) as u16
    }

    fn number(&self, id: TypeId) -> u64 {
        id.number() & ((1 << BITS) - 1) | u64::from(self.module) << BITS
    }

    /// What the type with a number is, of this module.
    pub fn program_type(&self, number: u64) -> Option<Type> {
        let id = TypeId::from_number(number & ((1 << BITS) - 1));
        let found = self.info.type_of(id)?;
        let TypeKind::Structure { size, members, tag } = found.kind else {
            return Some(self.language_type(id, 0));
        };
        let members = members.into_iter().map(|member| Member {
            ty: self.language_type(member.ty, 0),
            name: member.name,
            offset: member.offset,
            bits: member.bits,
        });
        let tag = if tag == DebugTag::Union { Tag::Union } else { Tag::Struct };
        let name = found.name.unwrap_or_default();
        Some(Type::Structure(Structure { name, tag, size, members: members.collect() }.into()))
    }

    /// A type by its name.
    pub fn named_type(&self, tag: Option<Tag>, name: &str) -> Option<Type> {
        let tag = tag.map(|tag| match tag {
            Tag::Struct => DebugTag::Struct,
            Tag::Union => DebugTag::Union,
            Tag::Enum => DebugTag::Enum,
        });
        let id = self.info.named_type(tag, name, self.place)?;
        self.program_type(self.number(id))
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        self.info.enumerator(name, self.place)
    }

    /// What the function at an address returns.
    pub fn returns(&self, entry: LinkAddr) -> Option<Type> {
        let function = self.info.function_at(entry).filter(|function| function.entry == entry)?;
        Some(function.returns.map_or(Type::Void, |id| self.language_type(id, 0)))
    }

    /// What a reference refers to.
    pub(super) fn referred(&self, id: TypeId) -> Option<Type> {
        match self.info.type_of(id)?.kind {
            TypeKind::Reference(to) => Some(self.language_type(to, 0)),
            _ => None,
        }
    }

    pub(super) fn language_type(&self, id: TypeId, depth: u32) -> Type {
        let Some(found) = self.info.type_of(id).filter(|_| depth < DEPTH) else { return Type::Void };
        match found.kind {
            TypeKind::Void | TypeKind::Function => Type::Void,
            TypeKind::Bool => Type::Bool,
            TypeKind::Integer { bytes, signed } | TypeKind::Enumeration { bytes, signed } => {
                Type::Int { bytes, signed }
            }
            TypeKind::Float { bytes: 4 } => Type::Float,
            TypeKind::Float { .. } => Type::Double,
            TypeKind::Pointer(None) => Type::Void.pointer(),
            TypeKind::Pointer(Some(to)) | TypeKind::Reference(to) => {
                self.language_type(to, depth + 1).pointer()
            }
            TypeKind::Array(of, counts) => {
                let of = self.language_type(of, depth + 1);
                counts.into_iter().rev().fold(of, |of, count| Type::Array(of.into(), count))
            }
            TypeKind::Structure { tag, .. } => {
                let tag = if tag == DebugTag::Union { Tag::Union } else { Tag::Struct };
                let name = found.name.unwrap_or_default();
                Type::Program(ProgramType { number: self.number(id), tag, name: name.into() })
            }
            TypeKind::Other(size) => {
                let (name, tag) = (found.name.unwrap_or_default(), Tag::Struct);
                Type::Structure(Structure { name, tag, size, members: Vec::new() }.into())
            }
        }
    }

    /// Size of a type in bytes.
    pub(super) fn size_of(&self, id: TypeId, depth: u32) -> Option<u64> {
        match self.info.type_of(id).filter(|_| depth < DEPTH)?.kind {
            TypeKind::Void | TypeKind::Function => None,
            TypeKind::Bool => Some(1),
            TypeKind::Integer { bytes, .. }
            | TypeKind::Enumeration { bytes, .. }
            | TypeKind::Float { bytes } => Some(bytes.into()),
            TypeKind::Pointer(_) | TypeKind::Reference(_) => Some(8),
            TypeKind::Array(of, counts) => {
                let of = self.size_of(of, depth + 1)?;
                counts.into_iter().try_fold(of, u64::checked_mul)
            }
            TypeKind::Structure { size, .. } | TypeKind::Other(size) => Some(size),
        }
    }
}

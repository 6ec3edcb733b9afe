//! Types as the checker knows them.

use std::fmt;
use std::sync::Arc;

use super::ast::Tag;
use crate::tree;

/// The type of an expression of the language.
#[derive(Clone, PartialEq, Debug)]
pub enum Type {
    /// No value.
    Void,
    /// True or false; what comparisons give.
    Bool,
    /// An integer of 1, 2, 4 or 8 bytes.
    Int {
        /// Size in bytes.
        bytes: u8,
        /// It can be negative.
        signed: bool,
    },
    /// Four bytes.
    Float,
    /// Eight bytes.
    Double,
    /// An address of something.
    Pointer(Arc<Type>),
    /// So many of something, one behind the other.
    Array(Arc<Type>, u64),
    /// A structure, union or class.
    Structure(Arc<Structure>),
    /// A type that is looked up by name when it matters, so that types can refer to themselves.
    Named(Option<Tag>, Arc<str>),
    /// A structure or union of the program, looked up by its number when it matters.
    Program(ProgramType),
    /// Text of at most so many bytes: a literal, `str(…)`, `comm`.
    Text(u16),
    /// An address that is shown as a symbol.
    Symbol,
    /// So many return addresses.
    Frames(u8),
    /// An address of IPv4, the first byte lowest.
    Inet,
    /// Nanoseconds of CLOCK_MONOTONIC that are shown as a time of day, in this format of strftime(3).
    Time(Arc<str>),
}

/// A structure, union or class of the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramType {
    /// Tells it from all others, see [`Scope::program_type`](super::Scope::program_type).
    pub number: u64,
    /// Which.
    pub tag: Tag,
    /// Its name; empty if it has none.
    pub name: Arc<str>,
}

/// A structure, union or class.
#[derive(Clone, PartialEq, Debug)]
pub struct Structure {
    /// Its name; empty if it has none.
    pub name: String,
    /// Which.
    pub tag: Tag,
    /// Size in bytes.
    pub size: u64,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member of a structure.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// Its name; empty for an anonymous structure, whose members count as those of the outer one.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Bytes from the start.
    pub offset: u64,
    /// Of a bit field: bits behind the lowest bit at `offset`, and its width.
    pub bits: Option<(u8, u8)>,
}

impl Type {
    /// `int`
    pub const INT: Type = Type::Int { bytes: 4, signed: true };
    /// `long`
    pub const LONG: Type = Type::Int { bytes: 8, signed: true };
    /// `unsigned long`
    pub const UNSIGNED_LONG: Type = Type::Int { bytes: 8, signed: false };
    /// `char`
    pub const CHAR: Type = Type::Int { bytes: 1, signed: true };

    /// A pointer to it.
    pub fn pointer(self) -> Type {
        Type::Pointer(Arc::new(self))
    }

    /// Integer or bool.
    pub fn is_integral(&self) -> bool {
        matches!(self, Type::Int { .. } | Type::Bool)
    }

    /// A float of any size.
    pub fn is_float(&self) -> bool {
        matches!(self, Type::Float | Type::Double)
    }

    /// Integer, bool or float.
    pub fn is_arithmetic(&self) -> bool {
        self.is_integral() || self.is_float()
    }

    /// A pointer or an address shown as a symbol.
    pub fn is_address(&self) -> bool {
        matches!(self, Type::Pointer(_) | Type::Symbol)
    }

    /// It with its article: `an int`.
    pub fn described(&self) -> String {
        let name = self.to_string();
        let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
        format!("{} {name}", if vowel { "an" } else { "a" })
    }

    /// What the tree computes with.
    pub fn lowered(&self) -> Option<tree::Type> {
        Some(match *self {
            Type::Bool => tree::Type::Bool,
            Type::Int { bytes: 1, signed: true } => tree::Type::I8,
            Type::Int { bytes: 2, signed: true } => tree::Type::I16,
            Type::Int { bytes: 4, signed: true } => tree::Type::I32,
            Type::Int { signed: true, .. } => tree::Type::I64,
            Type::Int { bytes: 1, .. } => tree::Type::U8,
            Type::Int { bytes: 2, .. } => tree::Type::U16,
            Type::Int { bytes: 4, .. } => tree::Type::U32,
            Type::Int { .. } => tree::Type::U64,
            Type::Float => tree::Type::F32,
            Type::Double => tree::Type::F64,
            Type::Pointer(_) | Type::Symbol => tree::Type::Pointer,
            Type::Text(len) => tree::Type::Text(len),
            Type::Frames(count) => tree::Type::Frames(count),
            Type::Inet => tree::Type::U32,
            Type::Time(_) => tree::Type::U64,
            Type::Void | Type::Array(..) | Type::Structure(_) | Type::Named(..) | Type::Program(_) => {
                return None;
            }
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Void => f.write_str("void"),
            Type::Bool => f.write_str("bool"),
            Type::Int { bytes, signed } => {
                let name = match bytes {
                    1 => "char",
                    2 => "short",
                    4 => "int",
                    _ => "long",
                };
                write!(f, "{}{name}", if *signed { "" } else { "unsigned " })
            }
            Type::Float => f.write_str("float"),
            Type::Double => f.write_str("double"),
            Type::Pointer(to) => match **to {
                Type::Pointer(_) => write!(f, "{to}*"),
                _ => write!(f, "{to} *"),
            },
            Type::Array(of, count) => write!(f, "{of}[{count}]"),
            Type::Structure(structure) => tagged(f, structure.tag, &structure.name),
            Type::Program(known) => tagged(f, known.tag, &known.name),
            Type::Named(Some(tag), name) => tagged(f, *tag, name),
            Type::Named(None, name) => f.write_str(name),
            Type::Text(_) => f.write_str("text"),
            Type::Symbol => f.write_str("symbol"),
            Type::Frames(_) => f.write_str("stack"),
            Type::Inet => f.write_str("internet address"),
            Type::Time(_) => f.write_str("time of day"),
        }
    }
}

fn tagged(f: &mut fmt::Formatter<'_>, tag: Tag, name: &str) -> fmt::Result {
    let word = match tag {
        Tag::Struct => "struct",
        Tag::Union => "union",
        Tag::Enum => "enum",
    };
    if name.is_empty() { f.write_str(word) } else { write!(f, "{word} {name}") }
}

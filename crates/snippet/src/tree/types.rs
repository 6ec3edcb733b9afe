//! Types of expressions, and constants of them.

use std::fmt;

/// The type of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// True or false.
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    /// An address in the program. Arithmetic counts bytes.
    Pointer,
    /// Bytes up to the first zero, at most so many: a key, a field, what is compared, a local variable.
    Text(u16),
    /// So many return addresses, the innermost first; 0 behind the last. A key or a field.
    Frames(u8),
}

impl Type {
    /// All types of one value that fits into a register.
    pub const SCALARS: [Type; 12] = [
        Type::Bool,
        Type::I8,
        Type::I16,
        Type::I32,
        Type::I64,
        Type::U8,
        Type::U16,
        Type::U32,
        Type::U64,
        Type::F32,
        Type::F64,
        Type::Pointer,
    ];

    /// Size in bytes; a text or frames take whole quadwords.
    pub const fn size(self) -> u32 {
        match self {
            Type::Bool | Type::I8 | Type::U8 => 1,
            Type::I16 | Type::U16 => 2,
            Type::I32 | Type::U32 | Type::F32 => 4,
            Type::I64 | Type::U64 | Type::F64 | Type::Pointer => 8,
            Type::Text(len) => (len as u32).next_multiple_of(8),
            Type::Frames(count) => count as u32 * 8,
        }
    }

    /// Width in bits of an integer, float or pointer; 1 of a bool.
    pub const fn bits(self) -> u32 {
        match self {
            Type::Bool => 1,
            other => other.size() * 8,
        }
    }

    /// Fits into a register.
    pub const fn is_scalar(self) -> bool {
        !matches!(self, Type::Text(_) | Type::Frames(_))
    }

    /// An integer, not a pointer or bool.
    pub const fn is_integer(self) -> bool {
        !matches!(self, Type::Bool | Type::F32 | Type::F64 | Type::Pointer) && self.is_scalar()
    }

    /// A signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64)
    }

    /// `f32` or `f64`.
    pub const fn is_float(self) -> bool {
        matches!(self, Type::F32 | Type::F64)
    }

    /// The bits a value of the type has.
    pub const fn mask(self) -> u64 {
        let bits = self.bits();
        if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
    }

    /// `bits`, which are of this type, as a quadword that has the same value: sign-extended where signed.
    pub const fn extend(self, bits: u64) -> u64 {
        let bits = bits & self.mask();
        match self {
            Type::I8 => bits as i8 as u64,
            Type::I16 => bits as i16 as u64,
            Type::I32 => bits as i32 as u64,
            _ => bits,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Bool => "bool",
            Type::I8 => "i8",
            Type::I16 => "i16",
            Type::I32 => "i32",
            Type::I64 => "i64",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Pointer => "pointer",
            Type::Text(len) => return write!(f, "text[{len}]"),
            Type::Frames(count) => return write!(f, "frames[{count}]"),
        };
        f.write_str(name)
    }
}

/// A value of a scalar type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Constant {
    /// Its type.
    pub ty: Type,
    /// Its bits, zero behind the width of the type. A float has those of IEEE 754.
    pub bits: u64,
}

impl Constant {
    /// The lowest bits of `bits` as a value of `ty`.
    pub const fn new(ty: Type, bits: u64) -> Constant {
        Constant { ty, bits: bits & ty.mask() }
    }

    /// An `f64`.
    pub const fn f64(value: f64) -> Constant {
        Constant { ty: Type::F64, bits: value.to_bits() }
    }

    /// An `f32`.
    pub const fn f32(value: f32) -> Constant {
        Constant { ty: Type::F32, bits: value.to_bits() as u64 }
    }

    /// `value` as an integer, pointer, bool or float of `ty`; `None` if it is none.
    pub fn integer(ty: Type, value: i128) -> Option<Constant> {
        let fits = match ty {
            Type::Bool => (0..=1).contains(&value),
            Type::F32 => return (value.unsigned_abs() < 1 << 24).then(|| Constant::f32(value as f32)),
            Type::F64 => return (value.unsigned_abs() < 1 << 53).then(|| Constant::f64(value as f64)),
            Type::Text(_) | Type::Frames(_) => false,
            _ if ty.is_signed() => {
                let half = 1i128 << (ty.bits() - 1);
                (-half..half).contains(&value)
            }
            _ => (0..1i128 << ty.bits()).contains(&value),
        };
        fits.then(|| Constant::new(ty, value as u64))
    }

    /// The value as a quadword: sign-extended where the type is signed.
    pub const fn quadword(self) -> u64 {
        self.ty.extend(self.bits)
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty {
            Type::Bool => write!(f, "{}", self.bits != 0),
            Type::F32 => write!(f, "{:?}", f32::from_bits(self.bits as u32)),
            Type::F64 => write!(f, "{:?}", f64::from_bits(self.bits)),
            Type::Pointer => write!(f, "{:#x}", self.bits),
            ty if ty.is_signed() => write!(f, "{}", self.quadword() as i64),
            _ => write!(f, "{}", self.bits),
        }
    }
}

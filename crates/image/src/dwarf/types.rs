//! Types: one level at a time, so that types that refer to themselves need no care.

use gimli::constants as dw;

use super::entry::{flag, signed, unsigned};
use super::{DebugInfo, Entry, Located, Unit, View};

/// Names a type of one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeId(pub(super) u64);

impl TypeId {
    /// As a number, for a table.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The type whose [`TypeId::number`] it is; any other number is a type that is not there.
    pub fn from_number(number: u64) -> TypeId {
        TypeId(number)
    }
}

/// A type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DebugType {
    /// Its name, of a type that has one: for `typedef struct { … } node;` it is `node`.
    pub name: Option<String>,
    /// What it is.
    pub kind: TypeKind,
}

/// What a type is; `const`, `volatile` and other names of it left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypeKind {
    /// No value.
    Void,
    /// True or false.
    Bool,
    /// An integer or character of 1, 2, 4 or 8 bytes.
    Integer {
        /// Size in bytes.
        bytes: u8,
        /// It can be negative.
        signed: bool,
    },
    /// A float of 4 or 8 bytes.
    Float {
        /// Size in bytes.
        bytes: u8,
    },
    /// An enumeration: an integer of so many bytes.
    Enumeration {
        /// Size in bytes.
        bytes: u8,
        /// It can be negative.
        signed: bool,
    },
    /// A pointer; to nothing that is known for `void *`.
    Pointer(Option<TypeId>),
    /// A reference of C++, which is a pointer that is always followed.
    Reference(TypeId),
    /// So many of a type; the first count is that of the outermost array, 0 where it is not known.
    Array(TypeId, Vec<u64>),
    /// A structure, class or union.
    Structure {
        /// Which.
        tag: Tag,
        /// Size in bytes.
        size: u64,
        /// Its members in order.
        members: Vec<Member>,
    },
    /// A function.
    Function,
    /// Something of so many bytes that has no counterpart here: a complex number, a float of 16 bytes.
    Other(u64),
}

/// The word in front of a type's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tag {
    /// `struct` or `class`
    Struct,
    /// `union`
    Union,
    /// `enum`
    Enum,
}

/// A member of a structure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name; empty for an anonymous structure or a base class, whose members count as those of the outer one.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Bytes from the start.
    pub offset: u64,
    /// Of a bit field: bits behind the lowest bit of the integer of its type at `offset`, and its width.
    pub bits: Option<(u8, u8)>,
}

/// How many names a type may have before it is something.
const CHAIN: usize = 64;

/// Most members of a structure that are read.
const MEMBERS: usize = 16384;

/// Most dimensions of an array.
const DIMENSIONS: usize = 16;

impl DebugInfo {
    /// What a type is. A structure that is only declared where it is used is looked up where it is defined.
    pub fn type_of(&self, id: TypeId) -> Option<DebugType> {
        self.view().describe(id.0)
    }

    /// The value of an enumerator of the type, if it is an enumeration that has it.
    pub fn enumerator_of(&self, id: TypeId, name: &str) -> Option<i64> {
        let view = self.view();
        let located = view.stripped(id.0)?.0;
        let mut found = None;
        view.children(&located, |unit, entry| {
            let fits = || view.own_name(unit, entry).is_some_and(|own| own == name);
            if entry.tag() == dw::DW_TAG_enumerator && fits() {
                found = signed(entry, dw::DW_AT_const_value);
            }
            found.is_none()
        });
        found
    }
}

impl<'d> View<'d> {
    /// Calls `visit` with each child of an entry until it returns `false`.
    pub(super) fn children(&self, of: &Located<'d>, mut visit: impl FnMut(&Unit<'d>, &Entry<'d>) -> bool) {
        if !of.entry.has_children() {
            return;
        }
        let Ok(mut cursor) = of.unit.entries_at_offset(of.entry.offset()) else { return };
        // The entry itself.
        if !matches!(cursor.next_dfs(), Ok(Some(_))) || !matches!(cursor.next_dfs(), Ok(Some(_))) {
            return;
        }
        while let Some(entry) = cursor.current() {
            if entry.depth() != 1 || !visit(&of.unit, entry) {
                return;
            }
            if !matches!(cursor.next_sibling(), Ok(Some(_))) {
                return;
            }
        }
    }

    /// The type itself, without typedefs and qualifiers, and its first name. `None` is `void`.
    fn stripped(&self, at: u64) -> Option<(Located<'d>, Option<String>)> {
        let (mut at, mut name) = (at, None);
        for _ in 0..CHAIN {
            let located = self.entry(at)?;
            if name.is_none() {
                name = self.own_name(&located.unit, &located.entry);
            }
            match located.entry.tag() {
                dw::DW_TAG_typedef
                | dw::DW_TAG_const_type
                | dw::DW_TAG_volatile_type
                | dw::DW_TAG_restrict_type
                | dw::DW_TAG_atomic_type
                | dw::DW_TAG_immutable_type
                | dw::DW_TAG_packed_type
                | dw::DW_TAG_shared_type
                | dw::DW_TAG_template_alias => at = self.type_of(&located)?,
                _ => return Some((located, name)),
            }
        }
        None
    }

    fn describe(&self, at: u64) -> Option<DebugType> {
        let Some((mut located, name)) = self.stripped(at) else {
            return self.entry(at).map(|_| DebugType { name: None, kind: TypeKind::Void });
        };
        if flag(&located.entry, dw::DW_AT_declaration)
            && let Some(definition) = self.definition(&located)
        {
            located = definition;
        }
        let entry = &located.entry;
        let size = unsigned(entry, dw::DW_AT_byte_size).unwrap_or(0);
        let kind = match entry.tag() {
            dw::DW_TAG_base_type => base(entry, size),
            dw::DW_TAG_unspecified_type => match name.as_deref() {
                Some("decltype(nullptr)") => TypeKind::Pointer(None),
                _ => TypeKind::Void,
            },
            dw::DW_TAG_pointer_type => TypeKind::Pointer(self.type_of(&located).map(TypeId)),
            dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
                TypeKind::Reference(TypeId(self.type_of(&located)?))
            }
            dw::DW_TAG_enumeration_type => self.enumeration(&located, size),
            dw::DW_TAG_array_type => self.array(&located)?,
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type => {
                TypeKind::Structure { tag: Tag::Struct, size, members: self.members(&located) }
            }
            dw::DW_TAG_union_type => {
                TypeKind::Structure { tag: Tag::Union, size, members: self.members(&located) }
            }
            dw::DW_TAG_subroutine_type | dw::DW_TAG_subprogram => TypeKind::Function,
            _ => TypeKind::Other(size),
        };
        Some(DebugType { name, kind })
    }

    /// Where a structure that is declared here is defined.
    fn definition(&self, declared: &Located<'d>) -> Option<Located<'d>> {
        let signature = declared.entry.attr_value(dw::DW_AT_signature);
        if let Some(at) = signature.and_then(|value| self.reference(declared.index, value)) {
            return self.entry(at);
        }
        let name = self.own_name(&declared.unit, &declared.entry)?;
        let at = self.info.named(self, Some(declared.index), &name, |entry| {
            entry.tag() == declared.entry.tag() && !flag(entry, dw::DW_AT_declaration)
        })?;
        self.entry(at)
    }

    fn enumeration(&self, located: &Located<'d>, size: u64) -> TypeKind {
        let under = self.type_of(located).and_then(|at| self.describe_scalar(at));
        if let Some(TypeKind::Integer { bytes, signed }) = under {
            return TypeKind::Enumeration { bytes, signed };
        }
        // Older producers do not say: it is signed if a value is negative.
        let mut negative = false;
        self.children(located, |_, entry| {
            negative |= signed(entry, dw::DW_AT_const_value).is_some_and(|value| value < 0);
            !negative
        });
        match size {
            1 | 2 | 4 | 8 => TypeKind::Enumeration { bytes: size as u8, signed: negative },
            _ => TypeKind::Other(size),
        }
    }

    /// A base type, also by other names.
    pub(super) fn describe_scalar(&self, at: u64) -> Option<TypeKind> {
        let (located, _) = self.stripped(at)?;
        let size = unsigned(&located.entry, dw::DW_AT_byte_size).unwrap_or(0);
        (located.entry.tag() == dw::DW_TAG_base_type).then(|| base(&located.entry, size))
    }

    fn array(&self, located: &Located<'d>) -> Option<TypeKind> {
        let of = self.type_of(located)?;
        let mut counts = Vec::new();
        self.children(located, |_, entry| {
            if matches!(entry.tag(), dw::DW_TAG_subrange_type | dw::DW_TAG_enumeration_type) {
                let count = unsigned(entry, dw::DW_AT_count).or_else(|| {
                    let lower = signed(entry, dw::DW_AT_lower_bound).unwrap_or(0);
                    let upper = signed(entry, dw::DW_AT_upper_bound)?;
                    u64::try_from(i128::from(upper) - i128::from(lower) + 1).ok()
                });
                counts.push(count.unwrap_or(0));
            }
            counts.len() < DIMENSIONS
        });
        Some(TypeKind::Array(TypeId(of), counts))
    }

    fn members(&self, located: &Located<'d>) -> Vec<Member> {
        let mut members = Vec::new();
        let mut variants = Vec::new();
        let index = located.index;
        self.children(located, |unit, entry| {
            if entry.tag() == dw::DW_TAG_variant_part {
                variants.push(self.offset(index, entry));
            }
            members.extend(self.member(index, unit, entry));
            members.len() < MEMBERS
        });
        // Of an enum of Rust: each variant is a member; all begin at the same place.
        for part in variants.into_iter().filter_map(|at| self.entry(at)) {
            let mut each = Vec::new();
            self.children(&part, |_, entry| {
                each.push(self.offset(index, entry));
                each.len() < MEMBERS
            });
            for variant in each.into_iter().filter_map(|at| self.entry(at)) {
                self.children(&variant, |unit, entry| {
                    members.extend(self.member(index, unit, entry));
                    members.len() < MEMBERS
                });
            }
        }
        members
    }

    fn member(&self, index: usize, unit: &Unit<'d>, entry: &Entry<'d>) -> Option<Member> {
        let inherits = entry.tag() == dw::DW_TAG_inheritance;
        let is_static = flag(entry, dw::DW_AT_declaration) || flag(entry, dw::DW_AT_external);
        if !(inherits || entry.tag() == dw::DW_TAG_member) || is_static {
            return None;
        }
        let ty = self.reference(index, entry.attr_value(dw::DW_AT_type)?)?;
        let mut offset = match entry.attr(dw::DW_AT_data_member_location) {
            None => 0,
            Some(attribute) => match attribute.udata_value() {
                Some(offset) => offset,
                None => constant_offset(unit, attribute.exprloc_value()?)?,
            },
        };
        let name = if inherits { None } else { self.own_name(unit, entry) };
        let bits = match unsigned(entry, dw::DW_AT_bit_size) {
            None => None,
            Some(width) => {
                let bytes = self.scalar_size(ty)?;
                let unit_bits = bytes * 8;
                let first =
                    match (unsigned(entry, dw::DW_AT_data_bit_offset), unsigned(entry, dw::DW_AT_bit_offset))
                    {
                        (Some(first), _) => offset.checked_mul(8)?.checked_add(first)?,
                        // Before DWARF 4 bits were counted from the top of a storage unit.
                        (None, Some(from_top)) => {
                            let storage =
                                unsigned(entry, dw::DW_AT_byte_size).unwrap_or(bytes).checked_mul(8)?;
                            let first = i128::from(offset) * 8 + i128::from(storage)
                                - i128::from(from_top)
                                - i128::from(width);
                            u64::try_from(first).ok()?
                        }
                        (None, None) => offset.checked_mul(8)?,
                    };
                let aligned = first / unit_bits * bytes;
                // In the integer it belongs to, or else in one that begins at the same byte.
                offset = if first - aligned * 8 + width <= unit_bits { aligned } else { first / 8 };
                let at = first - offset * 8;
                if width == 0 || at + width > unit_bits {
                    return None;
                }
                Some((at as u8, width as u8))
            }
        };
        Some(Member { name: name.unwrap_or_default(), ty: TypeId(ty), offset, bits })
    }

    /// Size of an integer, enumeration or bool, in bytes.
    fn scalar_size(&self, at: u64) -> Option<u64> {
        let (located, _) = self.stripped(at)?;
        let size = unsigned(&located.entry, dw::DW_AT_byte_size)?;
        matches!(size, 1 | 2 | 4 | 8).then_some(size)
    }
}

/// `DW_OP_plus_uconst N` alone, as old producers place members.
fn constant_offset(unit: &Unit<'_>, expression: gimli::Expression<super::Slice<'_>>) -> Option<u64> {
    let mut operations = expression.operations(unit.encoding());
    match (operations.next(), operations.next()) {
        (Ok(Some(gimli::Operation::PlusConstant { value })), Ok(None)) => Some(value),
        _ => None,
    }
}

fn base(entry: &Entry<'_>, size: u64) -> TypeKind {
    let encoding = match entry.attr_value(dw::DW_AT_encoding) {
        Some(gimli::AttributeValue::Encoding(encoding)) => encoding,
        _ => return TypeKind::Other(size),
    };
    match (encoding, size) {
        (dw::DW_ATE_boolean, 1) => TypeKind::Bool,
        (dw::DW_ATE_float, 4 | 8) => TypeKind::Float { bytes: size as u8 },
        (dw::DW_ATE_signed | dw::DW_ATE_signed_char, 1 | 2 | 4 | 8) => {
            TypeKind::Integer { bytes: size as u8, signed: true }
        }
        (
            dw::DW_ATE_unsigned
            | dw::DW_ATE_unsigned_char
            | dw::DW_ATE_UTF
            | dw::DW_ATE_UCS
            | dw::DW_ATE_ASCII
            | dw::DW_ATE_boolean
            | dw::DW_ATE_address,
            1 | 2 | 4 | 8,
        ) => TypeKind::Integer { bytes: size as u8, signed: false },
        (_, 0) => TypeKind::Void,
        _ => TypeKind::Other(size),
    }
}

//! What an operand is, in either syntax.

use std::ops::Range;

use iced_x86::{Register, RoundingControl};

use super::expression::Expression;

/// An operand as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Operand {
    pub what: What,
    pub span: Range<usize>,
}

/// The kinds of operands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// A register.
    Register(Register),
    /// Memory.
    Memory(Memory),
    /// A value: an immediate, or where a branch goes.
    Value(Expression),
    /// AT&T's value without `$`: where a branch goes, or memory at an absolute address.
    Bare(Expression),
}

/// A memory operand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    /// Bytes, where the text says so.
    pub size: Option<u32>,
    pub segment: Option<Register>,
    pub base: Register,
    pub index: Register,
    pub scale: u32,
    pub displacement: Expression,
    /// `rel`, or a lone name: relative to the instruction pointer, and the displacement is the address meant.
    pub relative: bool,
    /// `{1toN}`: how many; 0 for `bcst`, which does not say.
    pub broadcast: Option<u32>,
}

impl Memory {
    /// Memory at an absolute address.
    pub(super) fn absolute(displacement: Expression) -> Memory {
        Memory {
            size: None,
            segment: None,
            base: Register::None,
            index: Register::None,
            scale: 1,
            displacement,
            relative: false,
            broadcast: None,
        }
    }
}

/// What stands in braces behind or before operands (EVEX).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Decoration {
    /// `{k1}`
    pub mask: Option<Register>,
    /// `{z}`
    pub zeroing: bool,
    /// `{rn-sae}` and its like.
    pub rounding: Option<RoundingControl>,
    /// `{sae}`
    pub suppress: bool,
}

/// Prefixes as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Prefixes {
    pub lock: bool,
    pub rep: bool,
    pub repne: bool,
    pub xacquire: bool,
    pub xrelease: bool,
    pub notrack: bool,
    /// `addr32`: addresses have 32 bits.
    pub narrow_address: bool,
    /// `data64`, `rex.w`: the operation has 64 bits.
    pub wide: bool,
    /// `data16`: the operation has 16 bits.
    pub narrow: bool,
    pub segment: Option<Register>,
    /// `{vex}`, `{evex}`: the encoding that is wanted.
    pub encoding: Option<iced_x86::EncodingKind>,
}

/// How far a branch is to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// `short`: 8 bits.
    Short,
    /// `near`: 32 bits.
    Near,
    /// `far`: another code segment, through memory.
    Far,
}

/// An instruction as written, operands in Intel's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Written {
    pub mnemonic: String,
    pub mnemonic_span: Range<usize>,
    pub span: Range<usize>,
    pub prefixes: Prefixes,
    pub operands: Vec<Operand>,
    pub decoration: Decoration,
    pub reach: Option<Reach>,
    /// Written in AT&T syntax: mnemonics have suffixes.
    pub att: bool,
}

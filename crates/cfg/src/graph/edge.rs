//! What kinds of edges there are, and why a graph may be incomplete.

use std::fmt;

use incise_image::LinkAddr;

/// How control goes from one block to another (PatchAPI's edge types).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum EdgeKind {
    /// A call, direct or indirect.
    Call,
    /// A conditional branch that is taken; the abort of a transaction (`xbegin`).
    Taken,
    /// A conditional branch that is not taken.
    NotTaken,
    /// `jmp` to the address in the instruction.
    Direct,
    /// `jmp` to an address that is computed or loaded.
    Indirect,
    /// The next block begins behind this one, which ends without a branch.
    FallThrough,
    /// Behind a call that comes back.
    CallFallThrough,
    /// `ret`.
    Return,
    /// An exception that a call lets through, to its landing pad.
    Catch,
}

impl EdgeKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [EdgeKind; 9] = [
        EdgeKind::Call,
        EdgeKind::Taken,
        EdgeKind::NotTaken,
        EdgeKind::Direct,
        EdgeKind::Indirect,
        EdgeKind::FallThrough,
        EdgeKind::CallFallThrough,
        EdgeKind::Return,
        EdgeKind::Catch,
    ];

    /// The name, in lower case with dashes.
    pub const fn name(self) -> &'static str {
        match self {
            EdgeKind::Call => "call",
            EdgeKind::Taken => "taken",
            EdgeKind::NotTaken => "not-taken",
            EdgeKind::Direct => "direct",
            EdgeKind::Indirect => "indirect",
            EdgeKind::FallThrough => "fall-through",
            EdgeKind::CallFallThrough => "call-fall-through",
            EdgeKind::Return => "return",
            EdgeKind::Catch => "catch",
        }
    }
}

impl fmt::Display for EdgeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why something in a function could not be followed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Reason {
    /// An indirect jump whose targets could not be bounded.
    IndirectJump,
    /// Bytes that are no instruction.
    NoInstruction,
    /// A transfer to an address outside of the code, or off the end of it.
    OutsideCode,
    /// A far transfer: it changes the code segment or the privilege level.
    Far,
    /// The function is larger than what is followed.
    TooLarge,
}

impl Reason {
    pub(crate) const ALL: [Reason; 5] =
        [Reason::IndirectJump, Reason::NoInstruction, Reason::OutsideCode, Reason::Far, Reason::TooLarge];

    pub(crate) fn of(number: u8) -> Option<Reason> {
        Reason::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::IndirectJump => "an indirect jump with unknown targets",
            Reason::NoInstruction => "bytes that are no instruction",
            Reason::OutsideCode => "a transfer out of the code",
            Reason::Far => "a far transfer",
            Reason::TooLarge => "more code than one function is followed through",
        })
    }
}

/// A place where a function's graph may lack edges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unresolved {
    /// The instruction.
    pub at: LinkAddr,
    /// What is the matter with it.
    pub reason: Reason,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

/// Whether all edges of a function are known.
///
/// A complete function has every edge that execution can take inside it. Where calls and tail calls
/// through pointers lead is not part of that: they are edges with an unknown target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completeness {
    /// All edges are known.
    Complete,
    /// Edges may be missing at these places, which ascend.
    Incomplete(Vec<Unresolved>),
}

/// Why a program could not be parsed at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The code spans 4 GiB or more.
    #[error("the code from {start} to {end} spans 4 GiB or more")]
    TooFarApart {
        /// Its first byte.
        start: LinkAddr,
        /// The byte behind its last.
        end: LinkAddr,
    },
    /// The graph needs more entries than 32 bits can number.
    #[error("the graph has more than 4,000,000,000 {what}")]
    TooMany {
        /// Entries of what.
        what: &'static str,
    },
    /// A source of graphs other than the parser has none.
    #[error("{why}")]
    Source {
        /// What the source says.
        why: String,
    },
}

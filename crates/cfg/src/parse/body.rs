//! One function as the traversal found it, before it is joined with the others.

use crate::graph::edge::{EdgeKind, Reason};
use crate::parse::code::{NONE, Off};

/// A stretch of instructions that control enters at the start and leaves at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalBlock {
    pub start: Off,
    pub end: Off,
    /// Instructions.
    pub insns: u32,
    /// Start of the last instruction.
    pub last: Off,
    pub first_edge: u32,
}

/// The target is another function's entry: a tail call, or code that runs into it.
pub(crate) const TAIL: u8 = 1;
/// The target is an index into the imports.
pub(crate) const IMPORT: u8 = 2;
/// The target is a function's entry nobody knew of.
pub(crate) const NEW_ENTRY: u8 = 4;

/// An edge out of a [`LocalBlock`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LocalEdge {
    /// Where to; an import with [`IMPORT`]; [`NONE`] if unknown.
    pub target: u32,
    /// Index of the block in the same function, or [`NONE`].
    pub to: u32,
    pub kind: EdgeKind,
    pub flags: u8,
}

impl LocalEdge {
    pub(crate) fn new(kind: EdgeKind, target: u32, flags: u8) -> LocalEdge {
        LocalEdge { target, to: NONE, kind, flags }
    }
}

/// A function's blocks, ascending, with their edges.
#[derive(Clone, Default, Debug)]
pub(crate) struct Body {
    pub blocks: Box<[LocalBlock]>,
    pub edges: Box<[LocalEdge]>,
    pub unresolved: Box<[(Off, Reason)]>,
    /// Blocks that no known edge reaches, as indices.
    pub roots: Box<[u32]>,
}

impl Body {
    pub(crate) fn edges_of(&self, block: usize) -> &[LocalEdge] {
        let first = self.blocks.get(block).map_or(0, |b| b.first_edge as usize);
        let end = self.blocks.get(block + 1).map_or(self.edges.len(), |b| b.first_edge as usize);
        self.edges.get(first..end).unwrap_or(&[])
    }

    /// Index of the block that begins at `at`.
    pub(crate) fn starting_at(&self, at: Off) -> Option<usize> {
        self.blocks.binary_search_by_key(&at, |b| b.start).ok()
    }
}

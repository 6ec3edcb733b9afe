//! The graph: functions, blocks and edges in flat arrays. `handles.rs` has handles to them.

pub(crate) mod draft;
pub(crate) mod edge;
pub(crate) mod handles;
pub(crate) mod store;

use std::fmt;
use std::ops::Range;

use incise_image::LinkAddr;

use crate::graph::edge::EdgeKind;
use crate::graph::handles::{Block, Edge, Function};
use crate::parse::code::NONE;

/// A function of one [`Cfg`], by number. Functions ascend by entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId(pub u32);

/// A block of one [`Cfg`], by number. Blocks ascend by start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(pub u32);

/// An edge of one [`Cfg`], by number. The edges out of a block follow each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EdgeId(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FunctionData {
    pub entry: u32,
    pub first_member: u32,
    pub first_unresolved: u32,
    pub source: u8,
    pub flags: u8,
}

/// The function returns.
pub(crate) const RETURNS: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockData {
    pub start: u32,
    pub end: u32,
    /// Number of instructions, shifted left by four, and the length of the last.
    pub insns: u32,
    pub first_edge: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EdgeData {
    pub from: u32,
    /// Block, or [`NONE`].
    pub to: u32,
    /// Offset, import, or [`NONE`].
    pub target: u32,
    pub kind: EdgeKind,
    pub flags: u8,
}

/// Edges with this flag leave the function: calls, tail calls, returns.
pub(crate) const LEAVES: u8 = 1;
/// The target is an import.
pub(crate) const TO_IMPORT: u8 = 2;

/// The control flow of a program, or of the functions of it that were asked for.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Cfg {
    pub(crate) base: u64,
    /// It is of the whole program, not of single functions.
    pub(crate) whole: bool,
    pub(crate) functions: Vec<FunctionData>,
    pub(crate) blocks: Vec<BlockData>,
    pub(crate) edges: Vec<EdgeData>,
    /// The blocks of each function.
    pub(crate) members: Vec<u32>,
    pub(crate) unresolved: Vec<(u32, u8)>,
    /// Edges by the block they lead to, and where each block's begin.
    pub(crate) incoming: Vec<u32>,
    pub(crate) first_incoming: Vec<u32>,
    /// Functions by the block they hold, and where each block's begin.
    pub(crate) owners: Vec<u32>,
    pub(crate) first_owner: Vec<u32>,
}

impl fmt::Debug for Cfg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (functions, blocks, edges) = (self.functions.len(), self.blocks.len(), self.edges.len());
        write!(f, "Cfg {{ functions: {functions}, blocks: {blocks}, edges: {edges} }}")
    }
}

impl Cfg {
    /// Makes the tables that follow from the others.
    pub(crate) fn index(&mut self) {
        let targets = self.edges.iter().map(|e| e.to);
        (self.first_incoming, self.incoming) = group(self.blocks.len(), targets);
        let mut function_of = Vec::with_capacity(self.members.len());
        for (index, function) in self.functions.iter().enumerate() {
            let end = self.functions.get(index + 1).map_or(self.members.len(), |f| f.first_member as usize);
            let count = end.saturating_sub(function.first_member as usize);
            function_of.extend(std::iter::repeat_n(index as u32, count));
        }
        let (first, order) = group(self.blocks.len(), self.members.iter().copied());
        self.owners = order.iter().map(|&i| function_of.get(i as usize).copied().unwrap_or(0)).collect();
        self.first_owner = first;
    }

    /// The parts of `text` that belong to no block, ascending; empty ones among them.
    pub(crate) fn holes(&self, text: Range<LinkAddr>) -> impl Iterator<Item = Range<LinkAddr>> + '_ {
        let first = self.blocks.partition_point(|block| self.link(block.start) < text.start);
        let inside = self.blocks[first..].iter().map(|block| (self.link(block.start), self.link(block.end)));
        let inside = inside.take_while(move |(start, _)| *start < text.end).chain([(text.end, text.end)]);
        inside.scan(text.start, |at, (start, end)| {
            let hole = *at..start.max(*at);
            *at = (*at).max(end);
            Some(hole)
        })
    }

    /// Whether it is of the whole program; else of the functions that were asked for.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The functions, ascending by entry.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = Function<'_>> + Clone {
        (0..self.functions.len() as u32).map(|id| Function { cfg: self, id: FunctionId(id) })
    }

    /// The blocks, ascending by start.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Block<'_>> + Clone {
        (0..self.blocks.len() as u32).map(|id| Block { cfg: self, id: BlockId(id) })
    }

    /// The edges, ascending by the block they leave.
    pub fn edges(&self) -> impl ExactSizeIterator<Item = Edge<'_>> + Clone {
        (0..self.edges.len() as u32).map(|id| Edge { cfg: self, id: EdgeId(id) })
    }

    /// The function with that number, if there is one.
    pub fn function(&self, id: FunctionId) -> Option<Function<'_>> {
        ((id.0 as usize) < self.functions.len()).then_some(Function { cfg: self, id })
    }

    /// The block with that number, if there is one.
    pub fn block(&self, id: BlockId) -> Option<Block<'_>> {
        ((id.0 as usize) < self.blocks.len()).then_some(Block { cfg: self, id })
    }

    /// The edge with that number, if there is one.
    pub fn edge(&self, id: EdgeId) -> Option<Edge<'_>> {
        ((id.0 as usize) < self.edges.len()).then_some(Edge { cfg: self, id })
    }

    /// The function whose entry is `at`.
    pub fn function_at(&self, at: LinkAddr) -> Option<Function<'_>> {
        let at = self.offset(at)?;
        let index = self.functions.binary_search_by_key(&at, |f| f.entry).ok()?;
        self.function(FunctionId(index as u32))
    }

    /// The block that begins at `at`.
    pub fn block_at(&self, at: LinkAddr) -> Option<Block<'_>> {
        let at = self.offset(at)?;
        let index = self.blocks.binary_search_by_key(&at, |b| b.start).ok()?;
        self.block(BlockId(index as u32))
    }

    /// The blocks that hold the byte at `at`: one, none, or several where instructions overlap.
    pub fn blocks_over(&self, at: LinkAddr) -> impl Iterator<Item = Block<'_>> {
        /// How many blocks that begin before `at` are looked at.
        const DEPTH: usize = 16;
        let at = self.offset(at);
        let end = at.map_or(0, |at| self.blocks.partition_point(|b| b.start <= at));
        let holds = move |block: &Block<'_>| at.is_some_and(|at| at < block.data().end);
        let near = (end.saturating_sub(DEPTH)..end).rev();
        near.map(|id| Block { cfg: self, id: BlockId(id as u32) }).filter(holds)
    }

    /// The bytes of code that lie in blocks, each counted once.
    pub fn covered_bytes(&self) -> u64 {
        self.covered(0..u32::MAX)
    }

    /// The bytes of `range` that lie in blocks, each counted once.
    pub fn covered_bytes_in(&self, range: Range<LinkAddr>) -> u64 {
        let clamp = |at: LinkAddr| at.0.saturating_sub(self.base).min(u64::from(u32::MAX)) as u32;
        self.covered(clamp(range.start)..clamp(range.end))
    }

    fn covered(&self, range: Range<u32>) -> u64 {
        let (mut sum, mut to) = (0, range.start);
        for block in &self.blocks {
            let (start, end) = (block.start.max(to), block.end.min(range.end));
            if start < end {
                sum += u64::from(end - start);
                to = end;
            }
        }
        sum
    }

    pub(crate) fn link(&self, at: u32) -> LinkAddr {
        LinkAddr(self.base.wrapping_add(u64::from(at)))
    }

    fn offset(&self, at: LinkAddr) -> Option<u32> {
        u32::try_from(at.0.wrapping_sub(self.base)).ok()
    }
}

/// Groups the positions of `keys` by key: where each of `count` groups begins, and the positions. Keys of
/// [`NONE`] are left out.
fn group(count: usize, keys: impl Iterator<Item = u32> + Clone) -> (Vec<u32>, Vec<u32>) {
    let mut first = vec![0u32; count + 1];
    for key in keys.clone() {
        if let Some(slot) = first.get_mut(key as usize + 1).filter(|_| key != NONE) {
            *slot += 1;
        }
    }
    for i in 1..first.len() {
        first[i] += first[i - 1];
    }
    let mut order = vec![0u32; first.last().copied().unwrap_or(0) as usize];
    let mut next = first.clone();
    for (position, key) in keys.enumerate() {
        let Some(place) = next.get_mut(key as usize).filter(|_| (key as usize) < count) else { continue };
        if let Some(slot) = order.get_mut(*place as usize) {
            *slot = position as u32;
        }
        *place += 1;
    }
    (first, order)
}

//! The graph: functions, blocks and edges in flat arrays, and handles to them.

use std::fmt;
use std::ops::Range;

use incise_image::{Image, LinkAddr};
use incise_isa::Addr;
use incise_isa::native::{Insn, decode};

use crate::code::NONE;
use crate::edge::{Completeness, EdgeKind, Reason, Unresolved};

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

/// A handle to a function. It is two words and can be copied freely.
#[derive(Clone, Copy)]
pub struct Function<'g> {
    cfg: &'g Cfg,
    id: FunctionId,
}

impl<'g> Function<'g> {
    /// Its number.
    pub fn id(self) -> FunctionId {
        self.id
    }

    /// The graph it is part of.
    pub fn cfg(self) -> &'g Cfg {
        self.cfg
    }

    fn data(self) -> &'g FunctionData {
        &self.cfg.functions[self.id.0 as usize]
    }

    /// Where it begins to run.
    pub fn entry(self) -> LinkAddr {
        self.cfg.link(self.data().entry)
    }

    fn next(self) -> Option<&'g FunctionData> {
        self.cfg.functions.get(self.id.0 as usize + 1)
    }

    /// The numbers of its blocks, ascending.
    pub fn block_ids(self) -> &'g [u32] {
        let end = self.next().map_or(self.cfg.members.len(), |f| f.first_member as usize);
        self.cfg.members.get(self.data().first_member as usize..end).unwrap_or(&[])
    }

    /// Its blocks, ascending by start. Other functions may have some of them too.
    pub fn blocks(self) -> impl ExactSizeIterator<Item = Block<'g>> + Clone {
        let cfg = self.cfg;
        self.block_ids().iter().map(move |&id| Block { cfg, id: BlockId(id) })
    }

    /// The block at its entry; `None` if no instruction is there.
    pub fn entry_block(self) -> Option<Block<'g>> {
        self.cfg.block_at(self.entry())
    }

    /// Whether the block is one of its own.
    pub fn contains(self, block: BlockId) -> bool {
        self.block_ids().binary_search(&block.0).is_ok()
    }

    /// The blocks that can leave it: by `ret`, by a tail call, or by running into another function.
    pub fn exits(self) -> impl Iterator<Item = Block<'g>> {
        let leaves = |e: Edge<'_>| e.kind() != EdgeKind::Call && e.leaves_function();
        self.blocks().filter(move |block| block.outgoing().any(leaves))
    }

    /// Whether it may return to its caller.
    pub fn returns(self) -> bool {
        self.data().flags & RETURNS != 0
    }

    /// Whether a symbol names it.
    pub fn is_named(self) -> bool {
        self.data().source & crate::context::source::SYMBOL != 0
    }

    /// Whether it is an entry of a procedure linkage table.
    pub fn is_linkage_stub(self) -> bool {
        self.data().source & crate::context::source::STUB != 0
    }

    /// Whether all its edges are known.
    pub fn is_complete(self) -> bool {
        self.unresolved_data().is_empty()
    }

    /// Whether all its edges are known, and what is not.
    pub fn completeness(self) -> Completeness {
        let unresolved = self.unresolved_data();
        if unresolved.is_empty() {
            return Completeness::Complete;
        }
        let describe = |&(at, reason): &(u32, u8)| Unresolved {
            at: self.cfg.link(at),
            reason: Reason::of(reason).unwrap_or(Reason::NoInstruction),
        };
        Completeness::Incomplete(unresolved.iter().map(describe).collect())
    }

    pub(crate) fn unresolved_data(self) -> &'g [(u32, u8)] {
        let end = self.next().map_or(self.cfg.unresolved.len(), |f| f.first_unresolved as usize);
        self.cfg.unresolved.get(self.data().first_unresolved as usize..end).unwrap_or(&[])
    }
}

impl fmt::Debug for Function<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({})", self.entry())
    }
}

/// A handle to a block: a stretch of instructions entered at the start and left at the end. Calls end
/// blocks. It is two words and can be copied freely.
#[derive(Clone, Copy)]
pub struct Block<'g> {
    cfg: &'g Cfg,
    id: BlockId,
}

impl<'g> Block<'g> {
    /// Its number.
    pub fn id(self) -> BlockId {
        self.id
    }

    fn data(self) -> &'g BlockData {
        &self.cfg.blocks[self.id.0 as usize]
    }

    /// Address of its first instruction.
    pub fn start(self) -> LinkAddr {
        self.cfg.link(self.data().start)
    }

    /// The address behind its last instruction.
    pub fn end(self) -> LinkAddr {
        self.cfg.link(self.data().end)
    }

    /// Its addresses.
    pub fn range(self) -> Range<LinkAddr> {
        self.start()..self.end()
    }

    /// Address of its last instruction.
    pub fn last(self) -> LinkAddr {
        LinkAddr(self.end().0 - u64::from(self.data().insns & 15))
    }

    /// How many instructions it has.
    pub fn insn_count(self) -> usize {
        (self.data().insns >> 4) as usize
    }

    /// The edges out of it.
    pub fn outgoing(self) -> impl ExactSizeIterator<Item = Edge<'g>> + Clone {
        let first = self.data().first_edge;
        let next = self.cfg.blocks.get(self.id.0 as usize + 1);
        let end = next.map_or(self.cfg.edges.len() as u32, |b| b.first_edge);
        let cfg = self.cfg;
        (first..end).map(move |id| Edge { cfg, id: EdgeId(id) })
    }

    /// The edges into it, calls included.
    pub fn incoming(self) -> impl ExactSizeIterator<Item = Edge<'g>> + Clone {
        let cfg = self.cfg;
        slice(&cfg.first_incoming, &cfg.incoming, self.id.0)
            .iter()
            .map(move |&id| Edge { cfg, id: EdgeId(id) })
    }

    /// The functions it is part of, ascending; more than one if they share it.
    pub fn functions(self) -> impl ExactSizeIterator<Item = Function<'g>> + Clone {
        let cfg = self.cfg;
        let owners = slice(&cfg.first_owner, &cfg.owners, self.id.0);
        owners.iter().map(move |&id| Function { cfg, id: FunctionId(id) })
    }

    /// The blocks of the same function control can go to next.
    pub fn successors(self) -> impl Iterator<Item = Block<'g>> + Clone {
        self.outgoing().filter(|e| !e.leaves_function()).filter_map(Edge::target)
    }

    /// The blocks of the same function control can come from.
    pub fn predecessors(self) -> impl Iterator<Item = Block<'g>> + Clone {
        self.incoming().filter(|e| !e.leaves_function()).map(Edge::source)
    }

    /// Its instructions. `file` are the contents `image` was parsed from.
    pub fn instructions<'a>(self, image: &Image, file: &'a [u8]) -> impl Iterator<Item = Insn> + use<'a> {
        let (mut at, end) = (self.start(), self.end());
        let mut rest = image.bytes_at(file, at, end.0 - at.0).unwrap_or(&[]);
        std::iter::from_fn(move || {
            let insn = decode(rest, Addr(at.0)).ok()?;
            rest = rest.get(insn.len()..)?;
            at = at + insn.len() as u64;
            Some(insn)
        })
    }
}

fn slice<'g>(first: &[u32], all: &'g [u32], index: u32) -> &'g [u32] {
    let at = |index: usize| first.get(index).map_or(0, |&f| f as usize);
    all.get(at(index as usize)..at(index as usize + 1)).unwrap_or(&[])
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}..{})", self.start(), self.end())
    }
}

/// A handle to an edge. It is two words and can be copied freely.
#[derive(Clone, Copy)]
pub struct Edge<'g> {
    cfg: &'g Cfg,
    id: EdgeId,
}

impl<'g> Edge<'g> {
    /// Its number.
    pub fn id(self) -> EdgeId {
        self.id
    }

    fn data(self) -> &'g EdgeData {
        &self.cfg.edges[self.id.0 as usize]
    }

    /// What kind it is.
    pub fn kind(self) -> EdgeKind {
        self.data().kind
    }

    /// The block it leaves.
    pub fn source(self) -> Block<'g> {
        Block { cfg: self.cfg, id: BlockId(self.data().from) }
    }

    /// The block it leads to; `None` for a return, for an unknown or imported target, and for one outside
    /// of what was parsed.
    pub fn target(self) -> Option<Block<'g>> {
        self.cfg.block(BlockId(self.data().to)).filter(|_| self.data().to != NONE)
    }

    /// The address it leads to, if that is known and in this program.
    pub fn target_addr(self) -> Option<LinkAddr> {
        let data = self.data();
        (data.target != NONE && data.flags & TO_IMPORT == 0).then(|| self.cfg.link(data.target))
    }

    /// The import it leads to: an index into [`Image::imports`].
    pub fn import(self) -> Option<u32> {
        let data = self.data();
        (data.flags & TO_IMPORT != 0).then_some(data.target)
    }

    /// It leaves the function: a call, a return, a tail call, or a run into the next function.
    pub fn leaves_function(self) -> bool {
        self.data().flags & LEAVES != 0
    }

    /// It leaves the function for another one as a tail call: by a jump, or by running into it.
    pub fn is_tail_call(self) -> bool {
        self.leaves_function() && !matches!(self.kind(), EdgeKind::Call | EdgeKind::Return)
    }
}

impl fmt::Debug for Edge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -{}-> {:?}", self.source().last(), self.kind(), self.target_addr())
    }
}

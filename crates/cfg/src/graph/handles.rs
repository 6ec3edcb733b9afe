//! Handles to the functions, blocks and edges of a graph: two words each, to be copied freely.

use std::fmt;
use std::ops::Range;

use incise_image::{Image, LinkAddr};
use incise_isa::Addr;
use incise_isa::native::{Insn, decode};

use crate::graph::edge::{Completeness, EdgeKind, Reason, Unresolved};
use crate::graph::{
    BlockData, BlockId, Cfg, EdgeData, EdgeId, FunctionData, FunctionId, LEAVES, RETURNS, TO_IMPORT,
};
use crate::parse::code::NONE;

/// A handle to a function. It is two words and can be copied freely.
#[derive(Clone, Copy)]
pub struct Function<'g> {
    pub(crate) cfg: &'g Cfg,
    pub(crate) id: FunctionId,
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
        self.data().source & crate::parse::context::source::SYMBOL != 0
    }

    /// Whether it is an entry of a procedure linkage table.
    pub fn is_linkage_stub(self) -> bool {
        self.data().source & crate::parse::context::source::STUB != 0
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
    pub(crate) cfg: &'g Cfg,
    pub(crate) id: BlockId,
}

impl<'g> Block<'g> {
    /// Its number.
    pub fn id(self) -> BlockId {
        self.id
    }

    pub(crate) fn data(self) -> &'g BlockData {
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
    pub(crate) cfg: &'g Cfg,
    pub(crate) id: EdgeId,
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

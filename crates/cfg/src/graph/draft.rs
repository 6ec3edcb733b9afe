//! Graphs that are changed, or made by others than the parser.
//!
//! ```
//! use incise_cfg::{Draft, EdgeKind};
//! use incise_image::LinkAddr;
//!
//! // What some other tool knows: f is a loop of two instructions and a return.
//! let (body, end) = (LinkAddr(0x1000), LinkAddr(0x1005));
//! let mut draft = Draft::new(LinkAddr(0x1000));
//! draft.block(body, &[3, 2])?;
//! draft.block(end, &[1])?;
//! draft.edge(body, EdgeKind::Taken, Some(body))?;
//! draft.edge(body, EdgeKind::NotTaken, Some(end))?;
//! draft.edge(end, EdgeKind::Return, None)?;
//! draft.function(body, &[body, end])?;
//! let cfg = draft.build();
//! let f = cfg.function_at(body).expect("f");
//! assert_eq!(f.blocks().len(), 2);
//! assert_eq!(f.exits().map(|block| block.start()).collect::<Vec<_>>(), [end]);
//! # Ok::<(), incise_cfg::DraftError>(())
//! ```

use std::collections::BTreeMap;

use incise_image::{Image, LinkAddr};

use crate::graph::edge::EdgeKind;
use crate::graph::handles::Edge;
use crate::graph::{BlockData, Cfg, EdgeData, FunctionData, LEAVES, RETURNS, TO_IMPORT};
use crate::parse::code::NONE;
use crate::parse::context::source;

/// Why a graph cannot be changed or made so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// No block begins at an address.
    #[error("no block begins at {0}")]
    NoBlock(LinkAddr),
    /// A block begins there already.
    #[error("a block begins at {0} already")]
    BlockTwice(LinkAddr),
    /// A block has no instructions, or one that is longer than 15 bytes or empty.
    #[error("the block at {0} has no instructions, or one of more than 15 bytes")]
    NoInstructions(LinkAddr),
    /// No instruction of the graph begins there.
    #[error("no instruction of a block begins at {0}")]
    NoInstruction(LinkAddr),
    /// A function begins there already.
    #[error("a function begins at {0} already")]
    FunctionTwice(LinkAddr),
    /// A block does not have such an edge.
    #[error("the block at {0} has no such edge")]
    NoEdge(LinkAddr),
    /// The address is before the first of the graph, or 4 GiB or more behind it.
    #[error("{0} is before the first address of the graph, or 4 GiB or more behind it")]
    TooFar(LinkAddr),
}

#[derive(Clone, Debug)]
struct DraftBlock {
    end: u32,
    insns: u32,
    /// Length of the last instruction.
    last: u32,
    edges: Vec<DraftEdge>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DraftEdge {
    kind: EdgeKind,
    target: u32,
    flags: u8,
}

#[derive(Clone, Debug)]
struct DraftFunction {
    blocks: Vec<u32>,
    source: u8,
    flags: u8,
    unresolved: Vec<(u32, u8)>,
    /// It was added, so that nobody has looked at its edges yet.
    added: bool,
}

/// A graph in parts.
#[derive(Clone, Debug)]
pub struct Draft {
    base: u64,
    whole: bool,
    blocks: BTreeMap<u32, DraftBlock>,
    functions: BTreeMap<u32, DraftFunction>,
}

impl Draft {
    /// Nothing yet. `base` is the first address of the program's code.
    pub fn new(base: LinkAddr) -> Draft {
        Draft { base: base.0, whole: false, blocks: BTreeMap::new(), functions: BTreeMap::new() }
    }

    /// A graph that is to be changed.
    pub fn of(cfg: &Cfg) -> Draft {
        let mut draft = Draft { whole: cfg.whole, ..Draft::new(LinkAddr(cfg.base)) };
        for (index, block) in cfg.blocks.iter().enumerate() {
            let end = cfg.blocks.get(index + 1).map_or(cfg.edges.len(), |next| next.first_edge as usize);
            let edges = cfg.edges.get(block.first_edge as usize..end).unwrap_or(&[]);
            let edges =
                edges.iter().map(|&EdgeData { kind, target, flags, .. }| DraftEdge { kind, target, flags });
            let edges = edges.collect();
            let BlockData { end, insns, .. } = *block;
            draft.blocks.insert(block.start, DraftBlock { end, insns: insns >> 4, last: insns & 15, edges });
        }
        for (data, function) in cfg.functions.iter().zip(cfg.functions()) {
            let starts =
                function.block_ids().iter().filter_map(|&id| Some(cfg.blocks.get(id as usize)?.start));
            let blocks = starts.collect();
            let unresolved = function.unresolved_data().to_vec();
            let FunctionData { entry, source, flags, .. } = *data;
            draft.functions.insert(entry, DraftFunction { blocks, source, flags, unresolved, added: false });
        }
        draft
    }

    fn offset(&self, at: LinkAddr) -> Result<u32, DraftError> {
        let offset = at.0.checked_sub(self.base).and_then(|offset| u32::try_from(offset).ok());
        offset.filter(|&offset| offset != NONE).ok_or(DraftError::TooFar(at))
    }

    fn link(&self, offset: u32) -> LinkAddr {
        LinkAddr(self.base + u64::from(offset))
    }

    fn block_at(&mut self, at: LinkAddr) -> Result<&mut DraftBlock, DraftError> {
        let offset = self.offset(at)?;
        self.blocks.get_mut(&offset).ok_or(DraftError::NoBlock(at))
    }

    /// Adds a block at `start`, of instructions of these lengths in bytes.
    ///
    /// # Errors
    /// [`DraftError::BlockTwice`], [`DraftError::NoInstructions`], [`DraftError::TooFar`].
    pub fn block(&mut self, start: LinkAddr, lengths: &[u8]) -> Result<(), DraftError> {
        let at = self.offset(start)?;
        let last = lengths.last().copied().unwrap_or(0);
        if lengths.iter().any(|len| !(1..=15).contains(len)) || lengths.is_empty() {
            return Err(DraftError::NoInstructions(start));
        }
        if self.blocks.contains_key(&at) {
            return Err(DraftError::BlockTwice(start));
        }
        let len: u64 = lengths.iter().copied().map(u64::from).sum();
        let end = self.offset(LinkAddr(start.0.saturating_add(len)))?;
        let (insns, last) = (lengths.len() as u32, u32::from(last));
        self.blocks.insert(at, DraftBlock { end, insns, last, edges: Vec::new() });
        Ok(())
    }

    /// Adds an edge out of the block at `from`. `target` is where it leads, if that is known.
    ///
    /// # Errors
    /// [`DraftError::NoBlock`], [`DraftError::TooFar`].
    pub fn edge(
        &mut self,
        from: LinkAddr,
        kind: EdgeKind,
        target: Option<LinkAddr>,
    ) -> Result<(), DraftError> {
        let target = target.map_or(Ok(NONE), |to| self.offset(to))?;
        let leaves = matches!(kind, EdgeKind::Call | EdgeKind::Return);
        let flags = if leaves { LEAVES } else { 0 };
        self.block_at(from)?.edges.push(DraftEdge { kind, target, flags });
        Ok(())
    }

    /// Adds a function with the blocks that begin at `blocks`. Edges out of it by jumps become tail calls when the graph is
    /// built.
    ///
    /// # Errors
    /// [`DraftError::FunctionTwice`], [`DraftError::NoBlock`], [`DraftError::TooFar`].
    pub fn function(&mut self, entry: LinkAddr, blocks: &[LinkAddr]) -> Result<(), DraftError> {
        let at = self.offset(entry)?;
        let mut starts = Vec::with_capacity(blocks.len());
        for &block in blocks {
            self.block_at(block)?;
            starts.push(self.offset(block)?);
        }
        if self.functions.contains_key(&at) {
            return Err(DraftError::FunctionTwice(entry));
        }
        let (source, unresolved) = (source::FILE, Vec::new());
        let function = DraftFunction { blocks: starts, source, flags: 0, unresolved, added: true };
        self.functions.insert(at, function);
        Ok(())
    }

    /// Splits the block that holds the instruction at `at`, which begins the second part. Nothing changes if a block begins
    /// there. `file` are the contents `image` was parsed from.
    ///
    /// # Errors
    /// [`DraftError::NoInstruction`], [`DraftError::TooFar`].
    pub fn split(&mut self, at: LinkAddr, image: &Image, file: &[u8]) -> Result<(), DraftError> {
        let offset = self.offset(at)?;
        if self.blocks.contains_key(&offset) {
            return Ok(());
        }
        let none = DraftError::NoInstruction(at);
        let around = self.blocks.range(..offset).rev().take(16).find(|(_, block)| offset < block.end);
        let start = around.map(|(&start, _)| start).ok_or(none)?;
        let block = self.blocks.get_mut(&start).ok_or(none)?;
        let first = LinkAddr(self.base + u64::from(start));
        let len = u64::from(block.end - start);
        let bytes = image.bytes_at(file, first, len).ok_or(none)?;
        let (mut here, mut before, mut last) = (start, 0, 0);
        while here < offset {
            let rest = bytes.get((here - start) as usize..).ok_or(none)?;
            let insn = incise_isa::native::decode(rest, incise_isa::Addr(self.base + u64::from(here)));
            last = insn.map_err(|_| none)?.len() as u32;
            (here, before) = (here + last, before + 1);
        }
        if here != offset || before >= block.insns {
            return Err(none);
        }
        let edges = std::mem::take(&mut block.edges);
        let second = DraftBlock { end: block.end, insns: block.insns - before, last: block.last, edges };
        (block.end, block.insns, block.last) = (offset, before, last);
        block.edges.push(DraftEdge { kind: EdgeKind::FallThrough, target: offset, flags: 0 });
        self.blocks.insert(offset, second);
        for function in self.functions.values_mut().filter(|function| function.blocks.contains(&start)) {
            function.blocks.push(offset);
        }
        Ok(())
    }

    /// Lets an edge lead to the block at `to`. It keeps its kind.
    ///
    /// # Errors
    /// [`DraftError::NoEdge`] if the edge is not as it was in `edge`'s graph, [`DraftError::TooFar`].
    pub fn redirect(&mut self, edge: Edge<'_>, to: LinkAddr) -> Result<(), DraftError> {
        let (from, kind) = (edge.source(), edge.kind());
        let (old, new) = (edge.target_addr().map_or(Ok(NONE), |at| self.offset(at))?, self.offset(to)?);
        // A block that was split keeps its edges in the last part.
        let last = self.offset(from.end())?;
        let start = self.offset(from.start())?;
        let none = DraftError::NoEdge(from.start());
        let mut parts = self.blocks.range_mut(start..last).filter(|(_, block)| block.end == last);
        let (&part, block) = parts.next().ok_or(none)?;
        let found =
            block.edges.iter_mut().find(|edge| edge.kind == kind && edge.target == old).ok_or(none)?;
        let mut owners = self.functions.values().filter(|function| function.blocks.contains(&part));
        let stays = owners.any(|function| function.blocks.contains(&new));
        let flags = found.flags & !(LEAVES | TO_IMPORT) | if stays { 0 } else { LEAVES };
        (found.target, found.flags) = (new, flags);
        Ok(())
    }

    /// Takes the block at `at` out. What led there leads to `to`.
    ///
    /// # Errors
    /// [`DraftError::NoBlock`], [`DraftError::TooFar`].
    pub fn remove(&mut self, at: LinkAddr, to: LinkAddr) -> Result<(), DraftError> {
        let (at, to) = (self.offset(at)?, self.offset(to)?);
        self.blocks.remove(&at).ok_or(DraftError::NoBlock(self.link(at)))?;
        let edges = self.blocks.values_mut().flat_map(|block| &mut block.edges);
        for edge in edges.filter(|edge| edge.target == at && edge.flags & TO_IMPORT == 0) {
            edge.target = to;
        }
        self.functions.values_mut().for_each(|function| function.blocks.retain(|&block| block != at));
        Ok(())
    }

    /// The graph.
    pub fn build(mut self) -> Cfg {
        self.mark_tail_calls();
        let starts: Vec<u32> = self.blocks.keys().copied().collect();
        let number = |at: u32| starts.binary_search(&at).map_or(NONE, |index| index as u32);
        let mut cfg = Cfg { base: self.base, whole: self.whole, ..Cfg::default() };
        for (from, (&start, block)) in self.blocks.iter().enumerate() {
            let first_edge = cfg.edges.len() as u32;
            cfg.blocks.push(BlockData {
                start,
                end: block.end,
                insns: block.insns << 4 | block.last,
                first_edge,
            });
            cfg.edges.extend(block.edges.iter().map(|edge| {
                let import = edge.flags & TO_IMPORT != 0;
                let to = if import || edge.target == NONE { NONE } else { number(edge.target) };
                EdgeData { from: from as u32, to, target: edge.target, kind: edge.kind, flags: edge.flags }
            }));
        }
        for (&entry, function) in &self.functions {
            let mut members: Vec<u32> = function.blocks.iter().map(|&block| number(block)).collect();
            members.retain(|&member| member != NONE);
            members.sort_unstable();
            members.dedup();
            let returns = members.iter().filter_map(|&member| self.blocks.get(starts.get(member as usize)?));
            let returns = returns.flat_map(|block| &block.edges).any(|edge| edge.kind == EdgeKind::Return);
            cfg.functions.push(FunctionData {
                entry,
                first_member: cfg.members.len() as u32,
                first_unresolved: cfg.unresolved.len() as u32,
                source: function.source,
                flags: function.flags | if function.added && returns { RETURNS } else { 0 },
            });
            cfg.members.extend(members);
            cfg.unresolved.extend(&function.unresolved);
        }
        cfg.index();
        cfg
    }

    /// A jump from a block of added functions to one that none of them has leaves them.
    fn mark_tail_calls(&mut self) {
        let mut owners: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (&entry, function) in self.functions.iter().filter(|(_, function)| function.added) {
            function.blocks.iter().for_each(|&block| owners.entry(block).or_default().push(entry));
        }
        for (start, block) in &mut self.blocks {
            let Some(own) = owners.get(start) else { continue };
            for edge in &mut block.edges {
                let known = edge.target != NONE && edge.flags & (LEAVES | TO_IMPORT) == 0;
                let shared =
                    owners.get(&edge.target).is_some_and(|of| of.iter().any(|entry| own.contains(entry)));
                if known && !shared {
                    edge.flags |= LEAVES;
                }
            }
        }
    }
}

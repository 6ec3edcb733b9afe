//! A function's blocks as a small graph of its own, for the analyses.

use crate::graph::BlockId;
use crate::handles::Function;

/// Successors and predecessors by position among the function's blocks.
pub(crate) struct FlowGraph {
    /// Numbers of the blocks, ascending.
    pub blocks: Vec<u32>,
    pub entry: Option<usize>,
    pub successors: Vec<Vec<usize>>,
    pub predecessors: Vec<Vec<usize>>,
    /// Control can end here, or leave the function.
    pub exits: Vec<bool>,
}

impl FlowGraph {
    pub(crate) fn of(function: Function<'_>) -> FlowGraph {
        let blocks = function.block_ids().to_vec();
        let position = |block: BlockId| blocks.binary_search(&block.0).ok();
        let mut successors = vec![Vec::new(); blocks.len()];
        let mut predecessors = vec![Vec::new(); blocks.len()];
        let mut exits = vec![false; blocks.len()];
        for (from, block) in function.blocks().enumerate() {
            let inside = block.successors().filter_map(|to| position(to.id()));
            let mut next: Vec<usize> = inside.collect();
            next.sort_unstable();
            next.dedup();
            let leaves = |e: crate::Edge<'_>| e.kind() != crate::EdgeKind::Call && e.leaves_function();
            exits[from] = next.is_empty() || block.outgoing().any(leaves);
            next.iter().for_each(|&to| predecessors[to].push(from));
            successors[from] = next;
        }
        let entry = function.entry_block().and_then(|block| position(block.id()));
        FlowGraph { blocks, entry, successors, predecessors, exits }
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

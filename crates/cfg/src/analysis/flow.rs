//! A function's blocks as a small graph of its own, for the analyses.

use crate::analysis::dominators::postorder;
use crate::analysis::loops::Loops;
use crate::graph::handles::Function;
use crate::graph::{BlockId, Cfg};

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

    /// The blocks, each before those that only edges back come from, and the place of each in that order.
    fn forward(&self) -> (Vec<usize>, Vec<usize>) {
        let roots: Vec<usize> = self.entry.into_iter().chain(0..self.len()).collect();
        let mut order = postorder(self.len(), &roots, &self.successors);
        order.reverse();
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(index, &block)| place[block] = index);
        (order, place)
    }
}

/// How often each block of a program is likely to run for a call of its function: ten times as often for each loop around it, and
/// after a branch half as often on either side.
pub(crate) fn frequencies(cfg: &Cfg) -> Vec<f32> {
    const LOOP: f32 = 10.0;
    const DEPTH_MAX: usize = 6;
    let mut all = vec![0f32; cfg.blocks().len()];
    for function in cfg.functions() {
        let (graph, loops) = (FlowGraph::of(function), Loops::of(function));
        let depth = |at: usize| {
            let innermost = loops.innermost(BlockId(graph.blocks[at]));
            innermost.and_then(|index| loops.all().get(index)).map_or(0, |found| found.depth().min(DEPTH_MAX))
        };
        let (order, place) = graph.forward();
        // What comes to a block from blocks before it, and to a loop once for each time it is entered.
        let mut often = vec![0f32; graph.len()];
        for &at in &order {
            let from = graph.predecessors[at].iter().filter(|&&from| place[from] < place[at]);
            let part = |&from: &usize| {
                let scale = LOOP.powi(depth(at) as i32 - depth(from) as i32);
                // Those that stay in the loop share one part, those that leave it a smaller one.
                let leaves = |to: usize| depth(to) < depth(from);
                let alike = graph.successors[from].iter().filter(|&&to| leaves(to) == leaves(at));
                often[from] * scale / alike.count().max(1) as f32
            };
            let came: f32 = from.map(part).sum();
            often[at] = if came > 0.0 { came } else { LOOP.powi(depth(at) as i32) };
        }
        for (at, &block) in graph.blocks.iter().enumerate() {
            let slot = &mut all[block as usize];
            *slot = slot.max(often[at]);
        }
    }
    all
}

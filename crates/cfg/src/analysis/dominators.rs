//! Dominators and post-dominators of one function.
//!
//! The algorithm is that of Cooper, Harvey and Kennedy ("A simple, fast dominance algorithm").

use crate::analysis::flow::FlowGraph;
use crate::graph::BlockId;
use crate::graph::handles::Function;

/// Which blocks are on every path from the entry to a block, or from a block to the exits.
#[derive(Clone, Debug)]
pub struct Dominators {
    /// Numbers of the function's blocks, ascending.
    blocks: Vec<u32>,
    /// By position, the immediate dominator; itself for roots; [`NONE`] for what is not reached.
    immediate: Vec<usize>,
}

const NONE: usize = usize::MAX;

impl Dominators {
    /// Which blocks come before others. Code that no known edge reaches has no dominators.
    pub fn of(function: Function<'_>) -> Dominators {
        let graph = FlowGraph::of(function);
        let roots: Vec<usize> = graph.entry.into_iter().collect();
        let immediate = solve(graph.len(), &roots, &graph.successors, &graph.predecessors);
        Dominators { blocks: graph.blocks, immediate }
    }

    /// Which blocks come after others. Blocks from which nothing leaves the function, as in endless loops,
    /// count as ending it where they are first reached.
    pub fn post(function: Function<'_>) -> Dominators {
        let graph = FlowGraph::of(function);
        let mut roots: Vec<usize> = (0..graph.len()).filter(|&b| graph.exits[b]).collect();
        let mut reached = vec![false; graph.len()];
        mark(&roots, &graph.predecessors, &mut reached);
        for block in 0..graph.len() {
            if !reached[block] {
                roots.push(block);
                mark(&[block], &graph.predecessors, &mut reached);
            }
        }
        let immediate = solve(graph.len(), &roots, &graph.predecessors, &graph.successors);
        Dominators { blocks: graph.blocks, immediate }
    }

    fn position(&self, block: BlockId) -> Option<usize> {
        self.blocks.binary_search(&block.0).ok()
    }

    /// The closest block, other than `block`, that every path to it (for post-dominators: from it) holds.
    pub fn immediate(&self, block: BlockId) -> Option<BlockId> {
        let position = self.position(block)?;
        let dominator = *self.immediate.get(position)?;
        (dominator != position).then(|| self.blocks.get(dominator).map(|&b| BlockId(b)))?
    }

    /// Whether every path to `block` (for post-dominators: from it) holds `by`. A block dominates itself.
    pub fn dominates(&self, by: BlockId, block: BlockId) -> bool {
        let (Some(by), Some(mut at)) = (self.position(by), self.position(block)) else { return false };
        loop {
            if at == by {
                return true;
            }
            match self.immediate.get(at) {
                Some(&next) if next != at && next != NONE => at = next,
                _ => return false,
            }
        }
    }
}

fn mark(from: &[usize], next: &[Vec<usize>], reached: &mut [bool]) {
    let mut open = from.to_vec();
    while let Some(block) = open.pop() {
        if !std::mem::replace(&mut reached[block], true) {
            open.extend(&next[block]);
        }
    }
}

/// Immediate dominators of a graph with one or more roots, which are joined above.
fn solve(len: usize, roots: &[usize], next: &[Vec<usize>], before: &[Vec<usize>]) -> Vec<usize> {
    // A node above all roots, so that there is one.
    let top = len;
    let mut order = postorder(len, roots, next);
    order.push(top);
    let mut number = vec![NONE; len + 1];
    for (index, &node) in order.iter().enumerate() {
        number[node] = index;
    }
    let mut immediate = vec![NONE; len + 1];
    immediate[top] = top;
    let is_root: Vec<bool> = {
        let mut is = vec![false; len];
        roots.iter().for_each(|&r| is[r] = true);
        is
    };
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().rev().filter(|&&node| node != top) {
            let above = is_root[node].then_some(top);
            let mut new = NONE;
            for from in before[node].iter().copied().chain(above) {
                if immediate[from] == NONE {
                    continue;
                }
                new = if new == NONE { from } else { meet(&immediate, &number, new, from) };
            }
            if new != NONE && immediate[node] != new {
                (immediate[node], changed) = (new, true);
            }
        }
    }
    immediate.truncate(len);
    for (node, dominator) in immediate.iter_mut().enumerate() {
        if *dominator == top {
            *dominator = node;
        }
    }
    immediate
}

fn meet(immediate: &[usize], number: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = immediate[a];
        }
        while number[b] < number[a] {
            b = immediate[b];
        }
    }
    a
}

pub(crate) fn postorder(len: usize, roots: &[usize], next: &[Vec<usize>]) -> Vec<usize> {
    let mut seen = vec![false; len];
    let mut order = Vec::with_capacity(len + 1);
    let mut open: Vec<(usize, usize)> = Vec::new();
    for &root in roots {
        if std::mem::replace(&mut seen[root], true) {
            continue;
        }
        open.push((root, 0));
        while let Some((node, step)) = open.last_mut() {
            match next[*node].get(*step) {
                Some(&to) => {
                    *step += 1;
                    if !std::mem::replace(&mut seen[to], true) {
                        open.push((to, 0));
                    }
                }
                None => {
                    order.push(*node);
                    open.pop();
                }
            }
        }
    }
    order
}

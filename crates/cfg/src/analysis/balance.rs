//! Which blocks need counters, so that how often all others ran follows from them (Knuth and Stevenson, Optimal measurement
//! points for program frequency counts, 1973).
//!
//! Blocks that one block can go to, and blocks that can come to one block, meet at a *node*. What comes to a node leaves it: the blocks
//! that end there ran as often, together, as those that begin there. So a block is an arc between two nodes, and of the arcs of a
//! spanning tree none has to be counted. One node stands for all that is not known: there functions are entered and left, calls are made and
//! come back or not, exceptions arrive. Nothing is concluded from it, so that a call that never returns, `longjmp` and an
//! exception change no count. What is concluded holds as long as what begins a block comes to its end.

use crate::analysis::flow::frequencies;
use crate::graph::edge::EdgeKind;
use crate::graph::handles::{Block, Edge};
use crate::graph::{BlockId, Cfg};

/// Which blocks are counted, and how the counts of the others follow.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Balance {
    blocks: Vec<BalancedBlock>,
    /// In the order in which they can be taken.
    steps: Vec<Step>,
    /// Blocks whose counts are added or taken away, of all steps.
    terms: Vec<(u32, bool)>,
}

/// A block of a [`Balance`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalancedBlock {
    /// Which one.
    pub id: BlockId,
    /// It needs a counter.
    pub counted: bool,
}

/// One count that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    block: u32,
    /// Where its terms end; they begin where those of the step before end.
    end: u32,
}

/// The node of all that is not known.
const OUTSIDE: usize = 0;

impl Balance {
    /// Chooses among those blocks of `cfg`, a graph of a whole program, that are `wanted` and all of whose edges are known. `leaves`
    /// tells whether a block may be left, or entered, in its middle: it has a system call in it.
    pub fn of(cfg: &Cfg, wanted: impl Fn(Block<'_>) -> bool, leaves: impl Fn(Block<'_>) -> bool) -> Balance {
        let count = cfg.blocks().len();
        let mut index: Vec<Option<usize>> = vec![None; count];
        let mut blocks: Vec<BalancedBlock> = Vec::new();
        let mut end = None;
        for (block, next) in cfg.blocks().zip(cfg.blocks().skip(1).map(Some).chain([None])) {
            // Where instructions overlap, one instruction is in two blocks.
            let overlaps = end.is_some_and(|end| block.start() < end)
                || next.is_some_and(|next: Block<'_>| next.start() < block.end());
            end = end.max(Some(block.end()));
            let complete = block.functions().len() > 0 && block.functions().all(|f| f.is_complete());
            if !overlaps && complete && wanted(block) {
                index[block.id().0 as usize] = Some(blocks.len());
                blocks.push(BalancedBlock { id: block.id(), counted: true });
            }
        }
        let position = |block: Block<'_>| index[block.id().0 as usize];
        // Each block has a node where it begins and one where it ends; edges make one of two.
        let (begin, finish) = (|at: usize| 1 + 2 * at, |at: usize| 2 + 2 * at);
        let mut nodes = Nodes::new(1 + 2 * blocks.len());
        for (at, found) in blocks.iter().enumerate() {
            let Some(block) = cfg.block(found.id) else { continue };
            let inside = |edge: &Edge<'_>| stays(edge).then(|| edge.target().and_then(position)).flatten();
            let mut outgoing = block.outgoing();
            if outgoing.len() == 0 || outgoing.any(|edge| inside(&edge).is_none()) || leaves(block) {
                nodes.join(finish(at), OUTSIDE);
            }
            for to in block.outgoing().filter_map(|edge| inside(&edge)) {
                nodes.join(finish(at), begin(to));
            }
            let known = |edge: Edge<'_>| stays(&edge) && position(edge.source()).is_some();
            let mut incoming = block.incoming();
            let unknown = incoming.len() == 0
                || incoming.any(|edge| !known(edge))
                || cfg.function_at(block.start()).is_some();
            if unknown {
                nodes.join(begin(at), OUTSIDE);
            }
        }
        let often = frequencies(cfg);
        let arcs: Vec<(usize, usize)> =
            (0..blocks.len()).map(|at| (nodes.of(begin(at)), nodes.of(finish(at)))).collect();
        let weights: Vec<f32> = blocks.iter().map(|block| often[block.id.0 as usize]).collect();
        let (tree, steps, terms) = solve(nodes.len(), &arcs, &weights);
        blocks.iter_mut().zip(tree).for_each(|(block, follows)| block.counted = !follows);
        Balance { blocks, steps, terms }
    }

    /// Its blocks, ascending.
    pub fn blocks(&self) -> &[BalancedBlock] {
        &self.blocks
    }

    /// Puts in the counts that follow: `counts` are those of the blocks, in their order, and right for blocks that are counted.
    ///
    /// # Panics
    /// If there are fewer counts than blocks.
    pub fn complete(&self, counts: &mut [i64]) {
        self.each(|block, terms| {
            let add = |sum: i64, &(term, negative): &(u32, bool)| match counts[term as usize] {
                count if negative => sum.wrapping_sub(count),
                count => sum.wrapping_add(count),
            };
            counts[block] = terms.iter().fold(0, add);
        });
    }

    /// Adds to `unknown` the blocks whose counts follow from one whose count is unknown.
    ///
    /// # Panics
    /// If it is shorter than there are blocks.
    pub fn spread(&self, unknown: &mut [bool]) {
        self.each(|block, terms| unknown[block] = terms.iter().any(|&(term, _)| unknown[term as usize]));
    }

    fn each(&self, mut step: impl FnMut(usize, &[(u32, bool)])) {
        let mut start = 0;
        for &Step { block, end } in &self.steps {
            step(block as usize, &self.terms[start..end as usize]);
            start = end as usize;
        }
    }
}

/// Whether an edge goes on in the function, without a call or an exception in between.
fn stays(edge: &Edge<'_>) -> bool {
    let kind = edge.kind();
    !edge.leaves_function()
        && matches!(
            kind,
            EdgeKind::Taken
                | EdgeKind::NotTaken
                | EdgeKind::Direct
                | EdgeKind::Indirect
                | EdgeKind::FallThrough
        )
}

/// The arcs of a spanning tree, the heaviest, and how their counts follow from those of the others.
fn solve(nodes: usize, arcs: &[(usize, usize)], weights: &[f32]) -> (Vec<bool>, Vec<Step>, Vec<(u32, bool)>) {
    let mut order: Vec<usize> = (0..arcs.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    let mut joined = Nodes::new(nodes);
    let mut tree = vec![false; arcs.len()];
    for arc in order {
        tree[arc] = joined.join(arcs[arc].0, arcs[arc].1);
    }
    let mut at_node: Vec<Vec<u32>> = vec![Vec::new(); nodes];
    for (arc, &(from, to)) in arcs.iter().enumerate().filter(|(_, (from, to))| from != to) {
        at_node[from].push(arc as u32);
        at_node[to].push(arc as u32);
    }
    // From the node outside on; the arc to each node follows from all others there.
    let mut seen = vec![false; nodes];
    let mut reached: Vec<(usize, u32)> = Vec::new();
    for root in 0..nodes {
        if std::mem::replace(&mut seen[root], true) {
            continue;
        }
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            for &arc in at_node[node].iter().filter(|arc| tree[**arc as usize]) {
                let (from, to) = arcs[arc as usize];
                let next = if from == node { to } else { from };
                if !std::mem::replace(&mut seen[next], true) {
                    reached.push((next, arc));
                    open.push(next);
                }
            }
        }
    }
    let (mut steps, mut terms) = (Vec::with_capacity(reached.len()), Vec::new());
    for (node, arc) in reached.into_iter().rev() {
        let begins = arcs[arc as usize].0 == node;
        for &other in at_node[node].iter().filter(|other| **other != arc) {
            terms.push((other, (arcs[other as usize].0 == node) == begins));
        }
        steps.push(Step { block: arc, end: terms.len() as u32 });
    }
    (tree, steps, terms)
}

/// Disjoint sets.
struct Nodes(Vec<u32>);

impl Nodes {
    fn new(count: usize) -> Nodes {
        Nodes((0..count as u32).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// What stands for the set of `node`.
    fn of(&mut self, mut node: usize) -> usize {
        while self.0[node] as usize != node {
            let up = self.0[self.0[node] as usize];
            self.0[node] = up;
            node = up as usize;
        }
        node
    }

    /// Makes one set of two; whether they were two.
    fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.of(a), self.of(b));
        // The node outside stays what it is.
        self.0[a.max(b)] = a.min(b) as u32;
        a != b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A walk through a graph of arcs counts each of them as often as follows from the counted ones.
    #[test]
    fn counts_of_random_walks_follow() {
        let mut state = 7u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..300 {
            let (nodes, count) = (1 + random(12), 1 + random(30));
            let arcs: Vec<(usize, usize)> = (0..count).map(|_| (random(nodes), random(nodes))).collect();
            let weights: Vec<f32> = (0..count).map(|_| random(100) as f32).collect();
            let (tree, steps, terms) = solve(nodes, &arcs, &weights);
            let mut ran = vec![0i64; count];
            for _ in 0..20 {
                // From outside back to outside, or not at all.
                let (mut walk, mut at) = (Vec::new(), OUTSIDE);
                for _ in 0..200 {
                    let ways: Vec<usize> = (0..count).filter(|&arc| arcs[arc].0 == at).collect();
                    if ways.is_empty() || at == OUTSIDE && !walk.is_empty() {
                        break;
                    }
                    let way = ways[random(ways.len())];
                    walk.push(way);
                    at = arcs[way].1;
                }
                if at == OUTSIDE {
                    walk.into_iter().for_each(|arc| ran[arc] += 1);
                }
            }
            let mut counts: Vec<i64> =
                ran.iter().zip(&tree).map(|(ran, tree)| if *tree { -99 } else { *ran }).collect();
            let blocks = Vec::new();
            Balance { blocks, steps, terms }.complete(&mut counts);
            assert_eq!(counts, ran, "round {round}: {arcs:?}, tree {tree:?}");
        }
    }

    #[test]
    fn of_a_diamond_the_sides_are_counted() {
        // Entry; two sides; where they meet. Entry and meeting run as often as both sides together.
        let arcs = [(0, 1), (1, 2), (1, 2), (2, 0)];
        let (tree, ..) = solve(3, &arcs, &[4.0, 3.0, 1.0, 4.0]);
        assert_eq!(tree, [true, false, false, true]);
        // Where the meeting runs seldom, it is counted, and the likely side is not.
        let (tree, ..) = solve(3, &arcs, &[4.0, 3.0, 2.0, 1.0]);
        assert_eq!(tree, [true, true, false, false]);
    }
}

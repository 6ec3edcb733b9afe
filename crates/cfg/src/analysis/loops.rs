//! Loops of one function, natural and irreducible, as a tree.
//!
//! A loop is a strongly connected part of the graph. Its headers are the blocks where control enters it:
//! one for a natural loop, several for an irreducible one. With the edges back to the headers taken away,
//! the strongly connected parts of what is left are the loops inside.

use crate::analysis::flow::FlowGraph;
use crate::graph::BlockId;
use crate::graph::handles::{Edge, Function};

/// A loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loop {
    headers: Vec<u32>,
    blocks: Vec<u32>,
    parent: Option<usize>,
    depth: usize,
}

impl Loop {
    /// Where control enters it, ascending.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = BlockId> + '_ {
        self.headers.iter().map(|&block| BlockId(block))
    }

    /// Whether it has one header, which dominates all of it.
    pub fn is_natural(&self) -> bool {
        self.headers.len() == 1
    }

    /// Its blocks, those of inner loops included, ascending.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = BlockId> + '_ {
        self.blocks.iter().map(|&block| BlockId(block))
    }

    /// Whether `block` is in it.
    pub fn contains(&self, block: BlockId) -> bool {
        self.blocks.binary_search(&block.0).is_ok()
    }

    fn is_header(&self, block: BlockId) -> bool {
        self.headers.binary_search(&block.0).is_ok()
    }

    /// Index of the loop around it, in [`Loops::all`].
    pub fn parent(&self) -> Option<usize> {
        self.parent
    }

    /// How many loops it is in, itself included.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The edges of `function` by which control enters it.
    pub fn entries<'g>(&self, function: Function<'g>) -> Vec<Edge<'g>> {
        self.edges(function, |from, to| !self.contains(from) && self.contains(to))
    }

    /// The edges of `function` by which control leaves it for other blocks of the function.
    pub fn exits<'g>(&self, function: Function<'g>) -> Vec<Edge<'g>> {
        self.edges(function, |from, to| self.contains(from) && !self.contains(to))
    }

    /// The edges of `function` that begin the next iteration.
    pub fn back_edges<'g>(&self, function: Function<'g>) -> Vec<Edge<'g>> {
        self.edges(function, |from, to| self.contains(from) && self.is_header(to))
    }

    fn edges<'g>(&self, function: Function<'g>, wanted: impl Fn(BlockId, BlockId) -> bool) -> Vec<Edge<'g>> {
        let all = function.blocks().flat_map(|block| block.outgoing());
        let inside = all.filter(|edge| !edge.leaves_function());
        inside.filter(|e| e.target().is_some_and(|to| wanted(e.source().id(), to.id()))).collect()
    }
}

/// The loops of one function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loops {
    all: Vec<Loop>,
    /// Numbers of the function's blocks, and for each the innermost loop.
    blocks: Vec<u32>,
    innermost: Vec<Option<usize>>,
}

impl Loops {
    /// Finds them.
    pub fn of(function: Function<'_>) -> Loops {
        let graph = FlowGraph::of(function);
        let mut loops =
            Loops { all: Vec::new(), blocks: graph.blocks.clone(), innermost: vec![None; graph.len()] };
        // Parts to be searched, with the edges back to the headers of the loops around them taken away.
        let mut cut = vec![false; graph.len()];
        let mut open: Vec<(Vec<usize>, Option<usize>)> = vec![((0..graph.len()).collect(), None)];
        while let Some((part, parent)) = open.pop() {
            for headers in parent.iter().filter_map(|&p| loops.all.get(p)).map(|l| l.headers.clone()) {
                headers.iter().filter_map(|h| graph.blocks.binary_search(h).ok()).for_each(|h| cut[h] = true);
            }
            for mut inside in components(&graph, &part, &cut) {
                inside.sort_unstable();
                let found = loops.add(&graph, &inside, parent, &cut);
                open.push((inside, Some(found)));
            }
        }
        loops.order();
        loops
    }

    fn add(&mut self, graph: &FlowGraph, inside: &[usize], parent: Option<usize>, cut: &[bool]) -> usize {
        let outside = |from: &usize| inside.binary_search(from).is_err();
        let entered = |&b: &usize| Some(b) == graph.entry || graph.predecessors[b].iter().any(outside);
        let mut headers: Vec<usize> = inside.iter().copied().filter(|b| !cut[*b]).filter(entered).collect();
        if headers.is_empty() {
            // No known edge leads to it.
            headers.extend(inside.first());
        }
        let number = |blocks: &[usize]| blocks.iter().map(|&b| graph.blocks[b]).collect::<Vec<u32>>();
        let depth = parent.and_then(|p| self.all.get(p)).map_or(0, |p| p.depth) + 1;
        self.all.push(Loop { headers: number(&headers), blocks: number(inside), parent, depth });
        let index = self.all.len() - 1;
        inside.iter().for_each(|&block| self.innermost[block] = Some(index));
        index
    }

    /// Puts loops in the order of their first headers, outer ones first.
    fn order(&mut self) {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|&i| (self.all[i].headers.first().copied(), self.all[i].depth));
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        self.all = order.iter().map(|&old| self.all[old].clone()).collect();
        self.all.iter_mut().for_each(|l| l.parent = l.parent.map(|p| place[p]));
        self.innermost.iter_mut().for_each(|l| *l = l.map(|l| place[l]));
    }

    /// All loops, in the order of their headers.
    pub fn all(&self) -> &[Loop] {
        &self.all
    }

    /// Index of the innermost loop that holds `block`.
    pub fn innermost(&self, block: BlockId) -> Option<usize> {
        let position = self.blocks.binary_search(&block.0).ok()?;
        *self.innermost.get(position)?
    }

    /// How many loops hold `block`.
    pub fn depth(&self, block: BlockId) -> usize {
        self.innermost(block).and_then(|index| self.all.get(index)).map_or(0, Loop::depth)
    }
}

/// The strongly connected parts of `part` with a cycle, not counting edges to blocks that are `cut`
/// (Tarjan's algorithm, without recursion).
fn components(graph: &FlowGraph, part: &[usize], cut: &[bool]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut place = vec![NEW; graph.len()];
    part.iter().enumerate().for_each(|(i, &block)| place[block] = i);
    let next: Vec<Vec<usize>> = part
        .iter()
        .map(|&block| {
            let to = graph.successors[block].iter().filter(|&&to| !cut[to]).map(|&to| place[to]);
            to.filter(|&to| to != NEW).collect()
        })
        .collect();
    let (mut index, mut low) = (vec![NEW; part.len()], vec![0; part.len()]);
    let (mut on_stack, mut stack, mut count) = (vec![false; part.len()], Vec::new(), 0);
    let mut found = Vec::new();
    for start in 0..part.len() {
        if index[start] != NEW {
            continue;
        }
        let mut open = vec![(start, 0)];
        while let Some(&(node, step)) = open.last() {
            if step == 0 {
                (index[node], low[node]) = (count, count);
                count += 1;
                on_stack[node] = true;
                stack.push(node);
            }
            if let Some(&to) = next[node].get(step) {
                if let Some(last) = open.last_mut() {
                    last.1 += 1;
                }
                if index[to] == NEW {
                    open.push((to, 0));
                } else if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            open.pop();
            if let Some(&(above, _)) = open.last() {
                low[above] = low[above].min(low[node]);
            }
            if low[node] == index[node] {
                let mut members = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    members.push(member);
                    if member == node {
                        break;
                    }
                }
                if members.len() > 1 || next[node].contains(&node) {
                    found.push(members.iter().map(|&m| part[m]).collect());
                }
            }
        }
    }
    found
}

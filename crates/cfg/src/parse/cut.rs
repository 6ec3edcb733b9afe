//! Cutting the runs of a traversal into blocks, with the edges between them.

use crate::graph::edge::{EdgeKind, Reason};
use crate::parse::body::{Body, IMPORT, LocalBlock, LocalEdge, NEW_ENTRY, TAIL};
use crate::parse::code::{NONE, Off};
use crate::parse::runs::{End, Run};
use crate::parse::traverse::Traversal;
use crate::x86_64::{self as machine, Indirect};

impl Traversal<'_, '_, '_> {
    /// Cuts the runs into blocks at all targets, and gives them their edges.
    pub(crate) fn blocks(&mut self) -> Body {
        self.scratch.leaders.sort_unstable();
        self.scratch.leaders.dedup();
        let mut blocks: Vec<(LocalBlock, End)> = Vec::with_capacity(self.scratch.runs.len() * 2);
        for (index, run) in self.scratch.runs.iter().enumerate() {
            self.cut(run, index as u32 + 1, &mut blocks);
        }
        blocks.sort_unstable_by_key(|(block, _)| block.start);
        let mut edges: Vec<LocalEdge> = Vec::with_capacity(blocks.len() * 2);
        let mut unresolved: Vec<(Off, Reason)> = Vec::new();
        for (block, how) in &mut blocks {
            block.first_edge = edges.len() as u32;
            self.edges(block, *how, &mut edges, &mut unresolved);
        }
        if self.too_large {
            unresolved.push((self.entry, Reason::TooLarge));
        }
        let blocks: Box<[LocalBlock]> = blocks.into_iter().map(|(block, _)| block).collect();
        for edge in &mut edges {
            if edge.flags & (IMPORT | TAIL | NEW_ENTRY) == 0 && edge.target != NONE {
                let to = blocks.binary_search_by_key(&edge.target, |b| b.start);
                edge.to = to.map_or(NONE, |index| index as u32);
            }
        }
        let root = |at: &Off| blocks.binary_search_by_key(at, |b| b.start).ok().map(|index| index as u32);
        let mut roots: Vec<u32> = self.roots.iter().filter_map(root).collect();
        roots.sort_unstable();
        unresolved.sort_unstable();
        Body { blocks, edges: edges.into(), unresolved: unresolved.into(), roots: roots.into() }
    }

    fn cut(&self, run: &Run, index: u32, blocks: &mut Vec<(LocalBlock, End)>) {
        if run.insns == 0 {
            // Nothing decodes at a target: an empty block that says so.
            let empty =
                LocalBlock { start: run.start, end: run.start, insns: 0, last: run.start, first_edge: 0 };
            blocks.push((empty, End::Bad));
            return;
        }
        let leaders = &self.scratch.leaders;
        let first = leaders.partition_point(|&l| l <= run.start);
        let inside = leaders[first..].iter().take_while(|&&l| l < run.end);
        let cuts = inside.filter(|&&l| self.scratch.owner(l) == index);
        let (mut start, mut left) = (run.start, run.insns);
        for &cut in cuts {
            let (mut insns, mut last) = (0, start);
            for at in start..cut {
                if self.scratch.owner(at) == index {
                    (insns, last) = (insns + 1, at);
                }
            }
            blocks.push((LocalBlock { start, end: cut, insns, last, first_edge: 0 }, End::Falls));
            (start, left) = (cut, left - insns);
        }
        let rest = LocalBlock { start, end: run.end, insns: left, last: run.last, first_edge: 0 };
        blocks.push((rest, run.how));
    }

    /// The edges out of `block`, in a fixed order.
    fn edges(
        &mut self,
        block: &LocalBlock,
        how: End,
        edges: &mut Vec<LocalEdge>,
        unresolved: &mut Vec<(Off, Reason)>,
    ) {
        use EdgeKind::{Call, CallFallThrough, Catch, Direct, FallThrough, Indirect as Indirectly};
        use EdgeKind::{NotTaken, Return, Taken};
        let next = |kind| (kind, Some(block.end));
        match how {
            End::Falls => self.edge(next(FallThrough), block, edges, unresolved),
            End::Bad => unresolved.push((block.end, Reason::NoInstruction)),
            End::Stop => {}
            End::Far => unresolved.push((block.last, Reason::Far)),
            End::Return => edges.push(LocalEdge::new(Return, NONE, 0)),
            End::Jump(to) => self.edge((Direct, self.context.code.offset(to)), block, edges, unresolved),
            End::Branch(to) => {
                self.edge((Taken, self.context.code.offset(to)), block, edges, unresolved);
                self.edge(next(NotTaken), block, edges, unresolved);
            }
            End::Call(to) => {
                let target = self.context.code.offset(to);
                let flags = if target.is_some_and(|to| self.is_inner_call(to)) { 0 } else { TAIL };
                edges.push(LocalEdge::new(Call, target.unwrap_or(NONE), flags));
                self.edge(next(CallFallThrough), block, edges, unresolved);
            }
            End::IndirectCall => {
                let slot = machine::slot(&self.context.code, block.last);
                let import = slot.and_then(|slot| self.context.import_at(slot)).map(|(import, _)| import);
                let bound = slot.filter(|&slot| import.is_none() && self.context.code.is_constant(slot));
                let known = bound.and_then(|slot| self.context.code.offset(self.context.code.pointer(slot)?));
                edges.push(match import.filter(|&import| import != NONE) {
                    Some(import) => LocalEdge::new(Call, import, IMPORT | TAIL),
                    None => LocalEdge::new(Call, known.unwrap_or(NONE), TAIL),
                });
                self.edge(next(CallFallThrough), block, edges, unresolved);
            }
            End::IndirectJump => match self.indirect.get(&block.last) {
                Some(Indirect::Targets(targets)) => {
                    for &to in targets {
                        let tail = to != self.entry && self.is_entry(to);
                        let new = self.is_new_entry(block.start, block.last, to);
                        let flags = if new {
                            TAIL | NEW_ENTRY
                        } else if tail {
                            TAIL
                        } else {
                            0
                        };
                        edges.push(LocalEdge::new(Indirectly, to, flags));
                    }
                }
                Some(Indirect::Import(import, first)) => {
                    let flags = if *import == NONE { TAIL } else { TAIL | IMPORT };
                    edges.push(LocalEdge::new(Indirectly, *import, flags));
                    edges.extend(first.map(|to| LocalEdge::new(Indirectly, to, 0)));
                }
                Some(Indirect::TailCall) => edges.push(LocalEdge::new(Indirectly, NONE, TAIL)),
                Some(Indirect::Unknown) | None => {
                    edges.push(LocalEdge::new(Indirectly, NONE, 0));
                    unresolved.push((block.last, Reason::IndirectJump));
                }
            },
        }
        if matches!(how, End::Call(_) | End::IndirectCall)
            && let Some(pad) = self.landing_pad(block.last)
        {
            self.edge((Catch, Some(pad)), block, edges, unresolved);
        }
    }

    /// An edge to an address inside or outside of the function.
    fn edge(
        &self,
        (kind, to): (EdgeKind, Option<Off>),
        block: &LocalBlock,
        edges: &mut Vec<LocalEdge>,
        unresolved: &mut Vec<(Off, Reason)>,
    ) {
        let Some(to) = to.filter(|&to| !self.context.code.bytes(to).is_empty()) else {
            // A call at the end of the code is one that does not come back.
            if kind != EdgeKind::CallFallThrough {
                unresolved.push((block.last, Reason::OutsideCode));
            }
            return;
        };
        let other = to != self.entry && self.is_entry(to);
        let new = kind == EdgeKind::Direct && self.is_new_entry(block.start, block.last, to);
        let flags = if new {
            TAIL | NEW_ENTRY
        } else if other {
            TAIL
        } else {
            0
        };
        edges.push(LocalEdge::new(kind, to, flags));
    }
}

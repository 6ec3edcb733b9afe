//! Where the points of a function are, by kind.

use std::cell::OnceCell;

use incise_cfg::{Block, Edge, EdgeKind, Function, Loops};
use incise_image::{LinkAddr, Module};
use incise_isa::native::{Flow, Insn};
use incise_patch::Placement;

use super::view::{PointView, Surroundings};
use crate::filter::Filter;
use crate::point::{Incomplete, Point, PointKind};

/// The points that one entry (or one instruction) stands for.
pub(super) struct Places<'a> {
    pub around: &'a Surroundings<'a>,
    pub asked: &'a Point,
    pub kind: PointKind,
    pub filter: Option<&'a Filter>,
}

/// A way in or out of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    at: LinkAddr,
    placement: Placement,
    /// From which instruction to which, if an edge is meant.
    edge: Option<(LinkAddr, LinkAddr)>,
    /// The instruction it is about.
    subject: LinkAddr,
}

impl Way {
    fn new(at: LinkAddr, placement: Placement) -> Way {
        Way { at, placement, edge: None, subject: at }
    }
}

fn before(at: LinkAddr) -> Way {
    Way::new(at, Placement::Before)
}

impl Places<'_> {
    pub(super) fn of(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<Point> {
        let (points, subjects): (Vec<Point>, Vec<LinkAddr>) = match self.asked.kind {
            PointKind::FunctionEntry => {
                self.ways(function, incomplete).into_iter().map(|way| (self.point(way), way.subject)).unzip()
            }
            _ => {
                self.module().to_link(self.asked.addr).map(|at| (self.asked.clone(), at)).into_iter().unzip()
            }
        };
        let Some(filter) = self.filter else { return points };
        let loops = OnceCell::new();
        let accepted = |(point, subject): &(Point, LinkAddr)| {
            filter.accepts(&PointView::new(point, function, *subject, self.around, &loops))
        };
        points.into_iter().zip(subjects).filter(accepted).map(|(point, _)| point).collect()
    }

    fn module(&self) -> &Module {
        self.around.module
    }

    fn ways(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<Way> {
        if !function.is_complete() && self.kind != PointKind::FunctionEntry {
            let why = "some of its jumps could not be resolved: there may be code that was not found";
            incomplete.push(Incomplete::new(self.asked, why));
        }
        let blocks = || function.blocks();
        let loops = || Loops::of(function);
        let mut ways: Vec<Way> = match self.kind {
            PointKind::FunctionEntry => vec![before(function.entry())],
            PointKind::BlockEntry => blocks().map(|block| before(block.start())).collect(),
            PointKind::BlockExit => blocks().map(|block| before(block.last())).collect(),
            PointKind::BeforeInstruction => {
                let insns = blocks().flat_map(|block| self.instructions(block));
                insns.map(|insn| before(LinkAddr(insn.addr().0))).collect()
            }
            PointKind::AfterInstruction => {
                let insns = blocks().flat_map(|block| self.instructions(block));
                let goes_on = insns.filter(|insn| matches!(insn.flow(), Flow::Next | Flow::Syscall));
                let behind = goes_on.map(|insn| Way::new(LinkAddr(insn.addr().0), Placement::After));
                behind.chain(self.returned(function)).collect()
            }
            PointKind::BeforeCall => blocks().filter(calls).map(|block| before(block.last())).collect(),
            PointKind::AfterCall => self.returned(function),
            PointKind::FunctionExit => blocks().flat_map(|block| self.leaving(block)).collect(),
            PointKind::Edge => {
                let edges = blocks().flat_map(|block| block.outgoing());
                self.along(function, edges.filter(|edge| !edge.leaves_function()), incomplete)
            }
            PointKind::LoopEntry => {
                let loops = loops();
                let edges = loops.all().iter().flat_map(|one| one.entries(function));
                self.along(function, edges, incomplete)
            }
            PointKind::LoopExit => {
                let loops = loops();
                let edges = loops.all().iter().flat_map(|one| one.exits(function));
                let mut ways = self.along(function, edges, incomplete);
                let inside = blocks().filter(|block| loops.innermost(block.id()).is_some());
                ways.extend(inside.flat_map(|block| self.leaving(block)));
                ways
            }
            PointKind::LoopIteration => self.iterations(function, &loops()),
            PointKind::FunctionDuring => {
                let mut ways = self.returned(function);
                ways.push(before(function.entry()));
                ways.extend(self.iterations(function, &loops()));
                ways
            }
            PointKind::NoReturn => {
                let back = |edge: Edge<'_>| edge.kind() == EdgeKind::CallFallThrough;
                let stays = blocks().filter(calls).filter(|block| !block.outgoing().any(back));
                stays.map(|block| before(block.last())).collect()
            }
            PointKind::LoopIterationEnd => {
                let loops = loops();
                let edges = loops.all().iter().flat_map(|one| one.back_edges(function));
                self.along(function, edges, incomplete)
            }
        };
        ways.sort_unstable();
        ways.dedup();
        ways
    }

    /// The headers of loops.
    fn iterations(&self, function: Function<'_>, loops: &Loops) -> Vec<Way> {
        let headers = loops.all().iter().flat_map(|one| one.headers());
        headers.filter_map(|id| function.cfg().block(id)).map(|block| before(block.start())).collect()
    }

    fn instructions(&self, block: Block<'_>) -> impl Iterator<Item = Insn> + use<'_> {
        block.instructions(&self.module().image, self.around.file)
    }

    /// Behind calls, where they came back.
    fn returned(&self, function: Function<'_>) -> Vec<Way> {
        let back = function.blocks().filter(calls).flat_map(|block| block.outgoing());
        let back = back.filter(|edge| edge.kind() == EdgeKind::CallFallThrough);
        let way = |edge: Edge<'_>| {
            let behind = edge.source().end();
            let placement =
                if self.only_way(function, edge) { Placement::Before } else { Placement::Returned };
            Way { subject: edge.source().last(), ..Way::new(behind, placement) }
        };
        back.map(way).collect()
    }

    /// On the ways out of the function that a block has: before `ret`, a tail call, the last instruction before
    /// another function; where a branch may stay in the function too, on the branch that does not.
    fn leaving(&self, block: Block<'_>) -> Vec<Way> {
        let ways = || block.outgoing().filter(|edge| edge.kind() != EdgeKind::Call);
        let leaving = ways().filter(|edge| edge.leaves_function());
        let some_stay = ways().any(|edge| !edge.leaves_function());
        let way = |edge: Edge<'_>| match (edge.kind(), edge.target_addr()) {
            (EdgeKind::Taken, _) if some_stay => Way::new(block.last(), Placement::Taken),
            (EdgeKind::NotTaken, _) if some_stay => Way::new(block.last(), Placement::After),
            (EdgeKind::Indirect, Some(to)) if some_stay => {
                Way::new(block.last(), Placement::Toward(self.module().to_addr(to)))
            }
            _ => before(block.last()),
        };
        leaving.map(way).collect()
    }

    /// On edges inside the function.
    fn along<'g>(
        &self,
        function: Function<'g>,
        edges: impl Iterator<Item = Edge<'g>>,
        incomplete: &mut Vec<Incomplete>,
    ) -> Vec<Way> {
        let mut ways = Vec::new();
        for edge in edges {
            let (from, Some(to)) = (edge.source().last(), edge.target_addr()) else { continue };
            let (at, placement) = match edge.kind() {
                _ if self.only_way(function, edge) => (to, Placement::Before),
                // Not before a jump: another edge may be told from there, the one that leads to it.
                EdgeKind::Taken | EdgeKind::Direct => (from, Placement::Taken),
                EdgeKind::NotTaken | EdgeKind::FallThrough => (from, Placement::After),
                EdgeKind::Indirect => (from, Placement::Toward(self.module().to_addr(to))),
                EdgeKind::CallFallThrough => (to, Placement::Returned),
                EdgeKind::Catch | EdgeKind::Call | EdgeKind::Return => {
                    let why = "exceptions from several calls arrive at one place: which came is not told";
                    let told = Incomplete::new(self.asked, why);
                    if incomplete.last() != Some(&told) {
                        incomplete.push(told);
                    }
                    continue;
                }
            };
            ways.push(Way { at, placement, edge: Some((from, to)), subject: from });
        }
        ways
    }

    /// Whether control comes to the target of `edge` by that edge only, so that before the target is on it.
    fn only_way(&self, function: Function<'_>, edge: Edge<'_>) -> bool {
        let Some(target) = edge.target().filter(|_| function.is_complete()) else { return false };
        target.incoming().len() == 1
            && target.functions().len() == 1
            && function.cfg().function_at(target.start()).is_none()
    }

    fn point(&self, way: Way) -> Point {
        let Way { at, placement, edge, .. } = way;
        let module = self.module();
        let addr = module.to_addr(at);
        let named = |name: &str| match edge {
            Some((from, to)) => format!("{} -> {}", self.behind(name, from), self.behind(name, to)),
            None => self.behind(name, at),
        };
        let is_entry = edge.is_none() && addr == self.asked.addr;
        Point {
            kind: self.kind,
            addr,
            placement,
            edge: edge.map(|(from, to)| (module.to_addr(from), module.to_addr(to))),
            name: named(&self.asked.name),
            display_name: named(&self.asked.display_name),
            names: if is_entry { self.asked.names.clone() } else { Vec::new() },
            ..self.asked.clone()
        }
    }

    /// The name of an address in the function that is called `name`.
    fn behind(&self, name: &str, at: LinkAddr) -> String {
        let offset = self.module().to_addr(at).offset_from(self.asked.addr);
        match offset {
            0 => name.to_owned(),
            // Parts of a function may lie before its entry.
            ..0 => format!("{name}-{:#x}", offset.unsigned_abs()),
            _ => format!("{name}+{offset:#x}"),
        }
    }
}

fn calls(block: &Block<'_>) -> bool {
    block.outgoing().any(|edge| edge.kind() == EdgeKind::Call && !edge.is_tail_call())
}

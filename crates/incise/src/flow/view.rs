//! What a filter can ask of a point.

use std::cell::OnceCell;

use incise_cfg::{Block, Edge, EdgeKind, Function, Loops, import_of_stub};
use incise_image::{LinkAddr, Module, demangled_forms};
use incise_isa::Addr;
use incise_isa::native::{Insn, decode};

use super::lines::Lines;
use crate::point::{Point, PointKind};

/// What the points of one module have in common.
pub(super) struct Surroundings<'a> {
    pub module: &'a Module,
    pub file: &'a [u8],
    pid: Option<&'a str>,
    lines: OnceCell<Option<Lines>>,
}

impl<'a> Surroundings<'a> {
    pub(super) fn new(module: &'a Module, file: &'a [u8], pid: Option<&'a str>) -> Surroundings<'a> {
        Surroundings { module, file, pid, lines: OnceCell::new() }
    }

    /// The names of the function that a call leads to: symbols, and as programmers write them.
    fn names_at(&self, at: LinkAddr) -> Vec<String> {
        let image = &self.module.image;
        match image.function_starting_at(at) {
            Some(function) => all_forms(image.names(function).map(|name| name.text)),
            None => all_forms(import_of_stub(image, self.file, at).into_iter()),
        }
    }
}

fn all_forms<'n>(symbols: impl Iterator<Item = &'n str>) -> Vec<String> {
    symbols.flat_map(|name| std::iter::once(name.to_owned()).chain(demangled_forms(name))).collect()
}

/// A point as a filter sees it, with the function, the block and the instruction it belongs to.
///
/// The instruction of a point on an edge is the one that decides for it: the last of the block the edge leaves; that
/// of a point behind a call is the call.
pub struct PointView<'a> {
    point: &'a Point,
    function: Function<'a>,
    /// The instruction it belongs to.
    subject: LinkAddr,
    around: &'a Surroundings<'a>,
    /// Found when first asked for.
    loops: &'a OnceCell<Loops>,
}

impl<'a> PointView<'a> {
    pub(super) fn new(
        point: &'a Point,
        function: Function<'a>,
        subject: LinkAddr,
        around: &'a Surroundings<'a>,
        loops: &'a OnceCell<Loops>,
    ) -> PointView<'a> {
        PointView { point, function, subject, around, loops }
    }

    /// The point itself.
    pub fn point(&self) -> &Point {
        self.point
    }

    /// What kind of point it is.
    pub fn kind(&self) -> PointKind {
        self.point.kind
    }

    /// Names of the function it is in: its symbols, and their forms as programmers write them.
    pub fn function_names(&self) -> Vec<String> {
        let image = &self.around.module.image;
        match image.function_starting_at(self.function.entry()) {
            Some(function) => all_forms(image.names(function).map(|name| name.text)),
            None => vec![self.point.name.clone(), self.point.display_name.clone()],
        }
    }

    /// File name of the module.
    pub fn module(&self) -> &str {
        &self.around.module.name
    }

    /// Bytes from the function's entry to the instruction; negative in parts that lie before it.
    pub fn offset(&self) -> i64 {
        self.subject.0.wrapping_sub(self.function.entry().0) as i64
    }

    /// The function's graph.
    pub fn function(&self) -> Function<'a> {
        self.function
    }

    /// The block that holds the instruction: for an edge the one it leaves.
    pub fn block(&self) -> Option<Block<'a>> {
        let over = self.function.cfg().blocks_over(self.subject);
        over.filter(|block| self.function.contains(block.id())).find(|block| {
            let image = &self.around.module.image;
            block.last() == self.subject
                || block.start() == self.subject
                || block.instructions(image, self.around.file).any(|i| i.addr().0 == self.subject.0)
        })
    }

    /// Edges that lead to the block from blocks of the function.
    pub fn in_degree(&self) -> Option<usize> {
        Some(self.block()?.predecessors().count())
    }

    /// Edges by which control may go on from the block: calls left out, returns and tail calls included.
    pub fn out_degree(&self) -> Option<usize> {
        Some(self.block()?.outgoing().filter(|edge| edge.kind() != EdgeKind::Call).count())
    }

    /// How many loops are around the block: 0 outside of any.
    pub fn loop_depth(&self) -> usize {
        let loops = || self.loops.get_or_init(|| Loops::of(self.function));
        self.block().map_or(0, |block| loops().depth(block.id()))
    }

    /// The instruction.
    pub fn instruction(&self) -> Option<Insn> {
        let image = &self.around.module.image;
        let bytes = (1..=15).rev().find_map(|len| image.bytes_at(self.around.file, self.subject, len))?;
        decode(bytes, Addr(self.subject.0)).ok()
    }

    /// For an edge: the one it is.
    pub fn edge(&self) -> Option<Edge<'a>> {
        let (_, to) = self.point.edge?;
        let to = self.around.module.to_link(to);
        self.block()?.outgoing().find(|edge| edge.kind() != EdgeKind::Call && edge.target_addr() == to)
    }

    /// Names of the function that the instruction calls, or goes to as a tail call, in all their forms. Empty if it
    /// calls none, or one that is not known before it runs.
    pub fn callee_names(&self) -> Vec<String> {
        let Some(block) = self.block().filter(|block| block.last() == self.subject) else {
            return Vec::new();
        };
        let calls = block.outgoing().filter(|edge| edge.kind() == EdgeKind::Call || edge.is_tail_call());
        let image = &self.around.module.image;
        let names = |edge: Edge<'_>| match (edge.import(), edge.target_addr()) {
            (Some(import), _) => all_forms(image.imports().nth(import as usize).into_iter()),
            (None, Some(at)) => self.around.names_at(at),
            (None, None) => Vec::new(),
        };
        calls.flat_map(names).collect()
    }

    /// Source file and line of the instruction, where DWARF tells.
    pub fn line(&self) -> Option<(String, u32)> {
        let lines = self.around.lines.get_or_init(|| Lines::of(self.around.module, self.around.pid));
        lines.as_ref()?.at(self.subject)
    }
}

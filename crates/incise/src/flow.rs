//! Points inside functions, by their control flow. If they are few, only the functions that are asked for are parsed.

use std::collections::BTreeMap;
use std::fs;

use incise_cfg::{Block, Edge, EdgeKind, Function, Loops, Options, Parser};
use incise_image::{Image, LinkAddr, Module};
use incise_patch::Placement;

use crate::point::{Incomplete, Point, PointKind};
use crate::program::Program;

/// From this many functions of a file on, all of it is parsed.
const MANY: usize = 32;

/// Replaces the function entries among `points` by the points of `kind` inside those functions. Functions some of
/// whose points cannot be told are added to `incomplete`.
pub(crate) fn inside(
    points: Vec<Point>,
    kind: PointKind,
    program: &Program,
    incomplete: &mut Vec<Incomplete>,
) -> Vec<Point> {
    if kind == PointKind::FunctionEntry {
        return points;
    }
    let (entries, mut found): (Vec<Point>, Vec<Point>) =
        points.into_iter().partition(|point| point.kind == PointKind::FunctionEntry);
    let mut by_module: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
    for entry in entries {
        let holds = |module: &Module| module.range.contains(&entry.addr);
        match program.modules().iter().position(holds) {
            Some(index) => by_module.entry(index).or_default().push(entry),
            None => incomplete.push(Incomplete::new(&entry, "it belongs to no file")),
        }
    }
    for (index, entries) in by_module {
        let module = &program.modules()[index];
        let Some(file) = contents(module, program.pid()) else {
            let why = "its file is not there any more, or another one is";
            incomplete.extend(entries.iter().map(|entry| Incomplete::new(entry, why)));
            continue;
        };
        let parser = match Parser::new(&module.image, &file) {
            Ok(parser) => parser,
            Err(error) => {
                incomplete.extend(entries.iter().map(|entry| Incomplete::new(entry, &error.to_string())));
                continue;
            }
        };
        // Parsing all of a program takes less than parsing many of its functions one by one.
        let whole = (entries.len() > MANY).then(|| parser.parse(&Options::default()).ok()).flatten();
        for entry in &entries {
            let places = Places { module, file: &file, entry, kind };
            let Some(link) = module.to_link(entry.addr) else { continue };
            if let Some(function) = whole.as_ref().and_then(|cfg| cfg.function_at(link)) {
                found.extend(places.of(function, incomplete));
                continue;
            }
            match parser.function(link) {
                Ok(Some(cfg)) => {
                    found.extend(cfg.function_at(link).into_iter().flat_map(|f| places.of(f, incomplete)));
                }
                Ok(None) => incomplete.push(Incomplete::new(entry, "no code is there")),
                Err(error) => incomplete.push(Incomplete::new(entry, &error.to_string())),
            }
        }
    }
    found.sort_by_key(Point::place);
    found.dedup_by_key(|point| point.place());
    found
}

/// The file of a module, if it is the one that is mapped.
pub(crate) fn contents(module: &Module, pid: Option<&str>) -> Option<Vec<u8>> {
    let rooted = pid.map(|pid| format!("/proc/{pid}/root{}", module.path));
    let mut files = rooted.into_iter().chain([module.path.clone()]).filter_map(|path| fs::read(path).ok());
    files.find(|file| Image::parse(file).is_ok_and(|image| image.build_id() == module.image.build_id()))
}

/// Where the points of a function are.
struct Places<'a> {
    module: &'a Module,
    file: &'a [u8],
    entry: &'a Point,
    kind: PointKind,
}

/// An instruction, a way in or out of it, and the edge that is meant, if one is.
type Way = (LinkAddr, Placement, Option<(LinkAddr, LinkAddr)>);

fn before(at: LinkAddr) -> Way {
    (at, Placement::Before, None)
}

impl Places<'_> {
    fn of(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<Point> {
        if !function.is_complete() {
            let why = "some of its jumps could not be resolved: there may be code that was not found";
            incomplete.push(Incomplete::new(self.entry, why));
        }
        let blocks = || function.blocks();
        let mut ways: Vec<Way> = match self.kind {
            PointKind::FunctionEntry => vec![before(function.entry())],
            PointKind::BlockEntry => blocks().map(|block| before(block.start())).collect(),
            PointKind::BlockExit => blocks().map(|block| before(block.last())).collect(),
            PointKind::BeforeInstruction => {
                let instructions = |block: Block<'_>| {
                    let insns = block.instructions(&self.module.image, self.file);
                    insns.map(|insn| before(LinkAddr(insn.addr().0))).collect::<Vec<_>>()
                };
                blocks().flat_map(instructions).collect()
            }
            PointKind::BeforeCall => blocks().filter(calls).map(|block| before(block.last())).collect(),
            PointKind::AfterCall => {
                let back = blocks().filter(calls).flat_map(|block| block.outgoing());
                let back = back.filter(|edge| edge.kind() == EdgeKind::CallFallThrough);
                let back = back.map(|edge| match self.only_way(function, edge) {
                    true => before(edge.source().end()),
                    false => (edge.source().end(), Placement::Returned, None),
                });
                back.collect()
            }
            PointKind::FunctionExit => blocks().flat_map(|block| self.leaving(block)).collect(),
            PointKind::Edge => {
                let edges = blocks().flat_map(|block| block.outgoing());
                self.along(function, edges.filter(|edge| !edge.leaves_function()), incomplete)
            }
            PointKind::LoopEntry => {
                let loops = Loops::of(function);
                let edges = loops.all().iter().flat_map(|one| one.entries(function));
                self.along(function, edges, incomplete)
            }
            PointKind::LoopExit => {
                let loops = Loops::of(function);
                let edges = loops.all().iter().flat_map(|one| one.exits(function));
                let mut ways = self.along(function, edges, incomplete);
                let inside = blocks().filter(|block| loops.innermost(block.id()).is_some());
                ways.extend(inside.flat_map(|block| self.leaving(block)));
                ways
            }
            PointKind::LoopIteration => {
                let loops = Loops::of(function);
                let headers = loops.all().iter().flat_map(|one| one.headers());
                headers.filter_map(|id| function.cfg().block(id)).map(|block| before(block.start())).collect()
            }
        };
        ways.sort_unstable();
        ways.dedup();
        ways.into_iter().map(|way| self.point(way)).collect()
    }

    /// On the ways out of the function that a block has: before `ret`, a tail call, the last instruction before
    /// another function; where a branch may stay in the function too, on the branch that does not.
    fn leaving(&self, block: Block<'_>) -> Vec<Way> {
        let ways = || block.outgoing().filter(|edge| edge.kind() != EdgeKind::Call);
        let leaving = ways().filter(|edge| edge.leaves_function());
        let some_stay = ways().any(|edge| !edge.leaves_function());
        let way = |edge: Edge<'_>| match (edge.kind(), edge.target_addr()) {
            (EdgeKind::Taken, _) if some_stay => (block.last(), Placement::Taken, None),
            (EdgeKind::NotTaken, _) if some_stay => (block.last(), Placement::After, None),
            (EdgeKind::Indirect, Some(to)) if some_stay => {
                (block.last(), Placement::Toward(self.module.to_addr(to)), None)
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
                EdgeKind::Indirect => (from, Placement::Toward(self.module.to_addr(to))),
                EdgeKind::CallFallThrough => (to, Placement::Returned),
                EdgeKind::Catch | EdgeKind::Call | EdgeKind::Return => {
                    let why = "exceptions from several calls arrive at one place: which came is not told";
                    incomplete.push(Incomplete::new(self.entry, why));
                    continue;
                }
            };
            ways.push((at, placement, Some((from, to))));
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

    fn point(&self, (at, placement, edge): Way) -> Point {
        let addr = self.module.to_addr(at);
        let named = |name: &str| match edge {
            Some((from, to)) => format!("{} -> {}", self.behind(name, from), self.behind(name, to)),
            None => self.behind(name, at),
        };
        let is_entry = edge.is_none() && addr == self.entry.addr;
        Point {
            kind: self.kind,
            addr,
            placement,
            name: named(&self.entry.name),
            display_name: named(&self.entry.display_name),
            names: if is_entry { self.entry.names.clone() } else { Vec::new() },
            ..self.entry.clone()
        }
    }

    /// The name of an address in the function that is called `name`.
    fn behind(&self, name: &str, at: LinkAddr) -> String {
        let offset = self.module.to_addr(at).offset_from(self.entry.addr);
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

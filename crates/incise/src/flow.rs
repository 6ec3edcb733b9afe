//! Points inside functions, by their control flow. If they are few, only the functions that are asked for are parsed.

use std::collections::BTreeMap;
use std::fs;

use incise_cfg::{Block, EdgeKind, Function, Options, Parser};
use incise_image::{Image, LinkAddr, Module};
use incise_isa::Addr;

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
    found.sort_by_key(|point| point.addr);
    found.dedup_by_key(|point| point.addr);
    found
}

/// The file of a module, if it is the one that is mapped.
fn contents(module: &Module, pid: Option<&str>) -> Option<Vec<u8>> {
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

impl Places<'_> {
    fn of(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<Point> {
        if !function.is_complete() {
            let why = "some of its jumps could not be resolved: there may be code that was not found";
            incomplete.push(Incomplete::new(self.entry, why));
        }
        let mut addrs = Vec::new();
        match self.kind {
            PointKind::FunctionEntry => addrs.push(function.entry()),
            PointKind::BlockEntry => addrs.extend(function.blocks().map(|block| block.start())),
            PointKind::BlockExit => addrs.extend(function.blocks().map(|block| block.last())),
            PointKind::BeforeInstruction => {
                let instructions = |block: Block<'_>| {
                    let insns = block.instructions(&self.module.image, self.file);
                    insns.map(|insn| LinkAddr(insn.addr().0)).collect::<Vec<_>>()
                };
                addrs.extend(function.blocks().flat_map(instructions));
            }
            PointKind::BeforeCall => {
                let calls = |block: &Block<'_>| {
                    block.outgoing().any(|edge| edge.kind() == EdgeKind::Call && !edge.is_tail_call())
                };
                addrs.extend(function.blocks().filter(calls).map(|block| block.last()));
            }
            PointKind::FunctionExit => addrs.extend(self.exits(function, incomplete)),
        }
        addrs.sort_unstable();
        addrs.dedup();
        addrs.into_iter().map(|at| self.point(self.module.to_addr(at))).collect()
    }

    /// Before what leaves the function: `ret`, a tail call, the last instruction before another function. A
    /// conditional tail call leaves it or does not: that is no place before an instruction.
    fn exits(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<LinkAddr> {
        let mut exits = Vec::new();
        for block in function.exits() {
            let leaving = block.outgoing().filter(|e| e.kind() != EdgeKind::Call && e.leaves_function());
            match leaving.into_iter().all(|edge| !matches!(edge.kind(), EdgeKind::Taken | EdgeKind::NotTaken))
            {
                true => exits.push(block.last()),
                false => incomplete.push(Incomplete::new(self.entry, "it has a conditional tail call")),
            }
        }
        exits
    }

    fn point(&self, addr: Addr) -> Point {
        let offset = addr.offset_from(self.entry.addr);
        let behind = |name: &str| match offset {
            0 => name.to_owned(),
            // Parts of a function may lie before its entry.
            ..0 => format!("{name}-{:#x}", offset.unsigned_abs()),
            _ => format!("{name}+{offset:#x}"),
        };
        Point {
            kind: self.kind,
            addr,
            name: behind(&self.entry.name),
            display_name: behind(&self.entry.display_name),
            names: if offset == 0 { self.entry.names.clone() } else { Vec::new() },
            ..self.entry.clone()
        }
    }
}

//! Points inside functions, by their control flow. Only the functions that are asked for are parsed.

use std::collections::BTreeMap;
use std::fs;

use incise_cfg::{Cfg, EdgeKind, Function, Parser};
use incise_image::{Image, Module};
use incise_isa::Addr;

use crate::point::{Incomplete, Point, PointKind};
use crate::program::Program;

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
        for entry in &entries {
            let parsed = module.to_link(entry.addr).map(|link| (link, parser.function(link)));
            let cfg = match &parsed {
                Some((_, Ok(Some(cfg)))) => cfg,
                Some((_, Err(error))) => {
                    incomplete.push(Incomplete::new(entry, &error.to_string()));
                    continue;
                }
                _ => {
                    incomplete.push(Incomplete::new(entry, "no code is there"));
                    continue;
                }
            };
            let places = Places { module, file: &file, entry, kind };
            found.extend(places.of(cfg, incomplete));
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
    fn of(&self, cfg: &Cfg, incomplete: &mut Vec<Incomplete>) -> Vec<Point> {
        let Some(link) = self.module.to_link(self.entry.addr) else { return Vec::new() };
        let Some(function) = cfg.functions().find(|function| function.entry() == link) else {
            return Vec::new();
        };
        if !function.is_complete() {
            let why = "some of its jumps could not be resolved: there may be code that was not found";
            incomplete.push(Incomplete::new(self.entry, why));
        }
        let mut addrs = Vec::new();
        match self.kind {
            PointKind::FunctionEntry => addrs.push(link),
            PointKind::BlockEntry => addrs.extend(function.blocks().map(|block| block.start())),
            PointKind::BlockExit => addrs.extend(function.blocks().map(|block| block.last())),
            PointKind::BeforeInstruction => {
                let instructions = |block: incise_cfg::Block<'_>| {
                    let insns = block.instructions(&self.module.image, self.file);
                    insns.map(|insn| incise_image::LinkAddr(insn.addr().0)).collect::<Vec<_>>()
                };
                addrs.extend(function.blocks().flat_map(instructions));
            }
            PointKind::BeforeCall => {
                let calls = |block: &incise_cfg::Block<'_>| {
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
    fn exits(&self, function: Function<'_>, incomplete: &mut Vec<Incomplete>) -> Vec<incise_image::LinkAddr> {
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

//! Points inside functions, by their control flow. If they are few, only the functions that are asked for are parsed.

mod implied;
mod lines;
mod places;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::sync::Arc;

use incise_cfg::Cfg;
use incise_image::{Image, LinkAddr, Module};

use crate::filter::Filter;
use crate::point::{Incomplete, Point, PointKind};
use crate::program::Program;
use crate::source::Binary;
use places::Places;
use view::Surroundings;

pub(crate) use implied::{Implied, Need};
pub use lines::Lines;
pub use view::PointView;

/// From this many functions of a file on, all of it is parsed, unless it is large.
const MANY: usize = 32;

/// To look at one function takes at most as long, by what it calls, as so many of a file that is parsed whole.
const CALLED: usize = 256;

/// Replaces the function entries among `points` by the points of `kind` inside those functions, and leaves only those
/// that `filter` accepts. Functions some of whose points cannot be told are added to `incomplete`, and to `implied`, if it is given,
/// which points need no counter.
pub(crate) fn inside(
    points: Vec<Point>,
    kind: PointKind,
    filter: Option<&Filter>,
    program: &Program,
    incomplete: &mut Vec<Incomplete>,
    mut implied: Option<&mut Vec<Implied>>,
) -> Vec<Point> {
    if kind == PointKind::FunctionEntry && filter.is_none() {
        return points;
    }
    // Instructions that were asked for by address stay what they are; a filter wants to know where they are.
    let (asked, mut found): (Vec<Point>, Vec<Point>) =
        points.into_iter().partition(|point| point.kind == PointKind::FunctionEntry || filter.is_some());
    let mut by_module: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
    for point in asked {
        let holds = |module: &Module| module.range.contains(&point.addr);
        match program.modules().iter().position(holds) {
            Some(index) => by_module.entry(index).or_default().push(point),
            None => incomplete.push(Incomplete::new(&point, "it belongs to no file")),
        }
    }
    for (index, asked) in by_module {
        let module = &program.modules()[index];
        let Some(file) = contents(module, program.pid()) else {
            let why = "its file is not there any more, or another one is";
            incomplete.extend(asked.iter().map(|point| Incomplete::new(point, why)));
            continue;
        };
        let binary = Binary { path: &module.path, image: &module.image, file: &file };
        let graphs = match program.cfg_source().open(binary) {
            Ok(graphs) => graphs,
            Err(error) => {
                incomplete.extend(asked.iter().map(|point| Incomplete::new(point, &error.to_string())));
                continue;
            }
        };
        let around = Surroundings::new(module, &file, program.pid());
        // Parsing all of a program takes less than parsing many of its functions one by one.
        let functions = module.image.functions().len().max(module.image.unwind_functions().len());
        let whole = (asked.len() > MANY.max(functions / CALLED)).then(|| graphs.whole().ok()).flatten();
        // Instructions of a range follow each other.
        let mut last: Option<(LinkAddr, Arc<Cfg>)> = None;
        if let Some(cfg) = &whole {
            program.learn_leads(index, cfg, &file);
            if let Some(implied) = implied.as_mut().filter(|_| filter.is_none()) {
                let entries: HashSet<LinkAddr> =
                    asked.iter().filter_map(|point| module.to_link(point.addr)).collect();
                implied.extend(Implied::new(cfg, module, &file, kind, &entries));
            }
        }
        for point in &asked {
            let Some(entry) = entry(module, point) else { continue };
            let places = Places { around: &around, asked: point, kind, filter };
            if let Some(function) = whole.as_ref().and_then(|cfg| cfg.function_at(entry)) {
                found.extend(places.of(function, incomplete));
                continue;
            }
            if let Some((_, cfg)) = last.as_ref().filter(|(at, _)| *at == entry) {
                found.extend(cfg.function_at(entry).into_iter().flat_map(|f| places.of(f, incomplete)));
                continue;
            }
            match graphs.function(entry) {
                Ok(Some(cfg)) => {
                    found.extend(cfg.function_at(entry).into_iter().flat_map(|f| places.of(f, incomplete)));
                    last = Some((entry, cfg));
                }
                Ok(None) => incomplete.push(Incomplete::new(point, "no code is there")),
                Err(error) => incomplete.push(Incomplete::new(point, &error.to_string())),
            }
        }
    }
    found.sort_by_key(Point::place);
    found.dedup_by_key(|point| point.place());
    found
}

/// Where the function of a point begins.
fn entry(module: &Module, point: &Point) -> Option<LinkAddr> {
    let at = module.to_link(point.addr)?;
    if point.kind == PointKind::FunctionEntry {
        return Some(at);
    }
    let unwound =
        || module.image.unwind_functions().iter().find(|range| range.contains(&at)).map(|r| r.start);
    module.image.function_at(at).map(|function| function.addr).or_else(unwound).or(Some(at))
}

/// The file of a module, if it is the one that is mapped.
pub(crate) fn contents(module: &Module, pid: Option<&str>) -> Option<Vec<u8>> {
    let rooted = pid.map(|pid| format!("/proc/{pid}/root{}", module.path));
    let mut files = rooted.into_iter().chain([module.path.clone()]).filter_map(|path| fs::read(path).ok());
    files.find(|file| Image::parse(file).is_ok_and(|image| image.build_id() == module.image.build_id()))
}

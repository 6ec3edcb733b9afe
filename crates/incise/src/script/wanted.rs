//! From the probes of a script to points.

use incise_snippet::language::ast::{FunctionProbe, Place, ProbeKind, ScriptSyntax, UsdtSyntax};

use crate::count::Search;
use crate::point::{Point, PointKind};

/// What points of one group have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Group {
    /// Index of the clause.
    pub clause: usize,
    /// Which place of functions.
    pub place: Place,
}

/// The kind of points that a place means.
fn kind(place: Place) -> PointKind {
    match place {
        Place::Entry => PointKind::FunctionEntry,
        Place::Exit => PointKind::FunctionExit,
        Place::Block => PointKind::BlockEntry,
        Place::BlockExit => PointKind::BlockExit,
        Place::Edge => PointKind::Edge,
        Place::Call => PointKind::BeforeCall,
        Place::AfterCall => PointKind::AfterCall,
        Place::Instruction => PointKind::BeforeInstruction,
        Place::AfterInstruction => PointKind::AfterInstruction,
        Place::LoopEntry => PointKind::LoopEntry,
        Place::LoopExit => PointKind::LoopExit,
        Place::LoopIterationStart => PointKind::LoopIteration,
        Place::LoopIterationEnd => PointKind::LoopIterationEnd,
    }
}

/// The place that a point is.
pub(crate) fn place_of(point: &Point) -> Place {
    match point.kind {
        // An instruction that was asked for by its offset is no entry.
        PointKind::BeforeInstruction if point.addr == point.function => Place::Entry,
        kind_of => Place::WORDS
            .iter()
            .map(|(_, place)| *place)
            .find(|place| kind(*place) == kind_of)
            .unwrap_or(Place::Instruction),
    }
}

/// What a script probes.
pub(super) struct Wanted {
    /// The searches for points of functions.
    pub searches: Vec<Search>,
    /// Probes of programmers, each with its group.
    pub usdt: Vec<(UsdtSyntax, usize)>,
    /// The groups.
    pub groups: Vec<Group>,
}

/// All probes of a script, and the groups they belong to.
pub(super) fn wanted(script: &ScriptSyntax) -> Wanted {
    let (mut searches, mut usdt, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for (clause, syntax) in script.clauses.iter().enumerate() {
        for probe in &syntax.probes {
            match &probe.kind {
                ProbeKind::Function(probe) => searches.push(search(probe, clause, &mut groups)),
                ProbeKind::Usdt(probe) => {
                    usdt.push((probe.clone(), group(clause, Place::Instruction, &mut groups)));
                }
                _ => {}
            }
        }
    }
    Wanted { searches, usdt, groups }
}

/// The group of a clause at a place; made if there is none.
fn group(clause: usize, place: Place, groups: &mut Vec<Group>) -> usize {
    let group = Group { clause, place };
    groups.iter().position(|known| *known == group).unwrap_or_else(|| {
        groups.push(group);
        groups.len() - 1
    })
}

fn search(probe: &FunctionProbe, clause: usize, groups: &mut Vec<Group>) -> Search {
    let index = group(clause, probe.place, groups);
    let pattern = match (&probe.module, probe.function.starts_with('*')) {
        // An address in the file of a module.
        (Some(of), true) if probe.place == Place::Entry => format!("{}!{}", module(of), probe.function),
        _ => probe.function.clone(),
    };
    Search {
        pattern,
        module: probe.module.as_deref().map(module),
        kind: kind(probe.place),
        group: index,
        places: true,
        otherwise: probe.otherwise.as_deref().map(|other| Box::new(search(other, clause, groups))),
    }
}

/// The file name of a module; a path may be that of a symbolic link.
pub(super) fn module(pattern: &str) -> String {
    if !pattern.contains('/') {
        return pattern.to_owned();
    }
    let real = std::fs::canonicalize(pattern).ok();
    let name =
        real.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| pattern.rsplit('/').next().unwrap_or(pattern).to_owned())
}

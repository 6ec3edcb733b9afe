//! From the probes of a script to points.

use incise_snippet::language::ast::{FunctionProbe, Place, ProbeKind, ScriptSyntax};

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

/// The searches for all probes of a script, and the groups they belong to.
pub(super) fn wanted(script: &ScriptSyntax) -> (Vec<Search>, Vec<Group>) {
    let (mut searches, mut groups) = (Vec::new(), Vec::new());
    for (clause, syntax) in script.clauses.iter().enumerate() {
        for probe in &syntax.probes {
            if let ProbeKind::Function(probe) = &probe.kind {
                searches.push(search(probe, clause, &mut groups));
            }
        }
    }
    (searches, groups)
}

fn search(probe: &FunctionProbe, clause: usize, groups: &mut Vec<Group>) -> Search {
    let group = Group { clause, place: probe.place };
    let index = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
        groups.push(group);
        groups.len() - 1
    });
    Search {
        pattern: probe.function.clone(),
        module: probe.module.as_deref().map(module),
        kind: kind(probe.place),
        group: index,
        places: true,
        otherwise: probe.otherwise.as_deref().map(|other| Box::new(search(other, clause, groups))),
    }
}

/// The file name of a module; a path may be that of a symbolic link.
fn module(pattern: &str) -> String {
    if !pattern.contains('/') {
        return pattern.to_owned();
    }
    let real = std::fs::canonicalize(pattern).ok();
    let name =
        real.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| pattern.rsplit('/').next().unwrap_or(pattern).to_owned())
}

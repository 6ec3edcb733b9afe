//! Which conditional branches decide whether an instruction runs.
//!
//! A branch decides if exactly one of its two ways can lead to the instruction (without coming by the branch again).
//! The control flow is that of the enclosing function, as far as direct branches tell; where an indirect jump goes is
//! not known, and counts as the end of a path.

use std::collections::{BTreeMap, BTreeSet};

use incise_isa::Addr;
use incise_isa::native::Flow;

use super::View;
use super::search::function;

/// A branch that decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The branch.
    pub at: Addr,
    /// The instruction runs if the branch is taken; else if it is not.
    pub taken: bool,
}

/// Most instructions of a function that are looked at.
const LONGEST: usize = 20_000;
/// Most branches that are judged.
const MOST_BRANCHES: usize = 400;

/// The branches that decide whether the instruction at `at` runs, the nearest first. `jumps` are all direct jumps and
/// branches of the module, from and to: parts of functions lie elsewhere.
pub(super) fn decisions(view: &View, at: Addr, jumps: &[(Addr, Addr)]) -> Vec<Decision> {
    let graph = Graph::around(view, at, jumps);
    let before = graph.leading_to(at, None);
    let mut branches: Vec<Addr> =
        graph.branches.keys().copied().filter(|branch| before.contains_key(branch)).collect();
    branches.sort_by_key(|branch| before.get(branch).copied());
    branches.truncate(MOST_BRANCHES);
    let mut found = Vec::new();
    for branch in branches {
        let (taken, not_taken) = graph.branches[&branch];
        let leading = graph.leading_to(at, Some(branch));
        let (by_taken, by_falling) = (leading.contains_key(&taken), leading.contains_key(&not_taken));
        if by_taken != by_falling {
            found.push(Decision { at: branch, taken: by_taken });
        }
    }
    found
}

/// Control flow between instructions.
#[derive(Default)]
struct Graph {
    /// Who leads to an instruction.
    before: BTreeMap<Addr, Vec<Addr>>,
    /// Conditional branches: where they go when taken, and when not.
    branches: BTreeMap<Addr, (Addr, Addr)>,
}

impl Graph {
    fn around(view: &View, at: Addr, jumps: &[(Addr, Addr)]) -> Graph {
        let mut graph = Graph::default();
        let range = function(view, at);
        let mut work: Vec<Addr> = vec![range.as_ref().map_or(at, |range| range.start)];
        // A part of a function that lies elsewhere is entered by a jump from the rest of it.
        if let Some(range) = &range {
            let from_elsewhere =
                jumps.iter().filter(|(from, to)| range.contains(to) && !range.contains(from));
            work.extend(from_elsewhere.take(8).filter_map(|(from, _)| Some(function(view, *from)?.start)));
        }
        let mut seen: BTreeSet<Addr> = BTreeSet::new();
        while let Some(here) = work.pop() {
            if seen.len() == LONGEST || !seen.insert(here) {
                continue;
            }
            let Ok(insn) = view.insn(here) else { continue };
            let mut next = |to: Addr| {
                graph.before.entry(to).or_default().push(here);
                work.push(to);
            };
            let flow = insn.flow();
            if flow.falls_through() {
                next(insn.end());
            }
            match flow {
                Flow::Jump(to) => next(to),
                Flow::Branch(to) => {
                    next(to);
                    graph.branches.insert(here, (to, insn.end()));
                }
                _ => {}
            }
        }
        graph
    }

    /// The instructions that can lead to `at`, itself among them, with their distance; `without` is not gone through.
    fn leading_to(&self, at: Addr, without: Option<Addr>) -> BTreeMap<Addr, usize> {
        let mut distance = BTreeMap::from([(at, 0)]);
        let mut row = vec![at];
        let mut steps = 0;
        while !row.is_empty() {
            steps += 1;
            let mut next = Vec::new();
            for here in row {
                for &from in self.before.get(&here).into_iter().flatten() {
                    if Some(from) != without && !distance.contains_key(&from) {
                        distance.insert(from, steps);
                        next.push(from);
                    }
                }
            }
            row = next;
        }
        distance
    }
}

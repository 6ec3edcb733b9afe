//! Liveness of all blocks of a graph at once: the least solution of the equations of its blocks, across calls
//! and returns.
//!
//! What is live before a call of known code is what is live at its entry; what is live behind the call is
//! live at its returns. So conventions that only the two sides know of (`-fipa-ra`, assembly) are kept to,
//! without being known.

use incise_image::Image;
use incise_isa::native::{Gpr, GprSet, RegisterUses};

use super::convention::{Convention, keeps_all};
use super::facts::{End, Facts};
use super::set::Set;
use super::strangers;
use crate::graph::edge::EdgeKind;
use crate::graph::handles::{Block, Edge, Function};
use crate::graph::{BlockId, Cfg};
use crate::parse::code::NONE;
use crate::parse::threads::in_order;

/// What is live where blocks begin, and behind their last instructions.
pub(super) struct Solution {
    pub start: Vec<Set>,
    /// Behind the last instruction of each block; for a call, when it has come back.
    pub after: Vec<Set>,
    /// The same before what a call does: what the last instruction itself reads is not in it.
    pub before_end: Vec<Set>,
}

struct Solver<'g> {
    cfg: &'g Cfg,
    image: &'g Image,
    convention: Convention,
    facts: Vec<Facts>,
    /// By block, the function that begins with it.
    entered: Vec<u32>,
    /// By function, what is live behind its returns.
    returns: Vec<Set>,
    found: Solution,
    open: Vec<u32>,
    queued: Vec<bool>,
}

/// Solves for all blocks of `cfg`.
pub(super) fn solve(cfg: &Cfg, image: &Image, file: &[u8], threads: usize) -> Solution {
    let len = cfg.blocks().len();
    let facts = in_order(len, threads, |range| {
        let mut uses = RegisterUses::default();
        let blocks = range.filter_map(|id| cfg.block(BlockId(id as u32)));
        blocks.map(|block| Facts::of(block, image, file, &mut uses)).collect()
    });
    let mut entered = vec![NONE; len];
    for function in cfg.functions() {
        let entry = function.entry_block().and_then(|block| entered.get_mut(block.id().0 as usize));
        entry.into_iter().for_each(|entry| *entry = function.id().0);
    }
    let sets = || vec![Set::EMPTY; len];
    let mut solver = Solver {
        cfg,
        image,
        convention: Convention::of(image),
        facts,
        entered,
        returns: Vec::new(),
        found: Solution { start: sets(), after: sets(), before_end: sets() },
        open: (0..len as u32).collect(),
        queued: vec![true; len],
    };
    let strangers = strangers::find(cfg, image, file);
    solver.returns = cfg
        .functions()
        .map(|function| solver.behind(function, strangers.get(function.id().0 as usize) == Some(&true)))
        .collect();
    solver.pin_unresolved();
    while let Some(block) = solver.open.pop() {
        solver.queued[block as usize] = false;
        solver.step(block);
    }
    solver.found
}

impl<'g> Solver<'g> {
    /// What is live behind the returns of `function` whoever calls it; `strange`: code that was not parsed
    /// may.
    fn behind(&self, function: Function<'_>, strange: bool) -> Set {
        let facts = |block: Block<'_>| self.facts[block.id().0 as usize];
        let mut live = self.convention.results;
        let Some(entry) = function.entry_block().map(facts) else { return Set::ALL };
        // What it gives back as it was, somebody counts on.
        if !entry.saved.is_empty() {
            for exit in function.exits().map(facts) {
                live = live.union(Set::of(entry.saved.intersection(exit.restored), 0, 0));
            }
        }
        // Nor is it one of the convention if it reads what that does not pass.
        let odd = Set::of(GprSet::of(&[Gpr::Rax, Gpr::R11]), super::STATUS_FLAGS, 0);
        if strange || entry.reads.intersects(odd) {
            let calls = |block: Block<'_>| block.outgoing().any(|e| e.kind() == EdgeKind::Call && is_open(e));
            let written = function.blocks().fold(Set::EMPTY, |written, block| {
                let called = if calls(block) { self.convention.clobbered } else { Set::EMPTY };
                written.union(facts(block).kills).union(called)
            });
            live = live.union(Set::ALL.minus(written));
        }
        live
    }

    /// Where something is unresolved, all is live.
    fn pin_unresolved(&mut self) {
        for function in self.cfg.functions().filter(|f| !f.is_complete()) {
            let crate::Completeness::Incomplete(places) = function.completeness() else { continue };
            for block in function.blocks() {
                let at = |at: u64| places.binary_search_by_key(&at, |u| u.at.0).is_ok();
                if at(block.last().0) || at(block.end().0) {
                    self.found.after[block.id().0 as usize] = Set::ALL;
                }
            }
        }
    }

    fn enqueue(&mut self, block: BlockId) {
        if !std::mem::replace(&mut self.queued[block.0 as usize], true) {
            self.open.push(block.0);
        }
    }

    /// Solves one block again, and has all solved again that depend on it.
    fn step(&mut self, id: u32) {
        let (cfg, index) = (self.cfg, id as usize);
        let Some(block) = cfg.block(BlockId(id)) else { return };
        let facts = self.facts[index];
        let after = self.found.after[index].union(self.after(block, facts.end));
        let call = block.outgoing().find(|e| e.kind() == EdgeKind::Call);
        let before = match call {
            None => after,
            Some(call) => self.before_call(call, after, facts.end),
        };
        self.found.after[index] = after;
        self.found.before_end[index] = before;
        // Callees return with what is live behind the call; behind a tail call with what is live behind this
        // function's returns.
        if let Some(target) = call.and_then(Edge::target) {
            self.grow_returns(target, after);
        }
        for edge in block.outgoing().filter(|e| e.is_tail_call()) {
            let behind =
                block.functions().fold(Set::EMPTY, |all, f| all.union(self.returns[f.id().0 as usize]));
            edge.target().into_iter().for_each(|target| self.grow_returns(target, behind));
        }
        let mut start = before.minus(facts.kills).union(facts.reads);
        start = start.union(Set::of(GprSet::of(&[Gpr::Rsp]), 0, 0));
        if start != self.found.start[index] {
            self.found.start[index] = start;
            block.incoming().for_each(|edge| self.enqueue(edge.source().id()));
        }
    }

    /// What is live behind the last instruction of `block`.
    fn after(&self, block: Block<'_>, end: End) -> Set {
        let behind =
            || block.functions().fold(Set::EMPTY, |all, f| all.union(self.returns[f.id().0 as usize]));
        let mut live = Set::EMPTY;
        for edge in block.outgoing() {
            live = live.union(match (edge.kind(), edge.target()) {
                // An exception finds what no call changes, which is live at every call.
                (EdgeKind::Call | EdgeKind::Catch, _) => Set::EMPTY,
                (EdgeKind::Return, _) if end == End::Trampoline => Set::ALL,
                (EdgeKind::Return, _) => behind(),
                (_, Some(target)) => self.found.start[target.id().0 as usize],
                (_, None) if edge.target_addr().is_some() || !edge.leaves_function() => Set::ALL,
                (_, None) if self.keeps_all(edge) => Set::ALL,
                (_, None) => self.convention.arguments.union(behind().minus(self.convention.clobbered)),
            });
        }
        // Nothing follows: an end of the program, or a fault that a signal handler sees.
        if block.outgoing().len() == 0 { Set::ALL } else { live }
    }

    /// What is live before a call, where `after` is live behind it.
    fn before_call(&self, call: Edge<'_>, after: Set, end: End) -> Set {
        let Convention { arguments, clobbered, kept, .. } = self.convention;
        let always = arguments.union(kept);
        match call.target() {
            _ if self.keeps_all(call) || end == End::Descriptor => after.union(always),
            _ if is_open(call) => after.minus(clobbered).union(always),
            Some(target) => self.found.start[target.id().0 as usize].union(always),
            // Code that was not parsed.
            None => Set::ALL,
        }
    }

    fn keeps_all(&self, edge: Edge<'_>) -> bool {
        let through_stub = || {
            let stub = edge.target().filter(|t| t.functions().any(Function::is_linkage_stub))?;
            stub.outgoing().find_map(Edge::import)
        };
        let import = edge.import().or_else(through_stub);
        import.and_then(|index| self.image.imports().nth(index as usize)).is_some_and(keeps_all)
    }

    /// More is live behind the returns of the function entered at `target`; of all that hold it, if none
    /// begins there.
    fn grow_returns(&mut self, target: Block<'g>, live: Set) {
        match self.entered[target.id().0 as usize] {
            NONE => target.functions().for_each(|f| self.grow_function(f, live)),
            id => {
                let function = self.cfg.function(crate::FunctionId(id));
                function.into_iter().for_each(|f| self.grow_function(f, live));
            }
        }
    }

    fn grow_function(&mut self, function: Function<'g>, live: Set) {
        let returns = &mut self.returns[function.id().0 as usize];
        let grown = returns.union(live);
        if grown != *returns {
            *returns = grown;
            function.exits().for_each(|block| self.enqueue(block.id()));
        }
    }
}

/// Whether a call leads to code that keeps to the convention: an import, or through a pointer.
fn is_open(call: Edge<'_>) -> bool {
    match call.target() {
        None => call.target_addr().is_none(),
        Some(target) => target.functions().any(Function::is_linkage_stub),
    }
}

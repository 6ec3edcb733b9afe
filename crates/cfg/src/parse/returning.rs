//! Which functions return, and what of each body is reached: the least fixpoint over the call graph.
//!
//! A function returns if a `ret` is reached from its entry; code behind a call is reached if the callee
//! returns. So mutual recursion without a `ret` never returns, and a wrapper of `exit` does not either.

use crate::graph::edge::EdgeKind;
use crate::parse::body::{Body, IMPORT, NEW_ENTRY, TAIL};
use crate::parse::code::{NONE, Off};
use crate::parse::context::Context;

/// What is reached. Blocks of all bodies are numbered through, in the order of the functions.
pub(crate) struct Returning {
    pub returns: Vec<bool>,
    /// By function, the number of its first block; one more at the end.
    pub first_block: Vec<u32>,
    reached: Vec<bool>,
    /// By import, whether it returns.
    imports: Vec<bool>,
}

/// What a function that was not followed does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It will be followed later: nobody knows yet.
    Waits,
    /// It may return.
    Returns,
}

/// Who waits for a function to return.
#[derive(Clone, Copy)]
struct Waiter {
    function: u32,
    /// The block behind the call; [`NONE`] for a tail call.
    block: u32,
    /// Behind the call another function begins: its entry's index, else [`NONE`].
    next: u32,
}

struct Solver<'s> {
    context: &'s Context<'s>,
    entries: &'s [Off],
    bodies: &'s [&'s Body],
    known: Returning,
    unknown: Unknown,
    waiting: Vec<Vec<Waiter>>,
    /// Functions that were just found to return.
    fresh: Vec<u32>,
    open: Vec<u32>,
}

/// Solves for the functions at `entries` (ascending) with the `bodies`.
pub(crate) fn solve<'s>(
    context: &'s Context<'s>,
    entries: &'s [Off],
    bodies: &'s [&'s Body],
    unknown: Unknown,
) -> Returning {
    let mut first_block = Vec::with_capacity(bodies.len() + 1);
    let mut blocks = 0u32;
    for body in bodies {
        first_block.push(blocks);
        blocks += body.blocks.len() as u32;
    }
    first_block.push(blocks);
    let known = Returning {
        returns: vec![false; bodies.len()],
        first_block,
        reached: vec![false; blocks as usize],
        imports: context.imports_that_return(),
    };
    let waiting = vec![Vec::new(); bodies.len()];
    let mut solver =
        Solver { context, entries, bodies, known, unknown, waiting, fresh: Vec::new(), open: Vec::new() };
    for (function, body) in bodies.iter().enumerate() {
        let start = entries.get(function).and_then(|&entry| body.starting_at(entry));
        for block in start.into_iter().map(|b| b as u32).chain(body.roots.iter().copied()) {
            solver.reach(function as u32, block);
        }
        // A jump that is not resolved may lead to a `ret`.
        if body.unresolved.iter().any(|(_, reason)| *reason != crate::Reason::NoInstruction) {
            solver.set_returns(function as u32);
        }
    }
    while let Some(function) = solver.fresh.pop() {
        for waiter in std::mem::take(&mut solver.waiting[function as usize]) {
            solver.wake(waiter);
        }
    }
    solver.known
}

impl Returning {
    pub(crate) fn is_reached(&self, function: usize, block: usize) -> bool {
        let first = self.first_block.get(function).map_or(0, |&b| b as usize);
        self.reached.get(first + block).copied().unwrap_or(false)
    }

    pub(crate) fn import_returns(&self, import: u32) -> bool {
        self.imports.get(import as usize).copied().unwrap_or(true)
    }
}

impl Solver<'_> {
    fn set_returns(&mut self, function: u32) {
        if let Some(returns @ false) = self.known.returns.get_mut(function as usize) {
            *returns = true;
            self.fresh.push(function);
        }
    }

    fn wake(&mut self, waiter: Waiter) {
        if waiter.next != NONE {
            self.wait(waiter.next, Waiter { block: NONE, next: NONE, ..waiter });
        } else if waiter.block == NONE {
            self.set_returns(waiter.function);
        } else {
            self.reach(waiter.function, waiter.block);
        }
    }

    fn wait(&mut self, callee: u32, waiter: Waiter) {
        match self.known.returns.get(callee as usize) {
            Some(false) => self.waiting[callee as usize].push(waiter),
            _ => self.wake(waiter),
        }
    }

    fn entry_of(&self, function: u32) -> Off {
        self.entries.get(function as usize).copied().unwrap_or(NONE)
    }

    /// The function a call or a tail call leads to.
    fn callee(&self, target: Off) -> Option<u32> {
        self.entries.binary_search(&target).ok().map(|index| index as u32)
    }

    /// Marks what is reached from `block` on.
    fn reach(&mut self, function: u32, block: u32) {
        let first = self.known.first_block[function as usize];
        let Some(body) = self.bodies.get(function as usize).copied() else { return };
        let floor = self.open.len();
        self.open.push(block);
        while self.open.len() > floor {
            let Some(block) = self.open.pop() else { return };
            match self.known.reached.get_mut((first + block) as usize) {
                Some(reached @ false) => *reached = true,
                _ => continue,
            }
            let edges = body.edges_of(block as usize);
            let call = edges.iter().find(|e| e.kind == EdgeKind::Call);
            for edge in edges {
                match edge.kind {
                    EdgeKind::Call if edge.flags & TAIL == 0 && edge.to != NONE => self.open.push(edge.to),
                    EdgeKind::Call => {}
                    EdgeKind::Return => self.set_returns(function),
                    EdgeKind::CallFallThrough => {
                        let next = (edge.flags & TAIL != 0).then(|| self.callee(edge.target)).flatten();
                        let waiter = Waiter { function, block: edge.to, next: next.unwrap_or(NONE) };
                        self.after_call(call.copied(), waiter);
                    }
                    _ if edge.flags & IMPORT != 0 => {
                        if self.known.import_returns(edge.target) {
                            self.set_returns(function);
                        }
                    }
                    // The dynamic linker goes on to the import, which another edge of the stub leads to.
                    _ if edge.target == NONE && self.context.is_lazy_entry(self.entry_of(function)) => {}
                    _ if edge.flags & (TAIL | NEW_ENTRY) != 0 => match self.callee(edge.target) {
                        Some(callee) => self.wait(callee, Waiter { function, block: NONE, next: NONE }),
                        // To be parsed, if it is code; else it may return.
                        None if edge.flags & NEW_ENTRY != 0 && self.unknown == Unknown::Waits => {}
                        None => self.set_returns(function),
                    },
                    _ if edge.to != NONE => self.open.push(edge.to),
                    // Somewhere unknown.
                    _ => self.set_returns(function),
                }
            }
        }
    }

    fn after_call(&mut self, call: Option<crate::parse::body::LocalEdge>, waiter: Waiter) {
        let Some(call) = call else { return };
        if waiter.block == NONE && waiter.next == NONE {
            return;
        }
        if call.flags & IMPORT != 0 {
            if self.known.import_returns(call.target) {
                self.queue(waiter);
            }
        } else if call.flags & TAIL == 0 || call.target == NONE {
            // Into this very function, through a pointer, or to no code.
            self.queue(waiter);
        } else if let Some(callee) = self.callee(call.target) {
            match self.known.returns.get(callee as usize) {
                Some(false) => self.waiting[callee as usize].push(waiter),
                _ => self.queue(waiter),
            }
        } else if self.unknown == Unknown::Returns || self.context.code.insn(call.target).is_none() {
            self.queue(waiter);
        }
    }

    /// As [`wake`](Self::wake), for the function that is being walked.
    fn queue(&mut self, waiter: Waiter) {
        if waiter.next == NONE {
            self.open.push(waiter.block);
        } else {
            self.wake(waiter);
        }
    }
}

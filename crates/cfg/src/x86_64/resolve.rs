//! Targets of indirect jumps, by symbolic execution of the paths that lead to them.
//!
//! A path is the jump's block and blocks before it. Along it, the target becomes an expression, and the
//! branches bound its parts. If one part, the index, takes few values and all else is constant, the
//! expression is evaluated for each of them, with loads from memory that cannot change: that covers the
//! tables of gcc, clang and rustc, absolute or relative, with one level or two, as well as jumps into
//! unrolled code. A path that does not suffice is made longer, by every predecessor. If any path does not
//! suffice in the end, the jump is unresolved; nothing is guessed.

use rustc_hash::FxHashMap;

use super::expr::{Node, V};
use super::state::State;
use super::writes::Write;
use super::{Indirect, stack};
use crate::graph::edge::EdgeKind;
use crate::parse::body::Body;
use crate::parse::code::Off;
use crate::parse::context::Context;

/// Most blocks of a path.
const MOST_BLOCKS: usize = 10;

/// Most paths looked at for one jump.
const MOST_PATHS: usize = 200;

/// Most values of an index.
const MOST_VALUES: u64 = 1 << 16;

/// Looks for the targets of the indirect jumps of one function.
pub(crate) struct Resolver<'r, 'a> {
    pub(super) context: &'r Context<'a>,
    pub(super) body: &'r Body,
    pub(super) entry: Off,
    known_end: Option<Off>,
    /// For each block, the blocks before it and how control comes from there.
    pub(super) before: Vec<Vec<(u32, EdgeKind)>>,
    state: State,
    paths: usize,
    /// By block, what it last writes to each register.
    pub(super) writes: Vec<Option<Box<[Write; 16]>>>,
    /// By block and register, what [`constant_in`](Self::constant_in) found.
    pub(super) constants: FxHashMap<(usize, u8), Option<u64>>,
    heights: Option<stack::Heights>,
}

/// What one path tells.
enum Verdict {
    Found(Indirect),
    /// It may be a table, but more has to be known.
    Table,
    /// A value that came from somewhere else.
    Other,
}

impl<'r, 'a> Resolver<'r, 'a> {
    pub(crate) fn new(
        context: &'r Context<'a>,
        body: &'r Body,
        entry: Off,
        known_end: Option<Off>,
    ) -> Resolver<'r, 'a> {
        let mut before = vec![Vec::new(); body.blocks.len()];
        for block in 0..body.blocks.len() {
            for edge in body.edges_of(block) {
                if let Some(list) = before.get_mut(edge.to as usize).filter(|_| edge.kind != EdgeKind::Call) {
                    list.push((block as u32, edge.kind));
                }
            }
        }
        Resolver {
            context,
            body,
            entry,
            known_end,
            before,
            state: State::new(),
            paths: 0,
            writes: vec![None; body.blocks.len()],
            constants: FxHashMap::default(),
            heights: None,
        }
    }

    /// What is known of the indirect jump that ends `block`.
    pub(crate) fn resolve(&mut self, block: usize) -> Indirect {
        self.paths = 0;
        let mut path = vec![(block as u32, EdgeKind::Indirect)];
        let mut targets = Vec::new();
        match self.explore(&mut path, &mut targets) {
            Ok(Some(other)) => return other,
            Ok(None) => {
                targets.sort_unstable();
                targets.dedup();
                return Indirect::Targets(targets.into());
            }
            Err(()) => {}
        }
        match self.verdict(&[(block as u32, EdgeKind::Indirect)]) {
            // The common entry of a procedure linkage table goes to the dynamic linker.
            Verdict::Other if self.context.in_plt(self.entry) || self.stack_is_restored(block) => {
                Indirect::TailCall
            }
            _ => Indirect::Unknown,
        }
    }

    fn stack_is_restored(&mut self, block: usize) -> bool {
        let heights =
            self.heights.get_or_insert_with(|| stack::Heights::of(&self.context.code, self.body, self.entry));
        heights.before_last(&self.context.code, self.body, block) == Some(0)
    }

    /// Collects the targets by `path`, whose last element comes first in time, and by all longer ones it
    /// takes. `Ok(Some)`: it is no jump by table, but its target is known.
    fn explore(
        &mut self,
        path: &mut Vec<(u32, EdgeKind)>,
        targets: &mut Vec<Off>,
    ) -> Result<Option<Indirect>, ()> {
        self.paths += 1;
        if self.paths > MOST_PATHS {
            return Err(());
        }
        match self.verdict(path) {
            Verdict::Found(Indirect::Targets(found)) => {
                targets.extend_from_slice(&found);
                return Ok(None);
            }
            Verdict::Found(other) if path.len() == 1 => return Ok(Some(other)),
            Verdict::Found(_) => return Err(()),
            Verdict::Table | Verdict::Other if path.len() >= MOST_BLOCKS => return Err(()),
            Verdict::Table | Verdict::Other => {}
        }
        let first = path.last().map_or(0, |&(block, _)| block as usize);
        let is_start = |b: &crate::parse::body::LocalBlock| b.start == self.entry;
        let body = self.body;
        if body.blocks.get(first).is_none_or(is_start) || body.roots.contains(&(first as u32)) {
            return Err(());
        }
        let before = self.before.get(first).cloned().unwrap_or_default();
        if before.is_empty() {
            return Err(());
        }
        for step in before {
            path.push(step);
            let found = self.explore(path, targets);
            path.pop();
            if found?.is_some() {
                return Err(());
            }
        }
        Ok(None)
    }

    /// Executes `path` and looks at where the jump goes.
    fn verdict(&mut self, path: &[(u32, EdgeKind)]) -> Verdict {
        self.state.begin();
        let mut target = None;
        for (step, &(block, edge)) in path.iter().enumerate().rev() {
            let Some(block) = self.body.blocks.get(block as usize) else { return Verdict::Other };
            for insn in self.context.code.insns(block.start..block.end) {
                let is_last = insn.addr().0 == self.context.code.link(block.last).0;
                match (is_last, step) {
                    (false, _) => self.state.step(insn.iced()),
                    (true, 0) => target = Some(self.state.operand(insn.iced(), 0)),
                    (true, _) => self.state.leave(insn.iced(), edge),
                }
                if self.state.arena.is_full() {
                    return Verdict::Other;
                }
            }
        }
        let Some(target) = target else { return Verdict::Other };
        let start = path.last().map_or(0, |&(block, _)| block as usize);
        if let Node::Load { at, size: 8, .. } = self.state.node(target)
            && let Some(slot) = self.state.arena.as_const(at)
            && let Some((import, first)) = self.context.import_at(slot)
        {
            return Verdict::Found(Indirect::Import(import, first));
        }
        match self.table(target, start) {
            Some(targets) => Verdict::Found(Indirect::Targets(targets)),
            None if self.looks_like_table(target, 0) => Verdict::Table,
            None => Verdict::Other,
        }
    }

    /// The values of `target`, if they can be counted.
    fn table(&mut self, target: V, start: usize) -> Option<Box<[Off]>> {
        let (index, low, high) = match self.index(target, start, 0)? {
            Part::Constant => (None, 0, 0),
            Part::Index { value, low, high } => (Some(value), low, high),
        };
        // A bound that no branch gave: the code may know a narrower one.
        let by_width = high == 0xff || high == 0xffff;
        let mut found = Vec::with_capacity((high - low + 1).min(512) as usize);
        for value in low..=high {
            let to = self.evaluate(target, index.map(|index| (index, value)), start, 0)?;
            let to = self.context.code.offset(to)?;
            if by_width && !self.is_own(to) {
                return None;
            }
            found.push(to);
        }
        found.sort_unstable();
        found.dedup();
        if found.iter().any(|&to| self.context.code.insn(to).is_none()) {
            return None;
        }
        Some(found.into())
    }

    /// Whether `to` may be this function's: in its range, or in a part that was split off some function.
    fn is_own(&self, to: Off) -> bool {
        let inside = self.known_end.is_none_or(|end| (self.entry..end).contains(&to));
        inside || self.context.unwind.at(to).is_some_and(|(_, fde)| fde.part)
    }

    /// The one part of `value` that varies; `None` if it takes too many values, or if there is more than
    /// one.
    fn index(&mut self, value: V, start: usize, depth: usize) -> Option<Part> {
        if depth > 24 {
            return None;
        }
        let inner = match self.state.node(value) {
            Node::Const(_) => return Some(Part::Constant),
            Node::Init(register) => match self.constant_in(register, start) {
                Some(_) => return Some(Part::Constant),
                // Where only 32 bits were ever written, a bound on those bounds all.
                None if self.is_short(register, start) => {
                    let (low, high) = self.state.arena.range_of_low_half(value);
                    return Some(Part::Index { value, low, high }).filter(|_| {
                        // Where nothing is possible the highest value is below the lowest.
                        high.checked_sub(low).is_some_and(|values| values < MOST_VALUES)
                    });
                }
                None => None,
            },
            Node::Fresh(_) => None,
            Node::Mul(x, _) | Node::Zext(x, _) | Node::Sext(x, _) | Node::And(x, _) | Node::Shr(x, _) => {
                self.index(x, start, depth + 1)
            }
            Node::Load { at, .. } => {
                let found = self.index(at, start, depth + 1);
                // Only memory that does not change can be looked up.
                let at = match found {
                    Some(Part::Constant) => self.evaluate(at, None, start, 0),
                    Some(Part::Index { value, low, .. }) => self.evaluate(at, Some((value, low)), start, 0),
                    None => None,
                };
                found.filter(|_| at.is_some_and(|at| self.context.code.is_constant(at)))
            }
            Node::Add(a, b) => match (self.index(a, start, depth + 1), self.index(b, start, depth + 1)) {
                (Some(Part::Constant), other) | (other, Some(Part::Constant)) => other,
                (Some(x), Some(y)) if x == y => Some(x),
                _ => None,
            },
        };
        let (low, high) = self.state.arena.range(value);
        let values = high.checked_sub(low)?;
        match inner {
            Some(Part::Index { low: from, high: to, .. }) if to - from <= values => inner,
            Some(Part::Constant) => inner,
            _ => (values < MOST_VALUES).then_some(Part::Index { value, low, high }),
        }
    }

    /// What `value` is when the index has the value given.
    fn evaluate(&mut self, value: V, index: Option<(V, u64)>, start: usize, depth: usize) -> Option<u64> {
        if let Some((of, is)) = index
            && of == value
        {
            return Some(is);
        }
        if depth > 24 {
            return None;
        }
        let of = |this: &mut Self, x: V| this.evaluate(x, index, start, depth + 1);
        Some(match self.state.node(value) {
            Node::Const(value) => value,
            Node::Init(register) => self.constant_in(register, start)?,
            Node::Fresh(_) => return None,
            Node::Add(a, b) => of(self, a)?.wrapping_add(of(self, b)?),
            Node::Mul(x, by) => of(self, x)?.wrapping_mul(by),
            Node::And(x, with) => of(self, x)? & with,
            Node::Shr(x, by) => of(self, x)? >> by.min(63),
            Node::Zext(x, bits) => of(self, x)? & (u64::MAX >> (64 - u32::from(bits))),
            Node::Sext(x, bits) => {
                let shift = 64 - u32::from(bits);
                ((of(self, x)? << shift) as i64 >> shift) as u64
            }
            Node::Load { at, size, .. } => {
                let at = of(self, at)?;
                if !self.context.code.is_constant(at) {
                    return None;
                }
                match size {
                    8 => self.context.code.pointer(at)?,
                    _ => {
                        let bytes = self.context.code.data(at, u64::from(size))?;
                        bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
                    }
                }
            }
        })
    }

    /// Whether somewhere in `value` memory is loaded from a constant address plus something.
    fn looks_like_table(&self, value: V, depth: usize) -> bool {
        if depth > 24 {
            return true;
        }
        match self.state.node(value) {
            Node::Const(_) | Node::Init(_) | Node::Fresh(_) => false,
            Node::Add(a, b) => {
                let is_code = |v: V| {
                    let constant = self.state.arena.as_const(v);
                    constant.is_some_and(|at| self.context.code.offset(at).is_some())
                };
                is_code(a)
                    || is_code(b)
                    || self.looks_like_table(a, depth + 1)
                    || self.looks_like_table(b, depth + 1)
            }
            Node::Mul(..) => true,
            Node::Zext(x, _) | Node::Sext(x, _) | Node::And(x, _) | Node::Shr(x, _) => {
                self.looks_like_table(x, depth + 1)
            }
            Node::Load { at, .. } => {
                let (constant, terms) = self.state.arena.terms(at);
                let scaled = terms.iter().any(|&term| matches!(self.state.node(term), Node::Mul(..)));
                let image = self.context.code.image;
                let mapped =
                    image.segments().iter().any(|s| s.range().contains(&incise_image::LinkAddr(constant)));
                !terms.is_empty() && (scaled || (mapped && constant > 0xffff))
                    || terms.iter().any(|&term| self.looks_like_table(term, depth + 1))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Constant,
    /// Something between two bounds.
    Index {
        value: V,
        low: u64,
        high: u64,
    },
}

//! Targets of indirect jumps, by symbolic execution of the paths that lead to them.
//!
//! A path is the jump's block and blocks before it. Along it, the target becomes an expression, and the
//! branches bound its parts. If one part, the index, takes few values and all else is constant, the
//! expression is evaluated for each of them, with loads from memory that cannot change: that covers the
//! tables of gcc, clang and rustc, absolute or relative, with one level or two, as well as jumps into
//! unrolled code. A path that does not suffice is made longer, by every predecessor. If any path does not
//! suffice in the end, the jump is unresolved; nothing is guessed.

use super::expr::{Node, V};
use super::state::State;
use super::{Indirect, stack};
use crate::body::Body;
use crate::code::Off;
use crate::context::Context;
use crate::edge::EdgeKind;

/// Most blocks of a path.
const MOST_BLOCKS: usize = 10;

/// Most paths looked at for one jump.
const MOST_PATHS: usize = 200;

/// Most values of an index.
const MOST_VALUES: u64 = 1 << 16;

/// Looks for the targets of the indirect jumps of one function.
pub(crate) struct Resolver<'r, 'a> {
    context: &'r Context<'a>,
    body: &'r Body,
    entry: Off,
    known_end: Option<Off>,
    /// For each block, the blocks before it and how control comes from there.
    before: Vec<Vec<(u32, EdgeKind)>>,
    state: State,
    paths: usize,
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
        Resolver { context, body, entry, known_end, before, state: State::new(), paths: 0, heights: None }
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
            Verdict::Other if self.stack_is_restored(block) => Indirect::TailCall,
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
        let is_start = |b: &crate::body::LocalBlock| b.start == self.entry;
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
            && let Some(import) = self.context.import_at(slot)
        {
            return Verdict::Found(Indirect::Import(import));
        }
        match self.table(target, start) {
            Some(targets) => Verdict::Found(Indirect::Targets(targets)),
            None if self.looks_like_table(target, 0) => Verdict::Table,
            None => Verdict::Other,
        }
    }

    /// The values of `target`, if they can be counted.
    fn table(&mut self, target: V, start: usize) -> Option<Box<[Off]>> {
        let index = match self.index(target, start, 0)? {
            Part::Constant => None,
            Part::Index(index) => Some(index),
        };
        let (low, high) = index.map_or((0, 0), |index| self.state.arena.range(index));
        // A bound that no branch gave: the code may know a narrower one.
        let by_width = high == 0xff || high == 0xffff;
        let mut found = Vec::with_capacity((high - low + 1).min(512) as usize);
        for value in low..=high {
            let to = self.evaluate(target, index.map(|index| (index, value)), start, 0)?;
            let to = self.context.code.offset(to)?;
            let inside = self.known_end.is_none_or(|end| (self.entry..end).contains(&to));
            if by_width && !inside {
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
                None => None,
            },
            Node::Fresh(_) => None,
            Node::Mul(x, _) | Node::Zext(x, _) | Node::Sext(x, _) | Node::And(x, _) | Node::Shr(x, _) => {
                self.index(x, start, depth + 1)
            }
            Node::Load { at, .. } => {
                let found = self.index(at, start, depth + 1);
                // Only memory that does not change can be looked up.
                let constant = |this: &mut Self| match found {
                    Some(Part::Constant) => this.evaluate(at, None, start, 0),
                    Some(Part::Index(index)) => {
                        let low = this.state.arena.range(index).0;
                        this.evaluate(at, Some((index, low)), start, 0)
                    }
                    None => None,
                };
                let at = constant(self);
                found.filter(|_| at.is_some_and(|at| self.context.code.is_constant(at)))
            }
            Node::Add(a, b) => match (self.index(a, start, depth + 1), self.index(b, start, depth + 1)) {
                (Some(Part::Constant), other) | (other, Some(Part::Constant)) => other,
                (Some(Part::Index(x)), Some(Part::Index(y))) if x == y => Some(Part::Index(x)),
                _ => None,
            },
        };
        if inner.is_some() {
            return inner;
        }
        let (low, high) = self.state.arena.range(value);
        (high.checked_sub(low)? < MOST_VALUES).then_some(Part::Index(value))
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

    /// What `register` holds at the start of `block`, if every write that may have been the last one before
    /// gives it the same address.
    fn constant_in(&mut self, register: u8, block: usize) -> Option<u64> {
        let mut seen = vec![false; self.body.blocks.len()];
        let mut open = vec![block];
        let mut found: Option<u64> = None;
        let mut steps = 0;
        while let Some(next) = open.pop() {
            let is_start = self.body.blocks.get(next).is_none_or(|b| b.start == self.entry);
            if is_start || self.body.roots.contains(&(next as u32)) {
                return None;
            }
            let before = self.before.get(next)?;
            if before.is_empty() {
                return None;
            }
            for &(block, edge) in before {
                let block = block as usize;
                if std::mem::replace(seen.get_mut(block)?, true) {
                    continue;
                }
                steps += 1;
                if steps > 2000 {
                    return None;
                }
                let kept = [3u8, 4, 5, 12, 13, 14, 15].contains(&register);
                let lost = matches!(edge, EdgeKind::CallFallThrough | EdgeKind::Catch) && !kept;
                match self.last_write(block, register) {
                    _ if lost => return None,
                    Write::None => open.push(block),
                    Write::Address(at) if found.is_none_or(|known| known == at) => found = Some(at),
                    Write::Address(_) | Write::Other => return None,
                }
            }
        }
        found
    }

    fn last_write(&self, block: usize, register: u8) -> Write {
        let Some(block) = self.body.blocks.get(block) else { return Write::Other };
        let mut last = Write::None;
        for insn in self.context.code.insns(block.start..block.end) {
            match stack::written(&insn) {
                written if written & 1 << register == 0 => {}
                _ => {
                    let whole = insn.iced().op0_register().is_gpr64();
                    last = match (insn.iced().mnemonic(), insn.ip_relative_target()) {
                        (iced_x86::Mnemonic::Lea, Some(at)) if whole => Write::Address(at.0),
                        (iced_x86::Mnemonic::Mov, _) if immediate(&insn).is_some() => {
                            immediate(&insn).map_or(Write::Other, Write::Address)
                        }
                        _ => Write::Other,
                    };
                }
            }
        }
        last
    }
}

/// `mov r32, imm32` and `mov r64, imm`.
fn immediate(insn: &incise_isa::native::Insn) -> Option<u64> {
    use iced_x86::Code;
    let code = insn.iced().code();
    let whole = matches!(code, Code::Mov_r32_imm32 | Code::Mov_r64_imm64 | Code::Mov_rm64_imm32);
    whole.then(|| insn.iced().immediate(1))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Constant,
    Index(V),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    None,
    Address(u64),
    Other,
}

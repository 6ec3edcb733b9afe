//! Recursive traversal of one function: from its entry along all edges, each instruction decoded once.
//!
//! Code behind a call is followed whether or not the callee returns; `returning.rs` later takes out what
//! only noreturn calls lead to. Instructions are decoded in *runs*, from a branch target to the next
//! branch; a run is cut into blocks at the targets inside it once all are known. Runs may overlap, as the
//! instructions of `lock` prefixes that are jumped over do.

use incise_isa::Addr;
use incise_isa::native::{Flow, decode};
use rustc_hash::FxHashMap;

use crate::parse::body::{Body, LocalBlock};
use crate::parse::code::{NONE, Off};
use crate::parse::context::Context;
use crate::parse::lsda;
use crate::parse::runs::{End, Run, Scratch};
use crate::x86_64::{self as machine, Indirect};

/// Most instructions one function is followed through.
const MOST_INSNS: u32 = 4_000_000;

/// Most rounds of looking for the targets of indirect jumps.
const MOST_ROUNDS: usize = 12;

/// Largest window, in bytes. Beyond it a map does the same, slower.
const MOST_WINDOW: Off = 1 << 24;

/// A function being followed.
pub(crate) struct Traversal<'c, 'a, 's> {
    pub(crate) context: &'c Context<'a>,
    /// Entries of functions, ascending.
    pub(crate) entries: &'c [Off],
    pub(crate) entry: Off,
    /// Where the function ends, if something says so.
    known_end: Option<Off>,
    pub(crate) scratch: &'s mut Scratch,
    /// What is known of each indirect jump, by its address.
    pub(crate) indirect: FxHashMap<Off, Indirect>,
    pub(crate) roots: Vec<Off>,
    pub(crate) too_large: bool,
}

/// Follows the function at `entry`.
pub(crate) fn traverse(context: &Context<'_>, entries: &[Off], entry: Off, scratch: &mut Scratch) -> Body {
    let end = known_end(context, entry);
    let next = entries.get(entries.partition_point(|&e| e <= entry)).copied();
    let guess = end.or(next).unwrap_or(entry.saturating_add(1 << 12));
    let window = entry..guess.clamp(entry, entry.saturating_add(MOST_WINDOW));
    scratch.begin(window);
    let mut traversal = Traversal {
        context,
        entries,
        entry,
        known_end: end,
        scratch,
        indirect: FxHashMap::default(),
        roots: Vec::new(),
        too_large: false,
    };
    traversal.run()
}

/// The end of the function at `entry` according to unwind tables, else to its symbol.
pub(crate) fn known_end(context: &Context<'_>, entry: Off) -> Option<Off> {
    if let Some((_, fde)) = context.unwind.at(entry) {
        return Some(fde.end);
    }
    let function = context.code.image.function_starting_at(context.code.link(entry))?;
    Off::try_from(function.size).ok().and_then(|size| entry.checked_add(size)).filter(|&end| end > entry)
}

impl Traversal<'_, '_, '_> {
    fn run(&mut self) -> Body {
        self.scratch.work.push(self.entry);
        let mut body = Body::default();
        for round in 0..MOST_ROUNDS {
            self.drain();
            body = self.blocks();
            let grew = self.resolve_jumps(&body, round + 1 == MOST_ROUNDS);
            if !grew && !self.add_root(&body) {
                break;
            }
        }
        body
    }

    /// Follows everything that is waiting.
    fn drain(&mut self) {
        while let Some(at) = self.scratch.work.pop() {
            if self.scratch.owner(at) != 0 {
                self.scratch.leaders.push(at);
            } else if self.scratch.insns >= MOST_INSNS {
                self.too_large = true;
            } else {
                self.follow(at);
            }
        }
    }

    pub(crate) fn is_entry(&self, at: Off) -> bool {
        self.entries.binary_search(&at).is_ok()
    }

    /// Decodes from `start` on until control leaves.
    fn follow(&mut self, start: Off) {
        let context = self.context;
        let code = &context.code;
        let mut bytes = code.bytes(start);
        let index = self.scratch.runs.len() as u32 + 1;
        let mut next_entry = self.entries.get(self.entries.partition_point(|&e| e <= start)).copied();
        // Running into its own entry is going on, not going somewhere else.
        if next_entry == Some(self.entry) {
            next_entry = self.entries.get(self.entries.partition_point(|&e| e <= self.entry)).copied();
        }
        let stop = next_entry.unwrap_or(NONE);
        let (mut at, mut last, mut insns) = (start, start, 0u32);
        let how = loop {
            if at >= stop || (insns > 0 && self.scratch.owner(at) != 0) {
                break End::Falls;
            }
            let Ok(insn) = decode(bytes, Addr(code.link(at).0)) else { break End::Bad };
            self.scratch.own(at, index);
            insns += 1;
            last = at;
            at = at.saturating_add(insn.len() as Off);
            bytes = bytes.get(insn.len()..).unwrap_or(&[]);
            match insn.flow() {
                Flow::Next | Flow::Syscall | Flow::Trap => {}
                Flow::Jump(to) => break End::Jump(to.0),
                Flow::Branch(to) | Flow::Begin(to) => break End::Branch(to.0),
                Flow::Call(to) => break End::Call(to.0),
                Flow::IndirectJump => break End::IndirectJump,
                Flow::IndirectCall => break End::IndirectCall,
                Flow::Return => break End::Return,
                Flow::Stop => break End::Stop,
                Flow::Far => break End::Far,
            }
        };
        self.scratch.insns += insns;
        self.scratch.runs.push(Run { start, end: at, last, insns, how });
        match how {
            End::Falls => self.visit(at),
            End::Branch(to) => {
                self.visit(at);
                if let Some(to) = code.offset(to) {
                    self.visit(to);
                }
            }
            End::Jump(to) => {
                if let Some(to) = code.offset(to).filter(|&to| !self.is_new_entry(start, last, to)) {
                    self.visit(to);
                }
            }
            End::Call(to) => {
                self.visit(at);
                if let Some(to) = code.offset(to).filter(|&to| self.is_inner_call(to)) {
                    self.visit(to);
                }
                self.visit_landing_pad(last);
            }
            End::IndirectCall => {
                self.visit(at);
                self.visit_landing_pad(last);
            }
            End::IndirectJump | End::Return | End::Stop | End::Far | End::Bad => {}
        }
    }

    /// Has `at` followed, unless it begins another function or is no code.
    fn visit(&mut self, at: Off) {
        let other = at != self.entry && self.is_entry(at);
        if !other && !self.context.code.bytes(at).is_empty() {
            self.scratch.work.push(at);
        }
    }

    /// Whether a call to `to` stays in this function: it is no function's entry, but code of this one.
    pub(crate) fn is_inner_call(&self, to: Off) -> bool {
        let inside = self.known_end.is_some_and(|end| (self.entry..end).contains(&to));
        inside && to != self.entry && !self.is_entry(to)
    }

    /// Whether the `jmp` at `at` to `to`, which is not known as an entry, leaves the function nevertheless:
    /// another function lies between, and the stack is as it was. Only where no table tells the extent of
    /// either. `start` is in the block of the jump, or in one before it that falls into it.
    pub(crate) fn is_new_entry(&self, start: Off, at: Off, to: Off) -> bool {
        if self.known_end.is_some() || self.is_entry(to) || self.context.unwind.at(to).is_some() {
            return false;
        }
        let (low, high) = (to.min(self.entry), to.max(self.entry));
        let first = self.entries.partition_point(|&e| e <= low);
        let between = self.entries.get(first).is_some_and(|&between| between < high);
        (to < self.entry || between) && machine::may_leave(&self.context.code, self.entry, start..at)
    }

    fn visit_landing_pad(&mut self, call: Off) {
        if let Some(pad) = self.landing_pad(call) {
            self.visit(pad);
        }
    }

    /// The landing pad of the call at `call`.
    pub(crate) fn landing_pad(&mut self, call: Off) -> Option<Off> {
        let (index, fde) = self.context.unwind.at(call)?;
        if fde.lsda == 0 {
            return None;
        }
        let known = self.scratch.sites.iter().position(|(of, _)| *of == index);
        let known = known.unwrap_or_else(|| {
            let sites = lsda::call_sites(&self.context.code, fde.lsda, fde.start);
            self.scratch.sites.push((index, sites));
            self.scratch.sites.len() - 1
        });
        let sites = &self.scratch.sites.get(known)?.1;
        sites.iter().find(|site| site.range.contains(&call)).map(|site| site.landing_pad)
    }

    /// Looks for the targets of all indirect jumps; whether there is more code to follow.
    fn resolve_jumps(&mut self, body: &Body, last_round: bool) -> bool {
        let mut grew = false;
        let jumps: Vec<(Off, usize)> = body
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, b)| self.run_ending_at(b).is_some_and(|run| run.how == End::IndirectJump))
            .map(|(index, b)| (b.last, index))
            .collect();
        if jumps.is_empty() {
            return false;
        }
        let mut resolver = machine::Resolver::new(self.context, body, self.entry, self.known_end);
        for (at, block) in jumps {
            let start = body.blocks.get(block).map_or(at, |b| b.start);
            let found = if last_round { Indirect::Unknown } else { resolver.resolve(block) };
            if self.indirect.get(&at) == Some(&found) {
                continue;
            }
            let mut new: Vec<Off> = Vec::new();
            match &found {
                Indirect::Targets(targets) => {
                    for &to in targets.iter().filter(|&&to| !self.is_new_entry(start, at, to)) {
                        new.push(to);
                    }
                }
                Indirect::Import(_, first) => new.extend(first),
                Indirect::TailCall | Indirect::Unknown => {}
            }
            new.into_iter().for_each(|to| self.visit(to));
            grew = true;
            self.indirect.insert(at, found);
        }
        grew
    }

    /// The run whose end is that of `block`.
    fn run_ending_at(&self, block: &LocalBlock) -> Option<&Run> {
        let index = self.scratch.owner(block.last).checked_sub(1)?;
        self.scratch.runs.get(index as usize).filter(|run| run.last == block.last)
    }

    /// Where jumps are unresolved, follows the first code of the function that nothing leads to.
    fn add_root(&mut self, body: &Body) -> bool {
        let unresolved = self.indirect.values().any(|i| *i == Indirect::Unknown);
        let Some(end) = self.known_end.filter(|_| unresolved) else { return false };
        let entry = self.entry;
        let mut at = entry;
        let mut found = false;
        let mut blocks = body.blocks.iter().filter(move |b| b.start >= entry && b.start < end).peekable();
        while at < end {
            if let Some(block) = blocks.next_if(|b| b.start <= at) {
                at = at.max(block.end);
                continue;
            }
            let limit = blocks.peek().map_or(end, |b| b.start);
            let code = &self.context.code;
            let start = machine::skip_padding(code, at..limit).filter(|&start| code.insn(start).is_some());
            let Some(start) = start else {
                at = limit;
                continue;
            };
            self.roots.push(start);
            self.visit(start);
            found = true;
            at = limit;
        }
        found
    }
}

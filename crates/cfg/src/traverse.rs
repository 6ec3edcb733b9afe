//! Recursive traversal of one function: from its entry along all edges, each instruction decoded once.
//!
//! Code behind a call is followed whether or not the callee returns; `returning.rs` later takes out what
//! only noreturn calls lead to. Instructions are decoded in *runs*, from a branch target to the next
//! branch; a run is cut into blocks at the targets inside it once all are known. Runs may overlap, as the
//! instructions of `lock` prefixes that are jumped over do.

use incise_isa::Addr;
use incise_isa::native::{Flow, decode};
use rustc_hash::FxHashMap;

use crate::body::{Body, IMPORT, LocalBlock, LocalEdge, NEW_ENTRY, TAIL};
use crate::code::{NONE, Off};
use crate::context::Context;
use crate::edge::{EdgeKind, Reason};
use crate::lsda::{self, CallSite};
use crate::x86_64::{self as machine, Indirect};

/// Most instructions one function is followed through.
const MOST_INSNS: u32 = 4_000_000;

/// Most rounds of looking for the targets of indirect jumps.
const MOST_ROUNDS: usize = 12;

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It comes to an instruction that was decoded before, or to another function.
    Falls,
    Jump(u64),
    Branch(u64),
    Call(u64),
    IndirectCall,
    IndirectJump,
    Return,
    Stop,
    Far,
    /// The bytes at the end are no instruction.
    Bad,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub start: Off,
    pub end: Off,
    pub last: Off,
    pub insns: u32,
    pub how: End,
}

/// Working memory of a traversal, used again for the next one.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For each byte of the window, the run whose instruction begins there, plus one.
    near: Vec<u32>,
    window: std::ops::Range<Off>,
    /// The same, for what lies outside of the window.
    far: FxHashMap<Off, u32>,
    runs: Vec<Run>,
    leaders: Vec<Off>,
    work: Vec<Off>,
    sites: Vec<(usize, Vec<CallSite>)>,
    insns: u32,
}

impl Scratch {
    fn begin(&mut self, window: std::ops::Range<Off>) {
        self.near.clear();
        self.near.resize(window.len(), 0);
        self.window = window;
        self.far.clear();
        self.runs.clear();
        self.leaders.clear();
        self.work.clear();
        self.sites.clear();
        self.insns = 0;
    }

    fn owner(&self, at: Off) -> u32 {
        match at.checked_sub(self.window.start).and_then(|i| self.near.get(i as usize)) {
            Some(&owner) => owner,
            None => self.far.get(&at).copied().unwrap_or(0),
        }
    }

    fn own(&mut self, at: Off, run: u32) {
        match at.checked_sub(self.window.start).and_then(|i| self.near.get_mut(i as usize)) {
            Some(owner) => *owner = run,
            None => {
                self.far.insert(at, run);
            }
        }
    }
}

/// Largest window, in bytes. Beyond it a map does the same, slower.
const MOST_WINDOW: Off = 1 << 24;

/// A function being followed.
pub(crate) struct Traversal<'c, 'a, 's> {
    context: &'c Context<'a>,
    /// Entries of functions, ascending.
    entries: &'c [Off],
    entry: Off,
    /// Where the function ends, if something says so.
    known_end: Option<Off>,
    scratch: &'s mut Scratch,
    /// What is known of each indirect jump, by its address.
    indirect: FxHashMap<Off, Indirect>,
    roots: Vec<Off>,
    too_large: bool,
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

    fn is_entry(&self, at: Off) -> bool {
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
    fn is_inner_call(&self, to: Off) -> bool {
        let inside = self.known_end.is_some_and(|end| (self.entry..end).contains(&to));
        inside && to != self.entry && !self.is_entry(to)
    }

    /// Whether the `jmp` at `at` to `to`, which is not known as an entry, leaves the function nevertheless:
    /// another function lies between, and the stack is as it was. Only where no table tells the extent of
    /// either. `start` is in the block of the jump, or in one before it that falls into it.
    fn is_new_entry(&self, start: Off, at: Off, to: Off) -> bool {
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
    fn landing_pad(&mut self, call: Off) -> Option<Off> {
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

    /// Cuts the runs into blocks at all targets, and gives them their edges.
    fn blocks(&mut self) -> Body {
        self.scratch.leaders.sort_unstable();
        self.scratch.leaders.dedup();
        let mut blocks: Vec<(LocalBlock, End)> = Vec::with_capacity(self.scratch.runs.len() * 2);
        for (index, run) in self.scratch.runs.iter().enumerate() {
            self.cut(run, index as u32 + 1, &mut blocks);
        }
        blocks.sort_unstable_by_key(|(block, _)| block.start);
        let mut edges: Vec<LocalEdge> = Vec::with_capacity(blocks.len() * 2);
        let mut unresolved: Vec<(Off, Reason)> = Vec::new();
        for (block, how) in &mut blocks {
            block.first_edge = edges.len() as u32;
            self.edges(block, *how, &mut edges, &mut unresolved);
        }
        if self.too_large {
            unresolved.push((self.entry, Reason::TooLarge));
        }
        let blocks: Box<[LocalBlock]> = blocks.into_iter().map(|(block, _)| block).collect();
        for edge in &mut edges {
            if edge.flags & (IMPORT | TAIL | NEW_ENTRY) == 0 && edge.target != NONE {
                let to = blocks.binary_search_by_key(&edge.target, |b| b.start);
                edge.to = to.map_or(NONE, |index| index as u32);
            }
        }
        let root = |at: &Off| blocks.binary_search_by_key(at, |b| b.start).ok().map(|index| index as u32);
        let mut roots: Vec<u32> = self.roots.iter().filter_map(root).collect();
        roots.sort_unstable();
        unresolved.sort_unstable();
        Body { blocks, edges: edges.into(), unresolved: unresolved.into(), roots: roots.into() }
    }

    fn cut(&self, run: &Run, index: u32, blocks: &mut Vec<(LocalBlock, End)>) {
        if run.insns == 0 {
            // Nothing decodes at a target: an empty block that says so.
            let empty =
                LocalBlock { start: run.start, end: run.start, insns: 0, last: run.start, first_edge: 0 };
            blocks.push((empty, End::Bad));
            return;
        }
        let leaders = &self.scratch.leaders;
        let first = leaders.partition_point(|&l| l <= run.start);
        let inside = leaders[first..].iter().take_while(|&&l| l < run.end);
        let cuts = inside.filter(|&&l| self.scratch.owner(l) == index);
        let (mut start, mut left) = (run.start, run.insns);
        for &cut in cuts {
            let (mut insns, mut last) = (0, start);
            for at in start..cut {
                if self.scratch.owner(at) == index {
                    (insns, last) = (insns + 1, at);
                }
            }
            blocks.push((LocalBlock { start, end: cut, insns, last, first_edge: 0 }, End::Falls));
            (start, left) = (cut, left - insns);
        }
        let rest = LocalBlock { start, end: run.end, insns: left, last: run.last, first_edge: 0 };
        blocks.push((rest, run.how));
    }

    /// The edges out of `block`, in a fixed order.
    fn edges(
        &mut self,
        block: &LocalBlock,
        how: End,
        edges: &mut Vec<LocalEdge>,
        unresolved: &mut Vec<(Off, Reason)>,
    ) {
        use EdgeKind::{Call, CallFallThrough, Catch, Direct, FallThrough, Indirect as Indirectly};
        use EdgeKind::{NotTaken, Return, Taken};
        let next = |kind| (kind, Some(block.end));
        match how {
            End::Falls => self.edge(next(FallThrough), block, edges, unresolved),
            End::Bad => unresolved.push((block.end, Reason::NoInstruction)),
            End::Stop => {}
            End::Far => unresolved.push((block.last, Reason::Far)),
            End::Return => edges.push(LocalEdge::new(Return, NONE, 0)),
            End::Jump(to) => self.edge((Direct, self.context.code.offset(to)), block, edges, unresolved),
            End::Branch(to) => {
                self.edge((Taken, self.context.code.offset(to)), block, edges, unresolved);
                self.edge(next(NotTaken), block, edges, unresolved);
            }
            End::Call(to) => {
                let target = self.context.code.offset(to);
                let flags = if target.is_some_and(|to| self.is_inner_call(to)) { 0 } else { TAIL };
                edges.push(LocalEdge::new(Call, target.unwrap_or(NONE), flags));
                self.edge(next(CallFallThrough), block, edges, unresolved);
            }
            End::IndirectCall => {
                let slot = machine::slot(&self.context.code, block.last);
                let import = slot.and_then(|slot| self.context.import_at(slot)).map(|(import, _)| import);
                let bound = slot.filter(|&slot| import.is_none() && self.context.code.is_constant(slot));
                let known = bound.and_then(|slot| self.context.code.offset(self.context.code.pointer(slot)?));
                edges.push(match import.filter(|&import| import != NONE) {
                    Some(import) => LocalEdge::new(Call, import, IMPORT | TAIL),
                    None => LocalEdge::new(Call, known.unwrap_or(NONE), TAIL),
                });
                self.edge(next(CallFallThrough), block, edges, unresolved);
            }
            End::IndirectJump => match self.indirect.get(&block.last) {
                Some(Indirect::Targets(targets)) => {
                    for &to in targets {
                        let tail = to != self.entry && self.is_entry(to);
                        let new = self.is_new_entry(block.start, block.last, to);
                        let flags = if new {
                            TAIL | NEW_ENTRY
                        } else if tail {
                            TAIL
                        } else {
                            0
                        };
                        edges.push(LocalEdge::new(Indirectly, to, flags));
                    }
                }
                Some(Indirect::Import(import, first)) => {
                    let flags = if *import == NONE { TAIL } else { TAIL | IMPORT };
                    edges.push(LocalEdge::new(Indirectly, *import, flags));
                    edges.extend(first.map(|to| LocalEdge::new(Indirectly, to, 0)));
                }
                Some(Indirect::TailCall) => edges.push(LocalEdge::new(Indirectly, NONE, TAIL)),
                Some(Indirect::Unknown) | None => {
                    edges.push(LocalEdge::new(Indirectly, NONE, 0));
                    unresolved.push((block.last, Reason::IndirectJump));
                }
            },
        }
        if matches!(how, End::Call(_) | End::IndirectCall)
            && let Some(pad) = self.landing_pad(block.last)
        {
            self.edge((Catch, Some(pad)), block, edges, unresolved);
        }
    }

    /// An edge to an address inside or outside of the function.
    fn edge(
        &self,
        (kind, to): (EdgeKind, Option<Off>),
        block: &LocalBlock,
        edges: &mut Vec<LocalEdge>,
        unresolved: &mut Vec<(Off, Reason)>,
    ) {
        let Some(to) = to.filter(|&to| !self.context.code.bytes(to).is_empty()) else {
            // A call at the end of the code is one that does not come back.
            if kind != EdgeKind::CallFallThrough {
                unresolved.push((block.last, Reason::OutsideCode));
            }
            return;
        };
        let other = to != self.entry && self.is_entry(to);
        let new = kind == EdgeKind::Direct && self.is_new_entry(block.start, block.last, to);
        let flags = if new {
            TAIL | NEW_ENTRY
        } else if other {
            TAIL
        } else {
            0
        };
        edges.push(LocalEdge::new(kind, to, flags));
    }
}

//! Liveness of registers over a whole function: general-purpose, status flags, vectors.
//!
//! What is behind the function's bounds is known by the calling convention (psABI 3.2), where it holds:
//! at calls to imports and through pointers. Inside one program compilers and assembly programmers go
//! beyond it: a caller may count on a register that the callee happens not to touch. So a direct call
//! kills nothing, it reads what the callee's own code reads, and at a return every register that the
//! function does not write is live.
//!
//! Faults count as going on, as in [`incise_isa::native::live_before`]. The direction flag, x87, MMX and
//! mask registers are not followed.

use std::collections::BTreeMap;

use incise_image::{Image, LinkAddr};
use incise_isa::native::{Flow, Gpr, GprSet, Insn, abi, flag_use, register_use};

use crate::flow::FlowGraph;
use crate::graph::{Block, BlockId, Function, FunctionId};
use crate::{Completeness, EdgeKind};

/// CF, PF, AF, ZF, SF, OF in RFLAGS.
const STATUS_FLAGS: u64 = 0x8d5;

/// How deep calls are looked into for what they read.
const DEPTH: usize = 3;

/// Most blocks of a callee that is looked into.
const MOST_BLOCKS: usize = 400;

/// Registers that may be read before they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LiveSet {
    /// General-purpose registers; `rsp` always is.
    pub gprs: GprSet,
    /// Status flags, as bits of RFLAGS.
    pub flags: u64,
    /// Vector registers with all their bits, a bit each.
    pub vectors: u32,
}

impl LiveSet {
    /// Everything.
    pub const ALL: LiveSet = LiveSet { gprs: GprSet::ALL, flags: STATUS_FLAGS, vectors: u32::MAX };
    const NONE: LiveSet = LiveSet { gprs: GprSet::EMPTY, flags: 0, vectors: 0 };

    /// What is in either.
    pub fn union(self, other: LiveSet) -> LiveSet {
        LiveSet {
            gprs: self.gprs.union(other.gprs),
            flags: self.flags | other.flags,
            vectors: self.vectors | other.vectors,
        }
    }

    fn minus(self, other: LiveSet) -> LiveSet {
        LiveSet {
            gprs: self.gprs.intersection(other.gprs.complement()),
            flags: self.flags & !other.flags,
            vectors: self.vectors & !other.vectors,
        }
    }

    fn complement(self) -> LiveSet {
        LiveSet::ALL.minus(self)
    }
}

/// What a function called by convention reads: arguments, the count of vector arguments in `al`, the
/// static chain in `r10`.
fn arguments() -> LiveSet {
    let gprs: GprSet = abi::ARGUMENTS.into_iter().chain([Gpr::Rax, Gpr::R10, Gpr::Rsp]).collect();
    LiveSet { gprs, flags: 0, vectors: 0xff }
}

/// What such a function may overwrite.
fn clobbered() -> LiveSet {
    LiveSet { gprs: abi::CALLER_SAVED, flags: STATUS_FLAGS, vectors: u32::MAX }
}

/// What is live behind a return by convention.
fn results() -> LiveSet {
    let gprs = abi::CALLEE_SAVED.union(abi::RESULTS.into_iter().collect());
    LiveSet { gprs, flags: 0, vectors: 0b11 }
}

/// Liveness in one function.
pub struct Liveness<'a> {
    image: &'a Image,
    file: &'a [u8],
    blocks: Vec<u32>,
    at_start: Vec<LiveSet>,
    at_end: Vec<LiveSet>,
    /// What the last instruction of a block reads beyond what it says: a callee's arguments.
    calls: Vec<Effect>,
}

/// What happens at the end of a block, on top of its last instruction.
#[derive(Clone, Copy)]
struct Effect {
    reads: LiveSet,
    kills: LiveSet,
}

impl<'a> Liveness<'a> {
    /// Solves for `function`. `file` are the contents `image` was parsed from.
    pub fn of(function: Function<'_>, image: &'a Image, file: &'a [u8]) -> Liveness<'a> {
        Liveness::solve(function, image, file, DEPTH, &mut BTreeMap::new())
    }

    fn solve(
        function: Function<'_>,
        image: &'a Image,
        file: &'a [u8],
        depth: usize,
        known: &mut BTreeMap<(FunctionId, usize), LiveSet>,
    ) -> Liveness<'a> {
        let graph = FlowGraph::of(function);
        let blocks: Vec<Block<'_>> = function.blocks().collect();
        let behind = behind_returns(&blocks, image, file);
        let unresolved: Vec<LinkAddr> = match function.completeness() {
            Completeness::Complete => Vec::new(),
            Completeness::Incomplete(list) => list.iter().map(|u| u.at).collect(),
        };
        // Per block: what it reads first, and what it overwrites; then what its end adds.
        let mut sums = Vec::with_capacity(blocks.len());
        let mut calls = Vec::with_capacity(blocks.len());
        let mut outside = Vec::with_capacity(blocks.len());
        for block in &blocks {
            calls.push(call_effect(*block, image, file, depth, known));
            let at_end = |at: &LinkAddr| *at == block.last() || *at == block.end();
            outside.push(match unresolved.iter().any(at_end) {
                true => LiveSet::ALL,
                false => leaving(*block, &behind, image, file, depth, known),
            });
            let effect = *calls.last().unwrap_or(&Effect { reads: LiveSet::ALL, kills: LiveSet::NONE });
            sums.push(summary(*block, effect, image, file));
        }
        let mut at_start = vec![LiveSet::NONE; blocks.len()];
        let mut at_end = vec![LiveSet::NONE; blocks.len()];
        let mut open: Vec<usize> = (0..blocks.len()).collect();
        let mut queued = vec![true; blocks.len()];
        while let Some(index) = open.pop() {
            queued[index] = false;
            let next = graph.successors[index].iter().map(|&to| at_start[to]);
            let out = next.fold(outside[index], LiveSet::union);
            at_end[index] = out;
            let (reads, kills) = sums[index];
            let before = out.minus(kills).union(reads);
            if before != at_start[index] {
                at_start[index] = before;
                for &from in &graph.predecessors[index] {
                    if !std::mem::replace(&mut queued[from], true) {
                        open.push(from);
                    }
                }
            }
        }
        for set in at_start.iter_mut().chain(&mut at_end) {
            set.gprs.insert(Gpr::Rsp);
        }
        Liveness { image, file, blocks: graph.blocks, at_start, at_end, calls }
    }

    fn position(&self, block: BlockId) -> Option<usize> {
        self.blocks.binary_search(&block.0).ok()
    }

    /// What is live before the first instruction of `block`; everything, if it is of another function.
    pub fn before(&self, block: BlockId) -> LiveSet {
        self.position(block).map_or(LiveSet::ALL, |position| self.at_start[position])
    }

    /// What is live behind the last instruction of `block`; everything, if it is of another function.
    pub fn after(&self, block: BlockId) -> LiveSet {
        self.position(block).map_or(LiveSet::ALL, |position| self.at_end[position])
    }

    /// What is live before each instruction of `block`, in their order.
    pub fn instructions(&self, block: Block<'_>) -> Vec<(LinkAddr, LiveSet)> {
        let insns: Vec<Insn> = block.instructions(self.image, self.file).collect();
        let Some(position) = self.position(block.id()) else {
            return insns.iter().map(|insn| (LinkAddr(insn.addr().0), LiveSet::ALL)).collect();
        };
        let mut live = self.at_end[position];
        let mut found = Vec::with_capacity(insns.len());
        for (from_end, insn) in insns.iter().rev().enumerate() {
            let (mut reads, mut kills) = of_insn(insn);
            if from_end == 0 {
                let effect = self.calls[position];
                (reads, kills) = (reads.union(effect.reads), kills.union(effect.kills));
            }
            live = live.minus(kills).union(reads);
            live.gprs.insert(Gpr::Rsp);
            found.push((LinkAddr(insn.addr().0), live));
        }
        found.reverse();
        found
    }
}

/// What an instruction reads, and what it overwrites.
fn of_insn(insn: &Insn) -> (LiveSet, LiveSet) {
    // The kernel sees all, and may make a child that goes on with it, or change it.
    let opaque = matches!(insn.flow(), Flow::Syscall | Flow::Trap | Flow::Far | Flow::Begin(_) | Flow::Stop);
    match register_use(insn).filter(|_| !opaque) {
        None => (LiveSet::ALL, LiveSet::NONE),
        Some(used) => {
            let flags = flag_use(insn);
            (
                LiveSet { gprs: used.read, flags: flags.read, vectors: used.vectors_read },
                LiveSet {
                    gprs: used.overwritten,
                    flags: flags.overwritten,
                    vectors: used.vectors_overwritten,
                },
            )
        }
    }
}

/// What a block reads before it writes it, and what it overwrites, with what its end does.
fn summary(block: Block<'_>, end: Effect, image: &Image, file: &[u8]) -> (LiveSet, LiveSet) {
    let (mut reads, mut written) = (LiveSet::NONE, LiveSet::NONE);
    for insn in block.instructions(image, file) {
        let (mut read, mut kill) = of_insn(&insn);
        if insn.addr().0 == block.last().0 {
            (read, kill) = (read.union(end.reads), kill.union(end.kills));
        }
        reads = reads.union(read.minus(written));
        written = written.union(kill);
    }
    (reads, written)
}

/// What is live behind the function's returns.
fn behind_returns(blocks: &[Block<'_>], image: &Image, file: &[u8]) -> LiveSet {
    let mut written = LiveSet::NONE;
    for block in blocks {
        for insn in block.instructions(image, file) {
            written = written.union(of_insn(&insn).1);
        }
        let open = |e: crate::Edge<'_>| e.kind() == EdgeKind::Call && is_open(e);
        if block.outgoing().any(open) {
            written = written.union(clobbered());
        }
    }
    results().union(written.complement())
}

/// Whether an edge leads to code that keeps to the convention: an import, or through a pointer.
fn is_open(edge: crate::Edge<'_>) -> bool {
    match edge.target() {
        None => true,
        Some(target) => target.functions().any(Function::is_linkage_stub),
    }
}

/// What the call that ends `block` reads and overwrites.
fn call_effect<'a>(
    block: Block<'_>,
    image: &'a Image,
    file: &'a [u8],
    depth: usize,
    known: &mut BTreeMap<(FunctionId, usize), LiveSet>,
) -> Effect {
    let Some(call) = block.outgoing().find(|e| e.kind() == EdgeKind::Call) else {
        return Effect { reads: LiveSet::NONE, kills: LiveSet::NONE };
    };
    // An exception goes to a landing pad with the registers the callee would have kept, and two it is given.
    let catches = block.outgoing().any(|e| e.kind() == EdgeKind::Catch);
    let clobbered = match catches {
        true => LiveSet { gprs: GprSet::EMPTY, ..clobbered() },
        false => clobbered(),
    };
    if is_open(call) {
        return Effect { reads: arguments(), kills: clobbered };
    }
    Effect { reads: arguments().union(entry_reads(call, image, file, depth, known)), kills: LiveSet::NONE }
}

/// What is live where an edge enters another function.
fn entry_reads<'a>(
    edge: crate::Edge<'_>,
    image: &'a Image,
    file: &'a [u8],
    depth: usize,
    known: &mut BTreeMap<(FunctionId, usize), LiveSet>,
) -> LiveSet {
    let Some(target) = edge.target() else { return LiveSet::ALL };
    let callee = target.functions().find(|f| f.entry() == target.start());
    let Some(callee) = callee.filter(|f| depth > 0 && f.block_ids().len() <= MOST_BLOCKS) else {
        return LiveSet::ALL;
    };
    if let Some(&found) = known.get(&(callee.id(), depth)) {
        return found;
    }
    // Recursion reads all.
    known.insert((callee.id(), depth), LiveSet::ALL);
    let found = Liveness::solve(callee, image, file, depth - 1, known).before(target.id());
    known.insert((callee.id(), depth), found);
    found
}

/// What is live where control leaves the function at the end of `block`, calls apart.
fn leaving<'a>(
    block: Block<'_>,
    behind: &LiveSet,
    image: &'a Image,
    file: &'a [u8],
    depth: usize,
    known: &mut BTreeMap<(FunctionId, usize), LiveSet>,
) -> LiveSet {
    let mut live = LiveSet::NONE;
    for edge in block.outgoing().filter(|e| e.leaves_function() && e.kind() != EdgeKind::Call) {
        live = live.union(match edge.kind() {
            EdgeKind::Return => *behind,
            _ if is_open(edge) => arguments().union(*behind),
            _ => entry_reads(edge, image, file, depth, known).union(*behind),
        });
    }
    // An exception leaves by a call that does not come back: callers find what they keep.
    let has = |kind| block.outgoing().any(|e| e.kind() == kind);
    if has(EdgeKind::Call) && !has(EdgeKind::CallFallThrough) {
        live = live.union(LiveSet { gprs: abi::CALLEE_SAVED, flags: 0, vectors: 0 });
    }
    // Nothing follows: an end of the program, or a fault that a signal handler sees.
    if block.outgoing().len() == 0 { LiveSet::ALL } else { live }
}

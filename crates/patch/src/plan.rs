//! From the instances that shall be, to groups, trampolines and edits. No system call: bytes and facts in,
//! a plan out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;
use incise_space::{Bytes, Edit};
use rustc_hash::FxHashMap;

use crate::code::Code;
use crate::group::{Board, Built, Group, Shape, build, shape, trap};
use crate::lower::Ready;
use crate::memory::Memory;
use crate::tactic::{Obstacle, Refusal, Tactic, TrapPolicy};

/// What has to be written to get from the present state to the wanted one.
#[derive(Default)]
pub(crate) struct Plan {
    /// Starts of the groups that go.
    pub removed: Vec<Addr>,
    /// The groups that come.
    pub added: Vec<Group>,
    /// Their trampolines and stubs.
    pub code: Vec<(Addr, Vec<u8>)>,
    /// The live bytes to change, ascending.
    pub edits: Vec<Edit>,
    /// Probed heads that could not be patched.
    pub refused: Vec<(Addr, Refusal)>,
    /// Heads that have to be planned anew, but whose code was not read: then nothing else of the plan counts.
    pub unread: Vec<Addr>,
    /// Memory that would have let a jump fit where a trap is planned now.
    pub lacking: Vec<Range<Addr>>,
    /// The tactic that carries each probed head of the new groups.
    pub carried: Vec<(Addr, Tactic)>,
}

/// What planning starts from.
pub(crate) struct Input<'a> {
    pub code: &'a Code<'a>,
    pub groups: &'a BTreeMap<Addr, Group>,
    /// The snippets to run at a head; none where there are none.
    pub snippets: &'a dyn Fn(Addr) -> Vec<Ready>,
    /// Heads whose snippets changed.
    pub dirty: &'a BTreeSet<Addr>,
    pub policy: TrapPolicy,
    pub shadow_stack: bool,
}

/// Plans the change. Trampolines are taken from `memory`; if the plan is dropped, [`Plan::give_back`] returns
/// them.
pub(crate) fn plan(input: &Input, memory: &mut Memory) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = Wanted::default();
    let shapes = shapes(input, &mut wanted, &mut plan);
    if !plan.unread.is_empty() {
        return plan;
    }
    for shape in ordered(shapes) {
        place(input, &wanted, shape, memory, &mut plan);
    }
    plan.added.sort_by_key(|group| group.start);
    plan.removed.sort();
    plan.removed.dedup();
    plan.code.sort_by_key(|(at, _)| *at);
    plan.edits = edits(input, &plan);
    plan
}

impl Plan {
    /// Returns the trampolines the plan took.
    pub(crate) fn give_back(&self, memory: &mut Memory) {
        for (at, bytes) in &self.code {
            memory.free(at.span(bytes.len() as u64));
        }
    }
}

/// The snippets of every probed head that planning came by.
type Wanted = FxHashMap<Addr, Vec<Ready>>;

/// Looks the snippets at `head` up. Returns whether there are any.
fn look_up(input: &Input, wanted: &mut Wanted, head: Addr) -> bool {
    if wanted.contains_key(&head) {
        return true;
    }
    let snippets = (input.snippets)(head);
    let any = !snippets.is_empty();
    if any {
        wanted.insert(head, snippets);
    }
    any
}

/// Forms groups around the dirty heads. Existing groups they touch are taken apart and formed anew.
fn shapes(input: &Input, wanted: &mut Wanted, plan: &mut Plan) -> Vec<Shape> {
    let mut work: BTreeSet<Addr> = BTreeSet::new();
    let mut gone: BTreeSet<Addr> = BTreeSet::new();
    for &head in input.dirty {
        if look_up(input, wanted, head) {
            work.insert(head);
        }
        if let Some(group) = touching(input.groups, head..head + 1, &gone) {
            take_apart(input, group, wanted, &mut gone, &mut work, plan);
        }
    }
    let mut shapes: Vec<Shape> = Vec::new();
    while let Some(head) = work.pop_first() {
        // A head inside the run before it belongs to that group.
        if let Some(last) = shapes.last()
            && head < last.extent().end
        {
            let Some(inside) = last.insns.iter().rev().find(|insn| insn.addr() <= head) else { continue };
            if inside.addr() == head {
                continue;
            }
            if matches!(last.board, Board::Pun(_)) && head >= inside.end() {
                // It relies on the bytes that are to be changed here.
                demote(input, &mut shapes, plan);
            } else {
                plan.refused.push((head, Refusal::NotABoundary { at: head, head: inside.addr() }));
                continue;
            }
        }
        let Some(snippets) = wanted.get(&head) else { continue };
        let retargetable = snippets.iter().all(|s| matches!(s, Ready::Counter(_)));
        let gate = snippets.contains(&Ready::Gate);
        let policy = if gate { TrapPolicy::Force } else { input.policy };
        let shape = match shape(input.code, head, policy, retargetable) {
            Ok(shape) => shape,
            Err(refusal) => {
                plan.refused.push((head, refusal));
                continue;
            }
        };
        let mut shape = shape;
        if shapes.last().is_some_and(|last| shape.extent().start < last.extent().end) {
            // Padding that the run before it covers: fall back to the site's own byte.
            shape = match trap(&shape, input.policy, Obstacle::NoPlace) {
                Ok(trap) => trap,
                Err(refusal) => {
                    plan.refused.push((head, refusal));
                    continue;
                }
            };
        }
        let extent = shape.extent();
        while let Some(group) = touching(input.groups, extent.clone(), &gone) {
            take_apart(input, group, wanted, &mut gone, &mut work, plan);
            // Heads before this one would have been formed already.
            if let Some(&first) = work.first()
                && first < head
            {
                break;
            }
        }
        if work.first().is_some_and(|&first| first < head) {
            work.insert(head);
            continue;
        }
        shapes.push(shape);
    }
    plan.removed.extend(gone);
    shapes
}

/// Makes the last shape a trap, or drops it as the policy says.
fn demote(input: &Input, shapes: &mut Vec<Shape>, plan: &mut Plan) {
    if let Some(last) = shapes.pop() {
        match trap(&last, input.policy, Obstacle::NoPlace) {
            Ok(trap) => shapes.push(trap),
            Err(refusal) => plan.refused.push((last.start, refusal)),
        }
    }
}

/// A group whose extent overlaps `range`, other than those already taken apart.
fn touching<'g>(
    groups: &'g BTreeMap<Addr, Group>,
    range: Range<Addr>,
    gone: &BTreeSet<Addr>,
) -> Option<&'g Group> {
    const LONGEST: u64 = 32;
    let near = Addr(range.start.0.saturating_sub(LONGEST))..Addr(range.end.0.saturating_add(LONGEST));
    let near = near.start.min(near.end)..near.end;
    groups.range(near).map(|(_, group)| group).find(|group| {
        let extent = &group.extent;
        extent.start < range.end && range.start < extent.end && !gone.contains(&group.start)
    })
}

fn take_apart(
    input: &Input,
    group: &Group,
    wanted: &mut Wanted,
    gone: &mut BTreeSet<Addr>,
    work: &mut BTreeSet<Addr>,
    plan: &mut Plan,
) {
    gone.insert(group.start);
    for head in &group.heads {
        if look_up(input, wanted, head.at) {
            work.insert(head.at);
            if !input.code.was_read_for(head.at) {
                plan.unread.push(head.at);
            }
        }
    }
}

/// The most constrained first, so that they find their few places free.
fn ordered(mut shapes: Vec<Shape>) -> Vec<Shape> {
    shapes.sort_by_key(|shape| match shape.board {
        Board::Jump(board) | Board::Pun(board) => (board.freedom(), shape.start),
        _ => (32, shape.start),
    });
    shapes
}

/// Finds a place for the trampoline of `shape` and adds the group to the plan, or the refusal.
fn place(input: &Input, wanted: &Wanted, shape: Shape, memory: &mut Memory, plan: &mut Plan) {
    let probed: Vec<Addr> =
        shape.insns.iter().map(|insn| insn.addr()).filter(|at| wanted.contains_key(at)).collect();
    let tactic = shape.tactic;
    if let Board::Pun(board) = shape.board
        && let Some(window) = memory.unserved(&board)
    {
        plan.lacking.push(window);
    }
    match place_once(input, wanted, &shape, memory, plan) {
        Ok(()) => plan.carried.extend(probed.iter().map(|&at| (at, tactic))),
        Err(_) if shape.board != Board::Trap => {
            // One instruction that cannot move, or no place: every probed head gets its own trap.
            for at in probed {
                let Ok(insn) = input.code.insn(at) else { continue };
                if input.policy == TrapPolicy::Forbid {
                    let why = Obstacle::NoPlace;
                    plan.refused.push((at, Refusal::TrapForbidden { at, why }));
                    continue;
                }
                let trap = Shape { start: at, insns: vec![insn], tactic: Tactic::Trap, board: Board::Trap };
                match place_once(input, wanted, &trap, memory, plan) {
                    Ok(()) => plan.carried.push((at, Tactic::Trap)),
                    Err(refusal) => plan.refused.push((at, refusal)),
                }
            }
        }
        Err(refusal) => plan.refused.extend(probed.iter().map(|&at| (at, refusal.clone()))),
    }
}

fn place_once(
    input: &Input,
    wanted: &Wanted,
    shape: &Shape,
    memory: &mut Memory,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    let snippets = |at: Addr| wanted.get(&at).map_or(&[][..], Vec::as_slice);
    let assemble = |at: Addr| build(shape, at, input.code, &snippets, input.shadow_stack);
    let none = || Refusal::NoRoom(shape.start);
    let guess = memory.arenas.first().map_or(shape.start, |arena| arena.range().start);
    let near = if guess.in_rel32_of(shape.start) { guess } else { shape.start };
    let mut len = assemble(near)?.code.len() as u64;
    // Sizes depend on what is in reach from the final place: a second try has them right.
    for _ in 0..3 {
        let constrained = constraints(shape, memory, len);
        let (at, stub) = match constrained {
            Some(at) => (at, None),
            None => {
                let stub = constraints(shape, memory, SPRINGBOARD_LEN as u64).ok_or_else(none)?;
                match anywhere(shape, memory, len) {
                    Some(at) => (at, Some(stub)),
                    None => {
                        memory.free(stub.span(SPRINGBOARD_LEN as u64));
                        return Err(none());
                    }
                }
            }
        };
        let taken = at.span(len);
        let give_back = |memory: &mut Memory| {
            memory.free(taken.clone());
            if let Some(stub) = stub {
                memory.free(stub.span(SPRINGBOARD_LEN as u64));
            }
        };
        let built = match assemble(at) {
            Ok(built) => built,
            Err(refusal) => {
                give_back(memory);
                return Err(refusal);
            }
        };
        if built.code.len() as u64 > len {
            give_back(memory);
            len = built.code.len() as u64;
            continue;
        }
        memory.free(at + built.code.len() as u64..at + len);
        if let Some(group) = finish(input, shape, &built, at, stub, plan) {
            plan.added.push(group);
            plan.code.push((at, built.code));
            return Ok(());
        }
        memory.free(at.span(built.code.len() as u64));
        if let Some(stub) = stub {
            memory.free(stub.span(SPRINGBOARD_LEN as u64));
        }
        return Err(none());
    }
    Err(none())
}

/// The group with its stub, if every displacement reaches.
fn finish(
    input: &Input,
    shape: &Shape,
    built: &Built,
    at: Addr,
    stub: Option<Addr>,
    plan: &mut Plan,
) -> Option<Group> {
    let group = shape.clone().finish(input.code, built, at, stub)?;
    if let Some(stub) = stub {
        let jump = incise_isa::native::Springboard::new(stub, 0).encode(at + u64::from(built.entry))?;
        plan.code.push((stub, jump.to_vec()));
    }
    Some(group)
}

fn constraints(shape: &Shape, memory: &mut Memory, len: u64) -> Option<Addr> {
    match shape.board {
        Board::Jump(board) | Board::HotPatch(board) | Board::Pun(board) => {
            memory.allocate(board.placements(), len)
        }
        Board::Retarget | Board::Trap => anywhere(shape, memory, len),
    }
}

fn anywhere(shape: &Shape, memory: &mut Memory, len: u64) -> Option<Addr> {
    memory.allocate(incise_isa::native::Springboard::new(shape.start, 0).placements(), len)
}

/// The bytes that change: old springboards back to the original, new ones in.
fn edits(input: &Input, plan: &Plan) -> Vec<Edit> {
    let mut pieces: Vec<(Edit, bool)> = Vec::with_capacity(plan.removed.len() + plan.added.len());
    pieces.extend(plan.removed.iter().filter_map(|start| input.groups.get(start)).map(|g| (g.edit(), false)));
    pieces.extend(plan.added.iter().map(|group| (group.edit(), true)));
    pieces.sort_by_key(|(edit, _)| edit.at);
    let mut edits = Vec::with_capacity(pieces.len());
    for cluster in pieces.chunk_by(|a, b| b.0.at < a.0.at + Bytes::MAX as u64) {
        for span in spans(cluster) {
            edits.extend(merge(input.code, &span, cluster));
        }
    }
    edits
}

/// The contiguous stretches that the pieces cover.
fn spans(pieces: &[(Edit, bool)]) -> Vec<Range<Addr>> {
    let mut spans: Vec<Range<Addr>> = Vec::new();
    for (edit, _) in pieces {
        let end = edit.at + edit.old.len() as u64;
        match spans.last_mut() {
            Some(last) if edit.at < last.end => last.end = last.end.max(end),
            _ => spans.push(edit.at..end),
        }
    }
    spans
}

/// One edit for a stretch (or several, where it is longer than an edit may be).
fn merge(code: &Code, span: &Range<Addr>, pieces: &[(Edit, bool)]) -> Vec<Edit> {
    let len = span.end.offset_from(span.start) as usize;
    let Some(old) = code.current(span.start, len) else { return Vec::new() };
    let mut new = code.original(span.start)[..len].to_vec();
    let mut heads = vec![false; len];
    for (edit, added) in pieces {
        for i in 0..edit.old.len() {
            let offset = (edit.at + i as u64).offset_from(span.start);
            let Some(offset) = usize::try_from(offset).ok().filter(|&o| o < len) else { continue };
            if *added {
                new[offset] = edit.new[i];
            }
            heads[offset] |= edit.heads & (1 << i) != 0;
        }
    }
    (0..len)
        .step_by(Bytes::MAX)
        .map(|from| {
            let to = (from + Bytes::MAX).min(len);
            let mask = (from..to).filter(|&i| heads[i]).fold(0, |mask, i| mask | 1 << (i - from));
            let at = span.start + from as u64;
            Edit { at, old: Bytes::new(&old[from..to]), new: Bytes::new(&new[from..to]), heads: mask }
        })
        .filter(|edit| edit.old != edit.new)
        .collect()
}

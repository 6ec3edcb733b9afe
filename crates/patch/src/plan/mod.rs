//! Planning a transaction: from the instances wanted to trampolines and edits. Pure: bytes and facts in,
//! a plan out.

pub(crate) mod edits;

use std::collections::BTreeMap;
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{SPRINGBOARD_LEN, Springboard};
use incise_space::{Edit, Features};

use crate::code::Code;
use crate::form::formed::Formed;
use crate::form::instrumentation::Instrumentation;
use crate::form::wanted::Wanted;
use crate::group::Group;
use crate::group::assemble::{Built, build, estimate};
use crate::group::shape::{Board, Shape};
use crate::memory::Memory;
use crate::plan::edits::edits;
use crate::region::body::estimate as estimate_region;
use crate::region::{Member, Region};
use crate::tactic::{Obstacle, Refusal, Tactic, TrapPolicy};
use crate::trampoline::Trampolines;
use crate::trampoline::sequences::Snippets;

/// What has to be written to get from the present state to the wanted one.
#[derive(Default)]
pub(crate) struct Plan {
    /// Starts of the groups that go.
    pub removed: Vec<Addr>,
    /// The groups that come, ascending. They are large, and are put in order and handed on.
    #[allow(clippy::vec_box, reason = "moving the groups themselves touches several times their memory")]
    pub added: Vec<Box<Group>>,
    /// Their trampolines and stubs.
    pub code: Trampolines,
    /// The live bytes to change, ascending.
    pub edits: Vec<Edit>,
    /// Probed heads that could not be patched.
    pub refused: Vec<(Addr, Refusal)>,
    /// The tactic that carries each probed head of the new groups, ascending; of two the last counts.
    pub carried: Vec<(Addr, Tactic)>,
}

/// What planning starts from.
pub(crate) struct Input<'a> {
    pub code: &'a Code<'a>,
    pub groups: &'a BTreeMap<Addr, Box<Group>>,
    /// The snippets to run at a head; none where there are none.
    pub snippets: &'a (dyn Fn(Addr) -> Snippets + Sync),
    /// Heads whose snippets changed, ascending.
    pub dirty: &'a [Addr],
    /// As `snippets`, for the head with this index in `dirty`.
    pub dirty_snippets: &'a (dyn Fn(usize) -> Snippets + Sync),
    pub policy: TrapPolicy,
    /// How functions are laid out.
    pub instrumentation: &'a dyn Instrumentation,
    pub features: Features,
    /// How many threads may plan.
    pub threads: usize,
}

/// Finds places for the trampolines of the groups that were formed. They are taken from `memory`; if the plan is
/// dropped, [`Plan::give_back`] returns them.
pub(crate) fn place(input: &Input, formed: Formed, memory: &mut Memory) -> Plan {
    let Formed { shapes, mut regions, removed, refused, wanted, .. } = formed;
    let mut plan = Plan { removed, refused, ..Plan::default() };
    plan.added.reserve(shapes.len());
    plan.carried.reserve(shapes.len());
    if input.features.packed {
        let snippets = |at: Addr| wanted.get(at);
        let board = |shape: &Shape| match shape.board {
            Board::Jump(board) | Board::Pun(board) => Some((board, estimate(shape, &snippets))),
            _ => None,
        };
        memory.prepare_packed(shapes.iter().filter_map(|shape| board(shape)));
    }
    let mut placer = Placer { input, wanted: &wanted, memory, plan, failed: Vec::new() };
    for index in most_constrained_first(&shapes) {
        placer.place(&shapes[index]);
    }
    placer.place_regions(&mut regions);
    placer.rescue(&shapes, &regions);
    let mut plan = placer.plan;
    plan.added.sort_unstable_by_key(|group| group.start);
    plan.code.sort();
    plan.carried.sort_by_key(|(at, _)| *at);
    plan.edits = edits(input.code, input.groups, (&plan.removed, &plan.added), input.threads);
    plan
}

impl Plan {
    /// Returns the trampolines the plan took.
    pub(crate) fn give_back(&self, memory: &mut Memory) {
        for (at, bytes) in self.code.iter() {
            memory.free(at.span(bytes.len() as u64));
        }
    }
}

/// Indices of the shapes, so that the most constrained find their few places free.
fn most_constrained_first(shapes: &[Box<Shape>]) -> Vec<usize> {
    let freedom = |shape: &Shape| match shape.board {
        Board::Jump(board) | Board::Pun(board) => board.freedom(),
        _ => 32,
    };
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, shape) in shapes.iter().enumerate() {
        classes.entry(freedom(shape)).or_default().push(index);
    }
    classes.into_values().flatten().collect()
}

pub(crate) struct Placer<'i, 'a> {
    pub(crate) input: &'i Input<'a>,
    pub(crate) wanted: &'i Wanted,
    pub(crate) memory: &'i mut Memory,
    pub(crate) plan: Plan,
    /// Probed heads of shapes that found no place.
    failed: Vec<Addr>,
}

impl Placer<'_, '_> {
    /// Finds a place for the trampoline of `shape` and adds the group to the plan, or the refusal.
    fn place(&mut self, shape: &Shape) {
        let wanted = self.wanted;
        let probed = shape.insns.iter().map(|insn| insn.addr()).filter(|at| wanted.contains(*at));
        match self.place_once(shape) {
            Ok(()) => self.plan.carried.extend(probed.map(|at| (at, shape.tactic))),
            Err(_) if shape.board != Board::Trap => {
                // One instruction that cannot move, or no place.
                self.failed.extend(probed);
            }
            Err(refusal) => self.plan.refused.extend(probed.map(|at| (at, refusal.clone()))),
        }
    }

    /// Forms regions around the heads of shapes that found no place, as far as what was formed leaves room for them; the
    /// others get traps, each its own.
    fn rescue(&mut self, shapes: &[Box<Shape>], regions: &[Region]) {
        let mut failed = std::mem::take(&mut self.failed);
        failed.sort_unstable();
        let gone =
            |shape: &&Shape| !shape.insns.iter().any(|insn| failed.binary_search(&insn.addr()).is_ok());
        let mut taken: Vec<Range<Addr>> =
            shapes.iter().map(|shape| &**shape).filter(gone).map(Shape::extent).collect();
        taken.extend(regions.iter().map(|region| region.extent.clone()));
        taken.sort_unstable_by_key(|extent| extent.start);
        let mut refused: Vec<Addr> = self.plan.refused.iter().map(|(at, _)| *at).collect();
        refused.sort_unstable();
        let mut rescued: Vec<Region> = Vec::new();
        for &head in &failed {
            let before = rescued.last().map_or(Addr(0), |region| region.extent.end);
            if head < before {
                continue;
            }
            let within = self.room_around(head, &taken);
            let within = within.start.max(before)..within.end;
            match Region::alone(self.input.code, head, self.wanted, within) {
                Some(mut region) if self.input.policy != TrapPolicy::Force => {
                    // What was refused before may lie among it.
                    let gone = |member: &&mut Member| refused.binary_search(&member.insn.addr()).is_ok();
                    region.members.iter_mut().filter(gone).for_each(|member| member.probed = false);
                    region.room = estimate_region(&region, &|at| self.wanted.get(at));
                    rescued.push(region);
                }
                _ => self.place_trap(head),
            }
        }
        self.place_regions(&mut rescued);
    }

    /// What is around `head` and belongs to no group, and to none of `taken`.
    fn room_around(&self, head: Addr, taken: &[Range<Addr>]) -> Range<Addr> {
        let next = taken.partition_point(|extent| extent.start <= head);
        let mut start = next.checked_sub(1).map_or(Addr(0), |before| taken[before].end);
        let mut end = taken.get(next).map_or(Addr(u64::MAX), |after| after.start);
        let stays = |group: &&Group| self.plan.removed.binary_search(&group.start).is_err();
        let groups = self.input.groups;
        if let Some(group) = groups.range(..=head).map(|(_, group)| &**group).rev().find(stays) {
            start = start.max(group.extent.end);
        }
        if let Some(group) = groups.range(head + 1..).map(|(_, group)| &**group).find(stays) {
            end = end.min(group.extent.start);
        }
        start..end
    }

    /// Has the instruction at `at` probed by a trap of its own, or refuses it.
    pub(crate) fn place_trap(&mut self, at: Addr) {
        let Ok(insn) = self.input.code.insn(at) else { return };
        if self.input.policy == TrapPolicy::Forbid {
            let why = Obstacle::NoPlace;
            return self.plan.refused.push((at, Refusal::TrapForbidden { at, why }));
        }
        match self.place_once(&Shape::trap(insn)) {
            Ok(()) => self.plan.carried.push((at, Tactic::Trap)),
            Err(refusal) => self.plan.refused.push((at, refusal)),
        }
    }

    fn place_once(&mut self, shape: &Shape) -> Result<(), Refusal> {
        let wanted = self.wanted;
        let snippets = |at: Addr| wanted.get(at);
        let none = || Refusal::NoRoom(shape.start);
        let mut len = estimate(shape, &snippets);
        // Sizes depend on what is in reach from the final place: a second try has them right.
        for _ in 0..4 {
            let (at, stub) = self.allocate(shape, len).ok_or_else(none)?;
            let taken = Taken { at, len, stub };
            let buffer = self.plan.code.take_buffer();
            let built = match build(shape, at, self.input.code, &snippets, self.input.features, buffer) {
                Ok(built) => built,
                Err(refusal) => {
                    taken.give_back(self.memory);
                    return Err(refusal);
                }
            };
            let needed = built.code.len() as u64;
            if needed > len {
                taken.give_back(self.memory);
                self.plan.code.put_buffer(built.code);
                len = needed;
                continue;
            }
            self.memory.shrink(at, len, needed);
            let taken = Taken { len: needed, ..taken };
            return self.finish(shape, built, &taken).ok_or_else(|| {
                taken.give_back(self.memory);
                none()
            });
        }
        Err(none())
    }

    /// Adds the group and its stub, if every displacement reaches.
    fn finish(&mut self, shape: &Shape, built: Built, taken: &Taken) -> Option<()> {
        let stub = match taken.stub {
            Some(stub) => {
                let target = taken.at + u64::from(built.entry);
                Some((stub, Springboard::new(stub, 0).encode(target)?))
            }
            None => None,
        };
        let (group, code) = shape.finish(self.input.code, built, taken.at, taken.stub)?;
        self.plan.added.push(group);
        if let Some((stub, jump)) = stub {
            self.plan.code.push(stub, &jump);
        }
        self.plan.code.push(taken.at, &code);
        self.plan.code.put_buffer(code);
        Some(())
    }

    /// Takes `len` bytes where the springboard leads, or a stub there and the bytes elsewhere.
    fn allocate(&mut self, shape: &Shape, len: u64) -> Option<(Addr, Option<Addr>)> {
        if let Some(at) = self.constrained(shape, len) {
            return Some((at, None));
        }
        let stub = self.constrained(shape, SPRINGBOARD_LEN as u64)?;
        match self.take(&Springboard::new(stub, 0), len) {
            Some(at) => Some((at, Some(stub))),
            None => {
                self.memory.free(stub.span(SPRINGBOARD_LEN as u64));
                None
            }
        }
    }

    fn constrained(&mut self, shape: &Shape, len: u64) -> Option<Addr> {
        match shape.board {
            Board::Jump(board) | Board::HotPatch(board) | Board::Pun(board) => self.take(&board, len),
            Board::Retarget => self.anywhere(shape, len),
            // The handler goes anywhere.
            Board::Trap => self.anywhere(shape, len).or_else(|| self.memory.allocate_far(len)),
        }
    }

    fn anywhere(&mut self, shape: &Shape, len: u64) -> Option<Addr> {
        self.take(&Springboard::new(shape.start, 0), len)
    }

    pub(crate) fn take(&mut self, board: &Springboard, len: u64) -> Option<Addr> {
        if self.input.features.packed {
            self.memory.allocate_packed(board, len)
        } else {
            self.memory.allocate(board.placements(), len)
        }
    }
}

/// Memory taken for a trampoline.
struct Taken {
    at: Addr,
    len: u64,
    stub: Option<Addr>,
}

impl Taken {
    /// The next search goes on from here; searches for other places are not set back.
    fn give_back(&self, memory: &mut Memory) {
        memory.shrink(self.at, self.len, 0);
        if let Some(stub) = self.stub {
            memory.shrink(stub, SPRINGBOARD_LEN as u64, 0);
        }
    }
}
